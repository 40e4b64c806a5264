// SPDX-License-Identifier: GPL-2.0

//! An entry cannot be used when the shadow is unlocked.

#[path = "driver/mod.rs"]
mod driver;

use driver::{Entry, Spinning};

fn unlocks(lock: &Spinning) -> Option<&Entry> {
    lock.lock().0.as_ref()
}

fn keeps(lock: &Spinning) -> usize {
    let tlb = lock.lock();
    let entry = tlb.0.as_ref();
    drop(tlb);
    entry.map_or(0, |entry| entry.0)
}

fn main() {}
