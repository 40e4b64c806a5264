// SPDX-License-Identifier: GPL-2.0

//! The mirror of one address space in the device: its page table, kept true by invalidations and
//! filled by device faults.
//!
//! # Locks
//!
//! mmap lock → locks of the reverse map → the spinlock of the address space's page tables. All are
//! taken by the helper crate; nothing here takes another under them.

#![forbid(unsafe_code)]

use crate::{
    counters::{Counters, MirrorCounters},
    device::Shared,
    engine::Engine,
    ffi_engine::CpuEngine,
    page_table::{Leaves, PageTable, Reserve, LEAF_PAGES},
};
use kernel::{
    mm::MmWithUser,
    page::PAGE_SHIFT,
    prelude::*,
    sync::{atomic::Atomic, Arc},
    time::Delta,
};
use mmu_notifier_helpers::{
    fault::{Access, Buffer, Request},
    mirror::{Mirror, Subscription},
    notifier::{Attachment, PerMm},
    pages::{Entry, View},
    range::{Invalidation, PageRange},
};

/// What the invalidations of a mirrored address space act on, besides the page table.
#[pin_data]
pub(crate) struct GpuMirror {
    device: Arc<Shared>,
    #[pin]
    counters: MirrorCounters,
}

impl GpuMirror {
    /// Adds `n` to what `counter` names of the device and of the mirror.
    fn count(&self, counter: fn(&Counters) -> &Atomic<u64>, n: usize) {
        self.device.counters.add(counter, n);
        self.counters.add(counter, n);
    }
}

impl Mirror for GpuMirror {
    type Shadow = PageTable<Entry>;
    type Reserve = Reserve<Entry>;

    fn zap(&self, table: &mut PageTable<Entry>, invalidation: &Invalidation) {
        self.count(|c| &c.invalidations, 1);
        table.zap(invalidation.range());
    }

    fn collided(&self, _range: &PageRange) {
        self.count(|c| &c.retries, 1);
    }

    fn excluding(&self, _range: &PageRange) {
        self.count(|c| &c.slow_paths, 1);
    }

    fn refused(&self) {
        self.count(|c| &c.refusals, 1);
    }
}

mmu_notifier_helpers::per_mm_mirror!(GpuMirror, "gpu_mirror::page_table");

/// A whole address space, mirrored.
pub(crate) type AddressSpace = Attachment<GpuMirror>;

/// Mirrors `mm` in `device`.
pub(crate) fn mirror(mm: &MmWithUser, device: Arc<Shared>) -> Result<AddressSpace> {
    let counters = MirrorCounters::new(&device)?;
    let mirror = Arc::pin_init(
        try_pin_init!(GpuMirror {
            device,
            counters <- counters,
        }? Error),
        GFP_KERNEL,
    )?;
    Attachment::new(PerMm::get(mm)?, mirror, PageTable::new()?)
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

/// How long a fault of several pages may collide before it is made smaller. One of a page has all the
/// time that the helper crate gives it.
const PATIENCE: Delta = Delta::from_millis(200);

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
    /// How many pages are faulted in at once, at most.
    most: usize,
    /// Where the last range that was faulted in ended.
    end: Option<usize>,
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
    /// Those of [`Subscription::fault`], and `EFAULT` when the process is gone or what was
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
    ///
    /// All of it must be there at one time. While somebody keeps taking it away that may never be, so
    /// the walk makes do with half as much from each time on that it takes too long, down to a page.
    fn fault(
        &mut self,
        addr: usize,
        access: Access,
        then: impl FnOnce(&PageTable<Entry>),
    ) -> Result {
        let range = self.range.tail(addr).ok_or(EINVAL)?.first_leaf();
        let faulter = match &mut self.faulter {
            Some(faulter) => faulter,
            none => none.insert(Faulter {
                buffer: Buffer::new(self.range.pages().min(LEAF_PAGES), GFP_KERNEL)?,
                reserve: Reserve::default(),
                most: LEAF_PAGES,
                end: None,
            }),
        };
        faulter.reserve.fill()?;
        // Not kept from fault to fault: the caller's memory is copied in between, which may take for
        // ever, and the memory of a process that ended must not wait for that.
        let mm = self.space.mm().mmget_not_zero().ok_or(EFAULT)?;

        // C's READ and WRITE hold on to the mmap lock, so that they fail where a handler must drop
        // it (userfaultfd), with a stack dump in the log of a kernel with DEBUG_VM.
        let (buffer, reserve) = (&mut faulter.buffer, &mut faulter.reserve);
        let (range, table) = loop {
            let part = range.chunks(faulter.most).next().ok_or(EINVAL)?;
            let patient = Request::droppable(part, access);
            let request = match part.pages() {
                1 => patient,
                _ => patient.with_timeout(PATIENCE),
            };
            match self.space.fault(&mm, &request, buffer, reserve) {
                Err(EBUSY) if part.pages() > 1 => faulter.most = part.pages() / 2,
                result => break (part, result?),
            }
        };
        then(&table);
        drop(table);

        let mirror = self.space.mirror();
        mirror.count(|c| &c.faults, 1);
        mirror.count(|c| &c.pages, range.pages());
        if faulter.end != Some(range.start()) {
            self.episodes += 1;
        }
        faulter.end = Some(range.end());
        Ok(())
    }
}

/// Looks at the page-table entries of `range`, part by part of at most [`LEAF_PAGES`] pages, and
/// hands each part to `done` as it was at one time.
///
/// # Errors
///
/// Those of [`Subscription::look`], and of `done`; `EINVAL` when the process is gone.
pub(crate) fn look(
    space: &AddressSpace,
    range: PageRange,
    mut done: impl FnMut(&mut dyn Iterator<Item = View>) -> Result,
) -> Result {
    let mut buffer = Buffer::new(range.pages().min(LEAF_PAGES), GFP_KERNEL)?;
    for part in range.chunks(buffer.pages()) {
        let mm = space.mm().mmget_not_zero().ok_or(EINVAL)?;
        let mut views = space.look(&mm, part, &mut buffer)?;
        // Not kept while the caller's memory is written, which may take for ever.
        drop(mm);
        done(&mut views)?;
    }
    Ok(())
}
