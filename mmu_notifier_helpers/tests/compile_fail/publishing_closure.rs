// SPDX-License-Identifier: GPL-2.0

//! Whoever faults cannot bring code that runs under the lock, and might sleep or allocate there.

#[path = "driver/mod.rs"]
mod driver;

use driver::{Entry, Tlb};
use kernel::sync::lock::spinlock::SpinLockBackend;
use mmu_notifier_helpers::{invlock::Reading, readers::Mark};

fn publish(reading: Reading<'_, '_, Mark, Tlb, SpinLockBackend>) {
    let _ = reading.publish(|tlb: &mut Tlb| tlb.0 = Some(Entry(1)));
}

fn main() {}
