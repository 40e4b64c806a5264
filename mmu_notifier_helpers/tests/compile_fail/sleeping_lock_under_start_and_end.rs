// SPDX-License-Identifier: GPL-2.0

//! Invalidations that have an end cannot fail, so their lock must not sleep.

#[path = "driver/mod.rs"]
mod driver;

use driver::{page, Sleeping};

fn start(lock: &Sleeping) {
    lock.start(&page(), |tlb| tlb.0 = None);
}

fn end(lock: &Sleeping) {
    lock.end(&page());
}

fn release(lock: &Sleeping) {
    lock.release(|tlb| tlb.0 = None);
}

fn main() {}
