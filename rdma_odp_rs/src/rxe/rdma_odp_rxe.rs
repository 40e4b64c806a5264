// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! On-demand paging of soft-RoCE.
//!
//! Port of `drivers/infiniband/sw/rxe/rxe_odp.c` with its C ABI kept, so that the rest of the
//! driver is as it was. The device is software: what it moves between packets and memory, it
//! moves through the pages of a region, under the region's `umem_mutex`, which invalidation needs
//! as well. All of it runs in a work queue or in a system call and may sleep.
//!
//! What it does not take over from C:
//!
//! - C copies from the start of each page wherever the transfer starts in it, and to the start of
//!   the packet whatever is there already. What is not aligned or reaches into a second page is
//!   corrupted, and nobody is told.
//! - C finds pages by iova as if that were the virtual address. A region where they differ cannot
//!   be used, and C looks for its pages outside the page list.
//! - C advises on regions that are pinned as if they paged on demand.
//! - C writes to pages that nobody marks dirty. If their page-table entry is clean (shared memory
//!   that was only read, `MADV_FREE`), reclaim throws the data away.
//! - C has no region of the whole address space (implicit on-demand paging), and none of huge
//!   pages.
//!
//! # Layout
//!
//! - [`window`]: from iova to pages; [`transfer`]: moving bytes; [`atomic`]: atomic operations;
//!   [`advice`]: prefetching. Pure, run on the host.
//! - `ffi_rxe`: the C ABI, and the driver's memory region; `ffi_umem`: the core's.
//! - `implicit`: regions of the whole address space; `ffi_shrinker`: giving them back.
//!
//! # What it relies on
//!
//! The core's Rust half: it changes a page list under the `umem_mutex` only, where C's has
//! `hmm_range_fault()` write to it before it takes the mutex and looks whether that was disturbed,
//! so that somebody else who uses the same pages meanwhile may use one that is gone. It has one
//! entry for a huge page of a region, and an anchor keeps the address space that it stands for. And
//! it marks pages dirty that a device whose data the CPU moves may have written to, when their
//! mapping ends.
//!
//! # Lock order
//!
//! `creating` of an implicit region → the `mmap` lock, by what the core does below it. The
//! `umem_mutex` and the spin locks (all implicit regions → children of one) are taken from
//! invalidations and from reclaim, so no memory is allocated under them.

pub mod advice;
pub mod atomic;
#[cfg(CONFIG_RUST)]
mod bindings;
#[cfg(CONFIG_RUST)]
mod ffi_rxe;
#[cfg(CONFIG_RUST)]
mod ffi_shrinker;
#[cfg(CONFIG_RUST)]
mod ffi_umem;
#[cfg(CONFIG_RUST)]
mod implicit;
pub mod transfer;
pub mod window;
