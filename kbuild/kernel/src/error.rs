// SPDX-License-Identifier: GPL-2.0

//! Errors, as in `rust/kernel/error.rs`.

use core::{
    convert::Infallible,
    num::{NonZeroI32, TryFromIntError},
};

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

    /// The error that the negated `errno` stands for; `EINVAL` if it stands for none.
    pub const fn from_errno(errno: i32) -> Self {
        match errno {
            -4095..=-1 => Self::from_const_errno(errno),
            _ => code::EINVAL,
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

impl From<TryFromIntError> for Error {
    fn from(_: TryFromIntError) -> Self {
        code::EINVAL
    }
}

/// The result of an operation that fails with an [`Error`].
pub type Result<T = (), E = Error> = core::result::Result<T, E>;

/// Success for a return value that is not negative, the error that it stands for otherwise.
pub fn to_result(err: i32) -> Result {
    if err < 0 {
        Err(Error::from_errno(err))
    } else {
        Ok(())
    }
}

/// The error numbers that the pure modules use.
pub mod code {
    use super::Error;

    macro_rules! declare_err {
        ($($err:ident = $errno:literal, $doc:literal;)*) => {$(
            #[doc = $doc]
            pub const $err: Error = Error::from_const_errno(-$errno);
        )*};
    }

    declare_err! {
        EPERM = 1, "Operation not permitted.";
        ENOENT = 2, "No such file or directory.";
        ESRCH = 3, "No such process.";
        EINTR = 4, "Interrupted system call.";
        EAGAIN = 11, "Try again.";
        ENOMEM = 12, "Out of memory.";
        EFAULT = 14, "Bad address.";
        EBUSY = 16, "Device or resource busy.";
        EEXIST = 17, "File exists.";
        EINVAL = 22, "Invalid argument.";
        EOVERFLOW = 75, "Value too large for defined data type.";
        ETIMEDOUT = 110, "Connection timed out.";
    }
}
