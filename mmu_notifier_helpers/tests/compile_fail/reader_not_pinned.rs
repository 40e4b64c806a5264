// SPDX-License-Identifier: GPL-2.0

//! A reader that could move away from the list that it is in does not begin.

#[path = "driver/mod.rs"]
mod driver;

use driver::Tlb;
use kernel::sync::lock::spinlock::SpinLockBackend;
use mmu_notifier_helpers::{invlock::Reader, readers::Mark, wait::Deadline};

fn begin(mut reader: Reader<'_, Mark, Tlb, SpinLockBackend>) {
    let _ = reader.begin(&Deadline::new());
}

fn main() {}
