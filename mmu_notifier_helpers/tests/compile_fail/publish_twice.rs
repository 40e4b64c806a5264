// SPDX-License-Identifier: GPL-2.0

//! One check is good for publishing once.

#[path = "driver/mod.rs"]
mod driver;

use driver::{Entry, Tlb};
use kernel::sync::lock::spinlock::SpinLockBackend;
use mmu_notifier_helpers::{invlock::Reading, readers::Mark};

fn publish(reading: Reading<'_, '_, Mark, Tlb, SpinLockBackend>) {
    let _ = reading.publish(Entry(1));
    let _ = reading.publish(Entry(2));
}

fn main() {}
