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
//! | [zap] | the kernel invalidates a range | remove entries |
//! | [publish], from [fault] | entries were read and no invalidation interfered | add entries |
//! | [lock] | any time | look entries up and use their memory, until the guard is dropped |
//!
//! | in | the shadow's lock | sleeping | allocating |
//! | --- | --- | --- | --- |
//! | [zap] | held | if the lock sleeps and the invalidation may | without `__GFP_RECLAIM` |
//! | [publish] | held | no | no: what it takes was reserved before |
//! | the guard | held | if the lock sleeps | without `__GFP_RECLAIM` |
//! | [fault], [look] | taken by it | it does | it does not, but page faults do |
//!
//! There are two kinds of notifier:
//!
//! | | [PerMm] with [Attachment]s | [IntervalNotifier] |
//! | --- | --- | --- |
//! | watches | a whole address space | a range of one |
//! | the shadow's lock | spins | sleeps |
//! | a fault collides with | invalidations of what it reads | invalidations of what is watched |
//! | invalidations that may not sleep | succeed | are refused while the lock is taken |
//! | protocol | [`invlock`] | the core's sequence |
//!
//! [zap]: mirror::Mirror::zap
//! [publish]: invlock::Publish
//! [lock]: mirror::Subscription::lock
//! [fault]: mirror::Subscription::fault
//! [look]: mirror::Subscription::look
//! [PerMm]: notifier::PerMm
//! [Attachment]: notifier::Attachment
//! [IntervalNotifier]: interval::IntervalNotifier
//!
//! # Layout
//!
//! What runs on the host as well, and needs no bindings:
//!
//! - [`range`]: ranges of whole pages and the view of an invalidation.
//! - [`invlock`]: the protocol, around a shadow; [`in_flight`] and [`readers`] are its bookkeeping,
//!   and [`wait`] is how it waits.
//! - [`retry`]: how often a fault tries, and how.
//! - [`frames`]: which pages of device memory are free.
//!
//! What joins it to the kernel:
//!
//! - [`mirror`]: what a driver implements, and what it gets.
//! - [`notifier`]: one context for each driver and address space (`mmu_notifier_get()`).
//! - [`interval`]: a subscription to a range (`mmu_interval_notifier_*`).
//! - [`fault`]: reading page-table entries (`hmm_range_fault()` and its variant without the mmap
//!   lock); [`pages`] is what comes of it.
//! - [`mmap`]: the mmap lock, killable, and what is done under it.
//! - [`device_memory`]: memory of a device that processes can have pages in (`memremap_pages()`);
//!   [`migrate`] moves pages there and back (`migrate_vma_*`); [`exclusive`] takes pages for the
//!   device alone (`make_device_exclusive()`).
//! - [`dma`]: DMA mapping of the pages that a shadow names (`hmm_dma_map_*`).
//! - `trace`: the tracepoints.
//! - `bindings`: what bindgen makes of the C headers that the `kernel` crate does not bind, and of
//!   our shims for their inline functions.
//!
//! # Locks, in the order in which they nest
//!
//! 1. `mm->mmap_lock`,
//! 2. the locks of the VMAs,
//! 3. the locks of the reverse map (`i_mmap_rwsem`, `anon_vma->rwsem`),
//! 4. the shadow's lock.
//!
//! Reclaim takes the fourth through the third, so nothing under the shadow's lock may allocate
//! with `__GFP_RECLAIM`; memory for publishing is reserved before. Lockdep is taught so when a
//! notifier is made.
//!
//! [`PerMm::get`](notifier::PerMm::get) takes a mutex between the first and the second, and memory
//! under it. Giving up a reference to a context takes it too, so that is not done under the others.
//!
//! # A driver
//!
//! `samples/rust_mmu_mirror.rs` is the whole of a driver whose device loads bytes from the address
//! space of who opened it. It is built, loaded and tested with this crate:
#![cfg_attr(
    all(doc, CONFIG_RUST),
    doc = concat!("```\n", include_str!(env!("MMU_NOTIFIER_HELPERS_SAMPLE")), "```")
)]
// The links to what needs it lead nowhere.
#![cfg_attr(not(CONFIG_DEVICE_PRIVATE), allow(rustdoc::broken_intra_doc_links))]

// The name by which the macros of pin-init find their library on the host.
#[cfg(not(CONFIG_RUST))]
extern crate pin_init as pinned_init;

#[cfg(CONFIG_RUST)]
mod bindings;
#[cfg(CONFIG_DEVICE_PRIVATE)]
pub mod device_memory;
#[cfg(CONFIG_RUST)]
pub mod dma;
#[cfg(CONFIG_DEVICE_PRIVATE)]
pub mod exclusive;
#[cfg(CONFIG_RUST)]
pub mod fault;
pub mod frames;
pub mod in_flight;
#[cfg(CONFIG_RUST)]
pub mod interval;
pub mod invlock;
#[cfg(CONFIG_DEVICE_PRIVATE)]
pub mod migrate;
#[cfg(CONFIG_RUST)]
pub mod mirror;
#[cfg(CONFIG_RUST)]
pub mod mmap;
#[cfg(CONFIG_RUST)]
pub mod notifier;
#[cfg(CONFIG_RUST)]
pub mod pages;
pub mod range;
pub mod readers;
pub mod retry;
#[cfg(CONFIG_RUST)]
mod trace;
pub mod wait;

#[cfg(CONFIG_RUST)]
kernel::prelude::module! {
    type: MmuNotifierHelpers,
    name: "mmu_notifier_helpers",
    authors: ["mmu_notifier_helpers maintainers"],
    description: "Safe helpers for drivers that mirror a process's page tables",
    license: "GPL",
}

/// The module lends its code.
#[cfg(CONFIG_RUST)]
struct MmuNotifierHelpers;

#[cfg(CONFIG_RUST)]
impl Drop for MmuNotifierHelpers {
    fn drop(&mut self) {
        // Waits for what frees contexts of drivers that are unloaded by now: it is code of ours.
        // SAFETY: May sleep here.
        unsafe { kernel::bindings::rcu_barrier() };
    }
}

#[cfg(CONFIG_RUST)]
impl kernel::Module for MmuNotifierHelpers {
    fn init(_module: &'static kernel::ThisModule) -> kernel::error::Result<Self> {
        Ok(Self)
    }
}
