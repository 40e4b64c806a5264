// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! A region as the drivers know it, a `struct ib_umem_odp`, with what we have beside it.
//!
//! The structure keeps its layout, which drivers' code has inlined. We allocate it, and nobody
//! else does, so there is room for more behind it.

use crate::{
    bindings as extra,
    entry::Entry,
    ffi_tgid::Tgid,
    mapped::Mapped,
    per_mm::ContextRef,
    region::Region,
    umem::{self, Pages},
};
use core::{cell::UnsafeCell, ops::Range, ptr::NonNull, slice};
use kernel::{
    bindings,
    error::to_result,
    prelude::*,
    types::{NotThreadSafe, Opaque},
};

/// What a region is made of.
pub(crate) struct Spec {
    pub(crate) device: *mut extra::ib_device,
    pub(crate) address: usize,
    pub(crate) length: usize,
    pub(crate) writable: bool,
    /// [`None`] makes an implicit region, an anchor without addresses.
    pub(crate) region: Option<Region>,
    pub(crate) page_shift: u32,
    pub(crate) ops: *const bindings::mmu_interval_notifier_ops,
}

/// A region, or an anchor.
///
/// # Invariants
///
/// - `context` has the `mm` that `raw` has; `tgid` in it is a reference.
/// - With `region`, `raw.map` has lists for it, the record is in the tree of the context unless
///   [`Self::new`] or [`Self::release`] runs, and `raw.notifier` has its first and last address.
/// - An element of the list has `HMM_PFN_DMA_MAPPED` if `hmm_dma_map_pfn()` has mapped it.
#[repr(C)]
pub(crate) struct OdpUmem {
    /// The first field: its address is the drivers'.
    raw: Opaque<extra::ib_umem_odp>,
    context: ContextRef,
    region: Option<Region>,
    /// What pages are mapped for; [`None`] if the CPU moves the data.
    dma_device: Option<NonNull<bindings::device>>,
    /// Protected by the mutex.
    mapped: UnsafeCell<Mapped>,
}

impl OdpUmem {
    /// Makes the region and takes it into the context. It is given back by [`Self::release`].
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EOPNOTSUPP` for a device that hmm cannot map pages for; `EINTR`.
    pub(crate) fn new(context: ContextRef, tgid: Tgid, spec: &Spec) -> Result<NonNull<Self>> {
        let entries = spec.region.map_or(0, |region| region.entries());
        let mm = context.umems().mm().as_raw();
        let umem = KBox::new(
            Self {
                raw: Opaque::new(Default::default()),
                context,
                region: spec.region,
                // SAFETY: The device is registered while it has regions.
                dma_device: NonNull::new(unsafe { extra::odp_dma_device(spec.device) }),
                mapped: UnsafeCell::new(Mapped::new(entries, GFP_KERNEL | __GFP_NOWARN)?),
            },
            GFP_KERNEL,
        )?;
        let raw = umem.raw();
        // SAFETY: Nobody else knows the structure yet.
        unsafe {
            (*raw).umem.ibdev = spec.device;
            (*raw).umem.owning_mm = mm;
            (*raw).umem.address = spec.address;
            (*raw).umem.length = spec.length;
            (*raw).umem.set_writable(spec.writable.into());
            (*raw).umem.set_is_odp(1);
            (*raw).page_shift = spec.page_shift;
            (*raw).is_implicit_odp = spec.region.is_none();
            (*raw).tgid = tgid.into_raw();
            extra::odp_init_mutex(raw);
        }
        if let Some(region) = spec.region {
            // SAFETY: As above.
            if let Err(e) = unsafe { umem.enter(&region, mm, spec.ops) } {
                // SAFETY: The reference was taken above.
                unsafe { bindings::put_pid((*raw).tgid) };
                return Err(e);
            }
        }
        Ok(NonNull::from(KBox::leak(umem)))
    }

    /// Allocates the lists and takes the region into the tree.
    ///
    /// # Safety
    ///
    /// For [`Self::new`].
    unsafe fn enter(
        &self,
        region: &Region,
        mm: *mut bindings::mm_struct,
        ops: *const bindings::mmu_interval_notifier_ops,
    ) -> Result {
        let raw = self.raw();
        // SAFETY: Nobody else knows the structure yet; its mutex is initialised.
        unsafe {
            extra::mnh_fs_reclaim_acquire();
            bindings::mutex_lock(&raw mut (*raw).umem_mutex);
            bindings::mutex_unlock(&raw mut (*raw).umem_mutex);
            extra::mnh_fs_reclaim_release();

            (*raw).notifier.mm = mm;
            (*raw).notifier.ops = ops;
            (*raw).notifier.interval_tree.start = region.range().start();
            (*raw).notifier.interval_tree.last = region.range().end() - 1;
        }
        match self.dma_device {
            None => {
                // SAFETY: Allocates.
                let list = unsafe { extra::odp_alloc_pfn_list(region.entries()) };
                if list.is_null() {
                    return Err(ENOMEM);
                }
                // SAFETY: Nobody else knows the structure yet.
                unsafe { (*raw).map.pfn_list = list };
            }
            // SAFETY: The device is registered while it has regions, and the map is new.
            Some(device) => to_result(unsafe {
                extra::hmm_dma_map_alloc(
                    device.as_ptr(),
                    &raw mut (*raw).map,
                    region.range().pages(),
                    1 << region.page_shift(),
                )
            })?,
        }
        // SAFETY: All of the record is set, and it is removed before the structure goes.
        let entered = unsafe { self.context.umems().insert(&raw mut (*raw).notifier) };
        if entered.is_err() {
            self.free_lists();
        }
        entered
    }

    /// The region at a driver's pointer.
    ///
    /// # Safety
    ///
    /// `raw` must come from [`Self::new`], and [`Self::release`] not be called for `'a`.
    pub(crate) unsafe fn from_raw<'a>(raw: *mut extra::ib_umem_odp) -> &'a Self {
        // SAFETY: By the caller's promise. It is the first field.
        unsafe { &*raw.cast() }
    }

    /// The drivers' pointer.
    pub(crate) fn raw(&self) -> *mut extra::ib_umem_odp {
        self.raw.get()
    }

    /// Whose it is.
    pub(crate) fn context(&self) -> &ContextRef {
        &self.context
    }

    /// Which addresses; [`None`] for an anchor.
    pub(crate) fn region(&self) -> Option<&Region> {
        self.region.as_ref()
    }

    /// The device of the region.
    pub(crate) fn device(&self) -> *mut extra::ib_device {
        // SAFETY: The field was set when it was made.
        unsafe { (*self.raw()).umem.ibdev }
    }

    /// Whether the device may write.
    pub(crate) fn is_writable(&self) -> bool {
        // SAFETY: The field was set when it was made.
        unsafe { (*self.raw()).umem.writable() != 0 }
    }

    /// Whether the process that registered it is there.
    pub(crate) fn is_alive(&self) -> bool {
        // SAFETY: There is a reference, by the type invariant.
        unsafe { extra::odp_is_alive((*self.raw()).tgid) }
    }

    /// The record for the core's sequence.
    pub(crate) fn record(&self) -> *mut bindings::mmu_interval_notifier {
        // SAFETY: Takes an address.
        unsafe { &raw mut (*self.raw()).notifier }
    }

    fn free_lists(&self) {
        // SAFETY: For those who know that nobody uses the lists any more, which are there.
        unsafe {
            match self.dma_device {
                None => bindings::kvfree((*self.raw()).map.pfn_list.cast()),
                Some(device) => {
                    extra::hmm_dma_map_free(device.as_ptr(), &raw mut (*self.raw()).map)
                }
            }
        }
    }

    /// Locks the list.
    ///
    /// # Context
    ///
    /// Sleeps.
    pub(crate) fn lock(&self) -> Locked<'_> {
        // SAFETY: The mutex is initialised.
        unsafe { bindings::mutex_lock(&raw mut (*self.raw()).umem_mutex) };
        // INVARIANT: It was just taken.
        Locked {
            list: List(self),
            _nts: NotThreadSafe,
        }
    }

    /// Takes the pages with any byte from `start` to `end` out of the list.
    ///
    /// # Safety
    ///
    /// The mutex must be held.
    pub(crate) unsafe fn unmap_locked(&self, start: u64, end: u64) {
        // SAFETY: The structure is initialised.
        unsafe { extra::odp_assert_locked(self.raw()) };
        if let Some(region) = &self.region {
            // INVARIANT: It is held, by the caller's promise.
            umem::unmap(&mut List(self), region, start, end);
        }
    }

    /// Takes it out of its context and frees it. The device must not use it any more.
    ///
    /// # Context
    ///
    /// Sleeps. With no lock held that invalidations take.
    ///
    /// # Safety
    ///
    /// `this` must come from [`Self::new`], and this be the last use.
    pub(crate) unsafe fn release(this: *mut Self) {
        // SAFETY: It was a box in `new`, and there is no other use.
        let umem = unsafe { KBox::from_raw(this) };
        if let Some(region) = &umem.region {
            umem::unmap(&mut *umem.lock(), region, 0, u64::MAX);
            // SAFETY: It is in the tree, by the type invariant.
            unsafe { umem.context.umems().remove(umem.record()) };
            umem.free_lists();
        }
        // SAFETY: There is a reference, by the type invariant.
        unsafe { bindings::put_pid((*umem.raw()).tgid) };
    }
}

/// The list of a region.
///
/// # Invariants
///
/// The mutex is held, and the region is no anchor.
pub(crate) struct List<'a>(&'a OdpUmem);

impl List<'_> {
    fn element(&self, index: usize) -> *mut usize {
        debug_assert!(self.0.region.is_some_and(|region| index < region.entries()));
        // SAFETY: The list has an element for each entry of the region.
        unsafe { (*self.0.raw()).map.pfn_list.add(index) }
    }
}

impl Pages for List<'_> {
    fn get(&self, index: usize) -> Entry {
        // SAFETY: The mutex is held, by the type invariant.
        Entry::from_raw(unsafe { *self.element(index) })
    }

    fn set(&mut self, index: usize, entry: Entry) {
        // SAFETY: The mutex is held, by the type invariant.
        unsafe { *self.element(index) = entry.raw() };
    }

    fn slots(&mut self, entries: Range<usize>) -> &mut [Entry] {
        let all = self.0.region.map_or(0, |region| region.entries());
        // SAFETY: The list has an element for each entry of the region, and an `Entry` is a
        // transparent number. The mutex is held, by the type invariant, and `self` is borrowed
        // mutably.
        let all = unsafe { slice::from_raw_parts_mut(self.element(0).cast(), all) };
        all.get_mut(entries).unwrap_or(&mut [])
    }

    fn mapped(&mut self) -> &mut Mapped {
        // SAFETY: The mutex is held, by the type invariant, and `self` is borrowed mutably.
        unsafe { &mut *self.0.mapped.get() }
    }

    fn is_virtual(&self) -> bool {
        self.0.dma_device.is_none()
    }

    fn unmap_dma(&mut self, index: usize) {
        let Some(device) = self.0.dma_device else {
            return;
        };
        // SAFETY: The mutex is held, by the type invariant, and the driver counts what it maps.
        unsafe {
            let raw = self.0.raw();
            if extra::hmm_dma_unmap_pfn(device.as_ptr(), &raw mut (*raw).map, index) {
                (*raw).npages -= 1;
            }
        }
    }

    fn set_dirty(&mut self, pfn: usize) {
        // SAFETY: The page was read from a page table that maps it until the invalidation that
        // waits for the mutex is done.
        unsafe { extra::odp_set_page_dirty(pfn) };
    }

    fn sequence(&self) -> usize {
        // SAFETY: The mutex is held, by the type invariant, under which it is written.
        unsafe { (&raw const (*self.0.record()).invalidate_seq).read_volatile() }
    }
}

/// The list of a region, with its mutex.
///
/// # Invariants
///
/// Owns the mutex.
pub(crate) struct Locked<'a> {
    list: List<'a>,
    // The mutex is released by the task that took it.
    _nts: NotThreadSafe,
}

impl Locked<'_> {
    /// Leaves the mutex to the driver, which releases it.
    pub(crate) fn leave(self) {
        core::mem::forget(self);
    }
}

impl<'a> core::ops::Deref for Locked<'a> {
    type Target = List<'a>;

    fn deref(&self) -> &List<'a> {
        &self.list
    }
}

impl core::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.list
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: The mutex is held, by the type invariant.
        unsafe { bindings::mutex_unlock(&raw mut (*self.list.0.raw()).umem_mutex) };
    }
}

impl Pages for Locked<'_> {
    fn get(&self, index: usize) -> Entry {
        self.list.get(index)
    }

    fn set(&mut self, index: usize, entry: Entry) {
        self.list.set(index, entry);
    }

    fn slots(&mut self, entries: Range<usize>) -> &mut [Entry] {
        self.list.slots(entries)
    }

    fn mapped(&mut self) -> &mut Mapped {
        self.list.mapped()
    }

    fn is_virtual(&self) -> bool {
        self.list.is_virtual()
    }

    fn unmap_dma(&mut self, index: usize) {
        self.list.unmap_dma(index);
    }

    fn set_dirty(&mut self, pfn: usize) {
        self.list.set_dirty(pfn);
    }

    fn sequence(&self) -> usize {
        self.list.sequence()
    }
}
