// SPDX-License-Identifier: GPL-2.0

//! One context for each driver and address space, found or made, with the invlock of its mirrors.
//!
//! # Lifetimes
//!
//! A [`PerMm`] is known to the core by the address of its operations and the `mm`. It lives from
//! the first [`PerMm::get`] to the last reference, and its memory until no callback of the core can
//! run any more:
//!
//! ```text
//!            get               last reference                SRCU             RCU
//!  (nothing) ---> live, in list --------------> out of list ------> dropped --------> freed
//!                    |    ^      may sleep:      mirrors gone     must not sleep     module_put
//!            release +----+      mmu_notifier_put                 free_notifier
//!            (exit: empty for good)
//! ```
//!
//! Mirrors come and go with their [`Attachment`]s, in process context. So what is left for
//! `free_notifier`, which must not sleep, is memory. Each context holds a reference to the module
//! of its driver, which is dropped from an RCU callback in this module: `free_notifier` is code of
//! the driver, runs with bottom halves disabled, and has returned when the callback runs.
//!
//! # Locks
//!
//! `mm->mmap_lock` → `mnh_per_mm_mutex` → what `mm_take_all_locks()` takes, and reclaim; and
//! `mm->mmap_lock` or a lock of the reverse map → the spinlock of the invlock.
//!
//! The mutex makes finding a context and giving up the last reference exclude each other: the core
//! cannot tell which `mmu_notifier_put()` is the last, and must not hand out a context that
//! somebody is taking apart. One serves all drivers: making a context takes `mm_take_all_locks()`,
//! which the core serialises for the whole system anyway. It is taken inside of the mmap lock, so
//! that nobody waits with it for an address space that a hostile process keeps busy.

use crate::{
    bindings as extra,
    fault::Locking,
    invlock::{self, Collided, InvLock, NonSleeping, Publish},
    mirror::{
        sealed::{Passive, Record, Sealed},
        teach_lockdep, Mirror, Subscription,
    },
    mmap::MmapWriteKillable,
    pages::{Faulted, Pages},
    range::{Event, Invalidation, PageRange},
    trace,
    wait::Deadline,
};
use core::{cell::UnsafeCell, marker::PhantomData, ops::Deref, ptr::NonNull};
use kernel::{
    bindings,
    error::from_err_ptr,
    mm::{Mm, MmWithUser},
    module::ModuleMetadata,
    prelude::*,
    str::CStr,
    sync::{
        aref::{ARef, AlwaysRefCounted},
        atomic::{Atomic, Relaxed},
        Arc, LockClassKey,
    },
    types::Opaque,
};
use pin_init::{pin_data, stack_pin_init, PinInit};

/// A mirror that can be attached to a [`PerMm`]. Implemented by
/// [`per_mm_mirror!`](crate::per_mm_mirror).
///
/// # Safety
///
/// [`Self::registry`] must return the one static registry of the type.
pub unsafe trait PerMmMirror: Mirror {
    /// The lock of the shadows.
    type Backend: NonSleeping + 'static;

    /// What identifies the type to the core.
    fn registry() -> &'static Registry<Self>;
}

/// Makes a [`Mirror`] one that can be attached to a [`PerMm`](crate::notifier::PerMm).
///
/// To be used once for a type, in the crate whose module the driver is, below its `module!`. The
/// name is that of the shadows' lock in lockdep's reports. The [crate](crate#a-driver) has an
/// example.
#[macro_export]
// The module is that of the crate that uses the macro.
#[allow(clippy::crate_in_macro_def)]
macro_rules! per_mm_mirror {
    ($mirror:ty, $name:literal) => {
        const _: () = {
            static REGISTRY: $crate::notifier::Registry<$mirror> =
                // SAFETY: Static, and the only one of the type: there would be two implementations
                // of the trait otherwise.
                unsafe {
                    $crate::notifier::Registry::new::<crate::LocalModule>(
                        ::kernel::optional_name!($name),
                        ::kernel::static_lock_class!(),
                        ::kernel::static_lock_class!(),
                    )
                };

            // SAFETY: Returns the one static registry.
            unsafe impl $crate::notifier::PerMmMirror for $mirror {
                type Backend = ::kernel::sync::lock::spinlock::SpinLockBackend;

                fn registry() -> &'static $crate::notifier::Registry<Self> {
                    &REGISTRY
                }
            }
        };
    };
}

/// What identifies the contexts of one driver to the core: the address of its operations.
pub struct Registry<T> {
    ops: bindings::mmu_notifier_ops,
    module: *mut bindings::module,
    name: &'static CStr,
    lock_class: Pin<&'static LockClassKey>,
    queue_class: Pin<&'static LockClassKey>,
    /// Contexts that were made and not dropped yet.
    contexts: Atomic<usize>,
    _mirror: PhantomData<fn(T)>,
}

// SAFETY: Nothing but `contexts` ever changes.
unsafe impl<T> Sync for Registry<T> {}

impl<T: PerMmMirror> Registry<T> {
    /// The registry of a driver in the module `M`, with names and lock classes for its locks.
    ///
    /// # Safety
    ///
    /// Must be the initialiser of a `static`, the only one for `T`.
    pub const unsafe fn new<M: ModuleMetadata>(
        name: &'static CStr,
        lock_class: Pin<&'static LockClassKey>,
        queue_class: Pin<&'static LockClassKey>,
    ) -> Self {
        Self {
            ops: bindings::mmu_notifier_ops {
                release: Some(PerMm::<T>::release),
                clear_flush_young: None,
                clear_young: None,
                test_young: None,
                invalidate_range_start: Some(PerMm::<T>::invalidate_range_start),
                invalidate_range_end: Some(PerMm::<T>::invalidate_range_end),
                arch_invalidate_secondary_tlbs: None,
                alloc_notifier: Some(PerMm::<T>::alloc_notifier),
                free_notifier: Some(PerMm::<T>::free_notifier),
            },
            module: M::THIS_MODULE.as_ptr(),
            name,
            lock_class,
            queue_class,
            contexts: Atomic::new(0),
            _mirror: PhantomData,
        }
    }

    /// How many contexts there are, those among them that nobody refers to any more and that wait
    /// for callbacks to end. For tests and statistics: it may have changed when it is read.
    ///
    /// # Context
    ///
    /// Any; does not sleep.
    pub fn contexts(&self) -> usize {
        self.contexts.load(Relaxed)
    }
}

/// The mutex that all registries share.
struct PerMmMutex;

impl PerMmMutex {
    fn lock() -> Self {
        // SAFETY: The mutex is static. It is unlocked when the value is dropped.
        unsafe { extra::mnh_per_mm_lock() };
        Self
    }
}

impl Drop for PerMmMutex {
    fn drop(&mut self) {
        // SAFETY: It was locked when the value was made.
        unsafe { extra::mnh_per_mm_unlock() };
    }
}

/// The context of one driver in one address space, with its mirrors.
///
/// Holds a reference to the `mm` (`mmgrab`), which outlives the process, not to its users; and one
/// to the module of the driver, which therefore cannot be removed before the context is freed.
///
/// # Context
///
/// Taking a reference and dropping one takes a mutex: both may sleep.
///
/// C: `struct mmu_notifier`, `mmu_notifier_put()`.
///
/// # Invariants
///
/// `subscription` was registered by the core with the operations of `T`'s registry. `users` counts
/// the references, and is accessed with the mutex of all registries held.
#[repr(C)]
#[pin_data]
pub struct PerMm<T: PerMmMirror> {
    // The first field: it is all that is left of the context in the end, and the address to free.
    #[pin]
    subscription: Opaque<bindings::mmu_notifier>,
    #[pin]
    lock: InvLock<Mirrors<T>, T::Backend>,
    users: UnsafeCell<usize>,
}

// SAFETY: May be released from any thread; what it holds can be sent.
unsafe impl<T: PerMmMirror> Send for PerMm<T> {}
// SAFETY: The core serialises what happens to the subscription, the mutex what happens to `users`;
// the lock is `Sync`.
unsafe impl<T: PerMmMirror> Sync for PerMm<T> {}

// SAFETY: `users` counts, and the context is freed after it became zero.
unsafe impl<T: PerMmMirror> AlwaysRefCounted for PerMm<T> {
    fn inc_ref(&self) {
        let _mutex = PerMmMutex::lock();
        // SAFETY: The mutex is held.
        unsafe { *self.users.get() += 1 };
    }

    unsafe fn dec_ref(this: NonNull<Self>) {
        // SAFETY: The caller has a reference.
        let (subscription, users) = unsafe {
            let this = this.as_ref();
            (this.subscription.get(), this.users.get())
        };
        let _mutex = PerMmMutex::lock();
        // SAFETY: The mutex is held.
        let last = unsafe {
            *users -= 1;
            *users == 0
        };
        if last {
            // SAFETY: The one reference of the core that `get` left to all users is given up, in
            // the mutex, so nobody finds the context in between.
            unsafe { bindings::mmu_notifier_put(subscription) };
        }
    }
}

impl<T: PerMmMirror> PerMm<T> {
    /// The context of this driver for `mm`, of the current task or any other, which is made if
    /// there is none.
    ///
    /// # Context
    ///
    /// May sleep. Takes the mmap lock for writing, so it must not be held, and to make a context
    /// all locks of the address space, so it waits for invalidations in flight.
    ///
    /// # Errors
    ///
    /// - `ENOMEM`.
    /// - `EINTR`: the task is being killed.
    /// - `EFAULT`: the OOM reaper has emptied the address space.
    /// - `ENODEV`: the module is being unloaded.
    ///
    /// C: `mmu_notifier_get_locked()`.
    pub fn get(mm: &MmWithUser) -> Result<ARef<Self>> {
        let _mmap = MmapWriteKillable::lock(mm)?;
        let _mutex = PerMmMutex::lock();
        // SAFETY: The mmap lock is held for writing, and `mm` has users. The operations are static.
        let subscription = from_err_ptr(unsafe {
            bindings::mmu_notifier_get_locked(&T::registry().ops, mm.as_raw())
        })?;
        let this: *mut Self = subscription.cast();
        // SAFETY: The core found it by our operations, so it is the first field of a `PerMm<T>`, to
        // which the call gave us a reference. The mutex is held.
        unsafe {
            *(*this).users.get() += 1;
            if *(*this).users.get() > 1 {
                // One reference of the core does for all of ours. Not the last one.
                bindings::mmu_notifier_put(subscription);
            }
        }
        // SAFETY: `users` was increased. A result that is no error is not null.
        Ok(unsafe { ARef::from_raw(NonNull::new_unchecked(this)) })
    }

    /// The address space, to which the context has a reference (`mmgrab()`). Its users may be gone:
    /// [`Mm::mmget_not_zero`] tells.
    ///
    /// # Context
    ///
    /// Any; does not sleep.
    ///
    /// C: `mm` of `struct mmu_notifier`.
    pub fn mm(&self) -> &Mm {
        // SAFETY: The subscription is registered, which set its `mm` for good and took a reference
        // to it.
        unsafe { Mm::from_raw((*self.subscription.get()).mm) }
    }

    fn new() -> impl PinInit<Self, Error> {
        let registry = T::registry();
        // INVARIANT: The core, which alone calls this, registers it. There is no user yet.
        try_pin_init!(Self {
            subscription: Opaque::new(Default::default()),
            lock <- InvLock::new(
                Mirrors::new(),
                registry.name,
                registry.lock_class,
                registry.queue_class,
            ),
            users: UnsafeCell::new(0),
        }? Error)
    }

    /// # Safety
    ///
    /// The core must call it, which takes what it returns for a notifier to register or to free.
    unsafe extern "C" fn alloc_notifier(
        _mm: *mut bindings::mm_struct,
    ) -> *mut bindings::mmu_notifier {
        let registry = T::registry();
        // SAFETY: The module is that of the caller, or null if it is built in.
        if !unsafe { extra::mnh_try_module_get(registry.module) } {
            return ENODEV.to_ptr();
        }
        match KBox::try_pin_init(Self::new(), GFP_KERNEL_ACCOUNT) {
            Ok(this) => {
                registry.contexts.fetch_add(1, Relaxed);
                teach_lockdep(|| this.lock.with(|_, _| ()));
                // SAFETY: It does not move out of its memory until `free_notifier`.
                KBox::into_raw(unsafe { Pin::into_inner_unchecked(this) }).cast()
            }
            Err(e) => {
                // SAFETY: The reference taken above.
                unsafe { extra::mnh_module_put(registry.module) };
                e.to_ptr()
            }
        }
    }

    /// # Safety
    ///
    /// `subscription` must come from [`Self::alloc_notifier`], and nobody else have access to it.
    unsafe extern "C" fn free_notifier(subscription: *mut bindings::mmu_notifier) {
        let registry = T::registry();
        // SAFETY: It is the first field of a `PerMm`, which is dropped here and not used again but
        // for its first field.
        unsafe { core::ptr::drop_in_place(subscription.cast::<Self>()) };
        registry.contexts.fetch_sub(1, Relaxed);
        // SAFETY: The memory is ours alone, and begins with the subscription. Its `rcu` is free
        // again when the core calls us, and the module reference that `alloc_notifier` took goes
        // along.
        unsafe { extra::mnh_free_context(subscription, registry.module) };
    }

    /// # Safety
    ///
    /// `subscription` must be that of a `PerMm<T>`, which lives for `'a`.
    unsafe fn from_raw<'a>(subscription: *mut bindings::mmu_notifier) -> &'a Self {
        // SAFETY: It is the first field, and valid by the caller's promise.
        unsafe { &*subscription.cast() }
    }

    /// # Safety
    ///
    /// As for [`Self::from_raw`].
    unsafe extern "C" fn release(
        subscription: *mut bindings::mmu_notifier,
        _mm: *mut bindings::mm_struct,
    ) {
        // SAFETY: By the caller's promise: the core keeps it for the length of a callback.
        let this = unsafe { Self::from_raw(subscription) };
        let invalidation = Invalidation::new(PageRange::ALL, Event::Release, true);
        trace::invalidate(this.mm(), &invalidation);
        this.lock.release(|mirrors| mirrors.zap(&invalidation));
    }

    /// # Safety
    ///
    /// As for [`Self::from_raw`]; and `range` must be valid.
    unsafe extern "C" fn invalidate_range_start(
        subscription: *mut bindings::mmu_notifier,
        range: *const bindings::mmu_notifier_range,
    ) -> c_int {
        // SAFETY: As in `release`.
        let this = unsafe { Self::from_raw(subscription) };
        // SAFETY: By the caller's promise.
        if let Some(invalidation) = unsafe { Invalidation::from_raw(range, &PageRange::ALL) } {
            trace::invalidate(this.mm(), &invalidation);
            this.lock
                .start_by(invalidation.range(), invalidation.owner(), |mirrors| {
                    mirrors.zap(&invalidation)
                });
        }
        0
    }

    /// # Safety
    ///
    /// As for [`Self::invalidate_range_start`].
    unsafe extern "C" fn invalidate_range_end(
        subscription: *mut bindings::mmu_notifier,
        range: *const bindings::mmu_notifier_range,
    ) {
        // SAFETY: As in `release`.
        let this = unsafe { Self::from_raw(subscription) };
        // SAFETY: By the caller's promise.
        if let Some(invalidation) = unsafe { Invalidation::from_raw(range, &PageRange::ALL) } {
            this.lock.end(invalidation.range());
        }
    }
}

/// The mirrors of one context, each in a slot of its own for as long as it is attached. A user
/// decides how many there are, so the memory need not be in one piece; it is freed where nothing
/// may sleep, which is allowed with bottom halves disabled.
pub(crate) struct Mirrors<T: Mirror>(KVVec<Option<Attached<T>>>);

struct Attached<T: Mirror> {
    mirror: Arc<T>,
    shadow: T::Shadow,
}

impl<T: Mirror> Mirrors<T> {
    const fn new() -> Self {
        Self(KVVec::new())
    }

    fn zap(&mut self, invalidation: &Invalidation) {
        for attached in self.0.iter_mut().flatten() {
            attached.mirror.zap(&mut attached.shadow, invalidation);
        }
    }

    /// Puts `new` in a slot, and returns which; gives it back when there is none.
    fn attach(&mut self, new: Attached<T>) -> Result<usize, Attached<T>> {
        if let Some(slot) = self.0.iter().position(Option::is_none) {
            self.0[slot] = Some(new);
            return Ok(slot);
        }
        if self.0.len() == self.0.capacity() {
            return Err(new);
        }
        // There is room, so it does not fail.
        drop(self.0.push_within_capacity(Some(new)));
        Ok(self.0.len() - 1)
    }

    /// Moves over to `larger`, if that it is, and leaves there what can be freed.
    fn grow(&mut self, larger: &mut KVVec<Option<Attached<T>>>) {
        if larger.capacity() > self.0.capacity() {
            for slot in self.0.drain_all() {
                // There is room for all, so it does not fail.
                drop(larger.push_within_capacity(slot));
            }
            core::mem::swap(&mut self.0, larger);
        }
    }
}

/// What was read for the mirror in one slot.
struct Plan<'p, T: Mirror> {
    slot: usize,
    faulted: Option<Faulted<'p, T::Reserve>>,
}

// SAFETY: Leaves it to `T::Shadow`, which promises the same.
unsafe impl<'p, T: Mirror> Publish<Plan<'p, T>> for Mirrors<T> {
    type Output = Result;

    fn publish(&mut self, plan: Plan<'p, T>) -> Result {
        let attached = self.0.get_mut(plan.slot).and_then(Option::as_mut);
        match (attached, plan.faulted) {
            (Some(attached), Some(faulted)) => attached.shadow.publish(faulted),
            _ => Ok(()),
        }
    }
}

/// A mirror that is attached to the context of its address space. There may be any number of them
/// in one, for example one for each open file; an invalidation zaps all their shadows.
///
/// When it is dropped, no callback for the mirror runs any more and none comes. The shadow is
/// dropped with it, without its lock, and the mirror unless somebody else refers to it.
///
/// # Context
///
/// To be dropped where sleeping is allowed, and not from a callback of the mirror.
///
/// # Invariants
///
/// `slot` of the context's mirrors is taken by this attachment.
pub struct Attachment<T: PerMmMirror> {
    per_mm: ARef<PerMm<T>>,
    mirror: Arc<T>,
    slot: usize,
}

impl<T: PerMmMirror> Attachment<T> {
    /// Attaches `mirror` with a `shadow`, which is empty. Invalidations are told to it from now on,
    /// but for those in flight, which its faults wait for.
    ///
    /// # Context
    ///
    /// May sleep. Takes the lock of the shadows, which spins, and allocates without it when the
    /// context has no room for another mirror.
    ///
    /// # Errors
    ///
    /// - `ENOMEM`.
    /// - `ESRCH`: the address space is gone.
    ///
    /// C: nothing of the core; it knows the context only.
    pub fn new(per_mm: ARef<PerMm<T>>, mirror: Arc<T>, shadow: T::Shadow) -> Result<Self> {
        let mut new = Attached {
            mirror: mirror.clone(),
            shadow,
        };
        let mut larger = KVVec::new();
        loop {
            let attached = per_mm.lock.with(|mirrors, released| {
                if released {
                    return Err((new, None));
                }
                mirrors.grow(&mut larger);
                mirrors
                    .attach(new)
                    .map_err(|new| (new, Some(2 * mirrors.0.len() + 1)))
            });
            match attached {
                Ok(slot) => {
                    // INVARIANT: The slot was just taken.
                    return Ok(Self {
                        per_mm,
                        mirror,
                        slot,
                    });
                }
                Err((rejected, Some(capacity))) => {
                    new = rejected;
                    larger = KVVec::with_capacity(capacity, GFP_KERNEL_ACCOUNT)?;
                }
                Err((_rejected, None)) => return Err(ESRCH),
            }
        }
    }

    /// The context that it is attached to.
    pub fn per_mm(&self) -> &PerMm<T> {
        &self.per_mm
    }

    /// The protocol: begins; lets `read` fill `entries`, which returns [`None`] if it saw a
    /// collision; and lets the shadow take them in if there was none, if there is a `reserve`.
    /// Returns with the shadow locked then, and in any case with what `read` returned, for it to be
    /// dropped after that.
    ///
    /// Errors are those of `read`, of the shadow, and of waiting for invalidations in flight until
    /// `deadline`: `EBUSY`, `EINTR`, `ESRCH`.
    pub(crate) fn publish<K>(
        &self,
        range: PageRange,
        deadline: &Deadline,
        entries: &mut [usize],
        reserve: Option<&mut T::Reserve>,
        read: impl FnOnce(&Reading<'_, '_, T>, &mut [usize]) -> Result<Option<K>>,
    ) -> Result<(Option<ShadowGuard<'_, T>>, Option<K>)> {
        let passive = Passive::new(self.mm());
        stack_pin_init!(let reader = invlock::Reader::new(&self.per_mm.lock, range, passive));
        let reading = reader.as_mut().begin(deadline)?;
        let Some(kept) = read(&reading, entries)? else {
            return Ok((None, None));
        };
        let slot = self.slot;
        let faulted = reserve.map(|reserve| Faulted {
            pages: Pages::new(range, entries),
            reserve,
        });
        let guard = match reading.publish(Plan { slot, faulted }) {
            Ok((mirrors, result)) => {
                if let Err(e) = result {
                    // What is kept may sleep.
                    drop(mirrors);
                    return Err(e);
                }
                Some(ShadowGuard { mirrors, slot })
            }
            Err(Collided) => None,
        };
        Ok((guard, Some(kept)))
    }
}

/// A reader of an address space that is reading.
pub(crate) type Reading<'r, 'a, T> =
    invlock::Reading<'r, 'a, Passive, Mirrors<T>, <T as PerMmMirror>::Backend>;

impl<T: PerMmMirror> Drop for Attachment<T> {
    fn drop(&mut self) {
        let slot = self.slot;
        // Dropped here, with the lock released: it may take long.
        let detached = self
            .per_mm
            .lock
            .with(|mirrors, _| mirrors.0.get_mut(slot).and_then(Option::take));
        drop(detached);
    }
}

/// A shadow, locked for the device to use. It can be looked at, not changed.
#[must_use = "the shadow is unlocked when the guard is dropped"]
pub struct ShadowGuard<'a, T: PerMmMirror> {
    mirrors: invlock::ShadowGuard<'a, Mirrors<T>, T::Backend>,
    slot: usize,
}

impl<T: PerMmMirror> Deref for ShadowGuard<'_, T> {
    type Target = T::Shadow;

    fn deref(&self) -> &T::Shadow {
        match &self.mirrors.0[self.slot] {
            Some(attached) => &attached.shadow,
            None => unreachable!("guards borrow their attachment, which has the slot"),
        }
    }
}

impl<T: PerMmMirror> Subscription for Attachment<T> {
    type Mirror = T;
    type Guard<'a> = ShadowGuard<'a, T>;

    fn mirror(&self) -> &T {
        &self.mirror
    }

    fn mm(&self) -> &Mm {
        self.per_mm.mm()
    }

    fn range(&self) -> &PageRange {
        &PageRange::ALL
    }

    fn lock(&self) -> ShadowGuard<'_, T> {
        ShadowGuard {
            mirrors: self.per_mm.lock.lock(),
            slot: self.slot,
        }
    }

    fn read(
        &self,
        range: PageRange,
        _locking: Locking,
        deadline: &Deadline,
        pfns: &mut [usize],
        reserve: Option<&mut T::Reserve>,
        read: impl FnOnce(&Record, &mut [usize]) -> Result<bool>,
    ) -> Result<Option<Self::Guard<'_>>> {
        let read = |reading: &Reading<'_, '_, T>, pfns: &mut [usize]| {
            let whole = read(&reading.marked().record(), pfns)?;
            Ok(whole.then_some(()))
        };
        let (guard, _) = self.publish(range, deadline, pfns, reserve, read)?;
        Ok(guard)
    }
}

impl<T: PerMmMirror> Sealed for Attachment<T> {}
