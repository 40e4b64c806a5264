// SPDX-License-Identifier: GPL-2.0

//! The device's page table as the shadow of a mirror: how entries come into it, and how they go.

use crate::{
    engine::Resolve,
    memory::Memory,
    mirror::GpuMirror,
    page_table::{PageTable, Reserve, LEAF_PAGES},
};
use core::ops::Deref;
use kernel::{prelude::*, sync::Arc};
use mmu_notifier_helpers::{
    invlock::Publish,
    mirror::Mirror,
    pages::{Entry, Faulted, PageState, HUGE_PAGES},
    range::{Invalidation, PageRange},
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

    fn zap(&mut self, range: &PageRange) {
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
        // SAFETY: `publish` alone calls this, under the lock, with entries that it takes in.
        unsafe { entry.mark_dirty() };
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
// pages, and to mark pages dirty does not sleep. The entries of `pages` go into slots of the table
// or are dropped, those that they take the place of are dropped too, and nobody else can put one
// in: the fields are private to this file, and the table is given out by shared reference only.
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

// SAFETY: The table drops every entry for the range and every huge one that has a page in it, and
// puts none in. The device looks entries up under the lock and has no other cache of them. Neither
// that nor counting sleeps.
unsafe impl Mirror for GpuMirror {
    type Shadow = Shadow;
    type Reserve = Reserve<Entry>;

    fn zap(&self, shadow: &mut Shadow, invalidation: &Invalidation) {
        self.count(|c| &c.invalidations, 1);
        shadow.zap(invalidation.range());
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
