// SPDX-License-Identifier: GPL-2.0

//! DMA mapping of the pages that a shadow names.
//!
//! A device that reaches memory by DMA needs an address of its own for each page, good for as long
//! as the shadow's entry is. So a [`DmaMap`] is a part of the shadow: publishing fills it by
//! [`DmaMap::map`], and `zap` empties it by [`DmaMap::unmap`].
//!
//! # Unbinding
//!
//! A mapping must not outlive the binding of the device to its driver, but a shadow may, for
//! example in an open file. So the map is a [device resource](Devres): when the device is unbound,
//! which is after the driver has stopped it, all is unmapped and freed, and the map stays empty for
//! good.
//!
//! # Context
//!
//! [`DmaMap::map`] and [`DmaMap::unmap`] do not sleep and need no interrupts, so a shadow with a
//! map in it goes with a spinlock as well as with a mutex. An IOMMU takes spinlocks and allocates
//! its page tables with `GFP_ATOMIC` (`dma_iova_link()`, `dma_map_phys()`), which makes
//! [`DmaMap::map`] the one step of publishing that can run out of memory. To make a map and to drop
//! it may sleep; a shadow that is freed where nothing may sleep has to be rid of its map before.
//!
//! # Coherence
//!
//! The CPU and the device use the memory at the same time, which the DMA API has no calls for. It
//! works where the device snoops the CPU's caches and nothing is copied to bounce buffers, and a
//! map for any other device is refused.
//!
//! # A registered region
//!
//! Under an [`IntervalNotifier`](crate::interval::IntervalNotifier); the test run compiles it:
//!
//! ```
//! use kernel::{
//!     device::{Bound, Device},
//!     dma::DmaAddress,
//!     mm::MmWithUser,
//!     page::PAGE_SHIFT,
//!     prelude::*,
//!     sync::Arc,
//! };
//! use mmu_notifier_helpers::{
//!     dma::DmaMap,
//!     fault::{Access, Buffer, Request},
//!     interval::IntervalNotifier,
//!     invlock::Publish,
//!     mirror::{Mirror, Subscription},
//!     pages::Faulted,
//!     range::{Invalidation, PageRange},
//! };
//!
//! /// Memory that a device works on, and the table by which it finds each page, in their order.
//! pub struct Region {
//!     map: DmaMap,
//!     table: KVec<Option<DmaAddress>>,
//! }
//!
//! // SAFETY: Neither sleeps nor waits for memory. The entries are dropped; `zap` unmaps what was
//! // mapped of them.
//! unsafe impl Publish<Faulted<'_, ()>> for Region {
//!     type Output = Result;
//!
//!     fn publish(&mut self, Faulted { pages, .. }: Faulted<'_, ()>) -> Result {
//!         let start = self.map.range().start();
//!         self.map.map(pages, |addr, _entry, dma| {
//!             self.table[(addr - start) >> PAGE_SHIFT] = Some(dma);
//!         })
//!     }
//! }
//!
//! /// The driver.
//! pub struct Driver;
//!
//! // SAFETY: What is invalidated is not in the table any more, which the device reads for each
//! // transfer, nor mapped.
//! unsafe impl Mirror for Driver {
//!     type Shadow = Region;
//!     type Reserve = ();
//!
//!     fn zap(&self, region: &mut Region, invalidation: &Invalidation) {
//!         let range = invalidation.range();
//!         let first = (range.start() - region.map.range().start()) >> PAGE_SHIFT;
//!         region.table[first..first + range.pages()].fill(None);
//!         region.map.unmap(range);
//!     }
//! }
//!
//! /// Registers memory of a process.
//! pub fn register(
//!     dev: &Device<Bound>,
//!     mm: &MmWithUser,
//!     range: PageRange,
//! ) -> Result<Arc<IntervalNotifier<Driver>>> {
//!     let region = Region {
//!         map: DmaMap::new(dev, range, 0)?,
//!         table: KVec::from_elem(None, range.pages(), GFP_KERNEL)?,
//!     };
//!     let shadow = kernel::new_mutex!(region, "Region");
//!     let driver = Ok::<_, Error>(Driver);
//!     Arc::pin_init(
//!         IntervalNotifier::insert(mm, range, driver, shadow),
//!         GFP_KERNEL,
//!     )
//! }
//!
//! /// Lets the device write to all of it: `transfer` is called for each page and returns when the
//! /// device has done.
//! pub fn write(
//!     region: &IntervalNotifier<Driver>,
//!     mm: &MmWithUser,
//!     transfer: impl FnMut(DmaAddress),
//! ) -> Result {
//!     let mut buffer = Buffer::new(region.range().pages(), GFP_KERNEL)?;
//!     let request = Request::droppable(*region.range(), Access::Write);
//!     let region = region.fault(mm, &request, &mut buffer, &mut ())?;
//!     region.table.iter().flatten().copied().for_each(transfer);
//!     Ok(())
//! }
//! ```
//!
//! C header: [`include/linux/hmm-dma.h`](srctree/include/linux/hmm-dma.h)

use crate::{
    bindings,
    pages::{Entry, PageState, Pages, FLAGS, VALID, WRITE},
    range::PageRange,
};
use core::{cell::UnsafeCell, ops::Range};
use kernel::{
    bindings::pci_p2pdma_map_state,
    device::{Bound, Device, DeviceContext},
    devres::Devres,
    dma::DmaAddress,
    error::to_result,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    sync::aref::ARef,
};

/// The address that stands for none, C's macro of the name. The shims compare.
const DMA_MAPPING_ERROR: DmaAddress = !0;

/// What the mapping notes of a page; it stays when the page is read anew.
const MAPPED: usize = bindings::hmm_pfn_flags_HMM_PFN_DMA_MAPPED
    | bindings::hmm_pfn_flags_HMM_PFN_P2PDMA
    | bindings::hmm_pfn_flags_HMM_PFN_P2PDMA_BUS;

/// The DMA mappings of the pages of one range, for one device.
///
/// It consists of entries, of one or more pages each, that are mapped and unmapped as a whole.
pub struct DmaMap {
    map: Devres<Mappings>,
    range: PageRange,
    /// log2 of the pages of an entry.
    order: u32,
}

impl DmaMap {
    /// A map for the pages of `range` in which nothing is mapped yet.
    ///
    /// An entry has 2<sup>`order`</sup> pages. The map takes 8 bytes for each page of the range,
    /// and with an IOMMU as much again, or as many of the device's addresses as the range has.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: the range does not consist of whole aligned entries.
    /// - `EOPNOTSUPP`: the device cannot reach all memory or is not coherent with the CPU, so that
    ///   data would be copied to bounce buffers (swiotlb).
    /// - `ENOMEM`.
    ///
    /// C: `hmm_dma_map_alloc()`.
    pub fn new(dev: &Device<Bound>, range: PageRange, order: u32) -> Result<Self> {
        let size = 1usize
            .checked_shl(order)
            .and_then(|pages| pages.checked_mul(PAGE_SIZE))
            .ok_or(EINVAL)?;
        if !is_whole(&range, size) {
            return Err(EINVAL);
        }
        let map = Devres::new(dev, Mappings::new(dev, range.pages(), size)?)?;
        Ok(Self { map, range, order })
    }

    /// The addresses that the map is for.
    pub const fn range(&self) -> &PageRange {
        &self.range
    }

    /// Maps what is mapped for the CPU of `pages`, and hands to `each` the address in bytes of
    /// every entry, its first page, and the address at which the device finds it.
    ///
    /// What is mapped already stays where it is, so that a page can be read again, for writing now,
    /// while the device uses it. The device can write to what it maps, whether the process may or
    /// not: a driver does not let it write to an entry that is not [writable](Entry::writable).
    /// Pages that are writable are marked dirty here, since the device leaves no trace of its
    /// writing; it happens again after the next invalidation, which comes before they are cleaned.
    ///
    /// # Context
    ///
    /// For [`Publish`](crate::invlock::Publish) of the shadow that the map is in. Does not sleep,
    /// and neither may `each`.
    ///
    /// # Errors
    ///
    /// What was mapped before the error stays mapped.
    ///
    /// - `EINVAL`: the range of `pages` is not in that of the map, or does not consist of whole
    ///   entries; the CPU maps pages of an entry one by one, so that they need not be neighbours.
    /// - `EIO`: the device cannot be given an address for a page: the IOMMU has no memory for page
    ///   tables, or the page is of another device that it cannot reach. `DMA_MAPPING_ERROR` in C,
    ///   which drivers take for a fault that the device cannot resolve.
    /// - `ENXIO`: the device has been unbound.
    ///
    /// C: `hmm_dma_map_pfn()`.
    pub fn map(
        &mut self,
        pages: Pages<'_>,
        mut each: impl FnMut(usize, Entry, DmaAddress),
    ) -> Result {
        let range = *pages.range();
        let size = PAGE_SIZE << self.order;
        if self.range.intersection(&range) != Some(range) || !is_whole(&range, size) {
            return Err(EINVAL);
        }
        let map = self.map.try_access().ok_or(ENXIO)?;
        let mut p2pdma = pci_p2pdma_map_state::default();
        for (addr, state) in pages.entries() {
            let entry = match state {
                PageState::Mapped(entry) if addr & (size - 1) == 0 => entry,
                _ => continue,
            };
            if entry.order() < self.order {
                return Err(EINVAL);
            }
            // SAFETY: `self` is borrowed mutably, and the entry was read and checked by whom holds
            // `pages`. Its order says that the page frames after it are the following pages' and
            // that its number is a multiple of the entry's pages.
            let dma = unsafe { map.map(self.index(addr), &entry, &mut p2pdma) }?;
            each(addr, entry, dma);
        }
        Ok(())
    }

    /// Unmaps every entry that has a page in `range`. Once it returns the device reaches none of
    /// them any more, if there is an IOMMU; where there is none, the driver has to have made the
    /// device forget the addresses.
    ///
    /// # Context
    ///
    /// For `zap`. Does not sleep.
    ///
    /// C: `hmm_dma_unmap_pfn()`.
    pub fn unmap(&mut self, range: &PageRange) {
        let Some(range) = self.range.intersection(range) else {
            return;
        };
        // Otherwise all was unmapped when the device was unbound.
        if let Some(map) = self.map.try_access() {
            let entries = self.index(range.start())..self.index(range.end() - 1) + 1;
            // SAFETY: `self` is borrowed mutably, and the range is in the map's.
            unsafe { map.unmap(entries) };
        }
    }

    /// Whether the device has an address for the page at `addr`, in bytes. Not when it has been
    /// unbound, and not for what is outside of the map.
    ///
    /// # Context
    ///
    /// Any; does not sleep.
    ///
    /// C: `HMM_PFN_DMA_MAPPED`, for one page.
    pub fn is_mapped(&self, addr: usize) -> bool {
        if !(self.range.start()..self.range.end()).contains(&addr) {
            return false;
        }
        self.map.try_access().is_some_and(|map| {
            // SAFETY: `self` is borrowed, and the address is in the map's range.
            unsafe { map.is_mapped(self.index(addr)) }
        })
    }

    /// The number of the entry with the byte `addr` of the range.
    const fn index(&self, addr: usize) -> usize {
        (addr - self.range.start()) >> (PAGE_SHIFT as u32 + self.order)
    }
}

/// What a map is for as long as its device is bound.
///
/// # Invariants
///
/// - `map` was made by `hmm_dma_map_alloc()` for `dev`, which is bound, and has `entries` entries.
/// - An element of its list of page frames is zero, or it is the first page of an entry and mapped.
struct Mappings {
    dev: ARef<Device>,
    map: UnsafeCell<bindings::hmm_dma_map>,
    entries: usize,
}

// SAFETY: Mappings may be changed and freed by any thread.
unsafe impl Send for Mappings {}
// SAFETY: Those who use a shared reference promise not to do so at the same time as one who changes
// something.
unsafe impl Sync for Mappings {}

impl Mappings {
    /// For entries of `size` bytes, a power of two, that together have `pages` pages.
    fn new(dev: &Device<Bound>, pages: usize, size: usize) -> Result<Self> {
        let mut map = bindings::hmm_dma_map::default();
        // SAFETY: The device is bound, and `map` is what the function expects: zeroes.
        to_result(unsafe { bindings::hmm_dma_map_alloc(as_raw(dev), &mut map, pages, size) })?;
        // INVARIANT: The map was just made, with lists of zeroes; it is dropped before the device
        // is unbound, by the guarantee of `Devres` or since `dev` is borrowed.
        Ok(Self {
            dev: dev.into(),
            map: UnsafeCell::new(map),
            entries: (pages << PAGE_SHIFT) / size,
        })
    }

    /// The element of the list of page frames for the entry `index`.
    ///
    /// # Safety
    ///
    /// `index` must be below `entries`.
    unsafe fn pfn(&self, index: usize) -> *mut usize {
        // SAFETY: The list is set once, and has an element for each page, so that it has one for
        // each entry.
        unsafe { (*self.map.get()).pfn_list.add(index) }
    }

    /// Maps the entry `index`, whose first page is `page`.
    ///
    /// # Safety
    ///
    /// - Nobody else may use the mappings meanwhile, and `index` must be below `entries`.
    /// - The page and the others of the entry must be mapped for the CPU until the call returns.
    unsafe fn map(
        &self,
        index: usize,
        page: &Entry,
        p2pdma: &mut pci_p2pdma_map_state,
    ) -> Result<DmaAddress> {
        let flags = VALID | if page.writable() { WRITE } else { 0 };
        // SAFETY: By the caller's promise, and the device is bound, by the type invariant. The
        // element of the list that is mapped is a page frame that is there, with the marks of its
        // mapping if it has one already.
        // INVARIANT: It is mapped, or made zero again.
        unsafe {
            if *self.pfn(index) & !FLAGS != page.pfn() {
                self.unmap(index..index + 1);
            }
            *self.pfn(index) = page.pfn() | flags | (*self.pfn(index) & MAPPED);
            let dma = bindings::hmm_dma_map_pfn(as_raw(&self.dev), self.map.get(), index, p2pdma);
            if dma == DMA_MAPPING_ERROR {
                self.unmap(index..index + 1);
                return Err(EIO);
            }
            if page.writable() {
                bindings::mnh_set_page_dirty(page.pfn());
            }
            Ok(dma)
        }
    }

    /// Unmaps those of `entries` that are mapped.
    ///
    /// # Safety
    ///
    /// Nobody else may use the mappings meanwhile, and the entries must be below `self.entries`.
    unsafe fn unmap(&self, entries: Range<usize>) {
        for index in entries {
            // SAFETY: By the caller's promise; and the device is bound, by the type invariant.
            // INVARIANT: What is zero now is not mapped.
            unsafe {
                if *self.pfn(index) != 0 {
                    bindings::hmm_dma_unmap_pfn(as_raw(&self.dev), self.map.get(), index);
                    *self.pfn(index) = 0;
                }
            }
        }
    }

    /// Whether the entry `index` is mapped.
    ///
    /// # Safety
    ///
    /// Nobody may change the mappings meanwhile, and `index` must be below `entries`.
    unsafe fn is_mapped(&self, index: usize) -> bool {
        // SAFETY: By the caller's promise.
        unsafe { *self.pfn(index) != 0 }
    }
}

impl Drop for Mappings {
    fn drop(&mut self) {
        // SAFETY: There is no other reference, and the device is bound, by the type invariant. The
        // lists and addresses are freed when nothing is mapped any more.
        unsafe {
            self.unmap(0..self.entries);
            bindings::hmm_dma_map_free(as_raw(&self.dev), self.map.get());
        }
    }
}

/// Whether `range` consists of aligned pieces of `size` bytes, a power of two.
const fn is_whole(range: &PageRange, size: usize) -> bool {
    (range.start() | range.len()) & (size - 1) == 0
}

/// The C side of a device.
fn as_raw<Ctx: DeviceContext>(dev: &Device<Ctx>) -> *mut kernel::bindings::device {
    // A `Device` is a transparent wrapper.
    core::ptr::from_ref(dev).cast_mut().cast()
}
