// SPDX-License-Identifier: GPL-2.0

//! A subscription to the invalidations of a range of addresses, which owns the shadow that they
//! invalidate.
//!
//! # Protocol
//!
//! The core counts a sequence per address space: odd while an invalidation that somebody watches is
//! in flight. Each subscription remembers the one that it saw last, written under the lock of its
//! shadow. A reader takes it at the beginning, having waited while it was current, and may publish
//! under the same lock if it has not changed. The comment on the collision-retry lock in
//! `mm/mmu_notifier.c` has the proof; what this module adds is that no step can be left out.
//!
//! # Locks
//!
//! `mm->mmap_lock` or a lock of the reverse map → the shadow's mutex. The mutex sleeps, so an
//! invalidation that must not is refused when somebody holds it, and the core tries again later.

use crate::{
    bindings as extra,
    range::{Event, Invalidation, PageRange},
};
use core::ops::Deref;
use kernel::{
    bindings,
    error::to_result,
    mm::{Mm, MmWithUser},
    prelude::*,
    sync::{Mutex, MutexGuard},
    types::Opaque,
};
use pin_init::{pin_data, pinned_drop, PinInit};

/// What a driver keeps of the addresses that it mirrors.
pub trait Mirror: Send + Sync + 'static {
    /// The driver's copy of page-table entries.
    type Shadow: Send + Unpin + 'static;

    /// Removes every entry for the addresses of `invalidation` from the shadow, and makes the
    /// device forget what it cached of them.
    ///
    /// The pages may be freed as soon as it returns.
    ///
    /// # Context
    ///
    /// The shadow's mutex is held, and whatever the core holds while it changes page tables. Must
    /// not allocate with `__GFP_RECLAIM`. May sleep if the invalidation is
    /// [blockable](Invalidation::blockable), but not wait for anything that itself waits for page
    /// faults.
    fn zap(&self, shadow: &mut Self::Shadow, invalidation: &Invalidation);

    /// Called for each time that an invalidation interfered with reading the entries of `range`, so
    /// that they are read again. For statistics.
    ///
    /// # Context
    ///
    /// Process context, no lock held.
    fn collided(&self, _range: &PageRange) {}
}

/// A subscription of a driver to the invalidations of a range in one address space.
///
/// Holds a reference to the `mm` (`mmgrab`), which outlives the process, not to its users; it is
/// what a driver asks for the `mm`, instead of storing one beside it.
///
/// # Invariants
///
/// Once initialised, `subscription` is inserted with the address space and [`Self::OPS`], until it
/// is dropped.
#[pin_data(PinnedDrop)]
pub struct IntervalNotifier<T: Mirror> {
    range: PageRange,
    #[pin]
    mirror: T,
    #[pin]
    shadow: Mutex<T::Shadow>,
    #[pin]
    subscription: Opaque<bindings::mmu_interval_notifier>,
}

// SAFETY: A subscription may be removed from any thread, and the other fields can be sent.
unsafe impl<T: Mirror> Send for IntervalNotifier<T> {}
// SAFETY: The core serialises what happens to the subscription; the other fields are `Sync`.
unsafe impl<T: Mirror> Sync for IntervalNotifier<T> {}

impl<T: Mirror> IntervalNotifier<T> {
    const OPS: &'static bindings::mmu_interval_notifier_ops =
        &bindings::mmu_interval_notifier_ops {
            invalidate: Some(Self::invalidate),
            invalidate_start: None,
            invalidate_finish: None,
        };

    /// Subscribes to the invalidations of `range` in `mm`.
    ///
    /// `shadow` is a new mutex (`new_mutex!`) around an empty shadow, so that each driver has a
    /// lock class of its own.
    ///
    /// # Context
    ///
    /// May sleep and takes the mmap lock for writing when it is the first subscription of the
    /// address space.
    ///
    /// # Errors
    ///
    /// `ENOMEM`, `EINTR`, and what the initialisers return.
    ///
    /// C: `mmu_interval_notifier_insert()`.
    pub fn insert<'a>(
        mm: &'a MmWithUser,
        range: PageRange,
        mirror: impl PinInit<T, Error> + 'a,
        shadow: impl PinInit<Mutex<T::Shadow>> + 'a,
    ) -> impl PinInit<Self, Error> + 'a {
        try_pin_init!(Self {
            range,
            mirror <- mirror,
            shadow <- shadow,
            // The last field: callbacks may come before the call returns, and find the others.
            subscription <- Opaque::try_ffi_init(|slot: *mut bindings::mmu_interval_notifier| {
                // SAFETY: `slot` is pinned memory for a subscription; `mm` has users; the callback
                // finds its notifier around `slot`, until `drop` has removed it from the mm.
                to_result(unsafe {
                    bindings::mmu_interval_notifier_insert(
                        slot,
                        mm.as_raw(),
                        range.start(),
                        range.len(),
                        Self::OPS,
                    )
                })
            }),
        }? Error)
        .pin_chain(|this| {
            this.as_ref().teach_lockdep();
            Ok(())
        })
    }

    /// Lets lockdep know at once that reclaim takes the shadow's lock, so that an allocation under
    /// it is reported the first time that it happens, and not when memory is short.
    fn teach_lockdep(&self) {
        // SAFETY: Tells lockdep of a context; it is left below.
        unsafe { extra::mnh_fs_reclaim_acquire() };
        drop(self.shadow.lock());
        // SAFETY: Leaves the context entered above.
        unsafe { extra::mnh_fs_reclaim_release() };
    }

    /// The driver's data that belongs to this subscription.
    pub fn mirror(&self) -> &T {
        &self.mirror
    }

    /// The address space. Its users may be gone: [`Mm::mmget_not_zero`] tells.
    pub fn mm(&self) -> &Mm {
        // SAFETY: The subscription is inserted, which set its `mm` for good and took a reference to
        // it.
        unsafe { Mm::from_raw((*self.as_raw()).mm) }
    }

    /// The addresses watched.
    pub fn range(&self) -> &PageRange {
        &self.range
    }

    /// Locks the shadow for the device to use.
    ///
    /// Until the guard is dropped no entry goes away, and no page that one names is freed.
    /// Invalidations wait for it, so it must not be held while waiting for a page fault, for the
    /// mmap lock or for memory (no `__GFP_RECLAIM`).
    ///
    /// # Context
    ///
    /// May sleep.
    pub fn lock(&self) -> ShadowGuard<'_, T::Shadow> {
        ShadowGuard(self.shadow.lock())
    }

    pub(crate) fn as_raw(&self) -> *mut bindings::mmu_interval_notifier {
        self.subscription.get()
    }

    /// Begins to read page-table entries, having waited for invalidations in flight. Returns what
    /// [`Self::lock_unless_collided`] takes.
    ///
    /// C: `mmu_interval_read_begin()`. May sleep; the mmap lock must not be held.
    pub(crate) fn read_begin(&self) -> c_ulong {
        // SAFETY: The subscription is inserted.
        unsafe { bindings::mmu_interval_read_begin(self.as_raw()) }
    }

    /// Locks the shadow to publish what was read since `seq` was current, unless an invalidation
    /// interfered.
    ///
    /// C: `mmu_interval_read_retry()` under the driver's lock.
    pub(crate) fn lock_unless_collided(&self, seq: c_ulong) -> Option<MutexGuard<'_, T::Shadow>> {
        let shadow = self.shadow.lock();
        // SAFETY: The subscription is inserted, and the lock under which its sequence is set is
        // held.
        let collided = unsafe { extra::mnh_interval_read_retry(self.as_raw(), seq) };
        (!collided).then_some(shadow)
    }

    /// The callback of the core.
    ///
    /// # Safety
    ///
    /// `subscription` must be that of an inserted `IntervalNotifier<T>`, and `range` describe an
    /// invalidation that overlaps it.
    unsafe extern "C" fn invalidate(
        subscription: *mut bindings::mmu_interval_notifier,
        range: *const bindings::mmu_notifier_range,
        cur_seq: c_ulong,
    ) -> bool {
        // SAFETY: By the caller's promise this is a field of an `IntervalNotifier<T>`, which is not
        // freed before the callback has returned, since `drop` waits for it.
        let this =
            unsafe { &*kernel::container_of!(Opaque::cast_from(subscription), Self, subscription) };
        // SAFETY: By the caller's promise.
        let (raw, blockable) = unsafe { (&*range, extra::mnh_range_blockable(range)) };

        let mut shadow = if blockable {
            this.shadow.lock()
        } else {
            match this.shadow.try_lock() {
                Some(shadow) => shadow,
                None => return false,
            }
        };
        // Before anything else, and whatever the event: a reader that collides must not publish.
        // SAFETY: The lock under which the sequence is set is held.
        unsafe { extra::mnh_interval_set_seq(subscription, cur_seq) };

        let watched = PageRange::covering(raw.start, raw.end)
            .and_then(|range| range.intersection(&this.range));
        if let Some(range) = watched {
            let invalidation = Invalidation::new(range, event(raw.event), blockable);
            this.mirror.zap(&mut shadow, &invalidation);
        }
        true
    }
}

#[pinned_drop]
impl<T: Mirror> PinnedDrop for IntervalNotifier<T> {
    fn drop(self: Pin<&mut Self>) {
        // Returns when no callback runs and none will come, so the fields can go.
        // SAFETY: The subscription is inserted, by the type invariant.
        unsafe { bindings::mmu_interval_notifier_remove(self.as_raw()) };
    }
}

/// A shadow, locked for the device to use. It can be looked at, not changed: entries come by
/// [`IntervalNotifier::fault`] and go by [`Mirror::zap`].
#[must_use = "the shadow is unlocked when the guard is dropped"]
pub struct ShadowGuard<'a, S>(MutexGuard<'a, S>);

impl<S> Deref for ShadowGuard<'_, S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.0
    }
}

fn event(raw: bindings::mmu_notifier_event) -> Event {
    match raw {
        bindings::mmu_notifier_event_MMU_NOTIFY_UNMAP => Event::Unmap,
        bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR => Event::Clear,
        bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_VMA => Event::ProtectionVma,
        bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_PAGE => Event::ProtectionPage,
        bindings::mmu_notifier_event_MMU_NOTIFY_SOFT_DIRTY => Event::SoftDirty,
        bindings::mmu_notifier_event_MMU_NOTIFY_RELEASE => Event::Release,
        bindings::mmu_notifier_event_MMU_NOTIFY_MIGRATE => Event::Migrate,
        bindings::mmu_notifier_event_MMU_NOTIFY_EXCLUSIVE => Event::Exclusive,
        _ => Event::Other,
    }
}
