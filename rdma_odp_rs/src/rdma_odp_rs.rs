// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! RDMA on-demand paging on a per-mm context.
//!
//! An RDMA card that pages on demand maps a process's memory when it needs it and lets go when the
//! kernel wants it back, in place of pinning all of it at registration. This is the part of
//! `ib_core` that its drivers share, ported from `drivers/infiniband/core/umem_odp.c`. The
//! functions have the names and types that they have there, and a region (`struct ib_umem_odp`) its
//! layout, so that drivers are built and linked as before.
//!
//! # Shape
//!
//! ```text
//!              C                                   here
//!
//!   mm: tree of subscriptions             mm: tree of subscriptions
//!    |      |      |      ^                          |
//!    |      |      |      | mm, without a            | one, whole address space
//!    v      v      v      | reference                v
//!  region  child  child  anchor            UcontextPerMm (device, mm, process)
//!                                            |           ^          ^
//!                                            | interval  |          | references
//!                                            | tree      |          |
//!                                            v           |          |
//!                                         region  child  child       anchor
//! ```
//!
//! In C each region subscribes to the invalidations of its addresses by itself. An implicit region,
//! which has no addresses, is an anchor from which the driver makes children, and stands for an
//! address space that it has no reference to. Here there is a context for each device and address
//! space, which owns the one subscription, and through it the `mm`; regions and anchors have
//! references to it.
//!
//! - A region comes and goes under a lock of the context. In C it waits for every invalidation in
//!   flight in the process when it goes; here for callbacks that run.
//! - Only an invalidation of a region's own pages disturbs its faults, as in C: its record
//!   (`umem_odp->notifier`) stays, in a tree of ours, and its sequence is the last that its driver
//!   saw. [Why that is enough](ffi_tree).
//! - An invalidation that must not sleep is refused if a region overlaps it, since drivers refuse
//!   it, or if somebody registers a region meanwhile.
//!
//! # Pages
//!
//! A fault reads page-table entries into a buffer of its own, a bounded number at a time, and
//! merges them into the region's list under the region's mutex, after the check. (C has
//! `hmm_range_fault()` write to the list without the mutex, which others read meanwhile.) It ends:
//! after some collisions it holds off who can be held off, and after a time it gives up
//! ([`mmu_notifier_helpers::retry`]); C tries for ever.
//!
//! What may be mapped is noted beside the list, so that unmapping does not visit what is not. An
//! entry of a region of huge pages is one element of the list, as drivers read it; C has hmm write
//! an element for each page of the CPU there.
//!
//! # Modules
//!
//! - `per_mm`: the context, and where it is found; `ffi_tree`: its subscription and its tree;
//!   `ffi_registry`, `ffi_tgid`: what it needs.
//! - [`umem`]: faulting and unmapping. [`region`]: addresses; [`entry`]: an element of the list;
//!   [`mapped`]: where there are any. Pure, these run on the host.
//! - `ffi_umem`: a region in memory; `ffi_fault`: reading the page tables.
//! - `ffi`: the C ABI of `include/rdma/ib_umem_odp.h`; `kbuild/odp/odp_shims.c` exports it.
//! - `bindings`: the C declarations, and the checks that the layout is the same.
//!
//! # Locks, in the order in which they nest
//!
//! 1. `mm->mmap_lock`, the locks of the VMAs, those of the reverse map,
//! 2. the lock of the tree of a context,
//! 3. `umem_odp->umem_mutex`.
//!
//! Reclaim takes the last two, so no memory is allocated under them.

#[cfg(CONFIG_RUST)]
mod bindings;
pub mod entry;
#[cfg(CONFIG_RUST)]
mod ffi;
#[cfg(CONFIG_RUST)]
mod ffi_fault;
#[cfg(CONFIG_RUST)]
mod ffi_registry;
#[cfg(CONFIG_RUST)]
mod ffi_tgid;
#[cfg(CONFIG_RUST)]
mod ffi_tree;
#[cfg(CONFIG_RUST)]
mod ffi_umem;
pub mod mapped;
#[cfg(CONFIG_RUST)]
mod per_mm;
pub mod region;
pub mod umem;
