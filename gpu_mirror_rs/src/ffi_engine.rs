// SPDX-License-Identifier: GPL-2.0

//! The engine that lets the CPU copy.

use crate::{engine::Engine, page_table::PageTable};
use kernel::page::PAGE_SIZE;
use mmu_notifier_helpers::{pages::Entry, range::PageRange};

/// The CPU.
pub(crate) struct CpuEngine;

impl Engine for CpuEngine {
    fn read(&self, table: &PageTable<Entry>, range: PageRange, buffer: &mut [u8]) -> usize {
        let data = buffer
            .chunks_mut(PAGE_SIZE)
            .filter_map(<[u8]>::first_chunk_mut);
        // No entry is a huge one, so each names its page.
        let pages = table.mapped(range).zip(data);
        // SAFETY: A table of entries exists as the shadow of a notifier only, and is borrowed here,
        // so the shadow's lock is held; the entry is in it. No request of this driver has an owner,
        // so it is of no device memory.
        pages
            .map(|(page, data)| unsafe { page.entry.copy_to(data) })
            .count()
    }

    fn write(&self, table: &PageTable<Entry>, range: PageRange, buffer: &[u8]) -> usize {
        let data = buffer.chunks(PAGE_SIZE).filter_map(<[u8]>::first_chunk);
        let writable = table.mapped(range).take_while(|page| page.entry.writable());
        // SAFETY: As in `read`, and the entry is writable.
        writable
            .zip(data)
            .map(|(page, data)| unsafe { page.entry.copy_from(data) })
            .count()
    }
}
