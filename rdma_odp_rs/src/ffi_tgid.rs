// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! Processes, by their number.

use crate::bindings as extra;
use core::ptr::NonNull;
use kernel::bindings;

/// A process. It may have ended.
///
/// # Invariants
///
/// Owns a reference.
///
/// C: `struct pid`.
pub(crate) struct Tgid(NonNull<bindings::pid>);

// SAFETY: A reference may be put by any thread.
unsafe impl Send for Tgid {}
// SAFETY: All that can be done with a shared one is thread-safe.
unsafe impl Sync for Tgid {}

impl Tgid {
    /// The process of the current task.
    pub(crate) fn current() -> Self {
        // SAFETY: The current task has a thread group for as long as it runs.
        // INVARIANT: The function has taken a reference.
        Self(unsafe { NonNull::new_unchecked(extra::odp_current_tgid()) })
    }

    /// What it is told apart by for as long as there is a reference.
    pub(crate) fn address(&self) -> usize {
        self.0.as_ptr() as usize
    }

    /// Gives the reference away.
    pub(crate) fn into_raw(self) -> *mut bindings::pid {
        let raw = self.0.as_ptr();
        core::mem::forget(self);
        raw
    }
}

impl Clone for Tgid {
    fn clone(&self) -> Self {
        // SAFETY: There is a reference.
        unsafe { extra::odp_get_pid(self.0.as_ptr()) };
        // INVARIANT: One was just taken.
        Self(self.0)
    }
}

impl Drop for Tgid {
    fn drop(&mut self) {
        // SAFETY: The reference is ours, by the type invariant.
        unsafe { bindings::put_pid(self.0.as_ptr()) };
    }
}
