// SPDX-License-Identifier: GPL-2.0

//! One lock, generic over its backend, as in `rust/kernel/sync/lock.rs`.
//!
//! All backends are the same mutex here. They differ as types, and that is what is tested with
//! them; that nothing sleeps under a spinlock is for the kernel's lockdep.

use crate::{
    str::CStr,
    sync::{host, LockClassKey},
    types::NotThreadSafe,
};
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
    ops::{Deref, DerefMut},
    pin::Pin,
};
use pin_init::{pin_data, pin_init, PinInit, Wrapper};
use std::sync::{LockResult, PoisonError, TryLockError};

pub mod mutex {
    //! A lock whose waiters sleep, as in `rust/kernel/sync/lock/mutex.rs`.

    /// An initialiser for a [`Mutex`] with a lock class of its own.
    #[macro_export]
    macro_rules! new_mutex {
        ($inner:expr $(, $name:literal)? $(,)?) => {
            $crate::sync::Mutex::new(
                $inner, $crate::optional_name!($($name)?), $crate::static_lock_class!())
        };
    }

    /// A mutex.
    pub type Mutex<T> = super::Lock<T, MutexBackend>;

    /// A guard of a [`Mutex`].
    pub type MutexGuard<'a, T> = super::Guard<'a, T, MutexBackend>;

    /// The backend of a [`Mutex`].
    pub struct MutexBackend;

    // SAFETY: The trait has no method.
    unsafe impl super::Backend for MutexBackend {}
}

pub mod spinlock {
    //! A lock whose waiters spin, as in `rust/kernel/sync/lock/spinlock.rs`.

    /// An initialiser for a [`SpinLock`] with a lock class of its own.
    #[macro_export]
    macro_rules! new_spinlock {
        ($inner:expr $(, $name:literal)? $(,)?) => {
            $crate::sync::SpinLock::new(
                $inner, $crate::optional_name!($($name)?), $crate::static_lock_class!())
        };
    }

    /// A spinlock.
    pub type SpinLock<T> = super::Lock<T, SpinLockBackend>;

    /// A guard of a [`SpinLock`].
    pub type SpinLockGuard<'a, T> = super::Guard<'a, T, SpinLockBackend>;

    /// The backend of a [`SpinLock`].
    pub struct SpinLockBackend;

    // SAFETY: The trait has no method.
    unsafe impl super::Backend for SpinLockBackend {}
}

/// What kind of lock it is. Without methods here, so that it can be named, but not implemented in
/// code that also compiles in the kernel.
///
/// # Safety
///
/// None here. In the kernel, an implementer excludes all other owners between locking and
/// unlocking.
pub unsafe trait Backend {}

/// A panic under a lock is a test that fails, which is said elsewhere.
pub(super) fn ignore_poison<G>(result: LockResult<G>) -> G {
    result.unwrap_or_else(PoisonError::into_inner)
}

/// A lock and what it protects.
#[pin_data]
pub struct Lock<T: ?Sized, B: Backend> {
    raw: host::Mutex<()>,
    _backend: PhantomData<B>,
    #[pin]
    data: UnsafeCell<T>,
}

// SAFETY: It can go where its data can go.
unsafe impl<T: ?Sized + Send, B: Backend> Send for Lock<T, B> {}

// SAFETY: Only the owner of `raw` reaches the data, so no two threads have it at a time.
unsafe impl<T: ?Sized + Send, B: Backend> Sync for Lock<T, B> {}

impl<T, B: Backend> Lock<T, B> {
    /// An initialiser.
    pub fn new(
        t: impl PinInit<T>,
        _name: &'static CStr,
        _key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            raw: host::Mutex::new(()),
            _backend: PhantomData,
            data <- UnsafeCell::pin_init(t),
        })
    }
}

impl<T: ?Sized, B: Backend> Lock<T, B> {
    /// Takes the lock.
    pub fn lock(&self) -> Guard<'_, T, B> {
        Guard::new(self, ignore_poison(self.raw.lock()))
    }

    /// Takes the lock if nobody has it.
    #[must_use = "if unused, the lock will be immediately unlocked"]
    pub fn try_lock(&self) -> Option<Guard<'_, T, B>> {
        match self.raw.try_lock() {
            Ok(raw) => Some(Guard::new(self, raw)),
            Err(TryLockError::Poisoned(poisoned)) => Some(Guard::new(self, poisoned.into_inner())),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Access to what a lock protects, until it is dropped.
///
/// # Invariants
///
/// `raw` is a guard of `lock.raw`, and is there except while [`CondVar::wait`] sleeps.
///
/// [`CondVar::wait`]: super::CondVar::wait
#[must_use = "the lock unlocks immediately when the guard is unused"]
pub struct Guard<'a, T: ?Sized, B: Backend> {
    lock: &'a Lock<T, B>,
    raw: Option<host::MutexGuard<'a, ()>>,
    _not_send: NotThreadSafe,
}

// SAFETY: A shared reference to the guard gives no more than one to the data.
unsafe impl<T: Sync + ?Sized, B: Backend> Sync for Guard<'_, T, B> {}

impl<'a, T: ?Sized, B: Backend> Guard<'a, T, B> {
    fn new(lock: &'a Lock<T, B>, raw: host::MutexGuard<'a, ()>) -> Self {
        // INVARIANT: The callers lock `lock.raw`.
        Self {
            lock,
            raw: Some(raw),
            _not_send: NotThreadSafe,
        }
    }

    /// The lock that this guards.
    pub fn lock_ref(&self) -> &'a Lock<T, B> {
        self.lock
    }

    /// The data, pinned.
    pub fn as_mut(&mut self) -> Pin<&mut T> {
        // SAFETY: The lock is held, by the type invariant, the guard is borrowed for as long as the
        // reference lives, and the data is structurally pinned in the lock.
        unsafe { Pin::new_unchecked(&mut *self.lock.data.get()) }
    }

    /// Lets `wait` unlock and lock again.
    pub(super) fn replace_raw(
        &mut self,
        wait: impl FnOnce(host::MutexGuard<'a, ()>) -> host::MutexGuard<'a, ()>,
    ) {
        // INVARIANT: What a condition variable gives back is a guard of the mutex that it took.
        self.raw = self.raw.take().map(wait);
    }
}

impl<T: ?Sized, B: Backend> Deref for Guard<'_, T, B> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: The lock is held, by the type invariant, and the guard is borrowed for as long as
        // the reference lives.
        unsafe { &*self.lock.data.get() }
    }
}

impl<T: ?Sized + Unpin, B: Backend> DerefMut for Guard<'_, T, B> {
    fn deref_mut(&mut self) -> &mut T {
        self.as_mut().get_mut()
    }
}
