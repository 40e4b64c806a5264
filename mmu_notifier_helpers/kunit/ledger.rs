// SPDX-License-Identifier: GPL-2.0

//! What contexts hold on to, which is given back after the grace periods of the core and of RCU.

#![forbid(unsafe_code)]

use crate::{
    check::Outcome,
    ffi_mm::{count, module_references, synchronize, users},
    ffi_recorder::Recorder,
    wait::eventually,
};
use kernel::mm::Mm;
use mmu_notifier_helpers::notifier::PerMmMirror;

/// A case that makes contexts. None is left of the cases before, and none for the cases after.
pub(crate) struct Ledger {
    /// To the module, if the suites are one.
    references: Option<i32>,
}

impl Ledger {
    pub(crate) fn open() -> Outcome<Self> {
        check!(drain());
        Ok(Self {
            references: module_references(),
        })
    }

    /// How many references to the module there are besides those that were there. If it is built in
    /// nobody counts them, and the contexts of the first driver stand for them.
    pub(crate) fn references(&self) -> i32 {
        let besides = module_references().zip(self.references);
        besides.map_or(contexts() as i32, |(now, before)| now - before)
    }

    /// Checks that nothing is left, and that there is one user of each of `mms` and no other
    /// reference.
    pub(crate) fn balance<const N: usize>(&self, mms: [&Mm; N]) -> Outcome {
        check!(drain());
        check_eq!(self.references(), 0);
        for mm in mms {
            check!(eventually(|| count(mm) == 1));
            check_eq!(users(mm), 1);
        }
        Ok(())
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // A case that leaves something fails for it where it says so.
        drain();
    }
}

/// How many contexts of the first driver there are, those included that are going away.
pub(crate) fn contexts() -> usize {
    Recorder::<1>::registry().contexts()
}

/// Waits until all contexts are freed, and tells whether they are.
fn drain() -> bool {
    synchronize();
    let drained = eventually(|| contexts() + Recorder::<2>::registry().contexts() == 0);
    // The module's references are given back after that.
    synchronize();
    drained
}
