// SPDX-License-Identifier: GPL-2.0

//! The ranges that are being invalidated right now.
//!
//! The start and the end of an invalidation bring no memory of their own, so there is room for a
//! fixed number of ranges. What does not fit is only counted, and while anything is counted every
//! address is taken to be in flight: more collisions, never fewer.

#![forbid(unsafe_code)]

use crate::range::PageRange;

/// A multiset of ranges, exact for up to `N` of them.
///
/// # Invariants
///
/// The first `len` of `ranges` and `spilled` more that nothing is known of are in flight.
///
/// # Examples
///
/// ```
/// use kernel::prelude::*;
/// use mmu_notifier_helpers::{in_flight::InFlight, range::PageRange};
///
/// let [a, b, c] = [0x1000, 0x2000, 0x3000].map(|addr| PageRange::from_pages(addr, 1));
/// let (a, b, c) = (a?, b?, c?);
/// let mut in_flight = InFlight::<1>::EMPTY;
///
/// in_flight.add(a);
/// assert!(in_flight.overlaps(&a) && !in_flight.overlaps(&c));
/// // There is no room for a second one, so it might be anywhere.
/// in_flight.add(b);
/// assert!(in_flight.overlaps(&c));
/// in_flight.remove(&b);
/// assert!(in_flight.overlaps(&a) && !in_flight.overlaps(&c));
/// # Ok::<(), Error>(())
/// ```
pub struct InFlight<const N: usize> {
    ranges: [PageRange; N],
    len: usize,
    spilled: usize,
}

impl<const N: usize> InFlight<N> {
    /// Nothing in flight.
    // INVARIANT: The contents of `ranges` do not count.
    pub const EMPTY: Self = Self {
        ranges: [PageRange::ALL; N],
        len: 0,
        spilled: 0,
    };

    fn known(&self) -> &[PageRange] {
        &self.ranges[..self.len]
    }

    /// Adds `range`.
    pub fn add(&mut self, range: PageRange) {
        match self.ranges.get_mut(self.len) {
            Some(free) => {
                *free = range;
                self.len += 1;
            }
            None => self.spilled += 1,
        }
    }

    /// Takes away a range that was added. Equal ranges stand for each other, and one that is not
    /// among those remembered is one of those only counted.
    ///
    /// Returns whether anything was in flight.
    pub fn remove(&mut self, range: &PageRange) -> bool {
        if let Some(i) = self.known().iter().position(|known| known == range) {
            self.len -= 1;
            self.ranges.swap(i, self.len);
        } else if self.spilled > 0 {
            self.spilled -= 1;
        } else {
            return false;
        }
        true
    }

    /// Whether a page of `range` may be in flight.
    pub fn overlaps(&self, range: &PageRange) -> bool {
        self.spilled > 0 || self.known().iter().any(|known| known.overlaps(range))
    }
}
