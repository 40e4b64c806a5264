// SPDX-License-Identifier: GPL-2.0

//! The device's page table as the shadow of a mirror.

use crate::page_table::{PageTable, Reserve};
use kernel::prelude::*;
use mmu_notifier_helpers::{
    invlock::Publish,
    pages::{Entry, Faulted, PageState},
};

// SAFETY: `PageTable::map` takes the nodes that it needs from the reserve. It assigns slots and
// drops entries, which own nothing; it has no lock to wait for.
unsafe impl Publish<Faulted<'_, Reserve<Entry>>> for PageTable<Entry> {
    type Output = Result;

    fn publish(&mut self, Faulted { pages, reserve }: Faulted<'_, Reserve<Entry>>) -> Result {
        let range = *pages.range();
        let entries = pages.entries().filter_map(|(addr, state)| match state {
            PageState::Mapped(entry) => Some((addr, entry)),
            PageState::Empty | PageState::Error => None,
        });
        self.map(&range, entries, reserve)
    }
}
