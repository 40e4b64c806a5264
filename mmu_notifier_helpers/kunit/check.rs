// SPDX-License-Identifier: GPL-2.0

//! Assertions that end a case by returning an error.

#![forbid(unsafe_code)]

use core::{fmt::Debug, panic::Location};
use kernel::{alloc::AllocError, kunit, prelude::*};

/// How a case ends, with `?` on any error as an assertion of its own.
pub(crate) type Outcome<T = ()> = core::result::Result<T, Failure>;

/// The results say what went wrong and where.
pub(crate) struct Failure(());

impl Failure {
    /// `what` does not hold.
    #[track_caller]
    pub(crate) fn untrue(what: &str) -> Self {
        Self::say(fmt!("not so: {what}"))
    }

    /// `what` is `found` and not `wanted`.
    #[track_caller]
    pub(crate) fn differs(what: &str, found: &impl Debug, wanted: &impl Debug) -> Self {
        Self::say(fmt!("{what} is {found:?}, wanted {wanted:?}"))
    }

    #[track_caller]
    fn say(what: kernel::fmt::Arguments<'_>) -> Self {
        let place = Location::caller();
        let (file, line) = (place.file(), place.line());
        kunit::err(fmt!("    # {file}:{line}: {what}\n"));
        Self(())
    }
}

impl From<Error> for Failure {
    #[track_caller]
    fn from(error: Error) -> Self {
        Self::say(fmt!("{error:?}"))
    }
}

impl From<AllocError> for Failure {
    #[track_caller]
    fn from(error: AllocError) -> Self {
        Self::from(Error::from(error))
    }
}

/// Fails the case unless the condition holds.
macro_rules! check {
    ($condition:expr $(,)?) => {
        if !$condition {
            return Err($crate::check::Failure::untrue(stringify!($condition)));
        }
    };
}

/// Fails the case unless the first, which is what was found, equals the second.
macro_rules! check_eq {
    ($found:expr, $wanted:expr $(,)?) => {{
        let (found, wanted) = ($found, $wanted);
        if found != wanted {
            return Err($crate::check::Failure::differs(
                stringify!($found),
                &found,
                &wanted,
            ));
        }
    }};
}
