// SPDX-License-Identifier: GPL-2.0

//! A subscription to the invalidations of a range of addresses, whose shadow has a lock that
//! sleeps.
//!
//! # Protocol
//!
//! The core counts a sequence per address space: odd while an invalidation that somebody watches is
//! in flight. Each subscription remembers the one that it saw last, written under the lock of its
//! shadow. A reader takes it at the beginning, having waited while it was current, and may publish
//! under the same lock if it has not changed. The comment on the collision-retry lock in
//! `mm/mmu_notifier.c` has the proof; what this module adds is that no step can be left out.
//!
//! A reader collides with any invalidation of the range *that the subscription watches*, not only
//! of the one that it reads. A driver that mirrors much wants a [`PerMm`](crate::notifier::PerMm),
//! if it can do with a lock that spins.
//!
//! # Locks
//!
//! `mm->mmap_lock` or a lock of the reverse map → the shadow's mutex. The mutex sleeps, so an
//! invalidation that must not is refused when somebody holds it, and the core tries again later.

use crate::{
    bindings as extra,
    fault::Locking,
    invlock::Publish,
    mirror::{
        sealed::{Passive, Record, Sealed},
        teach_lockdep, Mirror, Subscription,
    },
    pages::{Faulted, Pages},
    range::{Invalidation, PageRange},
    trace,
    wait::Deadline,
};
use core::ops::Deref;
use kernel::{
    alloc::flags::{GFP_NOWAIT, __GFP_NOWARN},
    bindings,
    error::to_result,
    mm::{Mm, MmWithUser},
    prelude::*,
    sync::{Mutex, MutexGuard},
    types::Opaque,
};
use pin_init::{pin_data, pinned_drop, PinInit};

/// A mirror whose device takes a while to forget: invalidations of many mirrors are all started
/// before the first is waited for.
///
/// # Safety
///
/// What [`Mirror`] promises of `zap` holds of [`start`](Self::start) and [`finish`](Self::finish)
/// together: the entries are gone from the shadow when the first returns, and from the device when
/// the second does.
pub unsafe trait TwoPassMirror: Mirror {
    /// What the device was told to do.
    type Flush: Send + 'static;

    /// Removes every entry for the addresses of `invalidation` from the shadow, as [`Mirror::zap`]
    /// does, but only starts to make the device forget. [`None`] if there is nothing to wait for.
    ///
    /// # Context
    ///
    /// As for [`Mirror::zap`].
    ///
    /// # Errors
    ///
    /// None, as for [`Mirror::zap`].
    ///
    /// C: `invalidate_start()` of `struct mmu_interval_notifier_ops`.
    fn start(&self, shadow: &mut Self::Shadow, invalidation: &Invalidation) -> Option<Self::Flush>;

    /// Waits until the device has done what [`Self::start`] told it. The pages may be freed as soon
    /// as it returns.
    ///
    /// # Context
    ///
    /// As for [`Mirror::zap`], but without the shadow's lock. Must not sleep unless the
    /// invalidation was [blockable](Invalidation::blockable). It comes for each [`Self::start`]
    /// that returned something, though another subscription refuse the invalidation.
    ///
    /// # Errors
    ///
    /// None: the pages are freed after it.
    ///
    /// C: `invalidate_finish()` of `struct mmu_interval_notifier_ops`.
    fn finish(&self, flush: Self::Flush);
}

/// A subscription of a driver to the invalidations of a range in one address space.
///
/// Holds a reference to the `mm` (`mmgrab`), which outlives the process, not to its users.
///
/// When it has been dropped, no callback runs any more and none comes.
///
/// # Context
///
/// Dropping it waits for callbacks that are running: it may sleep, and is not to be done from a
/// callback, or with a lock held that one takes.
///
/// C: `struct mmu_interval_notifier`, `mmu_interval_notifier_remove()`.
///
/// # Invariants
///
/// Once initialised, `subscription` is inserted with the address space and operations for `Self`,
/// until it is dropped.
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
    const ONE_PASS: &'static bindings::mmu_interval_notifier_ops =
        &bindings::mmu_interval_notifier_ops {
            invalidate: Some(Self::invalidate),
            invalidate_start: None,
            invalidate_finish: None,
        };

    /// Subscribes to the invalidations of `range` in `mm`. Each is one call of [`Mirror::zap`].
    ///
    /// `shadow` is a new mutex (`new_mutex!`) around an empty shadow, so that each driver has a
    /// lock class of its own. Where invalidations are in flight meanwhile, a fault waits for them
    /// like for any other.
    ///
    /// That wait is the core's: a fault of this subscription begins when no invalidation of the
    /// range watched is in flight, however long that takes, deaf to being killed and without regard
    /// for the request's timeout. On the [slow path](Subscription::fault) it holds the mmap lock
    /// for writing meanwhile. So what a callback of *any* driver in this address space waits for,
    /// page faults of the process may come to wait for as well. A driver that cannot have that
    /// takes a [`PerMm`](crate::notifier::PerMm).
    ///
    /// # Context
    ///
    /// May sleep. Takes the mmap lock for writing when it is the first subscription of the address
    /// space, so it must not be held.
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
        // SAFETY: The operations are for `Self`.
        unsafe { Self::insert_with(mm, range, mirror, shadow, Self::ONE_PASS) }
    }

    /// # Safety
    ///
    /// `ops` must be for subscriptions that are fields of a `Self`.
    unsafe fn insert_with<'a>(
        mm: &'a MmWithUser,
        range: PageRange,
        mirror: impl PinInit<T, Error> + 'a,
        shadow: impl PinInit<Mutex<T::Shadow>> + 'a,
        ops: &'static bindings::mmu_interval_notifier_ops,
    ) -> impl PinInit<Self, Error> + 'a {
        try_pin_init!(Self {
            range,
            mirror <- mirror,
            shadow <- shadow,
            // The last field: callbacks may come before the call returns, and find the others.
            subscription <- Opaque::try_ffi_init(move |slot: *mut bindings::mmu_interval_notifier| {
                // SAFETY: `slot` is pinned memory for a subscription; `mm` has users; the callback
                // finds its notifier around `slot`, until `drop` has removed it from the mm.
                to_result(unsafe {
                    bindings::mmu_interval_notifier_insert(
                        slot,
                        mm.as_raw(),
                        range.start(),
                        range.len(),
                        ops,
                    )
                })
            }),
        }? Error)
        .pin_chain(|this| {
            teach_lockdep(|| drop(this.shadow.lock()));
            Ok(())
        })
    }

    fn as_raw(&self) -> *mut bindings::mmu_interval_notifier {
        self.subscription.get()
    }

    /// The notifier whose subscription is given.
    ///
    /// # Safety
    ///
    /// `subscription` must be that of an inserted `IntervalNotifier<T>`, which is not removed for
    /// `'a`.
    unsafe fn from_raw<'a>(subscription: *mut bindings::mmu_interval_notifier) -> &'a Self {
        // SAFETY: By the caller's promise this is a field of an `IntervalNotifier<T>`.
        unsafe { &*kernel::container_of!(Opaque::cast_from(subscription), Self, subscription) }
    }

    /// Tells `zap` of an invalidation, having made readers collide with it.
    ///
    /// Returns [`None`] when it is refused, since it may not sleep and somebody holds the lock.
    ///
    /// # Safety
    ///
    /// As for [`Self::invalidate`].
    unsafe fn invalidate_with<R>(
        &self,
        raw: *const bindings::mmu_notifier_range,
        cur_seq: c_ulong,
        zap: impl FnOnce(&mut T::Shadow, &Invalidation) -> R,
    ) -> Option<Option<R>> {
        // SAFETY: By the caller's promise.
        let invalidation = unsafe { Invalidation::from_raw(raw, &self.range) };
        // SAFETY: By the caller's promise.
        let mut shadow = if unsafe { extra::mnh_range_blockable(raw) } {
            self.shadow.lock()
        } else if let Some(shadow) = self.shadow.try_lock() {
            shadow
        } else {
            if let Some(refused) = invalidation {
                trace::refuse(self.mm(), &refused);
            }
            self.mirror.refused();
            return None;
        };
        // Before anything else, and whatever the event: a reader that collides must not publish.
        // SAFETY: The lock under which the sequence is set is held.
        unsafe { extra::mnh_interval_set_seq(self.as_raw(), cur_seq) };
        Some(invalidation.map(|invalidation| {
            trace::invalidate(self.mm(), &invalidation);
            zap(&mut shadow, &invalidation)
        }))
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
        // SAFETY: By the caller's promise; it is not removed before the callback has returned,
        // since `drop` waits for it.
        let this = unsafe { Self::from_raw(subscription) };
        // SAFETY: By the caller's promise.
        unsafe {
            this.invalidate_with(range, cur_seq, |shadow, invalidation| {
                this.mirror.zap(shadow, invalidation);
            })
        }
        .is_some()
    }
}

/// What the core keeps between the passes of one invalidation.
#[repr(C)]
struct Pass<F> {
    raw: Opaque<bindings::mmu_interval_notifier_finish>,
    flush: F,
}

impl<T: TwoPassMirror> IntervalNotifier<T> {
    const TWO_PASSES: &'static bindings::mmu_interval_notifier_ops =
        &bindings::mmu_interval_notifier_ops {
            invalidate: None,
            invalidate_start: Some(Self::invalidate_start),
            invalidate_finish: Some(Self::invalidate_finish),
        };

    /// As [`Self::insert`], but each invalidation is a call of [`TwoPassMirror::start`] and, after
    /// those of all other subscriptions, of [`TwoPassMirror::finish`]. When memory is short they
    /// follow each other at once.
    ///
    /// Context and errors are the same.
    ///
    /// C: `mmu_interval_notifier_insert()` with `invalidate_start` and `invalidate_finish`.
    pub fn insert_two_pass<'a>(
        mm: &'a MmWithUser,
        range: PageRange,
        mirror: impl PinInit<T, Error> + 'a,
        shadow: impl PinInit<Mutex<T::Shadow>> + 'a,
    ) -> impl PinInit<Self, Error> + 'a {
        // SAFETY: The operations are for `Self`.
        unsafe { Self::insert_with(mm, range, mirror, shadow, Self::TWO_PASSES) }
    }

    /// # Safety
    ///
    /// As for [`Self::invalidate`]; `finish` must be valid for writing.
    unsafe extern "C" fn invalidate_start(
        subscription: *mut bindings::mmu_interval_notifier,
        range: *const bindings::mmu_notifier_range,
        cur_seq: c_ulong,
        finish: *mut *mut bindings::mmu_interval_notifier_finish,
    ) -> bool {
        // SAFETY: By the caller's promise; `drop` waits for both passes.
        let this = unsafe { Self::from_raw(subscription) };
        // SAFETY: By the caller's promise.
        let started = unsafe {
            this.invalidate_with(range, cur_seq, |shadow, invalidation| {
                this.mirror.start(shadow, invalidation)
            })
        };
        let Some(started) = started else {
            return false;
        };
        let Some(flush) = started.flatten() else {
            return true;
        };
        match KBox::<Pass<T::Flush>>::new_uninit(GFP_NOWAIT | __GFP_NOWARN) {
            Ok(pass) => {
                let pass = KBox::write(
                    pass,
                    Pass {
                        raw: Opaque::new(Default::default()),
                        flush,
                    },
                );
                // SAFETY: By the caller's promise. `raw` is the first field.
                unsafe { *finish = KBox::into_raw(pass).cast() };
            }
            Err(_) => this.mirror.finish(flush),
        }
        true
    }

    /// # Safety
    ///
    /// `finish` must come from [`Self::invalidate_start`], whose subscription is still inserted.
    unsafe extern "C" fn invalidate_finish(finish: *mut bindings::mmu_interval_notifier_finish) {
        // SAFETY: By the caller's promise; the core has set the field.
        let this = unsafe { Self::from_raw((*finish).notifier) };
        // SAFETY: It is the first field of a `Pass` that was given away as a box.
        let pass = unsafe { KBox::from_raw(finish.cast::<Pass<T::Flush>>()) };
        this.mirror.finish(KBox::into_inner(pass).flush);
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

/// A shadow, locked for the device to use. It can be looked at, not changed.
#[must_use = "the shadow is unlocked when the guard is dropped"]
pub struct ShadowGuard<'a, S>(MutexGuard<'a, S>);

impl<S> Deref for ShadowGuard<'_, S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.0
    }
}

impl<T: Mirror> Subscription for IntervalNotifier<T> {
    type Mirror = T;
    type Guard<'a> = ShadowGuard<'a, T::Shadow>;

    fn mirror(&self) -> &T {
        &self.mirror
    }

    fn mm(&self) -> &Mm {
        // SAFETY: The subscription is inserted, which set its `mm` for good and took a reference to
        // it.
        unsafe { Mm::from_raw((*self.as_raw()).mm) }
    }

    fn range(&self) -> &PageRange {
        &self.range
    }

    fn lock(&self) -> ShadowGuard<'_, T::Shadow> {
        ShadowGuard(self.shadow.lock())
    }

    fn read(
        &self,
        range: PageRange,
        locking: Locking,
        _deadline: &Deadline,
        pfns: &mut [usize],
        reserve: Option<&mut T::Reserve>,
        read: impl FnOnce(&Record, &mut [usize]) -> Result<bool>,
    ) -> Result<Option<Self::Guard<'_>>> {
        // The core waits for invalidations in flight until there are none, and for no signal and no
        // deadline: `Subscription::fault` says what that costs.
        // SAFETY: The subscription is inserted.
        let seq = unsafe { bindings::mmu_interval_read_begin(self.as_raw()) };
        // With the mmap lock held, hmm stops early on a collision. Without, it would try again on
        // its own, and we count.
        let passive = Passive::new(self.mm());
        let record = match locking {
            Locking::Held => Record {
                notifier: self.as_raw(),
                seq,
            },
            Locking::Droppable => passive.record(),
        };
        if !read(&record, pfns)? {
            return Ok(None);
        }
        let mut shadow = self.shadow.lock();
        // SAFETY: The subscription is inserted, and the lock under which its sequence is set is
        // held.
        if unsafe { extra::mnh_interval_read_retry(self.as_raw(), seq) } {
            return Ok(None);
        }
        if let Some(reserve) = reserve {
            let pages = Pages::new(range, pfns);
            shadow.publish(Faulted { pages, reserve })?;
        }
        Ok(Some(ShadowGuard(shadow)))
    }
}

impl<T: Mirror> Sealed for IntervalNotifier<T> {}
