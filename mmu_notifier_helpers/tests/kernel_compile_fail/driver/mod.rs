// SPDX-License-Identifier: GPL-2.0

//! A driver of a device that maps one page, which all cases share.

#![allow(dead_code)]

use kernel::{prelude::*, sync::lock::spinlock::SpinLockBackend};
use mmu_notifier_helpers::{
    invlock::Publish,
    mirror::Mirror,
    notifier::{PerMmMirror, Registry},
    pages::{Entry, Faulted, PageState},
    range::{Invalidation, PageRange},
};

pub(crate) struct Tlb(pub(crate) Option<(PageRange, Entry)>);

// SAFETY: Only assigns, and what is there is dropped.
unsafe impl Publish<Faulted<'_, ()>> for Tlb {
    type Output = Result;

    fn publish(&mut self, Faulted { pages, .. }: Faulted<'_, ()>) -> Result {
        let page = *pages.range();
        if let Some((_, PageState::Mapped(entry))) = pages.entries().next() {
            self.0 = Some((page, entry));
        }
        Ok(())
    }
}

pub(crate) struct TlbMirror;

// SAFETY: Drops the entry if it is in the range.
unsafe impl Mirror for TlbMirror {
    type Shadow = Tlb;
    type Reserve = ();

    fn zap(&self, tlb: &mut Tlb, invalidation: &Invalidation) {
        tlb.0
            .take_if(|(page, _)| page.overlaps(invalidation.range()));
    }
}

// SAFETY: There is no registry to return, and nobody asks for it.
unsafe impl PerMmMirror for TlbMirror {
    type Backend = SpinLockBackend;

    fn registry() -> &'static Registry<Self> {
        unreachable!()
    }
}
