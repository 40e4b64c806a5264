// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! The pages of a region: faulting them in, and giving them up.
//!
//! Ported from `drivers/infiniband/core/umem_odp.c`. Pure: a region's list and the page tables are
//! traits, so that the host can put page tables of its own under it.
//!
//! # Protocol
//!
//! A region has a sequence, which changes under its mutex with each invalidation of one of its
//! pages. A fault takes it, having waited for invalidations in flight; reads page-table entries
//! into a buffer of its own; takes the mutex; and merges what it has read into the list if the
//! sequence is the same. It does so for as many pages at a time as the buffer has room for, so one
//! that asks for more looks in the end whether the first are still there.

#![forbid(unsafe_code)]

use crate::{
    entry::{Entry, VALID, WRITE},
    mapped::{self, Mapped},
    region::Region,
};
use core::ops::Range;
use kernel::prelude::*;
use mmu_notifier_helpers::{
    range::PageRange,
    retry::{self, Attempt, Patience},
};

/// How often a fault of more than the buffer has room for begins anew, when pages that it was done
/// with were taken away.
const ROUNDS: u32 = 16;

/// What a device wants of the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// What is there, and nothing to be faulted in.
    Look,
    /// To read them.
    Read,
    /// To read and write them.
    Write,
}

impl Access {
    /// What an entry has whose page it may use.
    pub(crate) const fn wanted(self) -> Entry {
        Entry::from_raw(match self {
            Self::Look => 0,
            Self::Read => VALID,
            Self::Write => VALID | WRITE,
        })
    }

    /// Whether it may use the page of `entry`.
    pub const fn satisfied_by(self, entry: Entry) -> bool {
        entry.has(self.wanted())
    }
}

/// The page list of a region, whose mutex is held.
pub trait Pages {
    /// What an index below [`Region::entries`] has.
    fn get(&self, index: usize) -> Entry;
    /// Puts `entry` there.
    fn set(&mut self, index: usize, entry: Entry);
    /// All of a range of indices, none of them above the last.
    fn slots(&mut self, entries: Range<usize>) -> &mut [Entry];
    /// Where there may be pages.
    fn mapped(&mut self) -> &mut Mapped;
    /// Whether the CPU moves the data, so that nothing is mapped for DMA.
    fn is_virtual(&self) -> bool;
    /// Undoes the mapping for DMA at an index, and takes it off the count.
    fn unmap_dma(&mut self, index: usize);
    /// Notes that the device may have written to the page.
    fn set_dirty(&mut self, pfn: usize);
    /// The number that an invalidation changes.
    fn sequence(&self) -> usize;
}

/// A region and the address space that its pages come from, for one fault.
pub trait Backing {
    /// The list with its mutex, which is released when this is dropped.
    type Locked<'a>: Pages
    where
        Self: 'a;

    /// Which addresses.
    fn region(&self) -> &Region;

    /// Waits for invalidations in flight and returns the sequence to compare with.
    fn begin(&self) -> usize;

    /// Reads page-table entries, which may change meanwhile, having faulted in what `access` wants.
    /// `read` has one for each page of the CPU in `pages`.
    ///
    /// # Errors
    ///
    /// Those of `hmm_range_fault()` but for `EBUSY`; `EINTR`.
    fn read(&self, pages: &PageRange, access: Access, read: &mut [Entry]) -> Result;

    /// The same, holding off who can be held off, from the moment that the sequence is taken until
    /// `then` has returned, which gets both. What is zapped before they are held off is faulted in
    /// again, unless that has to wait.
    ///
    /// # Errors
    ///
    /// As for [`Self::read`], and those of `then`.
    fn read_excluding<R>(
        &self,
        pages: &PageRange,
        access: Access,
        read: &mut [Entry],
        then: impl FnOnce(usize, &[Entry]) -> Result<R>,
    ) -> Result<R>;

    /// Takes the mutex of the list.
    fn lock(&self) -> Self::Locked<'_>;

    /// Told of the `nth` collision since something was merged.
    ///
    /// # Errors
    ///
    /// `EINTR`: the task is being killed.
    fn collided(&self, nth: u32) -> Result;

    /// What is left of the time for collisions.
    fn patience(&self) -> Patience;

    /// Whether to go on.
    ///
    /// # Errors
    ///
    /// `EINTR`: the task is being killed.
    fn go_on(&self) -> Result;

    /// Told of a page that the CPU maps by entries of a smaller size than the region has.
    fn too_small(&self, order: u32);
}

/// Sees to it that the list has `pages` of the region for `access`, and returns it locked. `buffer`
/// has room for one page of the region at least.
///
/// # Context
///
/// Sleeps. Neither the mmap lock nor the mutex may be held.
///
/// # Errors
///
/// - `EFAULT`: no memory is there, or none that a device may have.
/// - `EPERM`: it may not be written to.
/// - `EINVAL`: the CPU maps smaller pages than the region has.
/// - `EBUSY`: the pages kept being invalidated.
/// - `EINTR`: the task is being killed.
/// - `ENOMEM`, and others of page faults.
pub fn map<'a, B: Backing>(
    backing: &'a B,
    pages: &PageRange,
    access: Access,
    buffer: &mut [Entry],
) -> Result<B::Locked<'a>> {
    let region = backing.region();
    let all = region.entries_of(pages);
    let per_entry = region.pages_per_entry();
    let room = buffer.len() / per_entry;
    if all.is_empty() || room == 0 {
        return Err(EINVAL);
    }

    let mut list = backing.lock();
    let began = list.sequence();
    let (mut from, mut rounds) = (all.start, 0);
    loop {
        let Some(first) = missing(&list, from..all.end, access) else {
            // Nothing that was merged, or skipped for being there, has gone since the first look.
            if access == Access::Look || from == all.start || list.sequence() == began {
                return Ok(list);
            }
            match missing(&list, all.start..from, access) {
                None => return Ok(list),
                Some(gone) => {
                    rounds += 1;
                    if rounds == ROUNDS {
                        return Err(EBUSY);
                    }
                    backing.go_on()?;
                    from = gone;
                    continue;
                }
            }
        };
        drop(list);
        let batch = first..all.end.min(first + room);
        let range = PageRange::new(region.address_of(batch.start), region.address_of(batch.end))?;
        let read = buffer.get_mut(..range.pages()).ok_or(EINVAL)?;
        let mut fault = Fault {
            backing,
            range,
            batch: batch.clone(),
            access,
            read,
        };
        list = retry::publish(&mut fault)?;
        from = batch.end;
    }
}

/// The first of `entries` that does not have what `access` wants. A look wants to see them all.
fn missing(list: &impl Pages, mut entries: Range<usize>, access: Access) -> Option<usize> {
    match access {
        Access::Look => entries.next(),
        _ => entries.find(|&index| !access.satisfied_by(list.get(index))),
    }
}

/// The fault of a batch of entries.
struct Fault<'a, 'b, B: Backing> {
    backing: &'a B,
    range: PageRange,
    batch: Range<usize>,
    access: Access,
    read: &'b mut [Entry],
}

impl<'a, B: Backing> Fault<'a, '_, B> {
    /// Merges `read` if nothing has interfered since `began`.
    fn merge(
        backing: &'a B,
        batch: &Range<usize>,
        access: Access,
        began: usize,
        read: &[Entry],
    ) -> Result<Option<B::Locked<'a>>> {
        let mut list = backing.lock();
        if list.sequence() != began {
            return Ok(None);
        }
        let per_entry = backing.region().pages_per_entry();
        let mut read = read;
        for run in mapped::runs(batch.clone()) {
            let (now, later) = read.split_at_checked(run.len() * per_entry).ok_or(EINVAL)?;
            read = later;
            let first = run.start;
            let (some, refused) = merge_run(&mut list, run, now, per_entry, access);
            if some {
                list.mapped().note(first);
            }
            match refused {
                None => {}
                Some(Refused::NoPage) => return Err(EFAULT),
                Some(Refused::TooSmall(order)) => {
                    backing.too_small(order);
                    return Err(EINVAL);
                }
            }
        }
        Ok(Some(list))
    }
}

impl<'a, B: Backing> Attempt for Fault<'a, '_, B> {
    type Published = B::Locked<'a>;

    fn optimistic(&mut self) -> Result<Option<Self::Published>> {
        let began = self.backing.begin();
        self.backing.read(&self.range, self.access, self.read)?;
        Self::merge(self.backing, &self.batch, self.access, began, self.read)
    }

    fn exclusive(&mut self) -> Result<Option<Self::Published>> {
        let (backing, batch, access) = (self.backing, &self.batch, self.access);
        backing.read_excluding(&self.range, access, self.read, |began, read| {
            // What was faulted in may be gone, and come back only by waiting for others.
            if !read.iter().all(|&entry| access.satisfied_by(entry)) {
                return Ok(None);
            }
            Self::merge(backing, batch, access, began, read)
        })
    }

    fn collided(&mut self, nth: u32) -> Result {
        self.backing.collided(nth)
    }

    fn patience(&self) -> Patience {
        self.backing.patience()
    }
}

/// Why what was read is not what the region can have.
enum Refused {
    /// There is no page, or not for the access.
    NoPage,
    /// It is mapped by entries of this order, and the region has larger pages.
    TooSmall(u32),
}

/// Why merging stops before the end.
enum Stopped {
    Refused(Refused),
    /// There is another page than the one that is mapped for DMA.
    Moved(Entry),
}

/// Merges what was `read` into the entries of `run`, of `per_entry` pages each. Returns whether
/// there was a page, and what was refused, before which it is done.
fn merge_run(
    list: &mut impl Pages,
    run: Range<usize>,
    read: &[Entry],
    per_entry: usize,
    access: Access,
) -> (bool, Option<Refused>) {
    let (mut next, mut some) = (run.start, false);
    while next < run.end {
        let slots = list.slots(next..run.end);
        let read = read.get((next - run.start) * per_entry..).unwrap_or(&[]);
        let stopped = match per_entry {
            1 => merge(slots, read.iter(), access, 0, &mut some),
            _ => {
                let firsts = read.iter().step_by(per_entry);
                merge(slots, firsts, access, per_entry.ilog2(), &mut some)
            }
        };
        match stopped {
            None => break,
            Some((_, Stopped::Refused(refused))) => return (some, Some(refused)),
            Some((at, Stopped::Moved(new))) => {
                // It changes with an invalidation only, which would have taken the mapping away.
                unmap_entry(list, next + at);
                list.set(next + at, new);
                next += at + 1;
            }
        }
    }
    (some, None)
}

/// The loop of the above, with where it stops. It is run for each page that is prefetched, and in
/// instructions is most of what that costs beside reading the page table.
#[inline(always)]
fn merge<'r>(
    slots: &mut [Entry],
    read: impl Iterator<Item = &'r Entry>,
    access: Access,
    order: u32,
    some: &mut bool,
) -> Option<(usize, Stopped)> {
    let wanted = access.wanted();
    for (at, (slot, &new)) in slots.iter_mut().zip(read).enumerate() {
        if !new.has(wanted) {
            return Some((at, Stopped::Refused(Refused::NoPage)));
        }
        if !new.is_valid() {
            continue;
        }
        if new.order() < order {
            return Some((at, Stopped::Refused(Refused::TooSmall(new.order()))));
        }
        *some = true;
        if *slot == Entry::NONE {
            *slot = new;
            continue;
        }
        if slot.is_dma_mapped() && slot.pfn() != new.pfn() {
            return Some((at, Stopped::Moved(new)));
        }
        *slot = slot.refreshed(new);
    }
    None
}

/// Takes the pages with any byte from `start` to `end` out of the list. The device must not use
/// them any more.
///
/// # Context
///
/// Any in which the mutex can be held, reclaim among them.
pub fn unmap(list: &mut impl Pages, region: &Region, start: u64, end: u64) {
    let mut entries = region.entries_within(start, end);
    while let Some(run) = list.mapped().take(&mut entries) {
        for index in run {
            if list.get(index) != Entry::NONE {
                unmap_entry(list, index);
            }
        }
    }
}

fn unmap_entry(list: &mut impl Pages, index: usize) {
    let entry = list.get(index);
    if entry.is_dma_mapped() {
        list.unmap_dma(index);
    }
    // By the page table the page may be clean: MADV_FREE leaves it writable, and the device has
    // written past it. A device that has not mapped the page has not.
    let used = entry.is_dma_mapped() || list.is_virtual();
    if used && entry.is_valid() && entry.is_writable() {
        list.set_dirty(entry.pfn());
    }
    list.set(index, Entry::NONE);
}
