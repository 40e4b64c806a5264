// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! RDMA on-demand paging on a per-mm context.
//!
//! An RDMA card that pages on demand maps a process's memory when it needs it and lets go when the
//! kernel wants it back, in place of pinning all of it at registration. In the kernel's C code each
//! memory region subscribes to invalidations by itself, and regions that belong to one process know
//! of each other through an implicit anchor region.
//!
//! This crate is to hold the port of `drivers/infiniband/core/umem_odp.c` with its C ABI kept, and
//! of its consumer in soft-RoCE, `drivers/infiniband/sw/rxe/rxe_odp.c`, on another shape:
//!
//! - `per_mm`: one context per device and address space, which owns the only subscription, the
//!   `mm` through it, and the tree of the regions registered there;
//! - `umem`: a region: its pages, their DMA addresses, faulting and unmapping;
//! - `ffi`: the C ABI of `include/rdma/ib_umem_odp.h`;
//! - `rxe`, `ffi_rxe`: what soft-RoCE does with a region.
//!
//! It stands on `mmu_notifier_helpers`, whose [interval
//! notifiers](../mmu_notifier_helpers/interval/index.html) carry the sleeping lock that drivers of
//! RDMA cards need. There is no code in it yet.
