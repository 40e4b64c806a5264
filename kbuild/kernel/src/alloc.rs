// SPDX-License-Identifier: GPL-2.0

//! Fallible allocation, as in `rust/kernel/alloc.rs`.

use crate::{
    error::{code::ENOMEM, Error, Result},
    init::InPlaceInit,
};
use core::{
    convert::Infallible,
    ops::{Deref, DerefMut},
    pin::Pin,
};
use pin_init::{Init, PinInit};

/// The allocator ran out of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocError;

impl From<AllocError> for Error {
    fn from(_: AllocError) -> Self {
        ENOMEM
    }
}

impl From<Infallible> for AllocError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// How an allocation may be satisfied. The host has one way only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(());

/// The allocation flags that the pure modules use.
pub mod flags {
    use super::Flags;

    /// May sleep, in process context.
    pub const GFP_KERNEL: Flags = Flags(());
    /// As [`GFP_KERNEL`], charged to the memory cgroup of the caller.
    pub const GFP_KERNEL_ACCOUNT: Flags = Flags(());
}

/// An owned heap allocation, `kmalloc` in the kernel.
#[derive(Debug)]
pub struct KBox<T: ?Sized>(Box<T>);

impl<T> KBox<T> {
    /// Allocates and moves `value` in.
    pub fn new(value: T, _flags: Flags) -> Result<Self, AllocError> {
        Ok(Self(Box::new(value)))
    }

    /// Pins the content.
    pub fn into_pin(this: Self) -> Pin<Self> {
        // SAFETY: The content lives on the heap and stays there until it is dropped.
        unsafe { Pin::new_unchecked(this) }
    }
}

impl<T> InPlaceInit<T> for KBox<T> {
    type PinnedSelf = Pin<Self>;

    fn try_pin_init<E>(init: impl PinInit<T, E>, _flags: Flags) -> Result<Pin<Self>, E>
    where
        E: From<AllocError>,
    {
        let mut slot = Box::<T>::new_uninit();
        // SAFETY: The slot is allocated for a `T`, exclusively ours, dropped uninitialised when the
        // initialiser fails, and not moved before it is pinned.
        unsafe { init.__pinned_init(slot.as_mut_ptr()) }?;
        // SAFETY: The initialiser returned success, so the slot holds a valid `T`.
        Ok(Self::into_pin(Self(unsafe { slot.assume_init() })))
    }

    fn try_init<E>(init: impl Init<T, E>, _flags: Flags) -> Result<Self, E>
    where
        E: From<AllocError>,
    {
        let mut slot = Box::<T>::new_uninit();
        // SAFETY: The slot is allocated for a `T`, exclusively ours, and dropped uninitialised when
        // the initialiser fails.
        unsafe { init.__init(slot.as_mut_ptr()) }?;
        // SAFETY: The initialiser returned success, so the slot holds a valid `T`.
        Ok(Self(unsafe { slot.assume_init() }))
    }
}

impl<T: ?Sized> Deref for KBox<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> DerefMut for KBox<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// A growable array whose growth can fail.
#[derive(Debug)]
pub struct KVec<T>(Vec<T>);

impl<T> KVec<T> {
    /// An empty vector, without an allocation.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// An empty vector with room for `capacity` elements.
    pub fn with_capacity(capacity: usize, flags: Flags) -> Result<Self, AllocError> {
        let mut vec = Self::new();
        vec.reserve(capacity, flags)?;
        Ok(vec)
    }

    /// Makes room for `additional` more elements.
    pub fn reserve(&mut self, additional: usize, _flags: Flags) -> Result<(), AllocError> {
        self.0.try_reserve(additional).map_err(|_| AllocError)
    }

    /// Appends `value`.
    pub fn push(&mut self, value: T, flags: Flags) -> Result<(), AllocError> {
        self.reserve(1, flags)?;
        self.0.push(value);
        Ok(())
    }

    /// Takes the last element.
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }
}

impl<T> Default for KVec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Deref for KVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for KVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}
