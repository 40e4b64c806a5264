// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! The regions of an address space, and the subscription by which they hear of invalidations.
//!
//! # Protocol
//!
//! The subscription watches the whole address space, so the core's sequence turns odd with each
//! invalidation, and the subscription's is the last that was seen. The callback sets it, and
//! passes the invalidation on to the regions that overlap, under the lock of the tree; their
//! drivers set the sequences of the regions under the regions' mutexes. So the record of a region
//! is, to `mmu_interval_read_begin()` and `mmu_interval_read_retry()`, what it would be if it were
//! in the core's own tree, and only invalidations of its own pages disturb its faults.
//!
//! A region that comes while an invalidation is in flight whose callback is done has missed it. It
//! takes the sequence of the subscription, which is still the core's, so its first fault waits.
//! Callbacks that run at one time have the same sequence: it changes when all have ended.
//!
//! # Locks
//!
//! mmap lock or locks of the reverse map → the lock of the tree → the region's mutex. The
//! callback holds the second for reading; with it, drivers wait for their devices. Registering and
//! giving up a region hold it for writing, so they wait for callbacks, not for invalidations.
//! Nothing under it allocates memory, since reclaim comes here; lockdep is told so.

use crate::bindings as extra;
use core::{cell::UnsafeCell, marker::PhantomPinned};
use kernel::{
    bindings,
    error::to_result,
    mm::{Mm, MmWithUser},
    prelude::*,
    types::Opaque,
};
use pin_init::{pin_data, pinned_drop, PinInit};

/// The regions of an address space.
///
/// # Invariants
///
/// Once initialised, `subscription` is inserted with the address space and [`Self::OPS`], until it
/// is dropped. The nodes in `umems` are those of records that [`Self::insert`] was promised.
#[pin_data(PinnedDrop)]
pub(crate) struct UmemTree {
    #[pin]
    lock: Opaque<bindings::rw_semaphore>,
    /// Protected by the lock.
    umems: UnsafeCell<bindings::rb_root_cached>,
    #[pin]
    subscription: Opaque<bindings::mmu_interval_notifier>,
    #[pin]
    _pin: PhantomPinned,
}

// SAFETY: The lock may be taken, and the subscription removed, by any thread.
unsafe impl Send for UmemTree {}
// SAFETY: The tree is protected by the lock, the subscription by the core.
unsafe impl Sync for UmemTree {}

impl UmemTree {
    const OPS: &'static bindings::mmu_interval_notifier_ops =
        &bindings::mmu_interval_notifier_ops {
            invalidate: Some(Self::invalidate),
            invalidate_start: None,
            invalidate_finish: None,
        };

    /// Watches the address space, with no region yet.
    ///
    /// # Context
    ///
    /// Sleeps. Takes the mmap lock for writing if nobody watches the address space yet.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINTR`.
    pub(crate) fn watch(mm: &MmWithUser) -> impl PinInit<Self, Error> + '_ {
        try_pin_init!(Self {
            // SAFETY: `slot` is pinned memory for a lock.
            lock <- Opaque::ffi_init(|slot| unsafe { extra::odp_init_rwsem(slot) }),
            umems: UnsafeCell::new(Default::default()),
            // After the others, which callbacks use that may come before the call returns.
            subscription <- Opaque::try_ffi_init(|slot: *mut bindings::mmu_interval_notifier| {
                // SAFETY: `slot` is pinned memory for a subscription; `mm` has users; the callback
                // finds the tree around `slot`, until `drop` has removed it from the mm.
                to_result(unsafe {
                    bindings::mmu_interval_notifier_insert(
                        slot,
                        mm.as_raw(),
                        0,
                        usize::MAX,
                        Self::OPS,
                    )
                })
            }),
            _pin: PhantomPinned,
        }? Error)
        .pin_chain(|this| {
            // SAFETY: Tells lockdep, which is told of the end below, that reclaim takes the lock.
            unsafe { extra::mnh_fs_reclaim_acquire() };
            // SAFETY: The lock is initialised, and nobody holds on to it.
            unsafe {
                bindings::down_read(this.lock.get());
                bindings::up_read(this.lock.get());
            }
            // SAFETY: Ends what was begun above.
            unsafe { extra::mnh_fs_reclaim_release() };
            Ok(())
        })
    }

    /// The address space.
    pub(crate) fn mm(&self) -> &Mm {
        // SAFETY: The subscription is inserted, which set its `mm` for good and took a reference to
        // it.
        unsafe { Mm::from_raw((*self.subscription.get()).mm) }
    }

    /// Takes in the region that `record` is of. It is told of every invalidation from now on.
    ///
    /// # Context
    ///
    /// Sleeps while callbacks run.
    ///
    /// # Errors
    ///
    /// `EINTR`: the task is being killed.
    ///
    /// # Safety
    ///
    /// `record` must be of a `struct ib_umem_odp` with its addresses, its operations and its mutex,
    /// and stay so, and be in no tree, until [`Self::remove`] has returned.
    pub(crate) unsafe fn insert(&self, record: *mut bindings::mmu_interval_notifier) -> Result {
        // SAFETY: The lock is initialised.
        to_result(unsafe { bindings::down_write_killable(self.lock.get()) })?;
        // SAFETY: The lock is held for writing, so nobody else uses the tree or writes to our
        // sequence; the record is as promised, and nobody else knows it yet.
        unsafe {
            (*record).invalidate_seq = (*self.subscription.get()).invalidate_seq;
            bindings::interval_tree_insert(&raw mut (*record).interval_tree, self.umems.get());
            bindings::up_write(self.lock.get());
        }
        Ok(())
    }

    /// Lets go of the region that `record` is of. When this returns nobody tells it of anything.
    ///
    /// # Context
    ///
    /// Sleeps while callbacks run. Must not be called from one, or with a lock that one takes.
    ///
    /// # Safety
    ///
    /// `record` must have been given to [`Self::insert`] of this tree.
    pub(crate) unsafe fn remove(&self, record: *mut bindings::mmu_interval_notifier) {
        // SAFETY: The lock is initialised and held for writing while the tree changes; the record
        // is in it.
        unsafe {
            bindings::down_write(self.lock.get());
            bindings::interval_tree_remove(&raw mut (*record).interval_tree, self.umems.get());
            bindings::up_write(self.lock.get());
        }
    }

    /// The callback of the core.
    ///
    /// # Safety
    ///
    /// `subscription` must be that of an inserted `UmemTree`, and `range` describe an invalidation.
    unsafe extern "C" fn invalidate(
        subscription: *mut bindings::mmu_interval_notifier,
        range: *const bindings::mmu_notifier_range,
        cur_seq: usize,
    ) -> bool {
        // SAFETY: By the caller's promise; it is not removed before the callback has returned,
        // since `drop` waits for it.
        let this: &Self =
            unsafe { &*kernel::container_of!(Opaque::cast_from(subscription), Self, subscription) };
        // SAFETY: By the caller's promise.
        let blockable = unsafe { extra::mnh_range_blockable(range) };
        if blockable {
            // SAFETY: The lock is initialised, and this may sleep.
            unsafe { bindings::down_read(this.lock.get()) };
        // SAFETY: The lock is initialised.
        } else if unsafe { bindings::down_read_trylock(this.lock.get()) } == 0 {
            // Somebody registers a region, and it may be one of these pages.
            return false;
        }
        // SAFETY: Whoever writes to it at the same time writes the same.
        unsafe { extra::mnh_interval_set_seq(subscription, cur_seq) };

        let mut accepted = true;
        // SAFETY: By the caller's promise. The end is not zero, as the range is not empty.
        let (start, last) = unsafe { ((*range).start, (*range).end - 1) };
        // SAFETY: The lock is held, so the tree stays as it is.
        let mut node = unsafe { bindings::interval_tree_iter_first(this.umems.get(), start, last) };
        while !node.is_null() {
            let record =
                kernel::container_of!(node, bindings::mmu_interval_notifier, interval_tree);
            // SAFETY: By the type invariant this is the record of a region with its operations,
            // which it keeps while it is in the tree.
            let invalidate = unsafe { (*(*record).ops).invalidate };
            // SAFETY: As the core would call it: the range overlaps; the sequence is the core's.
            accepted &= invalidate.is_none_or(|f| unsafe { f(record, range, cur_seq) });
            if !accepted && !blockable {
                break;
            }
            // SAFETY: As above.
            node = unsafe { bindings::interval_tree_iter_next(node, start, last) };
        }
        // SAFETY: It was taken for reading above.
        unsafe { bindings::up_read(this.lock.get()) };
        accepted
    }
}

#[pinned_drop]
impl PinnedDrop for UmemTree {
    fn drop(self: Pin<&mut Self>) {
        // Returns when no callback runs and none will come.
        // SAFETY: The subscription is inserted, by the type invariant.
        unsafe { bindings::mmu_interval_notifier_remove(self.subscription.get()) };
    }
}
