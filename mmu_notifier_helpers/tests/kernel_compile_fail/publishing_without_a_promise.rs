// SPDX-License-Identifier: GPL-2.0
// error[E0200]

//! Whoever takes in pages promises not to sleep, and to keep them in the shadow.

mod driver;

use kernel::prelude::*;
use mmu_notifier_helpers::{invlock::Publish, pages::Faulted};

pub(crate) struct Sink;

impl Publish<Faulted<'_, ()>> for Sink {
    type Output = Result;

    fn publish(&mut self, _faulted: Faulted<'_, ()>) -> Result {
        Ok(())
    }
}
