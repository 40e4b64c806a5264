// SPDX-License-Identifier: GPL-2.0

//! The shadow is inside the lock.

#[path = "driver/mod.rs"]
mod driver;

use driver::{Entry, Spinning};

fn look(lock: &Spinning) -> Option<&Entry> {
    lock.state.data.shadow.0.as_ref()
}

fn deref(lock: &Spinning) -> Option<&Entry> {
    lock.0.as_ref()
}

fn main() {}
