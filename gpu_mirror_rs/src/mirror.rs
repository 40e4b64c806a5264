// SPDX-License-Identifier: GPL-2.0

//! The mirror of one address space in the device: its page table, kept true by invalidations and
//! filled by device faults.
//!
//! # Locks
//!
//! mmap lock → locks of the reverse map → the page table's mutex. All three are taken by the helper
//! crate; nothing here takes another under them.

#![forbid(unsafe_code)]

use crate::{
    counters::count,
    device::Shared,
    engine::Engine,
    ffi_engine::CpuEngine,
    page_table::{Leaves, PageTable, Reserve, Shortage, LEAF_PAGES},
};
use kernel::{
    mm::MmWithUser,
    page::PAGE_SHIFT,
    prelude::*,
    sync::{new_mutex, Arc},
};
use mmu_notifier_helpers::{
    fault::{Access, Buffer, Entry, Locking, PageState, Pages, Request},
    interval::{IntervalNotifier, Mirror},
    range::{Invalidation, PageRange},
};

/// What the invalidations of a mirrored address space act on, besides the page table.
pub(crate) struct GpuMirror {
    device: Arc<Shared>,
}

impl Mirror for GpuMirror {
    type Shadow = PageTable<Entry>;

    fn zap(&self, table: &mut PageTable<Entry>, invalidation: &Invalidation) {
        count(&self.device.counters.invalidations, 1);
        table.zap(invalidation.range());
    }

    fn collided(&self, _range: &PageRange) {
        count(&self.device.counters.collisions, 1);
    }
}

/// A whole address space, mirrored.
pub(crate) type AddressSpace = IntervalNotifier<GpuMirror>;

/// Mirrors `mm` in `device`.
pub(crate) fn mirror<'a>(
    mm: &'a MmWithUser,
    device: Arc<Shared>,
) -> impl PinInit<AddressSpace, Error> + 'a {
    pin_init::pin_init_scope(move || {
        let table = PageTable::new()?;
        Ok(AddressSpace::insert(
            mm,
            PageRange::ALL,
            Ok(GpuMirror { device }),
            new_mutex!(table, "gpu_mirror::page_table"),
        ))
    })
}

/// Which way data goes.
pub(crate) enum Transfer<'a> {
    /// From the mirrored process to the buffer.
    Read(&'a mut [u8]),
    /// From the buffer to the mirrored process.
    Write(&'a [u8]),
}

impl Transfer<'_> {
    fn access(&self) -> Access {
        match self {
            Self::Read(_) => Access::Read,
            Self::Write(_) => Access::Write,
        }
    }

    /// Moves what the table lets it of `range`, of which the first `done` pages are done. Returns
    /// how many are done after that.
    fn advance(&mut self, table: &PageTable<Entry>, range: &PageRange, done: usize) -> usize {
        let Some(rest) = tail(range, done) else {
            return done;
        };
        let bytes = done << PAGE_SHIFT;
        done + match self {
            Self::Read(buffer) => CpuEngine.read(table, rest, &mut buffer[bytes..]),
            Self::Write(buffer) => CpuEngine.write(table, rest, &buffer[bytes..]),
        }
    }
}

/// The part of `range` after its first `pages` pages.
fn tail(range: &PageRange, pages: usize) -> Option<PageRange> {
    range.tail(
        range
            .chunks(pages)
            .next()
            .map_or(range.start(), |done| done.end()),
    )
}

/// Lets the device work on one range, page faults included.
pub(crate) struct Walker<'a> {
    space: &'a AddressSpace,
    range: PageRange,
    faulter: Option<Faulter>,
    episodes: u64,
}

/// What faulting takes. Made at the first fault, since most walks have none.
struct Faulter {
    buffer: Buffer,
    reserve: Reserve<Entry>,
    /// Where the last range that was faulted in ended.
    end: usize,
}

impl<'a> Walker<'a> {
    /// A walk over `range` of `space`.
    pub(crate) fn new(space: &'a AddressSpace, range: PageRange) -> Self {
        Self {
            space,
            range,
            faulter: None,
            episodes: 0,
        }
    }

    /// How often the device stopped for pages to be faulted in. Going on where the last fault ended
    /// is not another stop.
    pub(crate) fn episodes(&self) -> u64 {
        self.episodes
    }

    /// Moves the data of `part`, which lies in the range of the walk and is as long as the buffer
    /// of the transfer.
    ///
    /// Each fault is followed by the transfer under the same lock, so that each makes progress
    /// however often the memory is invalidated.
    ///
    /// # Errors
    ///
    /// Those of [`IntervalNotifier::fault`], and `EFAULT` when the process is gone or what was
    /// faulted in does not permit the access all the same.
    pub(crate) fn transfer(&mut self, part: &PageRange, mut transfer: Transfer<'_>) -> Result {
        let mut done = transfer.advance(&self.space.lock(), part, 0);
        while let Some(missing) = tail(part, done) {
            let before = done;
            self.fault(missing.start(), transfer.access(), |table| {
                done = transfer.advance(table, part, done);
            })?;
            if done == before {
                return Err(EFAULT);
            }
        }
        Ok(())
    }

    /// Faults in the rest of the leaf at `addr`, as far as the walk goes, and calls `then` with the
    /// page table when all of it is mapped.
    fn fault(
        &mut self,
        addr: usize,
        access: Access,
        then: impl FnOnce(&PageTable<Entry>),
    ) -> Result {
        let counters = &self.space.mirror().device.counters;
        let range = self.range.tail(addr).ok_or(EINVAL)?.first_leaf();
        let faulter = match &mut self.faulter {
            Some(faulter) => faulter,
            none => none.insert(Faulter {
                buffer: Buffer::new(self.range.pages().min(LEAF_PAGES), GFP_KERNEL)?,
                reserve: Reserve::default(),
                end: 0,
            }),
        };
        faulter.reserve.fill()?;
        // Not kept from fault to fault: the caller's memory is copied in between, which may take for
        // ever, and the memory of a process that ended must not wait for that.
        let mm = self.space.mm().mmget_not_zero().ok_or(EFAULT)?;
        let reserve = &mut faulter.reserve;

        // C's READ and WRITE hold on to the mmap lock, so that they fail where a handler must drop
        // it (userfaultfd), with a stack dump in the log of a kernel with DEBUG_VM.
        let request = Request::new(range, access).with_locking(Locking::Droppable);
        self.space
            .fault(&mm, request, &mut faulter.buffer, |table, pages| {
                let entries = pages.entries().filter_map(|(addr, state)| match state {
                    PageState::Mapped(entry) => Some((addr, entry)),
                    PageState::Empty | PageState::Error => None,
                });
                // The reserve is full and the addresses are a user's, so there is no shortage.
                table
                    .map(&range, entries, reserve)
                    .map_err(|Shortage| EINVAL)?;
                then(table);
                Ok(())
            })?;

        count(&counters.faults, 1);
        count(&counters.pages, range.pages());
        if faulter.end != range.start() {
            self.episodes += 1;
        }
        faulter.end = range.end();
        Ok(())
    }
}

/// Looks at the page-table entries of `range`, part by part of at most [`LEAF_PAGES`] pages, and
/// hands each part to `look`, in the lock and as they are, and then to `done` without the lock.
///
/// # Errors
///
/// Those of [`IntervalNotifier::fault`], and of `done`; `EINVAL` when the process is gone.
pub(crate) fn look<R>(
    space: &AddressSpace,
    range: PageRange,
    mut look: impl FnMut(Pages<'_>) -> R,
    mut done: impl FnMut(R) -> Result,
) -> Result {
    let mut buffer = Buffer::new(range.pages().min(LEAF_PAGES), GFP_KERNEL)?;
    for part in range.chunks(buffer.pages()) {
        let mut seen = None;
        let mm = space.mm().mmget_not_zero().ok_or(EINVAL)?;
        space.fault(
            &mm,
            Request::new(part, Access::Look),
            &mut buffer,
            |_, pages| {
                seen = Some(look(pages));
                Ok(())
            },
        )?;
        // Not kept while the caller's memory is written, which may take for ever.
        drop(mm);
        if let Some(seen) = seen {
            done(seen)?;
        }
    }
    Ok(())
}
