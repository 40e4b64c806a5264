// SPDX-License-Identifier: GPL-2.0

//! Models that loom explores in every interleaving of their threads that makes a difference:
//! no sampling, and no bound but the size of the model.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test --release -p mmu_notifier_helpers --test loom`, in a
//! target directory of its own. `-- --show-output` tells how many executions each model has.

#![cfg(loom)]

mod explore;
mod invlock;
mod migration;
mod sketch;
mod world;
