// SPDX-License-Identifier: GPL-2.0

//! Waiting for another thread, with an end to it where that thread never comes.

#![forbid(unsafe_code)]

use kernel::{
    io::poll::read_poll_timeout,
    prelude::*,
    sync::{CondVar, CondVarTimeoutResult, Mutex},
    time::{msecs_to_jiffies, Delta},
};

/// How long anything is waited for that must happen: enough for a loaded machine without hardware
/// virtualisation. Passing cases do not wait for it.
pub(crate) const PATIENCE: Delta = Delta::from_secs(60);

/// Waits until `condition` holds, and tells whether it does.
pub(crate) fn eventually(condition: impl Fn() -> bool) -> bool {
    let (step, holds) = (Delta::from_millis(1), |held: &bool| *held);
    read_poll_timeout(|| Ok(condition()), holds, step, PATIENCE).is_ok()
}

/// State that threads change and wait for.
#[pin_data]
pub(crate) struct Waited<S> {
    #[pin]
    state: Mutex<S>,
    #[pin]
    changed: CondVar,
}

impl<S: Unpin> Waited<S> {
    pub(crate) fn new(state: S) -> impl PinInit<Self> {
        pin_init!(Self {
            state <- kernel::new_mutex!(state, "Waited::state"),
            changed <- kernel::new_condvar!("Waited::changed"),
        })
    }

    /// Changes or looks at the state and lets all who wait look at it.
    pub(crate) fn with<R>(&self, change: impl FnOnce(&mut S) -> R) -> R {
        let result = change(&mut self.state.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until `ready` gives something.
    ///
    /// # Errors
    ///
    /// `ETIMEDOUT` after [`PATIENCE`].
    pub(crate) fn wait<R>(&self, mut ready: impl FnMut(&mut S) -> Option<R>) -> Result<R> {
        let mut left = msecs_to_jiffies(PATIENCE.as_millis() as u32);
        let mut state = self.state.lock();
        loop {
            if let Some(result) = ready(&mut state) {
                return Ok(result);
            }
            match self.changed.wait_interruptible_timeout(&mut state, left) {
                CondVarTimeoutResult::Woken { jiffies } => left = jiffies,
                CondVarTimeoutResult::Signal { .. } => return Err(EINTR),
                CondVarTimeoutResult::Timeout => return Err(ETIMEDOUT),
            }
        }
    }

    /// Waits until `ready` gives something, whatever signals come, for ever.
    pub(crate) fn wait_uninterruptible<R>(&self, mut ready: impl FnMut(&mut S) -> Option<R>) -> R {
        let mut state = self.state.lock();
        loop {
            if let Some(result) = ready(&mut state) {
                return result;
            }
            self.changed.wait(&mut state);
        }
    }
}
