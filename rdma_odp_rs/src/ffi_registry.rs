// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! The registry of contexts: one for the subsystem, behind a mutex that C defines, since `ib_core`
//! has no place of ours where a lock could be initialised.

use crate::{bindings, per_mm::Registry};
use core::{
    cell::UnsafeCell,
    ops::{Deref, DerefMut},
};
use kernel::types::NotThreadSafe;

struct Shared(UnsafeCell<Registry>);

// SAFETY: Nobody reaches the content but through a guard, one at a time; contexts and keys can be
// sent.
unsafe impl Sync for Shared {}

static REGISTRY: Shared = Shared(UnsafeCell::new(None));

/// The registry, locked.
///
/// # Invariants
///
/// Owns the mutex.
pub(crate) struct Guard(NotThreadSafe);

/// Locks the registry.
///
/// # Context
///
/// Sleeps.
pub(crate) fn lock() -> Guard {
    // SAFETY: Takes a mutex that is defined in C.
    unsafe { bindings::odp_registry_lock() };
    // INVARIANT: It was just taken.
    Guard(NotThreadSafe)
}

impl Deref for Guard {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        // SAFETY: The mutex is held, by the type invariant.
        unsafe { &*REGISTRY.0.get() }
    }
}

impl DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut Registry {
        // SAFETY: The mutex is held, by the type invariant, and this guard is borrowed mutably.
        unsafe { &mut *REGISTRY.0.get() }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // SAFETY: The mutex is held, by the type invariant.
        unsafe { bindings::odp_registry_unlock() };
    }
}
