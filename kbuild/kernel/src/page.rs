// SPDX-License-Identifier: GPL-2.0

//! The size of a page, as in `rust/kernel/page.rs`, for x86_64.

/// A bitwise shift for the page size.
pub const PAGE_SHIFT: usize = 12;

/// The number of bytes in a page.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;

/// The bits of an address that name its page.
pub const PAGE_MASK: usize = !(PAGE_SIZE - 1);
