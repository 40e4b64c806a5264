// SPDX-License-Identifier: GPL-2.0

//! KUnit suites for [`mmu_notifier_helpers`] against the real memory management.
//!
//! The module stands where a driver stands: it uses the public interface and nothing else. The
//! suites run when it is loaded, if KUnit is enabled (`kunit.enable=1 kunit.autorun=1`).
//!
//! # Layout
//!
//! - [`interval`] and [`per_mm`]: the two kinds of notifier; [`fault`]: reading entries;
//!   [`process`]: all of that against a process that forks, changes its memory, is reaped and
//!   exits.
//! - [`migrate`], [`exclusive`] and [`device_memory`]: pages that move, by the places that
//!   [`ffi_mover`] has for them, within the system's memory and to a [`device`].
//! - [`dma`], with [`ffi_dma`]: DMA mapping, for devices that do not exist.
//! - [`ffi_recorder`]: the drivers under test, which record what they are told and shown.
//! - [`ffi_mm`]: address spaces without a process, which belong to one test alone.
//! - [`ffi_device`], [`puppet`]: processes that make the system calls that a test asks for.
//! - [`ledger`]: what contexts hold on to; [`stage`]: an address space with an invalidation in
//!   flight, which [`ffi_hold`] holds up.
//! - [`thread`], [`gate`], [`wait`]: other threads, and where they wait for one another.
//!
//! A case fails by returning an error, so that what it holds is dropped: KUnit's own assertions end
//! the thread and leave subscriptions behind.

#[macro_use]
mod check;
mod bindings;
#[cfg(CONFIG_DEVICE_PRIVATE)]
mod device;
#[cfg(CONFIG_DEVICE_PRIVATE)]
mod device_memory;
mod dma;
#[cfg(CONFIG_DEVICE_PRIVATE)]
mod exclusive;
mod fault;
mod ffi_device;
mod ffi_dma;
mod ffi_hold;
mod ffi_mm;
#[cfg(CONFIG_DEVICE_PRIVATE)]
mod ffi_mover;
mod ffi_recorder;
mod gate;
mod interval;
mod ledger;
#[cfg(CONFIG_DEVICE_PRIVATE)]
mod migrate;
mod per_mm;
mod process;
mod puppet;
mod stage;
mod thread;
mod wait;

use ffi_device::Suites;

kernel::prelude::module! {
    type: Suites,
    name: "mmu_notifier_helpers_kunit",
    authors: ["mmu_notifier_helpers maintainers"],
    description: "KUnit suites for mmu_notifier_helpers",
    license: "GPL",
}
