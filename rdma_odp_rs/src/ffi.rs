// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! The functions that drivers call, by the names and with the types that they have in C.
//!
//! C header: [`include/rdma/ib_umem_odp.h`](srctree/include/rdma/ib_umem_odp.h)

use crate::{
    bindings::{self as extra, ib_device, ib_umem_odp},
    entry::{Entry, WRITE},
    ffi_fault::Source,
    ffi_umem::{OdpUmem, Spec},
    per_mm::UcontextPerMm,
    region::Region,
    umem::{self, Access},
};
use core::ptr::NonNull;
use kernel::{
    bindings::mmu_interval_notifier_ops,
    mm::MmWithUser,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    warn_on,
};

/// C and we agree about the types: these are of one only if they are.
const _: () = {
    let _ = [ib_umem_odp_get, extra::ib_umem_odp_get];
    let _ = [
        ib_umem_odp_alloc_implicit,
        extra::ib_umem_odp_alloc_implicit,
    ];
    let _ = [ib_umem_odp_alloc_child, extra::ib_umem_odp_alloc_child];
    let _ = [ib_umem_odp_release, extra::ib_umem_odp_release];
    let _ = [
        ib_umem_odp_map_dma_and_lock,
        extra::ib_umem_odp_map_dma_and_lock,
    ];
    let _ = [
        ib_umem_odp_unmap_dma_pages,
        extra::ib_umem_odp_unmap_dma_pages,
    ];
};

/// What is on the stack for entries that are read.
const SMALL: usize = 16;
/// How many are read at a time, if a page of the region is not more.
const LARGE: usize = PAGE_SIZE / size_of::<Entry>();

fn to_ptr(umem: Result<NonNull<OdpUmem>>) -> *mut ib_umem_odp {
    match umem {
        Ok(umem) => umem.cast().as_ptr(),
        Err(e) => e.to_ptr(),
    }
}

/// Drivers register operations with the one callback.
///
/// # Safety
///
/// `ops` must be null or valid.
unsafe fn check_ops(ops: *const mmu_interval_notifier_ops) -> Result {
    // SAFETY: By the caller's promise.
    match unsafe { ops.as_ref() } {
        Some(ops) if ops.invalidate.is_some() => Ok(()),
        _ => {
            warn_on!(true);
            Err(EINVAL)
        }
    }
}

/// Makes a region of the current process.
///
/// # Context
///
/// Sleeps. The mmap lock must not be held.
///
/// # Errors
///
/// `EINVAL` when it has no page, or `access` does not ask for it; `EOVERFLOW`; `ENOMEM`; `EINTR`;
/// `EOPNOTSUPP` for a device that hmm cannot map pages for.
///
/// # Safety
///
/// `device` must be registered, and it and `ops` outlive the region.
#[no_mangle]
pub(crate) unsafe extern "C" fn ib_umem_odp_get(
    device: *mut ib_device,
    addr: usize,
    size: usize,
    access: c_int,
    ops: *const mmu_interval_notifier_ops,
) -> *mut ib_umem_odp {
    let get = || {
        // SAFETY: Looks at a number.
        let on_demand = unsafe { extra::odp_access_is_on_demand(access) };
        if warn_on!(!on_demand) {
            return Err(EINVAL);
        }
        // SAFETY: By the caller's promise.
        unsafe { check_ops(ops) }?;
        // SAFETY: Looks at a number.
        let (huge, writable) = unsafe {
            (
                extra::odp_access_is_hugetlb(access),
                extra::odp_access_is_writable(access),
            )
        };
        let page_shift = match huge {
            // SAFETY: Returns a constant.
            true => unsafe { extra::odp_huge_shift() },
            false => PAGE_SHIFT as u32,
        };
        let region = Region::new(addr, size, page_shift)?;
        let current = kernel::current!();
        let context = UcontextPerMm::get(device as usize, current.mm().ok_or(EINVAL)?)?;
        let tgid = context.tgid().clone();
        let spec = Spec {
            device,
            address: addr,
            length: size,
            writable,
            region: Some(region),
            page_shift,
            ops,
        };
        OdpUmem::new(context, tgid, &spec)
    };
    to_ptr(get())
}

/// Makes an anchor for the regions of the current process that [`ib_umem_odp_alloc_child`] makes.
///
/// # Context
///
/// Sleeps. The mmap lock must not be held.
///
/// # Errors
///
/// `EINVAL` for huge pages; `ENOMEM`; `EINTR`.
///
/// # Safety
///
/// `device` must be registered and outlive the anchor.
#[no_mangle]
pub(crate) unsafe extern "C" fn ib_umem_odp_alloc_implicit(
    device: *mut ib_device,
    access: c_int,
) -> *mut ib_umem_odp {
    let alloc = || {
        // SAFETY: Looks at a number.
        let (huge, writable) = unsafe {
            (
                extra::odp_access_is_hugetlb(access),
                extra::odp_access_is_writable(access),
            )
        };
        if huge {
            return Err(EINVAL);
        }
        let current = kernel::current!();
        let context = UcontextPerMm::get(device as usize, current.mm().ok_or(EINVAL)?)?;
        let tgid = context.tgid().clone();
        let spec = Spec {
            device,
            address: 0,
            length: 0,
            writable,
            region: None,
            page_shift: PAGE_SHIFT as u32,
            ops: core::ptr::null(),
        };
        OdpUmem::new(context, tgid, &spec)
    };
    to_ptr(alloc())
}

/// Makes a region in the address space of the anchor `root`.
///
/// # Context
///
/// Sleeps. The mmap lock must not be held.
///
/// # Errors
///
/// `EFAULT` when the address space is gone; `EINVAL` when `root` is no anchor; those of
/// [`ib_umem_odp_get`].
///
/// # Safety
///
/// `root` must not be released meanwhile; `ops` must outlive the region.
#[no_mangle]
pub(crate) unsafe extern "C" fn ib_umem_odp_alloc_child(
    root: *mut ib_umem_odp,
    addr: usize,
    size: usize,
    ops: *const mmu_interval_notifier_ops,
) -> *mut ib_umem_odp {
    let alloc = || {
        // SAFETY: By the caller's promise.
        let root = unsafe { OdpUmem::from_raw(root) };
        if warn_on!(root.region().is_some()) {
            return Err(EINVAL);
        }
        // SAFETY: By the caller's promise.
        unsafe { check_ops(ops) }?;
        let context = root.context();
        // A region of an address space that is gone would have no pages for ever.
        let _user = context.umems().mm().mmget_not_zero().ok_or(EFAULT)?;
        let spec = Spec {
            device: root.device(),
            address: addr,
            length: size,
            writable: root.is_writable(),
            region: Some(Region::new(addr, size, PAGE_SHIFT as u32)?),
            page_shift: PAGE_SHIFT as u32,
            ops,
        };
        OdpUmem::new(context.share(), context.tgid().clone(), &spec)
    };
    to_ptr(alloc())
}

/// Gives a region or an anchor back.
///
/// # Context
///
/// Sleeps, while callbacks run and, with the last of the process, while invalidations are in
/// flight. No lock may be held that the driver's callback takes.
///
/// # Safety
///
/// This must be its last use, and the device not use it any more.
#[no_mangle]
pub(crate) unsafe extern "C" fn ib_umem_odp_release(umem_odp: *mut ib_umem_odp) {
    // SAFETY: By the caller's promise.
    unsafe { OdpUmem::release(umem_odp.cast()) };
}

/// Sees to it that the list has the pages with the `bcnt` bytes from `user_virt`, having faulted
/// them in if `fault`, for writing if `access_mask` has `HMM_PFN_WRITE`. Returns how many pages of
/// the region they are, **with the mutex held**, which the driver releases; or an error without it.
///
/// # Context
///
/// Sleeps. Neither the mmap lock nor the mutex may be held.
///
/// # Errors
///
/// `EFAULT` when they are not all in the region; `EINVAL` when the process is gone; those of
/// [`umem::map`].
///
/// # Safety
///
/// The region must not be released meanwhile.
#[no_mangle]
pub(crate) unsafe extern "C" fn ib_umem_odp_map_dma_and_lock(
    umem_odp: *mut ib_umem_odp,
    user_virt: u64,
    bcnt: u64,
    access_mask: u64,
    fault: bool,
) -> c_int {
    let map = || {
        // SAFETY: By the caller's promise.
        let umem = unsafe { OdpUmem::from_raw(umem_odp) };
        let region = umem.region().ok_or(EFAULT)?;
        let pages = region.pages_of(user_virt, bcnt)?;
        let entries = c_int::try_from(region.entries_of(&pages).len())?;
        let access = match fault {
            false => Access::Look,
            true if access_mask & WRITE as u64 != 0 => Access::Write,
            true => Access::Read,
        };
        if !umem.is_alive() {
            return Err(EINVAL);
        }
        let mm = umem.context().umems().mm().mmget_not_zero().ok_or(EINVAL)?;
        // We may be the last user, with the mutex held, which tearing the address space down takes.
        let mm = MmWithUser::into_mmput_async(mm);
        let source = Source::new(umem, region, &mm)?;

        let list = if pages.pages() <= SMALL {
            umem::map(&source, &pages, access, &mut [Entry::NONE; SMALL])
        } else {
            let room = pages.pages().min(LARGE.max(region.pages_per_entry()));
            let mut buffer = KVVec::from_elem(Entry::NONE, room, GFP_KERNEL)?;
            umem::map(&source, &pages, access, &mut buffer)
        };
        list?.leave();
        Ok(entries)
    };
    map().unwrap_or_else(|e: Error| e.to_errno())
}

/// Takes the pages with any byte from `virt` to `bound` out of the list. The device must not use
/// them any more. The mutex must be held.
///
/// # Context
///
/// Any, reclaim among them.
///
/// # Safety
///
/// The region must not be released meanwhile, and its mutex be held.
#[no_mangle]
pub(crate) unsafe extern "C" fn ib_umem_odp_unmap_dma_pages(
    umem_odp: *mut ib_umem_odp,
    virt: u64,
    bound: u64,
) {
    // SAFETY: By the caller's promise.
    unsafe { OdpUmem::from_raw(umem_odp).unmap_locked(virt, bound) };
}
