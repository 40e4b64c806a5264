// SPDX-License-Identifier: GPL-2.0

//! A driver of a device that maps one page, which all cases share.

#![allow(dead_code)]

use kernel::sync::lock::{mutex::MutexBackend, spinlock::SpinLockBackend};
use mmu_notifier_helpers::{
    invlock::{InvLock, Publish},
    range::PageRange,
};

/// The number of the page frame, which is no number to be copied elsewhere.
#[derive(Debug)]
pub struct Entry(pub usize);

pub struct Tlb(pub Option<Entry>);

// SAFETY: Only assigns.
unsafe impl Publish<Entry> for Tlb {
    type Output = ();

    fn publish(&mut self, entry: Entry) {
        self.0 = Some(entry);
    }
}

pub type Spinning = InvLock<Tlb, SpinLockBackend>;
pub type Sleeping = InvLock<Tlb, MutexBackend>;

pub fn page() -> PageRange {
    PageRange::new(0x1000, 0x2000).unwrap()
}

pub fn main() {}
