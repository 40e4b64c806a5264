// SPDX-License-Identifier: GPL-2.0

//! A reading ends with the record that collisions are noted in.

#[path = "driver/mod.rs"]
mod driver;

use driver::{page, Spinning, Tlb};
use kernel::sync::lock::spinlock::SpinLockBackend;
use mmu_notifier_helpers::{
    invlock::{Reader, Reading},
    readers::Mark,
    wait::Deadline,
};
use pin_init::stack_pin_init;

fn begin<'a>(lock: &'a Spinning) -> Reading<'a, 'a, Mark, Tlb, SpinLockBackend> {
    stack_pin_init!(let reader = Reader::new(lock, page(), Mark::new()));
    reader.begin(&Deadline::new()).unwrap()
}

fn main() {}
