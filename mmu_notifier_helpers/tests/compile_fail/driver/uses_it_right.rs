// SPDX-License-Identifier: GPL-2.0

//! What the cases do, done right.

#[path = "mod.rs"]
mod driver;

use driver::{page, Entry, Spinning, Tlb};
use mmu_notifier_helpers::{
    invlock::{new_invlock, Reader},
    readers::Mark,
    wait::Deadline,
};
use pin_init::stack_pin_init;

fn main() {
    stack_pin_init!(let lock = new_invlock!(Tlb(None)));
    let lock: &Spinning = &lock;
    stack_pin_init!(let reader = Reader::new(lock, page(), Mark::new()));

    let reading = reader.as_mut().begin(&Deadline::new()).unwrap();
    let (tlb, ()) = reading.publish(Entry(42)).unwrap();
    assert_eq!(tlb.0.as_ref().map(|entry| entry.0), Some(42));
    drop(tlb);

    lock.start(&page(), |tlb| tlb.0 = None);
    lock.end(&page());
    assert!(lock.lock().0.is_none());
}
