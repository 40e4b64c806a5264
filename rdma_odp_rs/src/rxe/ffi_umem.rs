// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! The core's regions (`include/rdma/ib_umem_odp.h`): their pages, and what the core calls when
//! they go away.

use super::{
    advice::Fault,
    atomic::WORD,
    bindings as c,
    implicit::State,
    transfer::{Access, Paged, Pages},
    window::{Span, PAGE_SIZE},
};
use core::{mem::offset_of, ops::Deref, ptr::NonNull};
use kernel::{
    bindings,
    error::{from_err_ptr, to_result},
    ffi::{c_int, c_ulong, c_void},
    prelude::*,
    sync::atomic::Atomic,
    types::Opaque,
};

const VALID: c_ulong = c::hmm_pfn_flags_HMM_PFN_VALID as c_ulong;
const WRITE: c_ulong = c::hmm_pfn_flags_HMM_PFN_WRITE as c_ulong;

/// What the core needs to know of where a region's callbacks are, as C declares it.
#[no_mangle]
static rxe_mn_ops: bindings::mmu_interval_notifier_ops = bindings::mmu_interval_notifier_ops {
    invalidate: Some(invalidate),
    invalidate_start: None,
    invalidate_finish: None,
};

/// The same for children of implicit regions.
static CHILD_OPS: bindings::mmu_interval_notifier_ops = bindings::mmu_interval_notifier_ops {
    invalidate: Some(invalidate_child),
    invalidate_start: None,
    invalidate_finish: None,
};

/// A region with pages.
///
/// # Invariants
///
/// It is one of this driver that the core has made with a range and a page list, which has an
/// entry for each of its pages. These have the size of the kernel's, or are huge: then an entry
/// names the first of the kernel's pages, and the others follow it.
#[repr(transparent)]
pub(super) struct Umem(Opaque<c::ib_umem_odp>);

// SAFETY: The core lets it be released by any task.
unsafe impl Send for Umem {}
// SAFETY: What changes in it is protected by its mutex.
unsafe impl Sync for Umem {}

impl Umem {
    /// # Safety
    ///
    /// The region is as the invariants say and is not released during `'a`.
    #[inline]
    pub(super) unsafe fn from_raw<'a>(raw: *const c::ib_umem_odp) -> &'a Self {
        // SAFETY: The caller promises that it is there; the type is transparent.
        unsafe { &*raw.cast() }
    }

    /// What its process registered: an address and a length.
    #[inline]
    pub(super) fn registered(&self) -> (u64, u64) {
        let raw = self.0.get();
        // SAFETY: By the type invariants it is there; these fields do not change.
        let (address, length) = unsafe { ((*raw).umem.address, (*raw).umem.length) };
        (address as u64, length as u64)
    }

    /// Whether it was registered for writing.
    #[inline]
    pub(super) fn writable(&self) -> bool {
        // SAFETY: By the type invariants it is there; the flags do not change.
        unsafe { (*self.0.get()).umem.writable() != 0 }
    }

    fn try_lock(&self) -> Option<Locked<'_>> {
        // SAFETY: By the type invariants the mutex is there and initialized.
        let taken = unsafe { bindings::mutex_trylock(&raw mut (*self.0.get()).umem_mutex) };
        // SAFETY: It was taken.
        (taken != 0).then(|| unsafe { self.locked() })
    }

    /// # Safety
    ///
    /// The caller has the mutex, and gives it away.
    #[inline]
    unsafe fn locked(&self) -> Locked<'_> {
        // INVARIANT: The caller gives the mutex away.
        Locked { umem: self }
    }

    /// The callbacks of a child tell this.
    pub(super) fn set_private(&self, state: *const State) {
        let _locked = self.lock();
        // SAFETY: By the type invariants it is there. Callbacks read the field under the mutex.
        unsafe { (*self.0.get()).private = state.cast_mut().cast() };
    }
}

impl Paged for Umem {
    type Locked<'a> = Locked<'a>;

    #[inline]
    fn lock(&self) -> Locked<'_> {
        // SAFETY: By the type invariants the mutex is there and initialized.
        unsafe { bindings::mutex_lock(&raw mut (*self.0.get()).umem_mutex) };
        // SAFETY: It was taken.
        unsafe { self.locked() }
    }

    fn fault(&self, span: Span, fault: Fault) -> Result<Locked<'_>> {
        let (access, fault) = match fault {
            Fault::In(Access::Read) => (0, true),
            Fault::In(Access::Write) => (WRITE as u64, true),
            Fault::Snapshot => (0, false),
        };
        // SAFETY: By the type invariants it has pages; the core checks the range.
        to_result(unsafe {
            c::ib_umem_odp_map_dma_and_lock(
                self.0.get(),
                span.start(),
                span.length(),
                access,
                fault,
            )
        })?;
        // SAFETY: The core returns with the mutex taken, unless it returns an error.
        Ok(unsafe { self.locked() })
    }
}

/// A region whose pages cannot go away.
///
/// # Invariants
///
/// The region's mutex is taken. An entry of its page list that is valid names pages that are mapped
/// in the process: before that ends, the core has the entry cleared, under the mutex, and nothing
/// else changes it without.
pub(super) struct Locked<'a> {
    umem: &'a Umem,
}

impl Locked<'_> {
    /// The addresses of the first byte and of the last, and the size of a page as a power of two.
    #[inline]
    fn bounds(&self) -> (u64, u64, u32) {
        let raw = self.umem.0.get();
        // SAFETY: By the type invariants it is there; these fields do not change.
        unsafe {
            let range = &(*raw).notifier.interval_tree;
            (range.start as u64, range.last as u64, (*raw).page_shift)
        }
    }

    /// The entry of the page at an address, if it has all of the flags, and where the address is in
    /// the page, if as many bytes from there on are in it.
    #[inline]
    fn entry(&self, address: u64, length: usize, flags: c_ulong) -> Option<(c_ulong, usize)> {
        let (first, last, shift) = self.bounds();
        if address < first || address > last {
            return None;
        }
        let offset = (address - first) as usize;
        let index = offset >> shift;
        if offset.wrapping_add(length).wrapping_sub(1) >> shift != index {
            return None;
        }
        // SAFETY: By the type invariants of the region the list has an entry for each page from the
        // first to the last byte, and by those of `Self` nobody writes to it.
        let entry = unsafe { *(*self.umem.0.get()).map.pfn_list.add(index) };
        (entry & flags == flags).then_some((entry, offset - (index << shift)))
    }

    /// Whether none of its pages is there.
    pub(super) fn is_empty(&self) -> bool {
        let (first, last, shift) = self.bounds();
        let is_there = |page| self.entry(page, 1, VALID).is_some();
        !(first..=last).step_by(1 << shift).any(is_there)
    }

    /// Lets an atomic operation at the word, which must be aligned, and which nobody else operates
    /// on atomically meanwhile.
    ///
    /// Returns the size of the word, or 0 if the page is not there or not to be written to.
    pub(super) fn word(&mut self, span: Span, operation: impl FnOnce(&Atomic<u64>)) -> u64 {
        if !span.is_aligned(WORD) || span.length() != WORD {
            return 0;
        }
        let Some((entry, offset)) = self.entry(span.start(), WORD as usize, VALID | WRITE) else {
            return 0;
        };
        // SAFETY: By the type invariants the entry names pages, and the word is in them.
        let word = unsafe { c::rxe_rs_word_lock(entry, offset) };
        // SAFETY: The shim says where the word is, which is aligned. Programs write to it as they
        // like, but the kernel only by atomic accesses such as these, or by copying, which is as
        // racy as a device is.
        operation(unsafe { Atomic::from_ptr(word) });
        // SAFETY: They were locked above.
        unsafe { c::rxe_rs_word_unlock() };
        WORD
    }

    /// Writes the caches of the span back, as long as there are pages. Returns how many bytes that
    /// was.
    pub(super) fn flush(&self, span: Span) -> u64 {
        let mut done = 0;
        for part in span.pages() {
            let length = part.length() as usize;
            let Some((entry, offset)) = self.entry(part.start(), length, VALID) else {
                break;
            };
            // SAFETY: By the type invariants the entry names pages, and the part is in them.
            unsafe { c::rxe_rs_flush_page(entry, offset, length) };
            done += part.length();
        }
        done
    }

    /// Forgets the pages that are being invalidated.
    ///
    /// # Safety
    ///
    /// From the callback of the region, with what it was given.
    unsafe fn invalidate(&mut self, range: &bindings::mmu_notifier_range, seq: c_ulong) {
        let raw = self.umem.0.get();
        let (first, last, _) = self.bounds();
        // SAFETY: The caller promises that this is the callback of this region, and by the type
        // invariants the mutex is taken.
        unsafe {
            c::rxe_rs_interval_set_seq(&raw mut (*raw).notifier, seq);
            c::ib_umem_odp_unmap_dma_pages(
                raw,
                (range.start as u64).max(first),
                (range.end as u64).min(last + 1),
            );
        }
    }
}

impl Pages for Locked<'_> {
    #[cold]
    fn ahead(&self, span: Span) -> Option<Span> {
        let is_known = |page| self.entry(page, 1, VALID).is_some();
        // Mostly that is enough to know.
        if !is_known(span.start().checked_sub(PAGE_SIZE)?) {
            return None;
        }
        let (first, last, _) = self.bounds();
        let ahead = span.ahead(first, last + 1)?;
        let mut pages = ahead.pages();
        (!pages.any(|page| is_known(page.start()))).then_some(ahead)
    }

    #[inline]
    fn read(&self, address: u64, to: &mut [u8]) -> bool {
        let Some((entry, offset)) = self.entry(address, to.len(), VALID) else {
            return false;
        };
        // SAFETY: By the type invariants the entry names pages; what is read is in them, and as
        // long as the buffer.
        unsafe { c::rxe_rs_read_page(to.as_mut_ptr().cast(), entry, to.len(), offset) };
        true
    }

    #[inline]
    fn write(&mut self, address: u64, from: &[u8]) -> bool {
        let Some((entry, offset)) = self.entry(address, from.len(), VALID | WRITE) else {
            return false;
        };
        // SAFETY: As for `read`, and the process may write to the pages.
        unsafe { c::rxe_rs_write_page(entry, from.as_ptr().cast(), from.len(), offset) };
        true
    }
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants it is taken.
        unsafe { bindings::mutex_unlock(&raw mut (*self.umem.0.get()).umem_mutex) };
    }
}

/// The callback of a region.
///
/// # Safety
///
/// For the core to call, for a notifier of a region with pages.
unsafe extern "C" fn invalidate(
    notifier: *mut bindings::mmu_interval_notifier,
    range: *const bindings::mmu_notifier_range,
    seq: c_ulong,
) -> bool {
    // SAFETY: The core calls it with a notifier of a region that it does not release meanwhile,
    // and with a range.
    unsafe { invalidate_with(notifier, range, seq, |_, _| {}) }
}

/// The callback of a child, which is given back if its memory was unmapped.
///
/// # Safety
///
/// As for [`invalidate`].
unsafe extern "C" fn invalidate_child(
    notifier: *mut bindings::mmu_interval_notifier,
    range: *const bindings::mmu_notifier_range,
    seq: c_ulong,
) -> bool {
    let after = |locked: &Locked<'_>, range: &bindings::mmu_notifier_range| {
        let unmapped = range.event == bindings::mmu_notifier_event_MMU_NOTIFY_UNMAP
            || range.event == bindings::mmu_notifier_event_MMU_NOTIFY_RELEASE;
        let (first, last, _) = locked.bounds();
        let whole = range.start as u64 <= first && range.end as u64 > last;
        if !unmapped || !whole && !locked.is_empty() {
            return;
        }
        // SAFETY: By the type invariants of `Locked` the region is there, and its mutex taken,
        // under which the field changes.
        let state = unsafe { (*locked.umem.0.get()).private }.cast::<State>();
        // SAFETY: It is null, or of a child, which keeps it until its region is released, and that
        // waits for this callback.
        if let Some(state) = unsafe { state.as_ref() } {
            state.give_back();
        }
    };
    // SAFETY: As in `invalidate`.
    unsafe { invalidate_with(notifier, range, seq, after) }
}

/// # Safety
///
/// As for [`invalidate`].
unsafe fn invalidate_with(
    notifier: *mut bindings::mmu_interval_notifier,
    range: *const bindings::mmu_notifier_range,
    seq: c_ulong,
    after: impl FnOnce(&Locked<'_>, &bindings::mmu_notifier_range),
) -> bool {
    // SAFETY: The notifier is the field of a region, which the core does not release meanwhile.
    let umem = unsafe {
        Umem::from_raw(
            notifier
                .byte_sub(offset_of!(c::ib_umem_odp, notifier))
                .cast(),
        )
    };
    // SAFETY: The core's range does not change during the call.
    let range = unsafe { &*range };
    // SAFETY: As above.
    let locked = match unsafe { c::rxe_rs_range_blockable(range) } {
        true => Some(umem.lock()),
        // Often it is free, and the OOM reaper gets on.
        false => umem.try_lock(),
    };
    let Some(mut locked) = locked else {
        return false;
    };
    // SAFETY: This is the region's callback.
    unsafe { locked.invalidate(range, seq) };
    after(&locked, range);
    true
}

/// A region of ours, which is released when it is dropped.
pub(super) struct OwnedUmem(NonNull<c::ib_umem_odp>);

// SAFETY: As for `Umem`.
unsafe impl Send for OwnedUmem {}
// SAFETY: As for `Umem`.
unsafe impl Sync for OwnedUmem {}

impl OwnedUmem {
    /// A region of the current process.
    ///
    /// # Errors
    ///
    /// Those of the core.
    ///
    /// # Safety
    ///
    /// The device is there until the region is released.
    pub(super) unsafe fn get(
        device: *mut c::ib_device,
        start: u64,
        length: u64,
        access: c_int,
    ) -> Result<Self> {
        // SAFETY: The caller promises that the device is there; the operations are static.
        let raw = from_err_ptr(unsafe {
            c::ib_umem_odp_get(
                device,
                start as c_ulong,
                length as usize,
                access,
                &rxe_mn_ops,
            )
        })?;
        // INVARIANT: of `Umem`, by what the core says of regions that it has made.
        Ok(Self(NonNull::new(raw).ok_or(ENOMEM)?))
    }

    /// The region as C has it, which must release it.
    pub(super) fn into_raw(self) -> *mut c::ib_umem_odp {
        core::mem::ManuallyDrop::new(self).0.as_ptr()
    }
}

impl Deref for OwnedUmem {
    type Target = Umem;

    #[inline]
    fn deref(&self) -> &Umem {
        // SAFETY: It is released by `drop` only. `get` and `Root::child` make it as the invariants
        // of `Umem` say.
        unsafe { Umem::from_raw(self.0.as_ptr()) }
    }
}

impl Drop for OwnedUmem {
    fn drop(&mut self) {
        // SAFETY: It is ours, and nobody can have a reference any more.
        unsafe { c::ib_umem_odp_release(self.0.as_ptr()) };
    }
}

/// The anchor of an implicit region: it has no pages, and says whose they are.
///
/// # Invariants
///
/// The core has made it as such.
pub(super) struct Root(NonNull<c::ib_umem_odp>);

// SAFETY: Nothing of it changes.
unsafe impl Send for Root {}
// SAFETY: Nothing of it changes.
unsafe impl Sync for Root {}

impl Root {
    /// One for the current process.
    ///
    /// # Errors
    ///
    /// Those of the core.
    ///
    /// # Safety
    ///
    /// The device is there until the anchor and all of its children are released. The caller has
    /// the anchor released after the `Root` was dropped, by what [`as_raw`](Self::as_raw) says.
    pub(super) unsafe fn new(device: *mut c::ib_device, access: c_int) -> Result<Self> {
        // SAFETY: The caller promises that the device is there.
        let raw = from_err_ptr(unsafe { c::ib_umem_odp_alloc_implicit(device, access) })?;
        // INVARIANT: It has just been made.
        Ok(Self(NonNull::new(raw).ok_or(ENOMEM)?))
    }

    pub(super) fn as_raw(&self) -> *mut c::ib_umem_odp {
        self.0.as_ptr()
    }

    /// Whether it was registered for writing.
    pub(super) fn writable(&self) -> bool {
        // SAFETY: By the type invariants it is there; the flags do not change.
        unsafe { (*self.0.as_ptr()).umem.writable() != 0 }
    }

    /// A region of the span, with pages.
    ///
    /// # Errors
    ///
    /// Those of the core; [`EFAULT`] if the process has no memory any more.
    pub(super) fn child(&self, span: Span) -> Result<OwnedUmem> {
        // SAFETY: By the type invariants it is an anchor. The operations are static.
        let raw = from_err_ptr(unsafe {
            c::ib_umem_odp_alloc_child(
                self.0.as_ptr(),
                span.start() as c_ulong,
                span.length() as usize,
                &CHILD_OPS,
            )
        })?;
        // INVARIANT: of `Umem`, by what the core says of children.
        Ok(OwnedUmem(NonNull::new(raw).ok_or(ENOMEM)?))
    }
}

/// What C calls an anchor's own, for us a reference to the implicit region.
///
/// # Safety
///
/// The anchor is there, and nobody else uses the field meanwhile.
pub(super) unsafe fn set_anchored(raw: *mut c::ib_umem_odp, region: *const c_void) {
    // SAFETY: By what the caller promises.
    unsafe { (*raw).private = region.cast_mut() };
}
