// SPDX-License-Identifier: GPL-2.0

//! What moves the data of the device.

#![forbid(unsafe_code)]

use crate::page_table::PageTable;
use kernel::uaccess::UserPtr;
use mmu_notifier_helpers::{
    migrate::{Destination, Source},
    pages::Entry,
    range::PageRange,
};

/// Knows where the data of device memory is.
pub(crate) trait Resolve {
    /// The frame where the CPU finds what is in the private page `pfn` of this device, and how many
    /// pages from there on are neighbours. [`None`] for any other page.
    fn backing(&self, pfn: usize) -> Option<(usize, usize)>;
}

/// The system's memory, which the CPU finds where it is.
pub(crate) struct System;

impl Resolve for System {
    fn backing(&self, _pfn: usize) -> Option<(usize, usize)> {
        None
    }
}

/// Moves data between the pages that a page table names and a buffer, or from page to page.
///
/// Those that take a table go from the start of `range` until a page has no entry that permits the
/// access, or the buffer ends, and return how many pages they moved. They are called with the table
/// locked, must not sleep, and are done with the pages when they return.
pub(crate) trait Engine {
    /// From the pages to `buffer` of the kernel, which is whole pages long.
    fn read(&self, table: &PageTable<Entry>, range: PageRange, buffer: &mut [u8]) -> usize;

    /// From `buffer` of the kernel to the pages.
    fn write(&self, table: &PageTable<Entry>, range: PageRange, buffer: &[u8]) -> usize;

    /// From the pages to the caller's memory, which may not be there: this stops, too.
    fn read_to_user(&self, table: &PageTable<Entry>, range: PageRange, user: UserPtr) -> usize;

    /// From the caller's memory to the pages, likewise.
    fn write_from_user(&self, table: &PageTable<Entry>, range: PageRange, user: UserPtr) -> usize;

    /// From one page to another, or as many as are moved together, each with the memory that it is
    /// in. Nobody else uses either.
    fn migrate(&self, from: (&impl Resolve, Source), to: (&impl Resolve, &Destination));
}
