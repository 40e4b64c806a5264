// SPDX-License-Identifier: GPL-2.0

//! Errors, as in `rust/kernel/error.rs`.

use core::{convert::Infallible, num::NonZeroI32};

/// A kernel error: a negated `errno`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Error(NonZeroI32);

impl Error {
    const fn from_const_errno(errno: i32) -> Self {
        match NonZeroI32::new(errno) {
            Some(errno) if errno.get() < 0 => Self(errno),
            _ => panic!("an errno is negative"),
        }
    }

    /// The negated `errno`.
    pub const fn to_errno(self) -> i32 {
        self.0.get()
    }
}

impl core::fmt::Debug for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Error").field(&self.to_errno()).finish()
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// The result of an operation that fails with an [`Error`].
pub type Result<T = (), E = Error> = core::result::Result<T, E>;

/// The error numbers that the pure modules use.
pub mod code {
    use super::Error;

    /// Out of memory.
    pub const ENOMEM: Error = Error::from_const_errno(-12);
    /// Bad address.
    pub const EFAULT: Error = Error::from_const_errno(-14);
    /// Invalid argument.
    pub const EINVAL: Error = Error::from_const_errno(-22);
}
