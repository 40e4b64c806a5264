// SPDX-License-Identifier: GPL-2.0
// error[E0423]

//! Entries are read and checked, and not made of numbers.

mod driver;

use core::num::NonZero;
use mmu_notifier_helpers::pages::Entry;

pub(crate) fn make(pfn: NonZero<usize>) -> Entry {
    Entry(pfn)
}
