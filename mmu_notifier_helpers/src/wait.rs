// SPDX-License-Identifier: GPL-2.0

//! Waiting with a deadline, and until killed.
//!
//! `kernel::sync::CondVar` can be interrupted by any signal or by none. A device fault must end
//! when the task is killed, and must not when it gets a mere `SIGCHLD`.

#[cfg(not(CONFIG_RUST))]
pub use host::{Deadline, WaitQueue};
#[cfg(CONFIG_RUST)]
pub use in_kernel::{fatal_signal_pending, Clock, Deadline, WaitQueue};

#[cfg(CONFIG_RUST)]
mod in_kernel {
    use crate::{bindings as extra, retry::Patience};
    use core::marker::PhantomPinned;
    use kernel::{
        bindings,
        prelude::*,
        sync::{
            lock::{Backend, Guard},
            LockClassKey,
        },
        time::{Delta, Instant, Monotonic},
        types::Opaque,
    };

    /// Whether the current task is being killed, so that long work should end with `EINTR`.
    ///
    /// C: `fatal_signal_pending(current)`.
    pub fn fatal_signal_pending() -> bool {
        // SAFETY: Looks at the current task only.
        unsafe { extra::mnh_fatal_signal_pending() }
    }

    /// Until when somebody is willing to wait.
    #[derive(Clone)]
    pub struct Deadline(Instant<Monotonic>);

    impl Deadline {
        /// `patience` from now on.
        pub fn after(patience: Delta) -> Self {
            Self(Instant::now() + patience)
        }

        /// Whether it has passed.
        pub fn passed(&self) -> bool {
            self.left().is_negative() || self.left().is_zero()
        }

        /// How long until then. Negative when it has passed.
        pub(crate) fn left(&self) -> Delta {
            self.0 - Instant::now()
        }
    }

    /// How long a fault puts up with collisions: what [`Patience`] is measured by.
    pub struct Clock {
        early: Deadline,
        late: Deadline,
    }

    impl Clock {
        /// One that starts now, and gives `timeout`.
        pub fn start(timeout: Delta) -> Self {
            Self {
                early: Deadline::after(Delta::from_nanos(timeout.as_nanos() / 2)),
                late: Deadline::after(timeout),
            }
        }

        /// When to stop being optimistic.
        pub fn early(&self) -> &Deadline {
            &self.early
        }

        /// When to stop.
        pub fn late(&self) -> &Deadline {
            &self.late
        }

        /// What is left.
        pub fn patience(&self) -> Patience {
            if self.late.passed() {
                Patience::Over
            } else if self.early.passed() {
                Patience::Wearing
            } else {
                Patience::Fresh
            }
        }
    }

    /// Where tasks wait for a condition that a lock protects.
    ///
    /// C: `wait_queue_head_t`.
    #[pin_data]
    pub struct WaitQueue {
        #[pin]
        head: Opaque<bindings::wait_queue_head>,
        #[pin]
        _pin: PhantomPinned,
    }

    // SAFETY: A wait queue has a lock of its own and may be used on any thread.
    unsafe impl Send for WaitQueue {}
    // SAFETY: As above.
    unsafe impl Sync for WaitQueue {}

    impl WaitQueue {
        /// A queue with nobody in it.
        pub fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
            pin_init!(Self {
                // SAFETY: `slot` is pinned memory for a queue; name and key are static.
                head <- Opaque::ffi_init(|slot| unsafe {
                    bindings::__init_waitqueue_head(slot, name.as_char_ptr(), key.as_ptr())
                }),
                _pin: PhantomPinned,
            })
        }

        /// Unlocks `guard`, sleeps until somebody calls [`Self::notify_all`], and locks again. It
        /// may return for no reason, so the caller looks at its condition again.
        ///
        /// # Context
        ///
        /// Process context, with no other lock held that may not sleep.
        ///
        /// # Errors
        ///
        /// `EBUSY` when the deadline has passed, `EINTR` when the task is being killed. The lock is
        /// held again in every case.
        ///
        /// C: `prepare_to_wait()`, `schedule_timeout()`, `finish_wait()`.
        pub fn wait<'a, T, B: Backend>(
            &self,
            guard: Guard<'a, T, B>,
            deadline: &Deadline,
        ) -> (Guard<'a, T, B>, Result) {
            let lock = guard.lock_ref();
            let wait = Opaque::<bindings::wait_queue_entry>::uninit();
            // SAFETY: Initialises `wait`, which does not move until `finish_wait`.
            unsafe { bindings::init_wait(wait.get()) };
            // SAFETY: Both are valid. Done with the lock held, so no notification is missed that
            // comes after the condition was looked at.
            unsafe {
                bindings::prepare_to_wait(
                    self.head.get(),
                    wait.get(),
                    bindings::TASK_KILLABLE as c_int,
                )
            };
            drop(guard);
            // A jiffy more, so that waking up for the deadline finds it passed.
            let jiffies = kernel::time::msecs_to_jiffies(
                deadline.left().as_millis_ceil().clamp(0, u32::MAX.into()) as u32,
            ) + 1;
            if !deadline.passed() {
                // SAFETY: May sleep by the contract of this method, with no guard held.
                unsafe { bindings::schedule_timeout(jiffies.try_into().unwrap_or(c_long::MAX)) };
            }
            // SAFETY: `wait` was prepared on this queue.
            unsafe { bindings::finish_wait(self.head.get(), wait.get()) };

            let result = if fatal_signal_pending() {
                Err(EINTR)
            } else if deadline.passed() {
                Err(EBUSY)
            } else {
                Ok(())
            };
            (lock.lock(), result)
        }

        /// Wakes everybody.
        ///
        /// # Context
        ///
        /// Any.
        ///
        /// C: `wake_up_all()`.
        pub fn notify_all(&self) {
            // SAFETY: The queue is initialised. Zero means all.
            unsafe {
                bindings::__wake_up(
                    self.head.get(),
                    bindings::TASK_NORMAL,
                    0,
                    core::ptr::null_mut(),
                )
            };
        }
    }
}

#[cfg(not(CONFIG_RUST))]
mod host {
    use kernel::{
        prelude::*,
        sync::{
            atomic::{Atomic, Relaxed},
            lock::{Backend, Guard},
            CondVar, LockClassKey,
        },
    };

    /// A moment that somebody declares to have come: the model checker has no time. And the fate of
    /// the task that waits until then, which somebody declares to be killed.
    pub struct Deadline(Atomic<usize>);

    const AHEAD: usize = 0;
    const PASSED: usize = 1;
    const KILLED: usize = 2;

    impl Default for Deadline {
        fn default() -> Self {
            Self::new()
        }
    }

    impl Deadline {
        /// One that has not come.
        pub fn new() -> Self {
            Self(Atomic::new(AHEAD))
        }

        /// Whether it has passed.
        pub fn passed(&self) -> bool {
            self.0.load(Relaxed) == PASSED
        }

        pub(crate) fn pass(&self) {
            self.0.store(PASSED, Relaxed);
        }

        pub(crate) fn kill(&self) {
            self.0.store(KILLED, Relaxed);
        }

        /// Why to wait no longer.
        fn end(&self) -> Result {
            match self.0.load(Relaxed) {
                PASSED => Err(EBUSY),
                KILLED => Err(EINTR),
                _ => Ok(()),
            }
        }
    }

    /// A condition variable with the interface of the kernel's side.
    #[pin_data]
    pub struct WaitQueue {
        #[pin]
        condvar: CondVar,
    }

    impl WaitQueue {
        /// A queue with nobody in it.
        pub fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
            pin_init!(Self {
                condvar <- CondVar::new(name, key),
            })
        }

        /// Waits for a notification, the deadline, or to be killed.
        pub fn wait<'a, T, B: Backend>(
            &self,
            mut guard: Guard<'a, T, B>,
            deadline: &Deadline,
        ) -> (Guard<'a, T, B>, Result) {
            if deadline.end().is_ok() {
                self.condvar.wait(&mut guard);
            }
            (guard, deadline.end())
        }

        /// Wakes everybody.
        pub fn notify_all(&self) {
            self.condvar.notify_all();
        }
    }
}
