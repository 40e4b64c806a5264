// SPDX-License-Identifier: GPL-2.0

//! The mirror of one address space in the device: its page table, kept true by invalidations and
//! filled by device faults.
//!
//! # Locks
//!
//! mmap lock -> locks of the reverse map -> the spinlock of the address space's page tables. All
//! are taken by the helper crate; nothing here takes another under them.
//!
//! The caller's memory is copied from and to under the spinlock as far as that takes no page fault,
//! and by way of a buffer otherwise: to handle a fault may take the locks above, or for ever.

#![forbid(unsafe_code)]

use crate::{
    counters::{Counters, MirrorCounters},
    device::Shared,
    engine::Engine,
    ffi_engine::CpuEngine,
    ffi_shadow::Shadow,
    page_table::{Leaves, PageTable, Reserve, LEAF_PAGES},
};
use kernel::{
    mm::MmWithUser,
    page::PAGE_SHIFT,
    prelude::*,
    sync::{atomic::Atomic, Arc},
    time::Delta,
    uaccess::{UserPtr, UserSlice},
};
use mmu_notifier_helpers::{
    fault::{Access, Buffer, Request},
    mirror::Subscription,
    notifier::{Attachment, PerMm},
    pages::{Entry, Memory, View},
    range::PageRange,
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
    pub(crate) fn count(&self, counter: fn(&Counters) -> &Atomic<u64>, n: usize) {
        self.device.counters.add(counter, n);
        self.counters.add(counter, n);
    }
}

mmu_notifier_helpers::per_mm_mirror!(GpuMirror, "gpu_mirror::page_table");

/// A whole address space, mirrored.
pub(crate) type AddressSpace = Attachment<GpuMirror>;

/// Mirrors `mm` in `device`.
pub(crate) fn mirror(mm: &MmWithUser, device: Arc<Shared>) -> Result<AddressSpace> {
    let counters = MirrorCounters::new(&device)?;
    let shadow = Shadow::new(device.memory.clone())?;
    let mirror = Arc::pin_init(
        try_pin_init!(GpuMirror {
            device,
            counters <- counters,
        }? Error),
        GFP_KERNEL_ACCOUNT,
    )?;
    Attachment::new(PerMm::get(mm)?, mirror, shadow)
}

/// Which way data goes.
#[derive(Clone, Copy)]
pub(crate) enum Transfer {
    /// From the mirrored process to the caller.
    Read,
    /// From the caller to the mirrored process.
    Write,
}

/// Where a transfer stopped.
enum Stop {
    /// At its end.
    End,
    /// At a page that is not mapped for it, the address of which this is.
    Missing(usize),
    /// At memory of the caller's that is not there.
    Caller,
}

impl Transfer {
    fn access(self) -> Access {
        match self {
            Self::Read => Access::Read,
            Self::Write => Access::Write,
        }
    }
}

/// A transfer of one part of a walk, under way.
struct Work<'a> {
    transfer: Transfer,
    part: &'a PageRange,
    /// The caller's memory.
    user: UserPtr,
    /// Pages that were moved from or to the caller's memory.
    done: usize,
    /// Those after them that were moved from or to the buffer.
    kept: usize,
    /// Whether the buffer is used in place of the caller's memory.
    buffered: bool,
}

impl Work<'_> {
    fn rest(&self) -> Option<PageRange> {
        tail(self.part, self.done + self.kept)
    }

    /// The caller's memory for what is in the buffer, or will be.
    fn buffered_user(&self) -> UserPtr {
        self.user.wrapping_byte_add(self.done << PAGE_SHIFT)
    }

    /// Moves what can be moved, and tells where it stopped. Reads what the caller's memory is not
    /// there for into `buffer`, if that has room for the part.
    fn advance(&mut self, table: &PageTable<Entry>, buffer: &mut [u8]) -> Stop {
        let Some(rest) = self.rest() else {
            return Stop::End;
        };
        if !self.buffered {
            let user = self.buffered_user();
            self.done += match self.transfer {
                Transfer::Read => CpuEngine.read_to_user(table, rest, user),
                Transfer::Write => CpuEngine.write_from_user(table, rest, user),
            };
            let Some(rest) = self.rest() else {
                return Stop::End;
            };
            match (table.mapped(rest).next(), self.transfer) {
                (Some(_), Transfer::Read) if buffer.is_empty() => return Stop::Caller,
                (Some(_), Transfer::Read) => self.buffered = true,
                (Some(page), Transfer::Write) if page.entry.writable() => return Stop::Caller,
                _ => return Stop::Missing(rest.start()),
            }
        }
        if let Some((rest, buffer)) = self.rest().zip(buffer.get_mut(self.kept << PAGE_SHIFT..)) {
            self.kept += match self.transfer {
                Transfer::Read => CpuEngine.read(table, rest, buffer),
                Transfer::Write => CpuEngine.write(table, rest, buffer),
            };
        }
        self.rest()
            .map_or(Stop::End, |rest| Stop::Missing(rest.start()))
    }
}

/// Gives `buffer` room for `part`.
fn make_room(buffer: &mut KVVec<u8>, part: &PageRange) -> Result {
    if buffer.len() < part.len() {
        *buffer = KVVec::from_elem(0, part.len(), GFP_KERNEL)?;
    }
    Ok(())
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

/// How long a fault of several pages may collide before it is made smaller. One of a page has all
/// the time that the helper crate gives it.
const PATIENCE: Delta = Delta::from_millis(200);

/// Which pages the device may fault in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Faults {
    /// All.
    All,
    /// Those that are in its own memory.
    OwnMemory,
    /// None.
    None,
}

/// Pages that go through the buffer in one go: 64 KiB, which a kernel allocates easily and a cache
/// holds. Nor are more copied at a time while the page table is locked.
pub(crate) const PART_PAGES: usize = 16;

/// Lets the device work on one range, page faults included.
pub(crate) struct Walker<'a> {
    space: &'a AddressSpace,
    range: PageRange,
    faults: Faults,
    faulter: Option<Faulter>,
    /// Where data waits when the caller's memory is not there. Walks without a fault do without.
    buffer: KVVec<u8>,
    episodes: u64,
}

/// What faulting takes. Made at the first fault, since most walks have none.
struct Faulter {
    buffer: Buffer,
    reserve: Reserve<Entry>,
    /// How many pages are faulted in at once, at most.
    most: usize,
    /// Where what was faulted in ends.
    end: Option<usize>,
}

impl<'a> Walker<'a> {
    /// A walk over `range` of `space`, which may fault in what `faults` says.
    pub(crate) fn new(space: &'a AddressSpace, range: PageRange, faults: Faults) -> Self {
        Self {
            space,
            range,
            faults,
            faulter: None,
            buffer: KVVec::new(),
            episodes: 0,
        }
    }

    /// How often the device stopped for pages to be faulted in. Going on where the last fault ended
    /// is not another stop, and neither is fetching again what was taken away before it was used.
    pub(crate) fn episodes(&self) -> u64 {
        self.episodes
    }

    /// Moves the data of `part`, which lies in the range of the walk and has [`PART_PAGES`] pages
    /// at most, from or to the caller's memory at `user`.
    ///
    /// Each fault is followed by the transfer under the same lock, so that each makes progress
    /// however often the memory is invalidated.
    ///
    /// # Errors
    ///
    /// Those of [`Subscription::fault`], and `EFAULT` when the process is gone, or what was faulted
    /// in does not permit the access all the same, or the caller's memory cannot be accessed.
    /// `ENOENT` for a page that must not be faulted in.
    pub(crate) fn transfer(
        &mut self,
        part: &PageRange,
        transfer: Transfer,
        user: UserPtr,
    ) -> Result {
        let mut buffer = core::mem::take(&mut self.buffer);
        let result = self.transfer_with(part, transfer, user, &mut buffer);
        self.buffer = buffer;
        result
    }

    fn transfer_with(
        &mut self,
        part: &PageRange,
        transfer: Transfer,
        user: UserPtr,
        buffer: &mut KVVec<u8>,
    ) -> Result {
        debug_assert!(part.pages() <= PART_PAGES);
        let mut work = Work {
            transfer,
            part,
            user,
            done: 0,
            kept: 0,
            buffered: false,
        };
        let mut stop = work.advance(&self.space.lock(), &mut []);
        loop {
            match stop {
                Stop::End => break,
                Stop::Missing(addr) => {
                    // What was waited for is read at once: its process may be gone after that.
                    if let Transfer::Read = transfer {
                        make_room(buffer, part)?;
                    }
                    let before = work.done + work.kept;
                    self.fault(addr, transfer.access(), |table| {
                        stop = work.advance(table, buffer);
                    })?;
                    if matches!(stop, Stop::Missing(_)) && work.done + work.kept == before {
                        return Err(EFAULT);
                    }
                }
                Stop::Caller => {
                    make_room(buffer, part)?;
                    if let (Transfer::Write, Some(rest)) = (transfer, work.rest()) {
                        let data = buffer.get_mut(..rest.len()).ok_or(EINVAL)?;
                        UserSlice::new(work.buffered_user(), rest.len())
                            .reader()
                            .read_slice(data)?;
                        work.buffered = true;
                    }
                    stop = work.advance(&self.space.lock(), buffer);
                }
            }
        }
        if let (Transfer::Read, true) = (transfer, work.kept > 0) {
            let data = buffer.get(..work.kept << PAGE_SHIFT).ok_or(EINVAL)?;
            UserSlice::new(work.buffered_user(), data.len())
                .writer()
                .write_slice(data)?;
        }
        Ok(())
    }

    /// Faults in the rest of the leaf at `addr`, as far as the walk goes, and calls `then` with the
    /// page table when all of it is mapped.
    ///
    /// All of it must be there at one time. While somebody keeps taking it away that may never be,
    /// so the walk makes do with half as much from each time on that it takes too long, down to a
    /// page.
    fn fault(
        &mut self,
        addr: usize,
        access: Access,
        then: impl FnOnce(&PageTable<Entry>),
    ) -> Result {
        let mut range = self.range.tail(addr).ok_or(EINVAL)?.first_leaf();
        let owner = self.space.mirror().device.memory.owner();
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
        // Not kept from fault to fault: the caller's memory is copied in between, which may take
        // for ever, and the memory of a process that ended must not wait for that.
        let mm = self.space.mm().mmget_not_zero().ok_or(EFAULT)?;

        // C's READ and WRITE hold on to the mmap lock, so that they fail where a handler must drop
        // it (userfaultfd), with a stack dump in the log of a kernel with DEBUG_VM.
        let (buffer, reserve) = (&mut faulter.buffer, &mut faulter.reserve);
        if self.faults != Faults::All {
            let own = match self.faults {
                Faults::OwnMemory => own_pages(self.space, &mm, range, buffer)?,
                _ => 0,
            };
            range = range.chunks(own).next().ok_or(ENOENT)?;
        }
        let (range, table) = loop {
            let part = range.chunks(faulter.most).next().ok_or(EINVAL)?;
            let patient = Request::droppable(part, access).with_owner(owner);
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
        if faulter.end.is_none_or(|end| end < range.start()) {
            self.episodes += 1;
        }
        faulter.end = faulter.end.max(Some(range.end()));
        Ok(())
    }
}

/// Looks at the page-table entries of `range`, part by part of at most [`LEAF_PAGES`] pages, and
/// hands what `say` says of each page of a part to `done`, as it was at one time.
///
/// # Errors
///
/// Those of [`Subscription::look`], and of `done`; `EINVAL` when the process is gone.
pub(crate) fn look(
    space: &AddressSpace,
    range: PageRange,
    say: impl Fn(View) -> u8,
    mut done: impl FnMut(&[u8]) -> Result,
) -> Result {
    let mut buffer = Buffer::new(range.pages().min(LEAF_PAGES), GFP_KERNEL)?;
    let owner = space.mirror().device.memory.owner();
    for part in range.chunks(buffer.pages()) {
        let mm = space.mm().mmget_not_zero().ok_or(EINVAL)?;
        let mut said = [0; LEAF_PAGES];
        let views = space.look(&mm, part, Some(owner), &mut buffer)?;
        for (byte, view) in said.iter_mut().zip(views) {
            *byte = say(view);
        }
        // Not kept while the caller's memory is written, which may take for ever.
        drop(mm);
        done(&said[..part.pages()])?;
    }
    Ok(())
}

/// How many pages from the start of `range` on are in the memory of the device.
fn own_pages(
    space: &AddressSpace,
    mm: &MmWithUser,
    range: PageRange,
    buffer: &mut Buffer,
) -> Result<usize> {
    let owner = space.mirror().device.memory.owner();
    let views = space.look(mm, range, Some(owner), buffer)?;
    let own = |view: &View| match view {
        View::Mapped { memory, .. } => matches!(memory, Memory::OwnPrivate | Memory::OwnCoherent),
        View::Empty | View::Error => false,
    };
    Ok(views.take_while(own).count())
}
