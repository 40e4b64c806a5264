// SPDX-License-Identifier: GPL-2.0

//! Userspace stand-in for the kernel's `kernel` crate.
//!
//! The modules of this project that need no bindings (page ranges, the device page table) are
//! compiled twice from the same source: by Kbuild against `rust/kernel`, and by cargo against this
//! package, so that they run under property tests and sanitizers on the host. It offers only what
//! those modules use, with the signatures of the real crate, and is never part of a kernel object.

pub use pin_init as init;

pub mod alloc;
pub mod error;
pub mod page;

/// What `rust/kernel/prelude.rs` exports, as far as it exists here.
pub mod prelude {
    pub use crate::alloc::{flags::*, KBox, KVec};
    pub use crate::error::{code::*, Error, Result};
}
