// SPDX-License-Identifier: GPL-2.0

//! Numbers of ioctls, as in `rust/kernel/ioctl.rs`, for x86_64.

/// The number of an ioctl whose argument, a `T`, is read and written.
#[allow(non_snake_case)]
pub const fn _IOWR<T>(ty: u32, nr: u32) -> u32 {
    const READ_AND_WRITE: u32 = 3;

    READ_AND_WRITE << 30 | (size_of::<T>() as u32) << 16 | ty << 8 | nr
}
