// SPDX-License-Identifier: GPL-2.0

//! A second thread for a test.

#![forbid(unsafe_code)]

use crate::{
    ffi_mm::is_asleep,
    wait::{eventually, Waited},
};
use kernel::{
    prelude::*,
    sync::{aref::ARef, Arc},
    task::Task,
    workqueue,
};

struct State<R> {
    task: Option<ARef<Task>>,
    result: Option<R>,
}

/// A function that runs in a thread of its own.
pub(crate) struct Thread<R>(Arc<Waited<State<R>>>);

impl<R: Send + Unpin + 'static> Thread<R> {
    /// Starts it.
    pub(crate) fn spawn(function: impl FnOnce() -> R + Send + 'static) -> Result<Self> {
        let state = State {
            task: None,
            result: None,
        };
        let shared = Arc::pin_init(Waited::new(state), GFP_KERNEL)?;
        let theirs = shared.clone();
        workqueue::system_unbound().try_spawn(GFP_KERNEL, move || {
            let task = ARef::from(&**kernel::current!());
            theirs.with(|state| state.task = Some(task));
            let result = function();
            theirs.with(|state| state.result = Some(result));
        })?;
        Ok(Self(shared))
    }

    /// Waits until it sleeps or has ended, and tells whether it sleeps.
    pub(crate) fn wait_until_it_sleeps(&self) -> Result<bool> {
        let task = self.0.wait(|state| state.task.clone())?;
        let has_ended = || self.0.with(|state| state.result.is_some());
        if !eventually(|| has_ended() || is_asleep(&task)) {
            return Err(ETIMEDOUT);
        }
        Ok(!has_ended())
    }

    /// Waits for its result.
    pub(crate) fn join(self) -> Result<R> {
        self.0.wait(|state| state.result.take())
    }
}
