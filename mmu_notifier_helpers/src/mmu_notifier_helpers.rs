// SPDX-License-Identifier: GPL-2.0

//! Helpers for drivers that mirror a process's page tables.
//!
//! A device that uses a process's own address space keeps a *shadow* of its page tables, and must
//! drop entries of it whenever the kernel changes the originals. This crate owns the locking that
//! this takes: a driver's shadow lives inside a notifier, and there are three ways to it, none of
//! which can be taken at the wrong time:
//!
//! | way | when | what the driver may do |
//! | --- | --- | --- |
//! | [`Mirror::zap`](interval::Mirror::zap) | the kernel invalidates a range | remove entries |
//! | the closure of [`IntervalNotifier::fault`](interval::IntervalNotifier::fault) | page-table entries were read and no invalidation interfered | add entries |
//! | [`IntervalNotifier::lock`](interval::IntervalNotifier::lock) | any time | look entries up and use the memory that they name, until the guard is dropped |
//!
//! # Layout
//!
//! - [`range`]: ranges of whole pages and the view of an invalidation. Pure, runs on the host.
//! - [`invlock`]: the protocol, around a shadow. Pure, with [`in_flight`] and [`readers`] for its
//!   bookkeeping, and [`wait`] for how it waits.
//! - [`retry`]: how often a fault tries, and how. Pure.
//! - [`interval`]: the notifier that owns a shadow (`mmu_interval_notifier_*`).
//! - [`fault`]: reading page-table entries for the shadow (`hmm_range_fault()` and its variant
//!   without the mmap lock), retried on collisions.
//! - `bindings`: what bindgen makes of the C headers that the `kernel` crate does not bind, and of
//!   our shims for their inline functions.
//!
//! # Locks, in the order in which they nest
//!
//! 1. `mm->mmap_lock`,
//! 2. the locks of the reverse map (`i_mmap_rwsem`, `anon_vma->rwsem`),
//! 3. the shadow's lock.
//!
//! Reclaim takes the third through the second, so nothing under the shadow's lock may allocate
//! with `__GFP_RECLAIM`; memory for publishing is reserved before.

// The name by which the macros of pin-init find their library on the host.
#[cfg(not(CONFIG_RUST))]
extern crate pin_init as pinned_init;

#[cfg(CONFIG_RUST)]
mod bindings;
#[cfg(CONFIG_RUST)]
pub mod fault;
pub mod in_flight;
#[cfg(CONFIG_RUST)]
pub mod interval;
pub mod invlock;
pub mod range;
pub mod readers;
pub mod retry;
pub mod wait;

#[cfg(CONFIG_RUST)]
kernel::prelude::module! {
    type: MmuNotifierHelpers,
    name: "mmu_notifier_helpers",
    authors: ["mmu_notifier_helpers maintainers"],
    description: "Safe helpers for drivers that mirror a process's page tables",
    license: "GPL",
}

/// The module only lends its code, so it has no state.
#[cfg(CONFIG_RUST)]
struct MmuNotifierHelpers;

#[cfg(CONFIG_RUST)]
impl kernel::Module for MmuNotifierHelpers {
    fn init(_module: &'static kernel::ThisModule) -> kernel::error::Result<Self> {
        Ok(Self)
    }
}
