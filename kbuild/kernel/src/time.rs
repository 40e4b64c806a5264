// SPDX-License-Identifier: GPL-2.0

//! Time, as in `rust/kernel/time.rs`. Under loom it stands still.

use core::{marker::PhantomData, ops};

/// A clock that tells nanoseconds.
pub trait ClockSource {
    /// The time on this clock.
    fn ktime_get() -> i64;
}

/// The clock that never goes backwards.
pub struct Monotonic;

impl ClockSource for Monotonic {
    #[cfg(not(loom))]
    fn ktime_get() -> i64 {
        use std::sync::OnceLock;

        static START: OnceLock<std::time::Instant> = OnceLock::new();
        START
            .get_or_init(std::time::Instant::now)
            .elapsed()
            .as_nanos() as i64
    }

    #[cfg(loom)]
    fn ktime_get() -> i64 {
        0
    }
}

/// A point in time of the clock `C`.
#[derive(PartialEq, PartialOrd, Eq, Ord)]
pub struct Instant<C: ClockSource>(i64, PhantomData<C>);

impl<C: ClockSource> Clone for Instant<C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C: ClockSource> Copy for Instant<C> {}

impl<C: ClockSource> Instant<C> {
    /// The current time.
    pub fn now() -> Self {
        Self(C::ktime_get(), PhantomData)
    }

    /// How long ago this was.
    pub fn elapsed(&self) -> Delta {
        Self::now() - *self
    }
}

impl<C: ClockSource> ops::Sub for Instant<C> {
    type Output = Delta;

    fn sub(self, other: Self) -> Delta {
        Delta(self.0 - other.0)
    }
}

impl<C: ClockSource> ops::Add<Delta> for Instant<C> {
    type Output = Self;

    fn add(self, delta: Delta) -> Self {
        Self(self.0 + delta.0, PhantomData)
    }
}

/// A span of time.
#[derive(Clone, Copy, PartialEq, PartialOrd, Eq, Ord, Debug)]
pub struct Delta(i64);

impl Delta {
    /// No time.
    pub const ZERO: Self = Self(0);

    /// From nanoseconds.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// From microseconds, at most as long as fits.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros.saturating_mul(1_000))
    }

    /// From milliseconds, at most as long as fits.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000_000))
    }

    /// From seconds, at most as long as fits.
    pub const fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(1_000_000_000))
    }

    /// In nanoseconds.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// In whole milliseconds, rounded down.
    pub fn as_millis(self) -> i64 {
        self.0 / 1_000_000
    }

    /// Whether there is no time left.
    pub fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// Whether it lies in the past.
    pub fn is_negative(self) -> bool {
        self.0 < 0
    }
}

impl ops::Add for Delta {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }
}

impl ops::Sub for Delta {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }
}
