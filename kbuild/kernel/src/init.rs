// SPDX-License-Identifier: GPL-2.0

//! Initialisation in place, as in `rust/kernel/init.rs`.

use crate::{
    alloc::{AllocError, Flags},
    error::{Error, Result},
};
use pin_init::{init_from_closure, pin_init_from_closure, Init, PinInit};

/// Smart pointers that can initialise memory in place.
pub trait InPlaceInit<T>: Sized {
    /// The pointer once its content is pinned.
    type PinnedSelf;

    /// Allocates, initialises in place, and pins.
    fn try_pin_init<E>(init: impl PinInit<T, E>, flags: Flags) -> Result<Self::PinnedSelf, E>
    where
        E: From<AllocError>;

    /// As [`try_pin_init`](Self::try_pin_init), with the kernel's error.
    fn pin_init<E>(init: impl PinInit<T, E>, flags: Flags) -> Result<Self::PinnedSelf>
    where
        Error: From<E>,
    {
        // SAFETY: Does what `init` does, and only translates its error.
        let init = unsafe {
            pin_init_from_closure(|slot| init.__pinned_init(slot).map_err(|e| Error::from(e)))
        };
        Self::try_pin_init(init, flags)
    }

    /// Allocates and initialises in place.
    fn try_init<E>(init: impl Init<T, E>, flags: Flags) -> Result<Self, E>
    where
        E: From<AllocError>;

    /// As [`try_init`](Self::try_init), with the kernel's error.
    fn init<E>(init: impl Init<T, E>, flags: Flags) -> Result<Self>
    where
        Error: From<E>,
    {
        // SAFETY: Does what `init` does, and only translates its error.
        let init =
            unsafe { init_from_closure(|slot| init.__init(slot).map_err(|e| Error::from(e))) };
        Self::try_init(init, flags)
    }
}

/// Initialises a `struct` in place with an initialiser that can fail, by default with
/// [`Error`].
#[macro_export]
macro_rules! try_init {
    ($(&$this:ident in)? $t:ident $(::<$($generics:ty),* $(,)?>)? { $($fields:tt)* }) => {
        $crate::__pin_init::try_init!($(&$this in)? $t $(::<$($generics),*>)? { $($fields)* }?
            $crate::error::Error)
    };
    ($($init:tt)*) => { $crate::__pin_init::try_init!($($init)*) };
}

/// Initialises a pinned `struct` in place with an initialiser that can fail, by default with
/// [`Error`].
#[macro_export]
macro_rules! try_pin_init {
    ($(&$this:ident in)? $t:ident $(::<$($generics:ty),* $(,)?>)? { $($fields:tt)* }) => {
        $crate::__pin_init::try_pin_init!($(&$this in)? $t $(::<$($generics),*>)? { $($fields)* }?
            $crate::error::Error)
    };
    ($($init:tt)*) => { $crate::__pin_init::try_pin_init!($($init)*) };
}
