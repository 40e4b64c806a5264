// SPDX-License-Identifier: GPL-2.0

//! The shims of `kbuild/kunit_shims.c` and the numbers that system calls take, as bindgen sees
//! them.

#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    improper_ctypes,
    missing_docs,
    non_upper_case_globals,
    unreachable_pub
)]

use kernel::bindings::*;

include!(env!("MMU_NOTIFIER_HELPERS_KUNIT_BINDINGS"));
