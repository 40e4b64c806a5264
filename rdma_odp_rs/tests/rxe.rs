// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! The modules of soft-RoCE's on-demand paging that need no kernel, with their tests. In the kernel
//! they are a crate of their own.

// What only the kernel's side of the crate uses.
#![allow(dead_code, unreachable_pub)]

#[path = "../src/rxe/rdma_odp_rxe.rs"]
mod rxe;
