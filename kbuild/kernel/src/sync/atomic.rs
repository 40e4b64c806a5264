// SPDX-License-Identifier: GPL-2.0

//! Atomics, as in `rust/kernel/sync/atomic.rs`.
//!
//! Orderings are types, as in the kernel. [`Full`] is sequentially consistent here, which is less
//! than the kernel's full barrier.

use crate::sync::host::atomic;
use atomic::Ordering::{self as HostOrdering, SeqCst};

/// The orderings of the kernel's memory model, as traits that say where one is allowed.
pub mod ordering {
    use super::{HostOrdering, SeqCst};

    /// An ordering of a read-modify-write operation.
    pub trait Ordering {
        /// The same on the host.
        const HOST: HostOrdering;
    }

    /// An ordering of a load.
    pub trait AcquireOrRelaxed: Ordering {}

    /// An ordering of a store.
    pub trait ReleaseOrRelaxed: Ordering {}

    /// No ordering.
    pub struct Relaxed;
    /// What comes after stays after.
    pub struct Acquire;
    /// What comes before stays before.
    pub struct Release;
    /// Both.
    pub struct Full;

    impl Ordering for Relaxed {
        const HOST: HostOrdering = HostOrdering::Relaxed;
    }
    impl Ordering for Acquire {
        const HOST: HostOrdering = HostOrdering::Acquire;
    }
    impl Ordering for Release {
        const HOST: HostOrdering = HostOrdering::Release;
    }
    impl Ordering for Full {
        const HOST: HostOrdering = SeqCst;
    }

    impl AcquireOrRelaxed for Relaxed {}
    impl AcquireOrRelaxed for Acquire {}
    impl ReleaseOrRelaxed for Relaxed {}
    impl ReleaseOrRelaxed for Release {}
}

pub use ordering::{Acquire, Full, Relaxed, Release};

/// A type that can be in an [`Atomic`].
pub trait AtomicType: Copy {
    /// The host's atomic of this type.
    type Repr;

    #[doc(hidden)]
    fn new(value: Self) -> Self::Repr;
    #[doc(hidden)]
    fn load(repr: &Self::Repr, ordering: HostOrdering) -> Self;
    #[doc(hidden)]
    fn store(repr: &Self::Repr, value: Self, ordering: HostOrdering);
}

/// A type to which can be added in an [`Atomic`].
pub trait AtomicAdd: AtomicType {
    #[doc(hidden)]
    fn fetch_add(repr: &Self::Repr, value: Self, ordering: HostOrdering) -> Self;
}

macro_rules! atomic_types {
    ($($type:ty: $repr:ident,)*) => {$(
        impl AtomicType for $type {
            type Repr = atomic::$repr;

            fn new(value: Self) -> Self::Repr {
                atomic::$repr::new(value)
            }

            fn load(repr: &Self::Repr, ordering: HostOrdering) -> Self {
                repr.load(ordering)
            }

            fn store(repr: &Self::Repr, value: Self, ordering: HostOrdering) {
                repr.store(value, ordering)
            }
        }
    )*};
}

macro_rules! atomic_numbers {
    ($($type:ty: $repr:ident,)*) => {
        atomic_types!($($type: $repr,)*);

        $(impl AtomicAdd for $type {
            fn fetch_add(repr: &Self::Repr, value: Self, ordering: HostOrdering) -> Self {
                repr.fetch_add(value, ordering)
            }
        })*
    };
}

atomic_types!(bool: AtomicBool,);
atomic_numbers!(i32: AtomicI32, u32: AtomicU32, u64: AtomicU64, usize: AtomicUsize,);

/// A value that several threads read and write at a time.
///
/// [`new`](Self::new) is not `const`, since loom's is not.
pub struct Atomic<T: AtomicType>(T::Repr);

impl<T: AtomicType> Atomic<T> {
    /// With `value` in it.
    pub fn new(value: T) -> Self {
        Self(T::new(value))
    }

    /// Reads it.
    pub fn load<O: ordering::AcquireOrRelaxed>(&self, _: O) -> T {
        T::load(&self.0, O::HOST)
    }

    /// Writes it.
    pub fn store<O: ordering::ReleaseOrRelaxed>(&self, value: T, _: O) {
        T::store(&self.0, value, O::HOST)
    }

    /// Adds to it, wrapping around, and returns what it was.
    pub fn fetch_add<O: ordering::Ordering>(&self, value: T, _: O) -> T
    where
        T: AtomicAdd,
    {
        T::fetch_add(&self.0, value, O::HOST)
    }
}
