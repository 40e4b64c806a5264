// SPDX-License-Identifier: GPL-2.0

//! Moving pages of a process to other memory, device memory or the system's.
//!
//! A migration goes through states that cannot be skipped, each a type. Dropped half-way, it leaves
//! the process with the pages that it had:
//!
//! ```text
//!  collect --> Collected --copy--> Copied --commit--> Moved --drop--> the CPU uses the new pages
//!                  |                  |
//!                 drop               drop --> the CPU uses the old pages
//! ```
//!
//! From `collect` on the pages are locked and no CPU can use them: whoever touches one waits until
//! the end. So nothing in between may wait for the memory of the process, in particular not for a
//! user's buffer.
//!
//! Pages are moved one by one, or 2 MiB at a time where the CPU maps so much by one entry. If there
//! is no 2 MiB of the other memory in one piece, the page is split. Of the system's memory that has
//! to be before it is collected: afterwards the core splits it for the process that it was
//! collected in, and oopses on others that map it (`migrate_vma_split_unmapped_folio()`,
//! `remove_migration_pte()`).
//!
//! # The shadow
//!
//! [`Attachment::migrate`] does all of it and publishes where the pages went. To collect pages is
//! an invalidation of them, which zaps the old entries and disturbs whoever reads them, but not the
//! migration, which is a reader too. Publishing happens between `commit` and the end, while the new
//! pages are locked; if another invalidation has interfered, nothing is published and the pages are
//! moved all the same.
//!
//! # Locks
//!
//! mmap lock → locks of the folios → the shadow's lock.
//!
//! C header: [`include/linux/migrate.h`](srctree/include/linux/migrate.h)
//!
//! [`Attachment::migrate`]: crate::notifier::Attachment::migrate

use crate::{
    bindings::{self, migrate_vma},
    fault::{Buffer, DEFAULT_TIMEOUT},
    mirror::{Mirror, Subscription},
    mmap::{MmapLocked, MmapReadKillable},
    notifier::{Attachment, PerMmMirror},
    pages::{self, HUGE_ORDER, HUGE_PAGES},
    range::{Owner, PageRange},
    wait::Deadline,
};
use core::marker::PhantomData;
use kernel::{
    alloc::Flags,
    error::to_result,
    mm::{
        virt::{self, VmaRef},
        MmWithUser, MmapReadGuard,
    },
    page::PAGE_SHIFT,
    prelude::*,
};

const VALID: usize = bindings::MIGRATE_PFN_VALID as usize;
const MIGRATE: usize = bindings::MIGRATE_PFN_MIGRATE as usize;
const WRITE: usize = bindings::MIGRATE_PFN_WRITE as usize;
const COMPOUND: usize = bindings::MIGRATE_PFN_COMPOUND as usize;
const SHIFT: u32 = bindings::MIGRATE_PFN_SHIFT;

/// The most pages that one migration moves: 2 MiB.
pub const MOST_PAGES: usize = HUGE_PAGES;

/// A new page, or 2 MiB in one piece, that nobody knows yet: where a page can go.
///
/// # Invariants
///
/// The folio has 2<sup>`order`</sup> pages, and this is the one reference to it.
#[must_use]
pub struct Destination {
    folio: LockedFolio,
    order: u32,
}

/// A lock of a folio and a reference to it.
///
/// # Invariants
///
/// Owns both, of the folio that begins with the frame.
pub(crate) struct LockedFolio(usize);

impl LockedFolio {
    /// # Safety
    ///
    /// `pfn` must be the first frame of a folio that is locked; the caller gives away the lock and
    /// a reference.
    pub(crate) const unsafe fn new(pfn: usize) -> Self {
        // INVARIANT: By the caller's promise.
        Self(pfn)
    }
}

impl Drop for LockedFolio {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::mnh_folio_unlock_put(self.0) };
    }
}

impl Destination {
    /// # Safety
    ///
    /// As for [`LockedFolio::new`]; and the type invariant.
    pub(crate) const unsafe fn new(pfn: usize, order: u32) -> Self {
        // INVARIANT: By the caller's promise.
        Self {
            // SAFETY: By the caller's promise.
            folio: unsafe { LockedFolio::new(pfn) },
            order,
        }
    }

    /// 2<sup>`order`</sup> pages of the system's memory, near to where `at` is used. Contents are
    /// undefined.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// C: `vma_alloc_folio()`, `folio_alloc()`.
    pub fn system(order: u32, at: Option<Place<'_>>) -> Option<Self> {
        // SAFETY: The VMA is valid and the address in it.
        let pfn = unsafe {
            match at {
                Some(Place { vma, addr }) => {
                    bindings::mnh_vma_alloc_folio_locked(order, vma.as_ptr(), addr)
                }
                None => bindings::mnh_folio_alloc_locked(order),
            }
        };
        // SAFETY: A new folio, which was locked.
        (pfn != 0).then(|| unsafe { Self::new(pfn, order) })
    }

    /// The number of the first page frame.
    pub const fn pfn(&self) -> usize {
        self.folio.0
    }

    /// log2 of the number of pages.
    pub const fn order(&self) -> u32 {
        self.order
    }

    /// What the core takes for the folio with its lock and reference.
    fn into_raw(self) -> usize {
        let compound = if self.order > 0 { COMPOUND } else { 0 };
        let raw = self.pfn() << SHIFT | VALID | compound;
        core::mem::forget(self);
        raw
    }
}

/// Where in an address space.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    vma: &'a VmaRef,
    addr: usize,
}

/// What is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pfn: Option<usize>,
    pages: usize,
}

impl Source {
    /// The number of the first page frame; [`None`] for memory that was never written, which is
    /// zero.
    pub const fn pfn(&self) -> Option<usize> {
        self.pfn
    }

    /// How many pages.
    pub const fn pages(&self) -> usize {
        self.pages
    }

    fn page(&self, index: usize) -> Self {
        Self {
            pfn: self.pfn.map(|pfn| pfn + index),
            pages: 1,
        }
    }
}

/// Who moves pages: gives them a place, and copies what is in them.
pub trait Mover {
    /// A place for 2<sup>`order`</sup> pages, with the order 0 or [`HUGE_ORDER`], if there is one:
    /// one of another order is none. Without one for the latter, 512 smaller ones are asked for,
    /// and before that one to see whether there are any: what is split does not grow together
    /// again.
    ///
    /// # Context
    ///
    /// May sleep, but not wait for the memory of the process; other pages of it are locked.
    fn allocate(&mut self, order: u32, at: Option<Place<'_>>) -> Option<Destination>;

    /// Copies `source` to `destination`, or clears it. Both have as many pages.
    ///
    /// # Context
    ///
    /// As for [`Self::allocate`]. Nobody else uses either meanwhile.
    fn copy(&mut self, source: Source, destination: &Destination);
}

/// Which pages are collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Select {
    /// Anonymous pages of the system's memory, and such memory that was never touched. Pages of
    /// files stay, and what is being swapped out.
    System,
    /// Pages of device-private memory of the owner.
    Private(Owner),
    /// Pages of device-coherent memory of the owner.
    Coherent(Owner),
}

impl Select {
    /// As the core takes it: with 2 MiB in one piece if `whole`.
    fn flags(self, whole: bool) -> c_ulong {
        let memory = match self {
            Self::System => bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_SYSTEM,
            Self::Private(_) => bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_DEVICE_PRIVATE,
            Self::Coherent(_) => bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_DEVICE_COHERENT,
        };
        let compound = match whole {
            true => bindings::migrate_vma_direction_MIGRATE_VMA_SELECT_COMPOUND,
            false => 0,
        };
        (memory | compound) as c_ulong
    }
}

/// What a migration keeps of each of up to `pages` pages: 16 bytes. It may be used for any number
/// of migrations, one at a time.
pub struct Room {
    src: KVec<usize>,
    dst: KVec<usize>,
}

impl Room {
    /// Room for `pages` pages, [`MOST_PAGES`] at most.
    ///
    /// # Context
    ///
    /// Sleeps if the flags let it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(pages: usize, flags: Flags) -> Result<Self> {
        let pages = pages.min(MOST_PAGES);
        Ok(Self {
            src: KVec::from_elem(0, pages, flags)?,
            dst: KVec::from_elem(0, pages, flags)?,
        })
    }

    /// How many pages there is room for.
    pub fn pages(&self) -> usize {
        self.src.len()
    }
}

/// A migration that ends when it is dropped.
///
/// # Invariants
///
/// `args` was filled by `migrate_vma_setup()`, and its arrays are those of the `Room` that is
/// borrowed.
struct Migration<'a> {
    args: migrate_vma,
    vma: &'a VmaRef,
    committed: bool,
    /// Whether 2 MiB stay where they are that could be moved page by page.
    left: bool,
    _room: PhantomData<&'a mut Room>,
}

impl<'a> Migration<'a> {
    fn src(&self) -> &[usize] {
        // SAFETY: By the type invariant; the room is borrowed.
        unsafe { core::slice::from_raw_parts(self.args.src, self.args.npages) }
    }

    fn dst(&self) -> &[usize] {
        // SAFETY: As in `src`.
        unsafe { core::slice::from_raw_parts(self.args.dst, self.args.npages) }
    }
}

impl Drop for Migration<'_> {
    fn drop(&mut self) {
        if !self.committed {
            // SAFETY: As in `src`, and nothing else refers to it.
            let src = unsafe { core::slice::from_raw_parts_mut(self.args.src, self.args.npages) };
            // What is not to be moved is put back, and the places for it are given up.
            src.iter_mut().for_each(|entry| *entry &= !MIGRATE);
        }
        // SAFETY: By the type invariant the pages are locked for this migration; each entry of
        // `dst` is zero or a locked folio with a reference.
        unsafe { bindings::migrate_vma_finalize(&mut self.args) };
    }
}

/// Pages that are locked, which no CPU can use.
#[must_use]
pub struct Collected<'a>(Migration<'a>);

impl<'a> Collected<'a> {
    /// Collects those pages of `range` that can be moved and are as `select` says: what is mapped 2
    /// MiB at a time in one piece if `whole`, and split into single pages otherwise.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the range is not in one VMA, has more pages than `room`, or the memory is of a
    /// kind that cannot be moved (hugetlb, of devices, DAX) or not be read.
    ///
    /// C: `migrate_vma_setup()`.
    pub fn collect(
        mmap: &'a MmapReadGuard<'_>,
        range: &PageRange,
        select: Select,
        whole: bool,
        room: &'a mut Room,
    ) -> Result<Self> {
        let vma = mmap.vma_lookup(range.start()).ok_or(EINVAL)?;
        // SAFETY: The VMA was found under the mmap lock, which is borrowed.
        unsafe { Self::collect_in(vma, range, select, whole, None, room) }
    }

    /// The same in `vma`. If the pages are the system's, `originator` is the owner of the
    /// invalidation that this causes; the owner of device memory is otherwise.
    ///
    /// # Safety
    ///
    /// The mmap lock must be held for `'a`: the lock of a VMA, which a reference to one may stand
    /// for as well, is not enough.
    unsafe fn collect_in(
        vma: &'a VmaRef,
        range: &PageRange,
        select: Select,
        whole: bool,
        originator: Option<Owner>,
        room: &'a mut Room,
    ) -> Result<Self> {
        let owner = match select {
            Select::System => originator,
            // The core compares it with the owner of the memory.
            Select::Private(owner) | Select::Coherent(owner) => Some(owner),
        };
        let args = migrate_vma {
            flags: select.flags(whole),
            ..Self::args(vma, range, owner, room)
        };
        if vma.flags() & virt::flags::READ == 0 {
            return Err(EINVAL);
        }
        // SAFETY: By the caller's promise.
        unsafe { Self::setup(vma, range, args, room) }
    }

    /// Collects the page of device-private memory that the CPU stumbled on, and what else of
    /// `range` is in memory of the owner.
    ///
    /// # Safety
    ///
    /// `page` must be a page that the page-fault handler has locked and holds, mapped in `range`,
    /// and the mmap lock be held for `'a`.
    pub(crate) unsafe fn collect_for_cpu(
        vma: &'a VmaRef,
        range: &PageRange,
        owner: Owner,
        page: *mut kernel::bindings::page,
        room: &'a mut Room,
    ) -> Result<Self> {
        let args = migrate_vma {
            flags: Select::Private(owner).flags(range.pages() > 1),
            fault_page: page,
            ..Self::args(vma, range, Some(owner), room)
        };
        // SAFETY: By the caller's promise.
        unsafe { Self::setup(vma, range, args, room) }
    }

    fn args(vma: &VmaRef, range: &PageRange, owner: Option<Owner>, room: &mut Room) -> migrate_vma {
        migrate_vma {
            vma: vma.as_ptr(),
            src: room.src.as_mut_ptr(),
            dst: room.dst.as_mut_ptr(),
            start: range.start(),
            end: range.end(),
            pgmap_owner: owner.map_or(core::ptr::null_mut(), |owner| owner.addr() as *mut c_void),
            ..Default::default()
        }
    }

    /// # Safety
    ///
    /// The mmap lock must be held for `'a`, and the page of the fault, if there is one, be locked.
    unsafe fn setup(
        vma: &'a VmaRef,
        range: &PageRange,
        mut args: migrate_vma,
        room: &'a mut Room,
    ) -> Result<Self> {
        if range.pages() > room.pages() {
            return Err(EINVAL);
        }
        // SAFETY: The VMA is valid, the mmap lock held by the caller's promise; the arrays have
        // room for each page.
        to_result(unsafe { bindings::migrate_vma_setup(&mut args) })?;
        // INVARIANT: It was set up.
        Ok(Self(Migration {
            args,
            vma,
            committed: false,
            left: false,
            _room: PhantomData,
        }))
    }

    /// Whether page `index` of the range was collected.
    pub fn has(&self, index: usize) -> bool {
        entry_of(self.0.src(), index) & MIGRATE != 0
    }

    /// Lets `mover` give places to the pages, and copy them. Pages without a place stay.
    ///
    /// # Context
    ///
    /// May sleep. The pages are locked, so it must not wait for the memory of the process, as
    /// [`Mover::allocate`] and [`Mover::copy`] must not.
    ///
    /// # Errors
    ///
    /// None: a page whose place cannot be had, or that cannot be copied, stays where it is.
    ///
    /// C: what a driver does between `migrate_vma_setup()` and `migrate_vma_pages()`.
    pub fn copy(mut self, mover: &mut impl Mover) -> Copied<'a> {
        let migration = &mut self.0;
        let args = &migration.args;
        // SAFETY: As in `Migration::src`; the two are distinct, and nothing else refers to them.
        let (src, dst) = unsafe {
            (
                core::slice::from_raw_parts(args.src, args.npages),
                core::slice::from_raw_parts_mut(args.dst, args.npages),
            )
        };
        let from = match args.flags & Select::System.flags(false) {
            0 => Origin::Device,
            _ => Origin::System,
        };
        migration.left = place(src, dst, Some((migration.vma, args.start)), from, mover);
        Copied(self.0)
    }
}

/// Pages that have been copied; the old ones are in force still.
#[must_use]
pub struct Copied<'a>(Migration<'a>);

impl<'a> Copied<'a> {
    /// Whether there is a place for page `index` of the range.
    pub fn has_place(&self, index: usize) -> bool {
        entry_of(self.0.dst(), index) & VALID != 0
    }

    /// Puts the new pages in the place of the old ones.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// C: `migrate_vma_pages()`.
    pub fn commit(self) -> Moved<'a> {
        let mut migration = self.0;
        // SAFETY: The pages are locked, and those with an entry in `dst` copied.
        unsafe { bindings::migrate_vma_pages(&mut migration.args) };
        migration.committed = true;
        Moved(migration)
    }
}

/// Pages that are where they were to go, and still locked: no CPU uses them before this is dropped.
#[must_use = "dropping ends the migration, so that the pages can be used again"]
pub struct Moved<'a>(Migration<'a>);

impl Moved<'_> {
    /// How many pages were moved.
    pub fn pages(&self) -> usize {
        let both = self.0.src().iter().zip(self.0.dst());
        both.filter(|(&src, &dst)| src & MIGRATE != 0 && dst & VALID != 0)
            .map(|(_, &dst)| if dst & COMPOUND != 0 { HUGE_PAGES } else { 1 })
            .sum()
    }

    /// Notes where the pages are now, as hmm would tell it later. `entries` has as many as there
    /// are pages in the range.
    pub(crate) fn fill(&self, entries: &mut [usize]) {
        entries.fill(0);
        let both = self.0.src().iter().zip(self.0.dst());
        for (i, (&src, &dst)) in both.enumerate() {
            if src & MIGRATE == 0 || dst & VALID == 0 {
                continue;
            }
            let (pfn, writable) = (dst >> SHIFT, src & WRITE != 0);
            if dst & COMPOUND == 0 {
                entries[i] = entry(pfn, 0, writable);
                continue;
            }
            let huge = entries[i..].iter_mut().take(HUGE_PAGES);
            for (page, one) in huge.enumerate() {
                *one = entry(pfn + page, HUGE_ORDER, writable);
            }
        }
    }
}

/// An entry as hmm would write it.
pub(crate) const fn entry(pfn: usize, order: u32, writable: bool) -> usize {
    let write = if writable { pages::WRITE } else { 0 };
    pfn | pages::VALID | (order as usize) << pages::ORDER_SHIFT | write
}

/// The entry for page `index`, or the one of 2 MiB that it is part of.
fn entry_of(entries: &[usize], index: usize) -> usize {
    let of = |index: usize| entries.get(index).copied().unwrap_or(0);
    match of(0) {
        huge if huge & COMPOUND != 0 => huge,
        _ => of(index),
    }
}

/// Where pages are that are moved.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    System,
    Device,
}

/// Fills `dst` with places for what `src` has, and copies it. Returns whether 2 MiB were left that
/// could be split, and moved in single pages.
fn place<M: Mover>(
    src: &[usize],
    dst: &mut [usize],
    at: Option<(&VmaRef, usize)>,
    from: Origin,
    mover: &mut M,
) -> bool {
    let mut left = false;
    let place = |i: usize| {
        at.map(|(vma, start)| Place {
            vma,
            addr: start + (i << PAGE_SHIFT),
        })
    };
    let mut next = 0;
    while next < src.len() {
        let (i, entry) = (next, src[next]);
        let pages = match entry & COMPOUND {
            0 => 1,
            _ => HUGE_PAGES.min(src.len() - i),
        };
        next += pages;
        if entry & MIGRATE == 0 {
            continue;
        }
        let source = Source {
            pfn: (entry & VALID != 0).then_some(entry >> SHIFT),
            pages,
        };
        let order = if pages == HUGE_PAGES { HUGE_ORDER } else { 0 };
        // Device memory is never anything but anonymous.
        let doubtful = source.pfn.filter(|_| from == Origin::System);
        // SAFETY: The frame is that of a folio that was collected.
        if doubtful.is_some_and(|pfn| unsafe { !bindings::mnh_pfn_may_migrate(pfn) }) {
            continue;
        }
        // One of another order would be written past its end, and so would the arrays.
        let allocate = |mover: &mut M, order, i| {
            M::allocate(mover, order, place(i)).filter(|new| new.order() == order)
        };
        if pages == 1 || order > 0 {
            if let Some(new) = allocate(mover, order, i) {
                mover.copy(source, &new);
                dst[i] = new.into_raw();
                continue;
            }
        }
        // The core splits for the one VMA that it is told. What other processes map as well, which
        // the system's memory may be, it cannot split any more.
        let splits = at.is_some() && (from == Origin::Device || source.pfn.is_none());
        left |= pages > 1 && !splits && at.is_some() && allocate(mover, 0, i).is_some();
        if pages == 1 || !splits {
            continue;
        }
        let mut complete = true;
        for page in 0..pages {
            let Some(new) = allocate(mover, 0, i + page) else {
                complete = false;
                break;
            };
            mover.copy(source.page(page), &new);
            dst[i + page] = new.into_raw();
        }
        // The core takes it for granted that a hole of 2 MiB is filled.
        if !complete && source.pfn.is_none() {
            for entry in &mut dst[i..i + pages] {
                if *entry != 0 {
                    // SAFETY: That is what the entry was made of; the core has not seen it.
                    drop(unsafe { LockedFolio::new(*entry >> SHIFT) });
                    *entry = 0;
                }
            }
        }
    }
    left
}

/// Moves whatever is in use of the `room.pages()` pages of device memory from the frame `first` on,
/// without knowing who uses it. Some may be in use elsewhere just now, or find no place, and stay.
/// What is mapped 2 MiB at a time finds one if `mover` has as much in one piece.
///
/// # Context
///
/// May sleep. No lock of a page may be held.
///
/// # Safety
///
/// The frames must be of device memory that is not removed meanwhile, and begin and end where its 2
/// MiB do.
///
/// C: `migrate_device_range()`.
pub(crate) unsafe fn evict(first: usize, room: &mut Room, mover: &mut impl Mover) {
    let (src, dst) = (&mut room.src, &mut room.dst);
    dst.fill(0);
    // SAFETY: By the caller's promise; the arrays are as long.
    unsafe { bindings::migrate_device_range(src.as_mut_ptr(), first, src.len()) };
    place(src, dst, None, Origin::Device, mover);
    // SAFETY: The pages are locked and copied.
    unsafe { bindings::migrate_device_pages(src.as_mut_ptr(), dst.as_mut_ptr(), src.len()) };
    // SAFETY: As above.
    unsafe { bindings::migrate_device_finalize(src.as_mut_ptr(), dst.as_mut_ptr(), src.len()) };
}

impl MmapReadKillable<'_> {
    /// The VMA at the address `addr`.
    fn vma(&self, addr: usize) -> Option<&VmaRef> {
        // SAFETY: The lock is held, by the type invariant.
        let vma = unsafe { kernel::bindings::vma_lookup(self.mm().as_raw(), addr) };
        // SAFETY: It is valid for as long as the lock is held, and so borrowed; and `mm` has users.
        (!vma.is_null()).then(|| unsafe { VmaRef::from_raw(vma) })
    }
}

/// All but the end of a migration.
///
/// # Safety
///
/// The mmap lock must be held for `'a`.
unsafe fn move_pages<'a>(
    vma: &'a VmaRef,
    range: &PageRange,
    select: Select,
    whole: bool,
    originator: Option<Owner>,
    mover: &mut impl Mover,
    room: &'a mut Room,
) -> Result<Moved<'a>> {
    // SAFETY: By the caller's promise.
    let collected = unsafe { Collected::collect_in(vma, range, select, whole, originator, room) }?;
    Ok(collected.copy(mover).commit())
}

/// What came of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    /// Where it ended, in bytes: what comes after is in another VMA, or more than there was room
    /// for.
    pub end: usize,
    /// How many pages were moved.
    pub pages: usize,
}

impl<T: PerMmMirror> Attachment<T> {
    /// Moves pages of the first part of `range`, as far as `room` and one VMA go: those that are as
    /// `select` says, and can be moved, and for which `mover` has a place. Pages that are in use
    /// elsewhere just now stay where they are.
    ///
    /// With `publish`, the shadow takes in where the pages went, unless something interferes; the
    /// device faults as for any other page then. Without, or if it was not [`Select::System`], it
    /// is just rid of where they were.
    ///
    /// # Context
    ///
    /// May sleep. Takes the mmap lock for reading, so it must not be held.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: there is no VMA at the start of the range, or one that cannot be read, or whose
    ///   memory cannot be moved; or `mm` is not the address space of this mirror.
    /// - `EFAULT`: the OOM reaper has emptied the address space.
    /// - `EINTR`: the task is being killed.
    /// - `EBUSY`: the pages were being invalidated for a second.
    /// - What the shadow returns. The pages are moved all the same.
    ///
    /// C: `migrate_vma_setup()`, `migrate_vma_pages()`, `migrate_vma_finalize()`.
    pub fn migrate(
        &self,
        mm: &MmWithUser,
        range: &PageRange,
        select: Select,
        mover: &mut impl Mover,
        room: &mut Room,
        publish: Option<(&mut Buffer, &mut <T as Mirror>::Reserve)>,
    ) -> Result<Migrated> {
        if !core::ptr::eq(mm.as_raw(), self.mm().as_raw()) {
            return Err(EINVAL);
        }
        let mmap = MmapReadKillable::lock(mm)?;
        let vma = mmap.vma(range.start()).ok_or(EINVAL)?;
        let part = PageRange::new(range.start(), range.end().min(vma.end()))?;
        let part = part.chunks(room.pages()).next().ok_or(EINVAL)?;
        let mut publish = publish.filter(|_| select == Select::System);
        let mut pages = 0;
        // What finds no place in one piece is split when it is collected, in whatever maps it.
        for whole in [true, false] {
            let (room, mover) = (&mut *room, &mut *mover);
            let Some((buffer, reserve)) = &mut publish else {
                // SAFETY: The mmap lock is held to the end of the function.
                let moved = unsafe { move_pages(vma, &part, select, whole, None, mover, room) }?;
                pages += moved.pages();
                match moved.0.left {
                    true => continue,
                    false => break,
                }
            };
            let (guard, moved) = self.publish(
                part,
                &Deadline::after(DEFAULT_TIMEOUT),
                buffer.room(&part)?,
                Some(&mut **reserve),
                move |reading, entries| {
                    let originator = Some(reading.identity());
                    // SAFETY: As above.
                    let moved =
                        unsafe { move_pages(vma, &part, select, whole, originator, mover, room) }?;
                    moved.fill(entries);
                    Ok(Some(moved))
                },
            )?;
            // The migration ends without the lock of the shadow.
            drop(guard);
            let Some(moved) = moved else { break };
            pages += moved.pages();
            if !moved.0.left {
                break;
            }
        }
        Ok(Migrated {
            end: part.end(),
            pages,
        })
    }
}
