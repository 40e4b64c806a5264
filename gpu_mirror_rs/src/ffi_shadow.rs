// SPDX-License-Identifier: GPL-2.0

//! The device's page table as the shadow of a mirror.

use crate::{
    engine::Resolve,
    memory::Memory,
    page_table::{PageTable, Reserve, LEAF_PAGES},
};
use core::ops::Deref;
use kernel::{prelude::*, sync::Arc};
use mmu_notifier_helpers::{
    invlock::Publish,
    pages::{Entry, Faulted, PageState, HUGE_PAGES},
    range::PageRange,
};

/// The page table of one mirror, whose entries name memory that the CPU can reach.
pub(crate) struct Shadow {
    table: PageTable<Entry>,
    memory: Arc<Memory>,
}

impl Shadow {
    /// An empty one, of a device with the memory.
    pub(crate) fn new(memory: Arc<Memory>) -> Result<Self> {
        Ok(Self {
            table: PageTable::new()?,
            memory,
        })
    }

    pub(crate) fn zap(&mut self, range: &PageRange) {
        self.table.zap(range);
    }
}

/// The same entry, but if it is of private memory, with where its data is: of the first page that
/// it maps and `pages` in all, if those are neighbours.
fn resolve(memory: &Memory, entry: Entry, pages: usize) -> Option<Entry> {
    let Some((pfn, neighbours)) = memory.backing(entry.pfn()) else {
        return Some(entry);
    };
    if neighbours < pages {
        return None;
    }
    if entry.writable() {
        entry.mark_dirty();
    }
    // SAFETY: The driver keeps the memory of a block for as long as one of its device pages is in
    // use, as this one is.
    Some(unsafe { entry.backed_by(pfn) })
}

impl Deref for Shadow {
    type Target = PageTable<Entry>;

    fn deref(&self) -> &PageTable<Entry> {
        &self.table
    }
}

// SAFETY: The table takes the nodes that it needs from the reserve. It assigns slots and drops
// entries and nodes, which have no lock to wait for; neither has looking up the memory of device
// pages, and to mark pages dirty does not sleep.
unsafe impl Publish<Faulted<'_, Reserve<Entry>>> for Shadow {
    type Output = Result;

    fn publish(&mut self, Faulted { pages, reserve }: Faulted<'_, Reserve<Entry>>) -> Result {
        const { assert!(LEAF_PAGES == HUGE_PAGES) };
        let range = *pages.range();
        let Self { table, memory } = self;
        if let Some(entry) = pages.huge().filter(|_| range.pages() == LEAF_PAGES) {
            if let Some(entry) = resolve(memory, entry, LEAF_PAGES) {
                return table.map_huge(range.start(), entry, reserve);
            }
        }
        let entries = pages.entries().filter_map(|(addr, state)| match state {
            PageState::Mapped(entry) => Some((addr, resolve(memory, entry, 1)?)),
            PageState::Empty | PageState::Error => None,
        });
        table.map(&range, entries, reserve)
    }
}
