// SPDX-License-Identifier: GPL-2.0
// error[E0200]

//! Whoever is told of invalidations promises that the entries are gone then.

mod driver;

use driver::Tlb;
use mmu_notifier_helpers::{mirror::Mirror, range::Invalidation};

pub(crate) struct Deaf;

impl Mirror for Deaf {
    type Shadow = Tlb;
    type Reserve = ();

    fn zap(&self, _tlb: &mut Tlb, _invalidation: &Invalidation) {}
}
