// SPDX-License-Identifier: GPL-2.0
// error[E0200]

//! So does whoever is told in two passes.

mod driver;

use driver::{Tlb, TlbMirror};
use mmu_notifier_helpers::{interval::TwoPassMirror, range::Invalidation};

impl TwoPassMirror for TlbMirror {
    type Flush = ();

    fn start(&self, _tlb: &mut Tlb, _invalidation: &Invalidation) -> Option<()> {
        None
    }

    fn finish(&self, (): ()) {}
}
