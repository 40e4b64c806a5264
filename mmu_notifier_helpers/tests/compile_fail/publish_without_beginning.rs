// SPDX-License-Identifier: GPL-2.0

//! A reading cannot be made up, and a reader does not publish.

#[path = "driver/mod.rs"]
mod driver;

use core::pin::Pin;
use driver::{Entry, Tlb};
use kernel::sync::lock::spinlock::SpinLockBackend;
use mmu_notifier_helpers::{
    invlock::{Reader, Reading},
    readers::Mark,
};

type R<'a> = Reader<'a, Mark, Tlb, SpinLockBackend>;

fn publish(reader: Pin<&mut R<'_>>) {
    let _ = reader.publish(Entry(1));
}

fn make_up(reader: Pin<&mut R<'_>>) {
    let _ = Reading(reader).publish(Entry(1));
}

fn main() {}
