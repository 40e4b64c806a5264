// SPDX-License-Identifier: GPL-2.0

//! What moves the data of the device.

#![forbid(unsafe_code)]

use crate::page_table::PageTable;
use mmu_notifier_helpers::{pages::Entry, range::PageRange};

/// Moves data between the pages that a page table names and a buffer of the kernel, which is whole
/// pages long.
///
/// Both methods go from the start of `range` until a page has no entry that permits the access, or
/// `buffer` ends, and return how many pages they moved. They are called with the table locked, must
/// not sleep, and are done with the pages when they return.
pub(crate) trait Engine {
    /// From the pages to `buffer`.
    fn read(&self, table: &PageTable<Entry>, range: PageRange, buffer: &mut [u8]) -> usize;

    /// From `buffer` to the pages.
    fn write(&self, table: &PageTable<Entry>, range: PageRange, buffer: &[u8]) -> usize;
}
