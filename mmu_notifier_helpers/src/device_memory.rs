// SPDX-License-Identifier: GPL-2.0

//! Device memory that processes can have pages in.
//!
//! A [`Chunk`] gives a piece of device memory a `struct page` for each of its pages and keeps track
//! of which are free. It is either *private*, which the CPU cannot reach: it stumbles when it
//! tries, and the driver moves the page back; or *coherent*, which the CPU uses like its own.
//!
//! # Life of a page
//!
//! ```text
//!           alloc                migrate                    last mapping goes
//!   free ----------> Destination --------> used by processes -----------------> free
//!     ^                  | drop                                                  |
//!     +------------------+-------------------------------------------------------+
//! ```
//!
//! 2 MiB in one piece may be split while in use, and come back page by page.
//!
//! # Locks
//!
//! The lock of the chunk's list of free pages is the innermost: pages come back under the locks of
//! page tables, where nothing may sleep, and from interrupts, when I/O to coherent memory was the
//! last to use them.
//!
//! C header: [`include/linux/memremap.h`](srctree/include/linux/memremap.h)

use crate::{
    bindings as extra,
    frames::{Frames, Order},
    migrate::{self, Collected, Destination, Mover, Room},
    pages::{HUGE_ORDER, HUGE_PAGES},
    range::{Owner, PageRange},
};
use core::ptr::NonNull;
use kernel::{
    bindings,
    error::from_err_ptr,
    mm::virt::VmaRef,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    static_lock_class,
    sync::SpinLockIrq,
    types::Opaque,
};

/// The name of the lock. It is a static and has one address, whatever crate a chunk is made in:
/// lockdep takes it for a mistake if locks of one class have several.
static FRAMES: &CStr = c"device_memory::frames";

/// What a driver does with its device memory.
pub trait DeviceMemory: Send + Sync + Sized + 'static {
    /// Nothing is in use any more of the 2 MiB that begin with page `block * 512` of the chunk.
    ///
    /// # Context
    ///
    /// The lock of the chunk is held, with interrupts disabled, and maybe locks of page tables:
    /// must not sleep, nor use the chunk. Whoever gets a page of the block next has not got it
    /// before this returns.
    ///
    /// C: `folio_free()` of `struct dev_pagemap_ops`, for the last page.
    fn emptied(&self, _block: usize) {}

    /// The CPU needs what is in a page of private memory: has it moved to the system's, by
    /// [`CpuFault::migrate`].
    ///
    /// # Context
    ///
    /// May sleep. The mmap lock is held.
    ///
    /// # Errors
    ///
    /// `ENOMEM`: there is no memory; the process waits for some, or for its end. Anything else
    /// kills it with `SIGBUS`.
    ///
    /// C: `migrate_to_ram()` of `struct dev_pagemap_ops`.
    fn migrate_to_ram(chunk: &Chunk<Self>, fault: CpuFault<'_>) -> Result;
}

/// What kind of memory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The CPU cannot reach it.
    Private,
    /// The CPU can reach it.
    Coherent(Physical),
}

/// Where coherent memory begins, which must be where 2 MiB do.
///
/// # Invariants
///
/// From there on is memory that the CPU may read and write, and that only chunks make use of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Physical(u64);

impl Physical {
    /// Memory at the physical address `addr`.
    ///
    /// # Safety
    ///
    /// As much as a chunk is made of must be memory that the CPU may read and write, not registers,
    /// and nobody else may use it while the chunk is there. ([`Chunk::new`] refuses what the core
    /// knows to be somebody's, and another chunk's.)
    pub const unsafe fn new(addr: u64) -> Self {
        // INVARIANT: By the caller's promise.
        Self(addr)
    }
}

/// A range of physical addresses that belongs to nobody, taken for private memory.
///
/// # Invariants
///
/// A region that was requested.
struct Region(NonNull<bindings::resource>);

impl Region {
    fn request(size: usize, name: &'static CStr) -> Result<Self> {
        // SAFETY: The name is static.
        let region =
            from_err_ptr(unsafe { extra::mnh_request_free_mem_region(size, name.as_char_ptr()) })?;
        // INVARIANT: It was just requested.
        NonNull::new(region).map(Self).ok_or(ENOMEM)
    }

    fn start(&self) -> u64 {
        // SAFETY: By the type invariant.
        unsafe { self.0.as_ref() }.start
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { extra::mnh_release_mem_region(self.0.as_ptr()) };
    }
}

// SAFETY: A region may be released from any thread.
unsafe impl Send for Region {}
// SAFETY: Nothing of it changes.
unsafe impl Sync for Region {}

/// A piece of device memory.
///
/// When it is dropped, all its pages must have come back or be about to: it waits for them, and
/// whoever holds a [`Destination`] of it waits for ever then. [`Chunk::evict`] fetches them back.
///
/// C: `struct dev_pagemap`, `memremap_pages()`, `memunmap_pages()`.
///
/// # Invariants
///
/// `pagemap` is mapped. `frames` has those pages that are not in use.
#[pin_data(PinnedDrop)]
pub struct Chunk<T: DeviceMemory> {
    driver: T,
    owner: Owner,
    _region: Option<Region>,
    kind: Kind,
    first_pfn: usize,
    pages: usize,
    #[pin]
    frames: SpinLockIrq<Frames>,
    // The last field: whatever fails before, there is nothing to unmap.
    #[pin]
    pagemap: Opaque<bindings::dev_pagemap>,
}

// SAFETY: The page map is used by the core, which any thread may call; the rest is `Send`.
unsafe impl<T: DeviceMemory> Send for Chunk<T> {}
// SAFETY: As above; what changes is in a lock.
unsafe impl<T: DeviceMemory> Sync for Chunk<T> {}

impl<T: DeviceMemory> Chunk<T> {
    const OPS: &'static bindings::dev_pagemap_ops = &bindings::dev_pagemap_ops {
        folio_free: Some(Self::folio_free),
        migrate_to_ram: Some(Self::migrate_to_ram),
        memory_failure: None,
        // What there is to do for us, the core does.
        folio_split: None,
    };

    /// A chunk of `pages` pages for a device that is known as `owner`. Private memory gets the
    /// name `name` in the list of resources.
    ///
    /// # Context
    ///
    /// May sleep, and takes locks of memory hotplug.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: the memory does not begin or end where 2 MiB do.
    /// - `ENXIO`: coherent memory is at an address of the system's or of a device's.
    /// - `ENOMEM`: also if addresses are used up.
    /// - Others of `memremap_pages()`.
    ///
    /// C: `request_free_mem_region()`, `memremap_pages()`.
    pub fn new(
        driver: T,
        owner: Owner,
        kind: Kind,
        pages: usize,
        name: &'static CStr,
    ) -> impl PinInit<Self, Error> {
        pin_init::pin_init_scope(move || {
            let size = pages.checked_mul(PAGE_SIZE).ok_or(EINVAL)?;
            let whole = HUGE_PAGES * PAGE_SIZE;
            if size == 0 || size % whole != 0 {
                return Err(EINVAL);
            }
            let (region, start, memory_type) = match kind {
                Kind::Private => {
                    let region = Region::request(size, name)?;
                    let start = region.start();
                    (
                        Some(region),
                        start,
                        bindings::memory_type_MEMORY_DEVICE_PRIVATE,
                    )
                }
                Kind::Coherent(Physical(start)) => {
                    (None, start, bindings::memory_type_MEMORY_DEVICE_COHERENT)
                }
            };
            let first_pfn = (start >> PAGE_SHIFT) as usize;
            let last = start.checked_add(size as u64 - 1).ok_or(EINVAL)?;
            if start % whole as u64 != 0 {
                return Err(EINVAL);
            }
            // SAFETY: Looks at lists of the core's.
            if region.is_none() && !unsafe { extra::mnh_memory_is_free(start, size) } {
                return Err(ENXIO);
            }
            let frames = Frames::new(pages, GFP_KERNEL)?;
            Ok(try_pin_init!(Self {
                driver,
                owner,
                _region: region,
                kind,
                first_pfn,
                pages,
                frames <- SpinLockIrq::new(frames, FRAMES, static_lock_class!()),
                // INVARIANT: It is mapped, and no page is in use.
                pagemap <- Opaque::try_ffi_init(|slot: *mut bindings::dev_pagemap| {
                    let mut pagemap = bindings::dev_pagemap {
                        type_: memory_type,
                        ops: Self::OPS,
                        owner: owner.addr() as *mut c_void,
                        nr_range: 1,
                        ..Default::default()
                    };
                    // SAFETY: With one range, that is what the union holds.
                    unsafe {
                        *pagemap.__bindgen_anon_1.range.as_mut() =
                            bindings::range { start, end: last };
                    }
                    // SAFETY: `slot` is memory for it, where it stays: the chunk is pinned.
                    unsafe { slot.write(pagemap) };
                    let node = bindings::NUMA_NO_NODE;
                    // SAFETY: It was filled in.
                    from_err_ptr(unsafe { bindings::memremap_pages(slot, node) })?;
                    Ok::<(), Error>(())
                }),
            }? Error))
        })
    }

    /// What the driver gave.
    pub fn driver(&self) -> &T {
        &self.driver
    }

    /// What kind of memory it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How many pages it has.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// How many pages are in use: handed out by [`Self::alloc`] and not yet freed by the core. It
    /// may have changed when it is read.
    ///
    /// # Context
    ///
    /// Process context; does not sleep.
    pub fn used(&self) -> usize {
        self.frames.lock().used()
    }

    /// Which page of the chunk has the frame `pfn`, if one has.
    pub fn index(&self, pfn: usize) -> Option<usize> {
        let index = pfn.wrapping_sub(self.first_pfn);
        (index < self.pages).then_some(index)
    }

    /// A place for one page, or for 2 MiB; [`None`] if there is none in one piece. What is in it is
    /// undefined.
    ///
    /// # Context
    ///
    /// Process context; does not sleep and allocates no memory of the system's.
    ///
    /// C: `zone_device_folio_init()`.
    pub fn alloc(&self, order: Order) -> Option<Destination> {
        let index = self.frames.lock().alloc(order)?;
        let (pfn, order) = match order {
            Order::Page => (self.first_pfn + index, 0),
            Order::Huge => (self.first_pfn + index, HUGE_ORDER),
        };
        // SAFETY: By the type invariant the page map is mapped and the pages were not in use, and
        // they are no longer among those that can be had. The folio comes locked, with one
        // reference.
        unsafe {
            extra::mnh_zone_device_folio_init(pfn, self.pagemap.get(), order);
            Some(Destination::new(pfn, order))
        }
    }

    /// Has pages moved to where `mover` says, whoever uses them, as many as can be moved just now.
    /// Returns how many are left, which is all of them without `room` for [`MOST_PAGES`].
    ///
    /// [`MOST_PAGES`]: migrate::MOST_PAGES
    ///
    /// # Context
    ///
    /// May sleep, and waits for nobody. No lock of a page may be held.
    ///
    /// # Errors
    ///
    /// None: what `mover` has no place for, or somebody else uses just now, stays and is counted.
    ///
    /// C: `migrate_device_range()`, `migrate_device_pages()`, `migrate_device_finalize()`.
    pub fn evict(&self, room: &mut Room, mover: &mut impl Mover) -> usize {
        let mut left = 0;
        for block in 0..self.pages / HUGE_PAGES {
            let used = self.frames.lock().used_in(block);
            if used > 0 && room.pages() == HUGE_PAGES {
                // SAFETY: The chunk is mapped for as long as it is borrowed, and a block is 2 MiB.
                unsafe { migrate::evict(self.first_pfn + block * HUGE_PAGES, room, mover) };
            }
            if used > 0 {
                left += self.frames.lock().used_in(block);
            }
        }
        left
    }

    /// # Safety
    ///
    /// `folio` must be of a chunk with the driver `T`.
    unsafe fn of_folio<'a>(folio: *const bindings::folio) -> &'a Self {
        // SAFETY: By the caller's promise.
        let pagemap = unsafe { extra::mnh_folio_pgmap(folio) };
        let field: *mut Opaque<bindings::dev_pagemap> = pagemap.cast();
        // SAFETY: It is the field of a chunk, which waits for its pages before it goes.
        unsafe { &*kernel::container_of!(field, Self, pagemap) }
    }

    /// # Safety
    ///
    /// The core must call it, for a folio that nobody uses any more.
    unsafe extern "C" fn folio_free(folio: *mut bindings::folio) {
        // SAFETY: The operations are those of the chunk.
        let chunk = unsafe { Self::of_folio(folio) };
        // SAFETY: The folio is valid.
        let (pfn, order) = unsafe { (extra::mnh_folio_pfn(folio), extra::mnh_folio_order(folio)) };
        let index = pfn - chunk.first_pfn;
        let mut frames = chunk.frames.lock();
        // INVARIANT: They are no longer in use.
        frames.free(index, 1 << order);
        if frames.used_in(index / HUGE_PAGES) == 0 {
            chunk.driver.emptied(index / HUGE_PAGES);
        }
    }

    /// # Safety
    ///
    /// The core must call it, for a page that it holds and has locked.
    unsafe extern "C" fn migrate_to_ram(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: By the caller's promise.
        let (fault, folio) = unsafe {
            let vmf = &*vmf;
            let folio = extra::mnh_page_folio(vmf.page);
            let owner = Self::of_folio(folio).owner;
            let order = match vmf.pte.is_null() {
                // The CPU maps the page alone, though its folio may not have been split yet.
                false => 0,
                true => extra::mnh_folio_order(folio),
            };
            let addr = vmf.__bindgen_anon_1.address;
            let fault = CpuFault {
                owner,
                vma: VmaRef::from_raw(vmf.__bindgen_anon_1.vma),
                page: vmf.page,
                addr,
                pages: 1 << order,
            };
            (fault, folio)
        };
        // SAFETY: The operations are those of the chunk.
        match T::migrate_to_ram(unsafe { Self::of_folio(folio) }, fault) {
            Ok(()) => 0,
            Err(ENOMEM) => bindings::vm_fault_reason_VM_FAULT_OOM,
            Err(_) => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
        }
    }
}

#[pinned_drop]
impl<T: DeviceMemory> PinnedDrop for Chunk<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: It is mapped. Waits for the pages that are in use, so no callback comes any more.
        unsafe { bindings::memunmap_pages(self.pagemap.get()) };
    }
}

/// A CPU that stumbled on a page of private memory.
///
/// # Invariants
///
/// `page` is locked and held by the page-fault handler, which has the mmap lock, and mapped at
/// `addr`, which is in `vma`, by an entry that maps `pages` pages.
pub struct CpuFault<'a> {
    owner: Owner,
    vma: &'a VmaRef,
    page: *mut bindings::page,
    addr: usize,
    pages: usize,
}

impl CpuFault<'_> {
    /// What is moved together, around the page: what is mapped by the same entry, or the aligned
    /// 2<sup>`order`</sup> pages, as far as the VMA goes.
    fn range(&self, order: u32) -> Result<PageRange> {
        let size = self.pages.max(1 << order) * PAGE_SIZE;
        let start = self.addr & !(size - 1);
        PageRange::new(
            start.max(self.vma.start()),
            start.saturating_add(size).min(self.vma.end()),
        )
    }

    /// Moves the page to where `mover` says, together with what is mapped by the same entry, or
    /// with the aligned 2<sup>`order`</sup> pages around it, 2 MiB at most, which the CPU is likely
    /// to want next.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINVAL` if the memory cannot be moved.
    ///
    /// C: `migrate_vma_setup()` with a `fault_page`.
    pub fn migrate(self, order: u32, mover: &mut impl Mover) -> Result {
        let range = self.range(order.min(HUGE_ORDER))?;
        let wanted = (self.addr - range.start()) >> PAGE_SHIFT;
        let mut room = Room::new(range.pages(), GFP_KERNEL)?;
        // SAFETY: By the type invariant.
        let collected = unsafe {
            Collected::collect_for_cpu(self.vma, &range, self.owner, self.page, &mut room)
        }?;
        let found = collected.has(wanted);
        let copied = collected.copy(mover);
        // If it was not found, somebody else was faster: the CPU tries again.
        if found && !copied.has_place(wanted) {
            return Err(ENOMEM);
        }
        drop(copied.commit());
        Ok(())
    }
}
