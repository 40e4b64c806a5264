// SPDX-License-Identifier: GPL-2.0

//! A reader reads one thing at a time: what was read before is not published.

#[path = "driver/mod.rs"]
mod driver;

use core::pin::Pin;
use driver::{Entry, Tlb};
use kernel::sync::lock::spinlock::SpinLockBackend;
use mmu_notifier_helpers::{invlock::Reader, readers::Mark, wait::Deadline};

fn begin(mut reader: Pin<&mut Reader<'_, Mark, Tlb, SpinLockBackend>>) {
    let first = reader.as_mut().begin(&Deadline::new()).unwrap();
    let second = reader.as_mut().begin(&Deadline::new()).unwrap();
    let _ = first.publish(Entry(1));
    let _ = second.publish(Entry(2));
}

fn main() {}
