// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! What an atomic operation does to the eight bytes that it is about.

use super::window::{Span, Window};

/// The size of what atomic operations are about, which is also how they must be aligned.
pub const WORD: u64 = 8;

/// An atomic operation of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Stores the second value if the first is there.
    CompareSwap(u64, u64),
    /// Adds, and forgets the carry.
    FetchAdd(u64),
}

impl Operation {
    /// What is there afterwards, `None` for no change.
    pub fn apply(self, value: u64) -> Option<u64> {
        match self {
            Self::CompareSwap(compare, swap) => (value == compare).then_some(swap),
            Self::FetchAdd(add) => Some(value.wrapping_add(add)),
        }
    }
}

/// Why a word cannot be operated on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not all of its bytes are in the region.
    Outside,
    /// It does not lie at a multiple of its size.
    Misaligned,
}

/// Where the word is.
///
/// # Errors
///
/// What is wrong with the address; that it is outside goes first.
pub fn word(window: &Window, iova: u64) -> Result<Span, Refused> {
    let span = window.locate(iova, WORD).ok_or(Refused::Outside)?;
    match span.is_aligned(WORD) {
        true => Ok(span),
        false => Err(Refused::Misaligned),
    }
}

#[cfg(all(test, not(CONFIG_RUST)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn swaps_only_what_compares() {
        assert_eq!(Operation::CompareSwap(1, 2).apply(1), Some(2));
        assert_eq!(Operation::CompareSwap(1, 2).apply(3), None);
    }

    #[test]
    fn adding_wraps() {
        assert_eq!(Operation::FetchAdd(2).apply(u64::MAX), Some(1));
    }

    #[test]
    fn the_address_of_the_memory_is_what_must_be_aligned() {
        let window = Window::new(0x1001, 0x7008, 0x100).unwrap();
        assert!(word(&window, 0x1001).is_ok());
        assert_eq!(word(&window, 0x1008), Err(Refused::Misaligned));
    }

    #[test]
    fn outside_goes_first() {
        let window = Window::new(0x1000, 0x7000, 0x100).unwrap();
        assert_eq!(word(&window, 0x10f9), Err(Refused::Outside));
        assert_eq!(word(&window, 0x10f8).map(|s| s.start()), Ok(0x70f8));
        assert_eq!(word(&window, u64::MAX), Err(Refused::Outside));
    }

    proptest! {
        /// A word that is let through never spans two pages.
        #[test]
        fn a_word_is_in_one_page(
            iova in 0..0x1_0000u64,
            address in 0..0x1_0000u64,
            at in 0..64u64,
        ) {
            let window = Window::new(iova, address, 64).unwrap();
            if let Ok(span) = word(&window, iova + at) {
                prop_assert_eq!(span.pages().count(), 1);
            }
        }
    }
}
