// SPDX-License-Identifier: GPL-2.0

//! There is no way from a locked shadow to publishing.

#[path = "driver/mod.rs"]
mod driver;

use driver::{Entry, Spinning};
use mmu_notifier_helpers::invlock::Publish;

fn publish(lock: &Spinning) {
    lock.lock().publish(Entry(1));
}

fn main() {}
