// SPDX-License-Identifier: GPL-2.0

//! Types for special purposes, as in `rust/kernel/types.rs`.

use core::marker::PhantomData;

/// Zero-sized, makes what holds it neither `Send` nor `Sync`.
pub type NotThreadSafe = PhantomData<*mut ()>;

/// The only value of the type [`NotThreadSafe`](type@NotThreadSafe).
#[allow(non_upper_case_globals)]
pub const NotThreadSafe: NotThreadSafe = PhantomData;
