// SPDX-License-Identifier: GPL-2.0

//! An address space with an invalidation in flight.

#![forbid(unsafe_code)]

use crate::{
    ffi_hold::Hold,
    ffi_mm::{new_mm, SharedFile},
    gate::Gate,
    thread::Thread,
};
use kernel::{mm::MmWithUser, prelude::*, sync::aref::ARef, sync::Arc};
use mmu_notifier_helpers::range::PageRange;

/// An address space that has a file mapped, whose invalidations can be held up.
///
/// Truncation, for which [`Stage::invalidate`] stands, comes without the mmap lock: everything but
/// the invalidation is free to go on.
pub(crate) struct Stage {
    pub(crate) gate: Arc<Gate>,
    _hold: Hold,
    file: Arc<SharedFile>,
    pub(crate) range: PageRange,
    pub(crate) mm: ARef<MmWithUser>,
}

impl Stage {
    /// Maps a file of `pages` pages.
    pub(crate) fn new(pages: usize) -> Result<Self> {
        let mm = new_mm()?;
        let file = Arc::new(SharedFile::new(pages)?, GFP_KERNEL)?;
        let range = file.map(&mm)?;
        let gate = Gate::new()?;
        Ok(Self {
            _hold: Hold::new(&mm, range, gate.clone())?,
            gate,
            file,
            range,
            mm,
        })
    }

    /// Begins to invalidate the pages of `part`, and returns when that is held up.
    pub(crate) fn invalidate(&self, part: &PageRange) -> Result<Thread<()>> {
        let (file, offset, len) = (
            self.file.clone(),
            part.start() - self.range.start(),
            part.len(),
        );
        let thread = Thread::spawn(move || file.unmap(offset, len))?;
        self.gate.wait_for_arrival()?;
        Ok(thread)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Who waits there has to be gone before the hold.
        self.gate.open();
    }
}

/// `count` pages of `range`, from the page `first` on.
pub(crate) fn pages(range: &PageRange, first: usize, count: usize) -> Result<PageRange> {
    let addr = range.chunks(1).nth(first).ok_or(EINVAL)?.start();
    PageRange::from_pages(addr as u64, count as u64)
}
