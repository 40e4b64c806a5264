// SPDX-License-Identifier: GPL-2.0

//! A mark is part of its reader, so that nothing goes away of a reader that is leaked.

#[path = "driver/mod.rs"]
mod driver;

use driver::Tlb;
use kernel::sync::lock::spinlock::SpinLockBackend;
use mmu_notifier_helpers::{invlock::Reader, readers::Mark};

fn elsewhere(_reader: Reader<'_, &Mark, Tlb, SpinLockBackend>) {}

fn main() {}
