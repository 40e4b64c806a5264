// SPDX-License-Identifier: GPL-2.0

//! C declarations that the `kernel` crate does not bind, made by bindgen from
//! `kbuild/bindings_helper.h`.

#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    improper_ctypes,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub
)]

use kernel::bindings::*;

include!(env!("MMU_NOTIFIER_HELPERS_BINDINGS"));

/// Refuses to build where the bindings of the kernel and C disagree.
macro_rules! assert_offset {
    ($constant:ident, $type:ty, $($field:tt)+) => {
        const _: () = assert!(
            core::mem::offset_of!($type, $($field)+) == $constant as usize,
            concat!(
                "the kernel's Rust bindings have ", stringify!($type), " wrong; ",
                "for task_struct, CONFIG_SCHEDSTATS=y in the kernel's configuration helps",
            ),
        );
    };
}

assert_offset!(mnh_offset_MNH_OFFSET_TASK_MM, task_struct, mm);
assert_offset!(
    mnh_offset_MNH_OFFSET_MM_USERS,
    mm_struct,
    __bindgen_anon_1.mm_users
);
assert_offset!(
    mnh_offset_MNH_OFFSET_VMA_FLAGS,
    vm_area_struct,
    __bindgen_anon_2.vm_flags
);
assert_offset!(mnh_offset_MNH_OFFSET_INTERVAL_MM, mmu_interval_notifier, mm);
assert_offset!(
    mnh_offset_MNH_OFFSET_INTERVAL_SEQ,
    mmu_interval_notifier,
    invalidate_seq
);
assert_offset!(mnh_offset_MNH_OFFSET_RANGE_EVENT, mmu_notifier_range, event);
