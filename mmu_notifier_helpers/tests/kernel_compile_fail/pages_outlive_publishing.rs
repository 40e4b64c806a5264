// SPDX-License-Identifier: GPL-2.0
// error: lifetime may not live long enough

//! What is to be published is there while it is published.

mod driver;

use kernel::prelude::*;
use mmu_notifier_helpers::{
    invlock::Publish,
    pages::{Faulted, Pages},
};

pub(crate) struct Hoard(Option<Pages<'static>>);

// SAFETY: It is not: it keeps the pages for later.
unsafe impl Publish<Faulted<'_, ()>> for Hoard {
    type Output = Result;

    fn publish(&mut self, faulted: Faulted<'_, ()>) -> Result {
        self.0 = Some(faulted.pages);
        Ok(())
    }
}
