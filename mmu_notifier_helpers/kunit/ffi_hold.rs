// SPDX-License-Identifier: GPL-2.0

//! A notifier that keeps invalidations in flight until a test lets them go on.

use crate::{bindings as shims, gate::Gate};
use core::ptr::NonNull;
use kernel::{bindings, error::to_result, mm::MmWithUser, prelude::*, sync::Arc, types::Opaque};
use mmu_notifier_helpers::range::PageRange;

/// Holds up the invalidations of some addresses that may sleep, and refuses those that may not.
///
/// The core calls subscriptions to ranges first, and then the notifiers, the youngest first. So
/// everything that came after this one has been told of an invalidation that it holds up.
///
/// # Invariants
///
/// The notifier is registered.
pub(crate) struct Hold(NonNull<Notifier>);

#[repr(C)]
struct Notifier {
    subscription: Opaque<bindings::mmu_notifier>,
    range: PageRange,
    gate: Arc<Gate>,
}

static OPS: bindings::mmu_notifier_ops = bindings::mmu_notifier_ops {
    release: None,
    clear_flush_young: None,
    clear_young: None,
    test_young: None,
    invalidate_range_start: Some(invalidate_range_start),
    invalidate_range_end: None,
    arch_invalidate_secondary_tlbs: None,
    alloc_notifier: None,
    free_notifier: None,
};

impl Hold {
    /// Holds up invalidations of `range` in `mm` at `gate`.
    pub(crate) fn new(mm: &MmWithUser, range: PageRange, gate: Arc<Gate>) -> Result<Self> {
        let notifier = Notifier {
            subscription: Opaque::new(bindings::mmu_notifier {
                ops: &OPS,
                ..Default::default()
            }),
            range,
            gate,
        };
        let notifier = KBox::into_raw(KBox::new(notifier, GFP_KERNEL)?);
        // SAFETY: The first field; it stays where it is until it is unregistered, and `mm` has
        // users.
        let registered =
            to_result(unsafe { bindings::mmu_notifier_register(notifier.cast(), mm.as_raw()) });
        if let Err(e) = registered {
            // SAFETY: Nobody knows it.
            drop(unsafe { KBox::from_raw(notifier) });
            return Err(e);
        }
        // INVARIANT: Just registered.
        // SAFETY: A box is not null.
        Ok(Self(unsafe { NonNull::new_unchecked(notifier) }))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // SAFETY: It is valid for as long as it is registered, which it is until here; its `mm` was
        // set when it was, and a reference taken.
        unsafe {
            let subscription = self.0.as_ref().subscription.get();
            bindings::mmu_notifier_unregister(subscription, (*subscription).mm);
        }
        // SAFETY: It came from a box, and no callback runs any more.
        drop(unsafe { KBox::from_raw(self.0.as_ptr()) });
    }
}

/// # Safety
///
/// `subscription` must be that of a registered [`Notifier`], and `range` valid.
unsafe extern "C" fn invalidate_range_start(
    subscription: *mut bindings::mmu_notifier,
    range: *const bindings::mmu_notifier_range,
) -> c_int {
    // SAFETY: By the caller's promise it is the first field of one.
    let this = unsafe { &*subscription.cast::<Notifier>() };
    // SAFETY: By the caller's promise.
    let (invalidated, blockable) = unsafe {
        (
            PageRange::covering((*range).start, (*range).end),
            shims::mnh_kunit_range_blockable(range),
        )
    };
    if invalidated.is_some_and(|invalidated| invalidated.overlaps(&this.range)) {
        if !blockable {
            return EAGAIN.to_errno();
        }
        this.gate.pass();
    }
    0
}
