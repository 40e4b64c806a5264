// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! The functions that `rxe_odp.c` has, by its names, and the driver's memory region.
//!
//! The driver calls them in its work queue and in system calls: they may sleep.

use super::{
    advice::{Advice, Fault},
    atomic::{self, Operation, Refused},
    bindings as c, ffi_shrinker,
    ffi_umem::{set_anchored, OwnedUmem, Root, Umem},
    implicit::Region,
    transfer::{self, Access, Paged},
    window::{Span, Window},
};
use core::{mem::offset_of, ptr::NonNull, slice};
use kernel::{
    bindings,
    ffi::{c_int, c_uint},
    impl_has_work, new_work,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed, Release},
        Arc, ArcBorrow,
    },
    types::Opaque,
    workqueue::{Queue, Work, WorkItem},
};

/// The driver's memory region.
///
/// # Invariants
///
/// It is initialized, and so is its umem, if it has one.
#[repr(transparent)]
struct Mr(Opaque<c::rxe_mr>);

/// What is behind a region that pages on demand.
#[derive(Clone, Copy)]
enum Backing<'a> {
    Explicit(&'a Umem),
    Implicit(ArcBorrow<'a, Region>),
}

impl Backing<'_> {
    fn writable(&self) -> bool {
        match self {
            Self::Explicit(umem) => umem.writable(),
            Self::Implicit(region) => region.writable(),
        }
    }

    fn read(self, whole: Span, to: &mut [u8]) -> Result {
        self.each_chunk(whole, |umem, span, at| {
            transfer::read_all(umem, span, &mut to[at..][..span.length() as usize])
        })
    }

    fn write(self, whole: Span, from: &[u8]) -> Result {
        self.each_chunk(whole, |umem, span, at| {
            transfer::write_all(umem, span, &from[at..][..span.length() as usize])
        })
    }

    /// Calls the closure with the parts of a span, none of which reaches into the next chunk, and
    /// where in it they start.
    #[inline(never)]
    fn each_chunk(self, whole: Span, mut part: impl FnMut(&Umem, Span, usize) -> Result) -> Result {
        for span in whole.chunks() {
            let at = (span.start() - whole.start()) as usize;
            match self {
                Self::Explicit(umem) => part(umem, span, at)?,
                Self::Implicit(region) => region.with(span.chunk(), |umem| part(umem, span, at))?,
            }
        }
        Ok(())
    }
}

impl Mr {
    /// # Safety
    ///
    /// It is as the invariants say, and is not cleaned up during `'a`.
    #[inline]
    unsafe fn from_raw<'a>(raw: *const c::rxe_mr) -> &'a Self {
        // SAFETY: The caller promises that it is there; the type is transparent.
        unsafe { &*raw.cast() }
    }

    fn debug(&self, what: &CStr) {
        // SAFETY: By the type invariants it is there; what is said is a string.
        unsafe { c::rxe_rs_dbg_mr(self.0.get(), what.as_char_ptr()) };
    }

    fn is_valid(&self) -> bool {
        let raw = self.0.get();
        // SAFETY: By the type invariants it is there. C writes the field without a lock.
        let state = unsafe { (&raw const (*raw).state).read_volatile() };
        state == c::rxe_mr_state_RXE_MR_STATE_VALID
    }

    /// What it pages from, `None` if it is pinned.
    #[inline]
    fn backing(&self) -> Option<Backing<'_>> {
        // SAFETY: By the type invariants it is there; the field does not change.
        let umem = unsafe { (*self.0.get()).umem };
        // SAFETY: By the type invariants it is null or there; the flags do not change.
        let is_odp = unsafe { umem.as_ref() }.is_some_and(|umem| umem.is_odp() != 0);
        // SAFETY: It pages on demand.
        is_odp.then(|| unsafe { self.backing_of_odp() })
    }

    /// The same.
    ///
    /// # Safety
    ///
    /// It pages on demand.
    #[inline]
    unsafe fn backing_of_odp(&self) -> Backing<'_> {
        // SAFETY: By the type invariants it is there; the field does not change.
        let umem = unsafe { (*self.0.get()).umem };
        // As in to_ib_umem_odp().
        let odp = umem
            .cast::<u8>()
            .wrapping_sub(offset_of!(c::ib_umem_odp, umem))
            .cast::<c::ib_umem_odp>();
        // SAFETY: The caller promises that it pages on demand, so it is in one of these.
        if !unsafe { (*odp).is_implicit_odp } {
            // SAFETY: `init_explicit` has made it. It is released when this is cleaned up.
            return Backing::Explicit(unsafe { Umem::from_raw(odp) });
        }
        // SAFETY: `init_implicit` has made it, and gives the field a reference, which it keeps
        // until this is cleaned up.
        Backing::Implicit(unsafe { ArcBorrow::from_raw((*odp).private.cast()) })
    }

    /// What it covers.
    #[inline]
    fn window(&self, backing: Backing<'_>) -> Window {
        match backing {
            Backing::Explicit(umem) => {
                // SAFETY: By the type invariants it is there; the field does not change.
                let iova = unsafe { (*self.0.get()).ibmr.iova };
                let (address, length) = umem.registered();
                Window::of_registered(iova, address, length)
            }
            Backing::Implicit(_) => Window::ALL,
        }
    }

    /// What is behind it, and what of that the peer means.
    ///
    /// # Errors
    ///
    /// [`EINVAL`] if it is pinned, [`EFAULT`] if not all of it is inside, [`EPERM`] if it is
    /// not registered for writing.
    #[inline]
    fn locate(&self, iova: u64, length: u64, access: Access) -> Result<(Backing<'_>, Span)> {
        let backing = self.backing().ok_or(EINVAL)?;
        let window = self.window(backing);
        let whole = window.locate(iova, length).ok_or(EFAULT)?;
        if access == Access::Write && !backing.writable() {
            return Err(EPERM);
        }
        Ok((backing, whole))
    }

    /// Calls the closure with the parts of what the peer means, and where in it they start.
    ///
    /// # Errors
    ///
    /// Those of [`Self::locate`], and what the closure returns.
    fn each(
        &self,
        iova: u64,
        length: u64,
        access: Access,
        part: impl FnMut(&Umem, Span, usize) -> Result,
    ) -> Result {
        let (backing, whole) = self.locate(iova, length, access)?;
        backing.each_chunk(whole, part)
    }

    fn flush(&self, iova: u64, length: u64) -> Result {
        self.each(iova, length, Access::Read, |umem, span, _| {
            transfer::complete(umem, span, Access::Read, |pages, left| pages.flush(left))
        })
    }

    fn prefetch(&self, iova: u64, length: u64, fault: Fault) -> Result {
        let access = match fault {
            Fault::In(access) => access,
            Fault::Snapshot => Access::Read,
        };
        self.each(iova, length, access, |umem, span, _| {
            umem.fault(span, fault).map(drop)
        })
    }

    /// An operation on the word at `iova`, and what the responder is to do next.
    fn operate(&self, iova: u64, mut operation: impl FnMut(&Atomic<u64>)) -> c::resp_states {
        let window = self.backing().map(|backing| self.window(backing));
        match window.map_or(Err(Refused::Outside), |window| atomic::word(&window, iova)) {
            Ok(_) => {}
            Err(Refused::Outside) => {
                self.debug(c"iova out of range");
                return c::resp_states_RESPST_ERR_RKEY_VIOLATION;
            }
            Err(Refused::Misaligned) => {
                self.debug(c"iova not aligned");
                return c::resp_states_RESPST_ERR_MISALIGNED_ATOMIC;
            }
        }
        let done = self.each(iova, atomic::WORD, Access::Write, |umem, span, _| {
            transfer::complete(umem, span, Access::Write, |pages, left| {
                pages.word(left, &mut operation)
            })
        });
        match done {
            Ok(()) => c::resp_states_RESPST_NONE,
            Err(_) => c::resp_states_RESPST_ERR_RKEY_VIOLATION,
        }
    }
}

/// The driver's work queue.
pub(super) fn queue() -> &'static Queue {
    // SAFETY: The module makes it before anything else, and when it is unloaded waits for all that
    // is in it. No code of ours runs after that.
    unsafe { Queue::from_raw(c::rxe_wq) }
}

/// Waits for the work, if it is queued or running.
pub(super) fn flush<T>(work: &Work<T>) {
    // SAFETY: It is there, and initialized.
    unsafe { bindings::flush_work(Work::raw_get(work)) };
}

fn errno(result: Result) -> c_int {
    match result {
        Ok(()) => 0,
        Err(error) => error.to_errno(),
    }
}

/// Called when the module is loaded.
///
/// # Safety
///
/// By the driver's `rxe_module_init()`.
#[no_mangle]
unsafe extern "C" fn rxe_odp_init() -> c_int {
    // SAFETY: The driver calls it once, before it registers anything.
    errno(unsafe { ffi_shrinker::register() })
}

/// Called when the module is unloaded, and no device is left.
#[no_mangle]
extern "C" fn rxe_odp_exit() {
    ffi_shrinker::unregister();
}

/// Makes the region page on demand.
///
/// # Safety
///
/// The device is there, and the region in its pool. It is new, and the caller its only user.
#[no_mangle]
unsafe extern "C" fn rxe_odp_mr_init_user(
    rxe: *mut c::rxe_dev,
    start: u64,
    length: u64,
    iova: u64,
    access: c_int,
    mr: *mut c::rxe_mr,
) -> c_int {
    let device = rxe
        .cast::<u8>()
        .wrapping_add(c::rxe_rs_layout_RXE_RS_DEV_IB_DEV as usize)
        .cast();
    // SAFETY: The caller promises that the region is there, and that it is its only user.
    unsafe { c::rxe_mr_init(access, mr) };
    // SAFETY: The device is there as long as it has regions, and C cleans these up.
    let odp = unsafe {
        match start == 0 && length == u64::MAX {
            true => init_implicit(device, iova, access),
            false => init_explicit(device, start, length, iova, access),
        }
    };
    let odp = match odp {
        Ok(odp) => odp,
        Err(error) => {
            // SAFETY: As above; it has no umem yet.
            unsafe { Mr::from_raw(mr) }.debug(c"unable to create umem_odp");
            return error.to_errno();
        }
    };
    // SAFETY: As above.
    unsafe {
        (*mr).umem = &raw mut (*odp).umem;
        (*mr).access = access;
        (*mr).ibmr.length = length;
        (*mr).ibmr.iova = iova;
        (*mr).ibmr.type_ = c::ib_mr_type_IB_MR_TYPE_USER;
        (*mr).state = c::rxe_mr_state_RXE_MR_STATE_VALID;
    }
    0
}

/// # Safety
///
/// The device is there until what is returned is released.
unsafe fn init_explicit(
    device: *mut c::ib_device,
    start: u64,
    length: u64,
    iova: u64,
    access: c_int,
) -> Result<*mut c::ib_umem_odp> {
    // SAFETY: By what the caller promises.
    let umem = unsafe { OwnedUmem::get(device, start, length, access) }?;
    let (address, length) = umem.registered();
    Window::new(iova, address, length).ok_or(EINVAL)?;
    Ok(umem.into_raw())
}

/// # Safety
///
/// The device is there until what is returned is released, before which [`rxe_odp_mr_cleanup`] is
/// called.
unsafe fn init_implicit(
    device: *mut c::ib_device,
    iova: u64,
    access: c_int,
) -> Result<*mut c::ib_umem_odp> {
    if iova != 0 {
        return Err(EINVAL);
    }
    // SAFETY: By what the caller promises; it is released last in the error path too.
    let root = unsafe { Root::new(device, access) }?;
    let odp = root.as_raw();
    match Region::new(root) {
        Ok(region) => {
            // SAFETY: The anchor is there, and nobody else knows it yet.
            unsafe { set_anchored(odp, Arc::into_raw(region).cast()) };
            Ok(odp)
        }
        Err(error) => {
            // SAFETY: It is ours, and the region that had it is gone.
            unsafe { c::ib_umem_odp_release(odp) };
            Err(error)
        }
    }
}

/// Called when nobody uses the region any more, before its umem is released.
///
/// # Safety
///
/// By the driver's `rxe_mr_cleanup()`, for a region that pages on demand.
#[no_mangle]
unsafe extern "C" fn rxe_odp_mr_cleanup(mr: *mut c::rxe_mr) {
    // SAFETY: The region is there until this returns.
    let backing = unsafe { Mr::from_raw(mr) }.backing();
    if let Some(Backing::Implicit(region)) = backing {
        let region = Arc::from(region);
        // SAFETY: The field's reference, which nobody uses any more.
        drop(unsafe { Arc::from_raw(Arc::as_ptr(&region)) });
        Region::close(region);
    }
}

/// Copies between a buffer and the region. Nearly every packet is within one page that is there:
/// for these each instruction counts, and what is left to do otherwise is done elsewhere.
///
/// # Safety
///
/// The region is in use and pages on demand, and the buffer has as many bytes.
#[no_mangle]
unsafe extern "C" fn rxe_odp_mr_copy(
    raw: *mut c::rxe_mr,
    iova: u64,
    addr: *mut u8,
    length: c_int,
    dir: c::rxe_mr_copy_dir,
) -> c_int {
    // SAFETY: The caller promises that it is in use.
    let mr = unsafe { Mr::from_raw(raw) };
    // SAFETY: The caller promises that it pages on demand.
    let backing = unsafe { mr.backing_of_odp() };
    let (Backing::Explicit(umem), Ok(size @ 1..)) = (backing, usize::try_from(length)) else {
        // SAFETY: By what the caller promises.
        return unsafe { copy_any(raw, iova, addr, length, dir) };
    };
    match (mr.window(backing).locate(iova, size as u64), dir) {
        (Some(span), c::rxe_mr_copy_dir_RXE_TO_MR_OBJ) if umem.writable() => {
            // SAFETY: The caller promises that the buffer has these bytes.
            let from = unsafe { slice::from_raw_parts(addr, size) };
            if transfer::write_page(umem, span, from) {
                return 0;
            }
            write_pages(umem, span, from)
        }
        (Some(span), c::rxe_mr_copy_dir_RXE_FROM_MR_OBJ) => {
            // SAFETY: As above, and it is the caller's alone.
            let to = unsafe { slice::from_raw_parts_mut(addr, size) };
            if transfer::read_page(umem, span, to) {
                return 0;
            }
            read_pages(umem, span, to)
        }
        // SAFETY: By what the caller promises.
        _ => unsafe { copy_any(raw, iova, addr, length, dir) },
    }
}

#[inline(never)]
fn write_pages(umem: &Umem, span: Span, from: &[u8]) -> c_int {
    errno(Backing::Explicit(umem).write(span, from))
}

#[inline(never)]
fn read_pages(umem: &Umem, span: Span, to: &mut [u8]) -> c_int {
    errno(Backing::Explicit(umem).read(span, to))
}

/// Copies between a buffer and any region, or says why not.
///
/// # Safety
///
/// As for [`rxe_odp_mr_copy`].
#[inline(never)]
unsafe fn copy_any(
    mr: *mut c::rxe_mr,
    iova: u64,
    addr: *mut u8,
    length: c_int,
    dir: c::rxe_mr_copy_dir,
) -> c_int {
    // SAFETY: The caller promises that it is in use.
    let mr = unsafe { Mr::from_raw(mr) };
    let length = match usize::try_from(length) {
        Ok(0) => return 0,
        Ok(length) => length,
        Err(_) => return EINVAL.to_errno(),
    };
    errno(match dir {
        c::rxe_mr_copy_dir_RXE_TO_MR_OBJ => {
            // SAFETY: The caller promises that the buffer has these bytes.
            let from = unsafe { slice::from_raw_parts(addr, length) };
            mr.locate(iova, length as u64, Access::Write)
                .and_then(|(backing, span)| backing.write(span, from))
        }
        c::rxe_mr_copy_dir_RXE_FROM_MR_OBJ => {
            // SAFETY: As above, and it is the caller's alone.
            let to = unsafe { slice::from_raw_parts_mut(addr, length) };
            mr.locate(iova, length as u64, Access::Read)
                .and_then(|(backing, span)| backing.read(span, to))
        }
        _ => Err(EINVAL),
    })
}

/// Compares and swaps, or fetches and adds.
///
/// # Safety
///
/// The region is in use, and the value is the caller's.
#[no_mangle]
unsafe extern "C" fn rxe_odp_atomic_op(
    mr: *mut c::rxe_mr,
    iova: u64,
    opcode: c_int,
    compare: u64,
    swap_add: u64,
    orig_val: *mut u64,
) -> c::resp_states {
    // SAFETY: The caller promises that it is in use.
    let mr = unsafe { Mr::from_raw(mr) };
    if !mr.is_valid() {
        mr.debug(c"mr not in valid state");
        return c::resp_states_RESPST_ERR_RKEY_VIOLATION;
    }
    let operation = match opcode as c_uint == c::rxe_rs_layout_RXE_RS_COMPARE_SWAP {
        true => Operation::CompareSwap(compare, swap_add),
        false => Operation::FetchAdd(swap_add),
    };
    mr.operate(iova, |word| {
        let value = word.load(Relaxed);
        // SAFETY: The caller promises that it is there.
        unsafe { *orig_val = value };
        if let Some(new) = operation.apply(value) {
            word.store(new, Relaxed);
        }
    })
}

/// Writes a word at once.
///
/// # Safety
///
/// The region is in use.
#[no_mangle]
unsafe extern "C" fn rxe_odp_do_atomic_write(
    mr: *mut c::rxe_mr,
    iova: u64,
    value: u64,
) -> c::resp_states {
    // SAFETY: The caller promises that it is in use.
    let mr = unsafe { Mr::from_raw(mr) };
    mr.operate(iova, |word| {
        // After all that came before.
        word.store(value, Release);
    })
}

/// Writes the caches back to persistent memory.
///
/// # Safety
///
/// The region is in use.
#[no_mangle]
unsafe extern "C" fn rxe_odp_flush_pmem_iova(
    mr: *mut c::rxe_mr,
    iova: u64,
    length: c_uint,
) -> c_int {
    // SAFETY: The caller promises that it is in use.
    errno(unsafe { Mr::from_raw(mr) }.flush(iova, length.into()))
}

/// A region that was looked up, which cannot be cleaned up before it is put.
struct MrRef(NonNull<c::rxe_mr>);

// SAFETY: Any task may put it.
unsafe impl Send for MrRef {}

impl MrRef {
    /// The region of the domain with this key.
    ///
    /// # Safety
    ///
    /// The domain is there.
    unsafe fn lookup(pd: *mut c::ib_pd, lkey: u32) -> Option<Self> {
        let pd = pd
            .cast::<u8>()
            .wrapping_sub(c::rxe_rs_layout_RXE_RS_PD_IBPD as usize)
            .cast();
        let local = c::rxe_mr_lookup_type_RXE_LOOKUP_LOCAL;
        // SAFETY: The caller promises that it is there, and each of this driver's is in such a one.
        NonNull::new(unsafe { c::lookup_mr(pd, 0, lkey, local) }).map(Self)
    }

    fn mr(&self) -> &Mr {
        // SAFETY: There is a reference to it.
        unsafe { Mr::from_raw(self.0.as_ptr()) }
    }
}

impl Drop for MrRef {
    fn drop(&mut self) {
        // SAFETY: The reference is ours.
        unsafe { c::__rxe_put(&raw mut (*self.0.as_ptr()).elem) };
    }
}

/// Memory to be fetched.
struct Part {
    mr: MrRef,
    iova: u64,
    length: u64,
}

impl Part {
    /// # Errors
    ///
    /// [`EINVAL`] if there is no such region that pages on demand, [`EPERM`] if it cannot be
    /// written to and that is advised.
    ///
    /// # Safety
    ///
    /// The domain is there.
    unsafe fn new(pd: *mut c::ib_pd, sge: &c::ib_sge, advice: Advice) -> Result<Self> {
        // SAFETY: By what the caller promises.
        let mr = unsafe { MrRef::lookup(pd, sge.lkey) }.ok_or(EINVAL)?;
        let backing = mr.mr().backing().ok_or_else(|| {
            mr.mr().debug(c"not paging on demand");
            EINVAL
        })?;
        if advice == Advice::PrefetchWrite && !backing.writable() {
            mr.mr().debug(c"missing write permission");
            return Err(EPERM);
        }
        Ok(Self {
            mr,
            iova: sge.addr,
            length: sge.length.into(),
        })
    }

    fn fetch(&self, advice: Advice) -> Result {
        let mr = self.mr.mr();
        mr.prefetch(self.iova, self.length, advice.fault())
            .inspect_err(|_| mr.debug(c"failed to prefetch the mr"))
    }
}

/// Advice that is followed later.
#[pin_data]
struct Prefetch {
    advice: Advice,
    parts: KVVec<Part>,
    #[pin]
    work: Work<Prefetch>,
}

impl_has_work! {
    impl HasWork<Self> for Prefetch { self.work }
}

impl WorkItem for Prefetch {
    type Pointer = Pin<KBox<Self>>;

    fn run(this: Pin<KBox<Self>>) {
        for part in this.parts.iter() {
            // Nobody is there to be told.
            let _ = part.fetch(this.advice);
        }
    }
}

/// Advice of the process on memory that it will use.
///
/// # Safety
///
/// The domain is there, and there are as many parts.
#[no_mangle]
unsafe extern "C" fn rxe_ib_advise_mr(
    pd: *mut c::ib_pd,
    advice: c::ib_uverbs_advise_mr_advice,
    flags: u32,
    sg_list: *mut c::ib_sge,
    num_sge: u32,
    _attrs: *mut c::uverbs_attr_bundle,
) -> c_int {
    let Some(advice) = Advice::new(advice) else {
        return EOPNOTSUPP.to_errno();
    };
    let sges = match num_sge {
        0 => &[],
        // SAFETY: The caller promises that there are as many.
        _ => unsafe { slice::from_raw_parts(sg_list, num_sge as usize) },
    };
    // SAFETY: The caller promises that the domain is there.
    let parts = sges.iter().map(|sge| unsafe { Part::new(pd, sge, advice) });
    errno(
        if flags & c::ib_uverbs_advise_mr_flag_IB_UVERBS_ADVISE_MR_FLAG_FLUSH != 0 {
            advise_now(parts, advice)
        } else {
            advise_later(parts, advice, sges.len())
        },
    )
}

fn advise_now(mut parts: impl Iterator<Item = Result<Part>>, advice: Advice) -> Result {
    parts.try_for_each(|part| part?.fetch(advice))
}

fn advise_later(parts: impl Iterator<Item = Result<Part>>, advice: Advice, count: usize) -> Result {
    let mut list = KVVec::with_capacity(count, GFP_KERNEL)?;
    for part in parts {
        list.push(part?, GFP_KERNEL)?;
    }
    let prefetch = KBox::pin_init(
        pin_init!(Prefetch {
            advice,
            parts: list,
            work <- new_work!("rxe::Prefetch::work"),
        }),
        GFP_KERNEL,
    )?;
    queue().enqueue(prefetch);
    Ok(())
}
