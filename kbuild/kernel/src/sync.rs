// SPDX-License-Identifier: GPL-2.0

//! Synchronisation, as in `rust/kernel/sync.rs`.

use core::pin::Pin;
use pin_init::{pin_data, pin_init, PinInit};

use crate::str::CStr;

pub mod atomic;
pub mod lock;

pub use crate::{new_condvar, new_mutex, new_spinlock, static_lock_class};
pub use lock::{
    mutex::{Mutex, MutexGuard},
    spinlock::{SpinLock, SpinLockGuard},
};

/// What the host's threads bring: the same items from std and from loom.
mod host {
    #[cfg(loom)]
    pub(super) use loom::sync::{atomic, Condvar, Mutex, MutexGuard};
    #[cfg(not(loom))]
    pub(super) use std::sync::{atomic, Condvar, Mutex, MutexGuard};
}

/// A lockdep class, which means nothing here.
pub struct LockClassKey(());

impl LockClassKey {
    /// A class in static memory.
    ///
    /// # Safety
    ///
    /// None here. In the kernel the class must stay where it is, and never be dropped.
    pub const unsafe fn new_static() -> Self {
        Self(())
    }
}

/// A lock class of its own for each place where this stands.
#[macro_export]
macro_rules! static_lock_class {
    () => {{
        static CLASS: $crate::sync::LockClassKey =
            // SAFETY: It lies in static memory, where nothing is dropped.
            unsafe { $crate::sync::LockClassKey::new_static() };
        $crate::prelude::Pin::static_ref(&CLASS)
    }};
}

/// The given name, or one made of the place in the source.
#[doc(hidden)]
#[macro_export]
macro_rules! optional_name {
    () => {
        $crate::c_str!(::core::concat!(::core::file!(), ":", ::core::line!()))
    };
    ($name:literal) => {
        $crate::c_str!($name)
    };
}

/// An initialiser for a [`CondVar`] with a lock class of its own.
#[macro_export]
macro_rules! new_condvar {
    ($($name:literal)?) => {
        $crate::sync::CondVar::new($crate::optional_name!($($name)?), $crate::static_lock_class!())
    };
}

/// A condition variable.
///
/// There are no signals on the host, so there is only the uninterruptible wait.
#[pin_data]
pub struct CondVar {
    inner: host::Condvar,
}

impl CondVar {
    /// An initialiser.
    pub fn new(_name: &'static CStr, _key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            inner: host::Condvar::new(),
        })
    }

    /// Gives up the lock of `guard`, sleeps until notified, and takes the lock again. May return
    /// without a notification.
    pub fn wait<T: ?Sized, B: lock::Backend>(&self, guard: &mut lock::Guard<'_, T, B>) {
        guard.replace_raw(|raw| lock::ignore_poison(self.inner.wait(raw)));
    }

    /// Wakes one waiter up, if there is one.
    pub fn notify_one(&self) {
        self.inner.notify_one();
    }

    /// Wakes all waiters up.
    pub fn notify_all(&self) {
        self.inner.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{alloc::KBox, prelude::*};
    use core::marker::PhantomPinned;
    #[cfg(loom)]
    use loom::{model, sync::Arc, thread};
    #[cfg(not(loom))]
    use std::{sync::Arc, thread};

    /// As the only interleaving there is to be had.
    #[cfg(not(loom))]
    fn model(test: impl Fn()) {
        test();
    }

    #[pin_data]
    struct Shared {
        #[pin]
        ready: Mutex<bool>,
        #[pin]
        woken: CondVar,
        #[pin]
        count: SpinLock<usize>,
    }

    fn shared() -> Arc<Pin<KBox<Shared>>> {
        let init = pin_init!(Shared {
            ready <- new_mutex!(false),
            woken <- new_condvar!("woken"),
            count <- new_spinlock!(0, "count"),
        });
        Arc::new(KBox::pin_init(init, GFP_KERNEL).unwrap())
    }

    #[test]
    fn a_lock_that_is_held_cannot_be_tried() {
        model(|| {
            let shared = shared();
            let guard = shared.ready.lock();
            assert!(core::ptr::eq(guard.lock_ref(), &shared.ready));
            assert!(shared.ready.try_lock().is_none());
            assert!(shared.count.try_lock().is_some());
            drop(guard);
            assert!(shared.ready.try_lock().is_some());
        });
    }

    #[test]
    fn a_lock_keeps_others_out() {
        model(|| {
            let shared = shared();
            let other = {
                let shared = shared.clone();
                thread::spawn(move || *shared.count.lock() += 1)
            };
            *shared.count.lock() += 1;
            other.join().unwrap();
            assert_eq!(*shared.count.lock(), 2);
        });
    }

    #[test]
    fn a_waiter_gives_up_the_lock_and_has_it_again() {
        model(|| {
            let shared = shared();
            let other = {
                let shared = shared.clone();
                thread::spawn(move || {
                    *shared.ready.lock() = true;
                    shared.woken.notify_all();
                })
            };
            let mut ready = shared.ready.lock();
            while !*ready {
                shared.woken.wait(&mut ready);
            }
            assert!(shared.ready.try_lock().is_none());
            drop(ready);
            other.join().unwrap();
        });
    }

    #[test]
    fn a_lock_takes_what_must_not_move() {
        #[pin_data]
        struct Pinned {
            value: usize,
            #[pin]
            _pin: PhantomPinned,
        }

        model(|| {
            let init = new_mutex!(pin_init!(Pinned {
                value: 1,
                _pin: PhantomPinned,
            }));
            let lock = KBox::pin_init(init, GFP_KERNEL).unwrap();
            assert_eq!(lock.lock().as_mut().as_ref().get_ref().value, 1);
        });
    }

    #[test]
    fn atomics_add() {
        use atomic::{Acquire, Atomic, Full, Release};

        model(|| {
            let count = Atomic::new(1u32);
            assert_eq!(count.fetch_add(2, Full), 1);
            assert_eq!(count.load(Acquire), 3);
            count.store(7, Release);
            assert_eq!(count.load(Acquire), 7);
        });
    }
}
