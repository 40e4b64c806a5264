// SPDX-License-Identifier: GPL-2.0

//! Tracepoints, in `/sys/kernel/tracing/events/mmu_notifier_helpers`.
//!
//! Each function is one event, which costs a call and a static branch while it is off. The generic
//! code that calls them is compiled into drivers, so none of them may be inlined: a driver has no
//! way to the static key.
//!
//! An address space is shown by a hash of its address, the same in all events; ranges are in bytes.
//! The functions may be called in any context.
//!
//! C header: `kbuild/mmu_notifier_helpers_trace.h`

use crate::{
    bindings,
    fault::Access,
    range::{Event, Invalidation, PageRange},
};
use kernel::{error::Result, ffi::c_int, mm::Mm};

/// Calls the tracepoint of the name if it is on; the arguments are evaluated then only.
///
/// [`kernel::declare_trace!`] cannot be used: it looks for the tracepoint in the bindings of the
/// `kernel` crate.
macro_rules! trace {
    ($name:ident($($arg:expr),* $(,)?)) => {
        kernel::macros::paste! {
            #[cfg(CONFIG_TRACEPOINTS)]
            {
                // SAFETY: The static key is that of a tracepoint, which C defines.
                let on = unsafe {
                    kernel::jump_label::static_branch_unlikely!(
                        bindings::[<__tracepoint_ $name>],
                        kernel::bindings::tracepoint,
                        key
                    )
                };
                if on {
                    // SAFETY: The tracepoint stores its arguments and follows no pointer.
                    unsafe { bindings::[<rust_do_trace_ $name>]($($arg),*) };
                }
            }
            #[cfg(not(CONFIG_TRACEPOINTS))]
            {
                $( let _ = $arg; )*
            }
        }
    };
}

/// A fault of `range` for `access` ended, with `result`, after `collisions` readings that were
/// disturbed; `slow` tells whether the slow path was taken. Event `mnh_fault`.
#[inline(never)]
pub(crate) fn fault(
    mm: &Mm,
    range: &PageRange,
    access: Access,
    result: Result,
    collisions: u32,
    slow: bool,
) {
    trace!(mnh_fault(
        mm.as_raw(),
        range.start(),
        range.end(),
        access_number(access),
        result.map_or_else(|e| e.to_errno(), |()| 0),
        collisions,
        slow,
    ));
}

/// An invalidation disturbed reading the entries of `range`, for the `attempt`th time since the
/// fault began, counted from 1. Event `mnh_collision`.
#[inline(never)]
pub(crate) fn collision(mm: &Mm, range: &PageRange, attempt: u32) {
    trace!(mnh_collision(
        mm.as_raw(),
        range.start(),
        range.end(),
        attempt
    ));
}

/// A fault of `range` is about to take the mmap lock for writing. Event `mnh_slow_path`.
#[inline(never)]
pub(crate) fn slow_path(mm: &Mm, range: &PageRange) {
    trace!(mnh_slow_path(mm.as_raw(), range.start(), range.end()));
}

/// A subscription was told of `invalidation`. Event `mnh_invalidate`.
#[inline(never)]
pub(crate) fn invalidate(mm: &Mm, invalidation: &Invalidation) {
    trace!(mnh_invalidate(
        mm.as_raw(),
        invalidation.range().start(),
        invalidation.range().end(),
        event_number(invalidation.event()),
        invalidation.blockable(),
    ));
}

/// A subscription refused `invalidation`, which must not sleep, since the shadow was locked. Event
/// `mnh_refuse`.
#[inline(never)]
pub(crate) fn refuse(mm: &Mm, invalidation: &Invalidation) {
    trace!(mnh_refuse(
        mm.as_raw(),
        invalidation.range().start(),
        invalidation.range().end(),
        event_number(invalidation.event()),
    ));
}

/// What stands for `access` in a trace.
fn access_number(access: Access) -> bindings::mnh_access {
    match access {
        Access::Look => bindings::mnh_access_MNH_ACCESS_LOOK,
        Access::Read => bindings::mnh_access_MNH_ACCESS_READ,
        Access::Write => bindings::mnh_access_MNH_ACCESS_WRITE,
    }
}

/// What stands for `event` in a trace: its number in C.
fn event_number(event: Event) -> c_int {
    let number = match event {
        Event::Unmap => kernel::bindings::mmu_notifier_event_MMU_NOTIFY_UNMAP,
        Event::Clear => kernel::bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR,
        Event::ProtectionVma => kernel::bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_VMA,
        Event::ProtectionPage => kernel::bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_PAGE,
        Event::SoftDirty => kernel::bindings::mmu_notifier_event_MMU_NOTIFY_SOFT_DIRTY,
        Event::Release => kernel::bindings::mmu_notifier_event_MMU_NOTIFY_RELEASE,
        Event::Migrate => kernel::bindings::mmu_notifier_event_MMU_NOTIFY_MIGRATE,
        Event::Exclusive => kernel::bindings::mmu_notifier_event_MMU_NOTIFY_EXCLUSIVE,
        Event::Other => return bindings::mnh_event_MNH_EVENT_OTHER,
    };
    number as c_int
}
