// SPDX-License-Identifier: GPL-2.0
// error[E0277]

//! A notifier that is told of the end cannot refuse the start, so its lock must not sleep.

mod driver;

use driver::Tlb;
use kernel::sync::lock::mutex::MutexBackend;
use mmu_notifier_helpers::{
    mirror::Mirror,
    notifier::{PerMmMirror, Registry},
    range::Invalidation,
};

pub(crate) struct Sleeper;

// SAFETY: Drops all.
unsafe impl Mirror for Sleeper {
    type Shadow = Tlb;
    type Reserve = ();

    fn zap(&self, tlb: &mut Tlb, _invalidation: &Invalidation) {
        tlb.0 = None;
    }
}

// SAFETY: There is no registry to return, and nobody asks for it.
unsafe impl PerMmMirror for Sleeper {
    type Backend = MutexBackend;

    fn registry() -> &'static Registry<Self> {
        unreachable!()
    }
}
