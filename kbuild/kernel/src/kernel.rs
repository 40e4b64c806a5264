// SPDX-License-Identifier: GPL-2.0

//! Userspace stand-in for the kernel's `kernel` crate.
//!
//! The modules of this project that need no bindings (page ranges, the collision-retry lock, the
//! device page table) are compiled twice from the same source: by Kbuild against `rust/kernel`, and
//! by cargo against this package, so that they run under property tests, the model checker and
//! sanitizers on the host. It offers only what those modules use, with the signatures of the real
//! crate, and is never part of a kernel object.
//!
//! Threads are those of std. Under `cfg(loom)` they are those of loom, which runs a test in every
//! interleaving; locks, condition variables and atomics then work inside `loom::model()` only.
//!
//! A crate that uses `pin_init` names it as in the kernel, and tells the macros of that library,
//! which expand to the name that it has on crates.io, where to find it:
//!
//! ```ignore
//! #[cfg(not(CONFIG_RUST))]
//! extern crate pin_init as pinned_init;
//! ```

extern crate pin_init as pinned_init;

#[doc(hidden)]
pub use pin_init as __pin_init;

pub mod alloc;
pub mod error;
pub mod init;
pub mod ioctl;
pub mod page;
pub mod str;
pub mod sync;
pub mod time;
pub mod types;

/// What `rust/kernel/prelude.rs` exports, as far as it exists here.
pub mod prelude {
    pub use crate::alloc::{flags::*, KBox, KVec};
    pub use crate::error::{code::*, Error, Result};
    pub use crate::init::InPlaceInit;
    pub use crate::str::CStr;
    pub use crate::{try_init, try_pin_init};
    pub use core::{
        mem::{align_of, align_of_val, size_of, size_of_val},
        pin::Pin,
    };
    pub use pin_init::{init, pin_data, pin_init, pinned_drop, Init, PinInit, Zeroable};
}
