// SPDX-License-Identifier: GPL-2.0
// error: lifetime may not live long enough

//! What was reserved for a fault is its caller's.

mod driver;

use kernel::prelude::*;
use mmu_notifier_helpers::{invlock::Publish, pages::Faulted};

pub(crate) struct Hoard(Option<&'static mut KVec<usize>>);

// SAFETY: It is not: it keeps what is lent to it.
unsafe impl Publish<Faulted<'_, KVec<usize>>> for Hoard {
    type Output = Result;

    fn publish(&mut self, faulted: Faulted<'_, KVec<usize>>) -> Result {
        self.0 = Some(faulted.reserve);
        Ok(())
    }
}
