// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! Where a transfer lies: from the addresses of the wire to pages.
//!
//! A region is registered with two addresses. The peer names bytes by *iova*; the process that
//! owns the memory knows them by *virtual address*. They differ by a constant that need not be
//! zero, so an iova says nothing of the page until it went through [`Window::locate`], and that is
//! the only way to a [`Span`].

/// The number of bits of an address that are within a page.
pub const PAGE_SHIFT: u32 = 12;
/// The size of a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// How much is faulted in one go, and how much a child of an implicit region covers.
///
/// A page list of this many bytes fills a page itself.
pub const CHUNK_SIZE: u64 = 1 << CHUNK_SHIFT;
const CHUNK_SHIFT: u32 = 21;
/// How many pages are looked at ahead, at most.
const AHEAD_PAGES: u64 = 64;

/// What a region covers, by both of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    iova: u64,
    address: u64,
    length: u64,
}

impl Window {
    /// The whole address space, each byte by its own address.
    pub const ALL: Self = Self {
        iova: 0,
        address: 0,
        length: u64::MAX,
    };

    /// `length` bytes at the virtual address, which the peer knows as `iova` and so on.
    ///
    /// `None` if either runs over the end of what 64 bits can say.
    pub fn new(iova: u64, address: u64, length: u64) -> Option<Self> {
        iova.checked_add(length)?;
        address.checked_add(length)?;
        Some(Self {
            iova,
            address,
            length,
        })
    }

    /// The same for what [`new`](Self::new) has allowed when it was registered.
    #[inline]
    pub fn of_registered(iova: u64, address: u64, length: u64) -> Self {
        let window = Self {
            iova,
            address,
            length,
        };
        debug_assert_eq!(Self::new(iova, address, length), Some(window));
        window
    }

    /// Where the bytes are that the peer means, if all of them are inside.
    ///
    /// Whatever the peer says, nothing overflows. No bytes at the very end are inside.
    #[inline]
    pub fn locate(&self, iova: u64, length: u64) -> Option<Span> {
        // Before the window it wraps, and is too large then: no iova is behind the window's by as
        // much, as `new` has checked.
        let offset = iova.wrapping_sub(self.iova);
        if offset > self.length || length > self.length - offset {
            return None;
        }
        Some(Span {
            // No more than the end of the window, which `new` has checked.
            start: self.address + offset,
            length,
        })
    }
}

/// Bytes of an address space, by virtual address.
///
/// # Invariants
///
/// `start + length` does not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u64,
    length: u64,
}

impl Span {
    /// Where it starts.
    #[inline]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// How many bytes it has.
    #[inline]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The first byte behind it.
    #[inline]
    pub fn end(&self) -> u64 {
        self.start + self.length
    }

    /// Whether it starts at a multiple of the power of two.
    #[inline]
    pub fn is_aligned(&self, to: u64) -> bool {
        self.start & (to - 1) == 0
    }

    /// Which chunk of the address space it starts in.
    #[inline]
    pub fn chunk(&self) -> u64 {
        self.start >> CHUNK_SHIFT
    }

    /// All of a chunk, by its number; `None` if the address space has no such chunk.
    pub fn of_chunk(chunk: u64) -> Option<Self> {
        let start = chunk.checked_mul(CHUNK_SIZE)?;
        start.checked_add(CHUNK_SIZE)?;
        Some(Self {
            start,
            length: CHUNK_SIZE,
        })
    }

    /// The pages from the one that it starts in that are worth one look, if that before is known
    /// and they are not, of those from `base` to `end`; `None` if it is in all of them itself.
    ///
    /// Who goes from page to page doubles by each look what is known, up to [`AHEAD_PAGES`]. Looks
    /// that find nothing are as few.
    pub fn ahead(&self, base: u64, end: u64) -> Option<Self> {
        let start = self.start & !(PAGE_SIZE - 1);
        let index = start.checked_sub(base)? >> PAGE_SHIFT;
        let pages = match index % AHEAD_PAGES {
            0 if index > 0 => AHEAD_PAGES,
            before if before.is_power_of_two() => before,
            _ => return None,
        };
        let end = start.saturating_add(pages << PAGE_SHIFT).min(end);
        let length = end.checked_sub(start)?;
        (end.saturating_sub(PAGE_SIZE) >= self.end()).then_some(Self { start, length })
    }

    /// Its parts, none of which reaches from one chunk into the next.
    #[inline]
    pub fn chunks(&self) -> Parts {
        self.parts(CHUNK_SIZE)
    }

    /// Its parts, none of which reaches from one page into the next.
    #[inline]
    pub fn pages(&self) -> Parts {
        self.parts(PAGE_SIZE)
    }

    #[inline]
    fn parts(&self, multiple: u64) -> Parts {
        Parts {
            left: *self,
            multiple,
        }
    }

    /// Takes away as many bytes from its start, at most all.
    #[inline]
    pub fn skip(&mut self, bytes: u64) {
        let bytes = bytes.min(self.length);
        self.start += bytes;
        self.length -= bytes;
    }

    /// Takes away what is before the next multiple of the power of two.
    #[inline]
    fn take_to(&mut self, multiple: u64) -> Option<Self> {
        if self.length == 0 {
            return None;
        }
        let room = multiple - (self.start & (multiple - 1));
        let taken = Self {
            start: self.start,
            length: self.length.min(room),
        };
        self.skip(taken.length);
        Some(taken)
    }
}

/// See [`Span::chunks`] and [`Span::pages`].
#[derive(Clone, Debug)]
pub struct Parts {
    left: Span,
    multiple: u64,
}

impl Iterator for Parts {
    type Item = Span;

    #[inline]
    fn next(&mut self) -> Option<Span> {
        self.left.take_to(self.multiple)
    }
}

#[cfg(all(test, not(CONFIG_RUST)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(start: u64, length: u64) -> Span {
        Window::ALL.locate(start, length).unwrap()
    }

    #[test]
    fn iova_need_not_be_the_address() {
        let window = Window::new(0x10_0123, 0x7f00_0000_0123, 0x5000).unwrap();
        let found = window.locate(0x10_1123, 8).unwrap();
        assert_eq!(found.start(), 0x7f00_0000_1123);
        // The address itself means nothing to the peer.
        assert_eq!(window.locate(0x7f00_0000_0123, 8), None);
    }

    #[test]
    fn the_last_byte_is_inside_and_the_next_is_not() {
        let window = Window::new(0x1000, 0x7000, 0x100).unwrap();
        assert!(window.locate(0x10ff, 1).is_some());
        assert_eq!(window.locate(0x10ff, 2), None);
        assert_eq!(window.locate(0x1100, 1), None);
        assert_eq!(window.locate(0xfff, 1), None);
        assert!(window.locate(0x1000, 0x100).is_some());
        assert_eq!(window.locate(0x1000, 0x101), None);
        assert!(window.locate(0x1100, 0).is_some());
    }

    #[test]
    fn no_window_runs_over_the_end() {
        assert_eq!(Window::new(u64::MAX, 0, 2), None);
        assert_eq!(Window::new(0, u64::MAX, 2), None);
        assert!(Window::new(u64::MAX - 1, 0, 1).is_some());
    }

    #[test]
    fn the_last_chunk_cannot_be_whole() {
        let last = u64::MAX / CHUNK_SIZE;
        assert_eq!(Span::of_chunk(last), None);
        assert_eq!(Span::of_chunk(last + 1), None);
        assert_eq!(Span::of_chunk(last - 1).unwrap().end(), last * CHUNK_SIZE);
    }

    #[test]
    fn looks_ahead_double_and_stay_inside() {
        let page = |n: u64| n * PAGE_SIZE;
        let ahead = |at: u64, base: u64, end: u64| {
            let found = span(page(at) + 5, 1).ahead(page(base), page(end))?;
            Some((found.start() / PAGE_SIZE, found.end() / PAGE_SIZE))
        };
        assert_eq!(ahead(102, 100, 1000), Some((102, 104)));
        assert_eq!(ahead(132, 100, 1000), Some((132, 164)));
        assert_eq!(ahead(164, 100, 1000), Some((164, 228)));
        assert_eq!(ahead(164, 100, 170), Some((164, 170)));
        // Nothing is before, or nothing but what is asked for.
        assert_eq!(ahead(100, 100, 1000), None);
        assert_eq!(ahead(101, 100, 1000), None);
        assert_eq!(ahead(103, 100, 1000), None);
        assert_eq!(ahead(164, 100, 165), None);
        assert_eq!(ahead(99, 100, 1000), None);
        assert_eq!(
            span(page(102), 2 * PAGE_SIZE).ahead(page(100), page(1000)),
            None
        );
        let last = span(u64::MAX - 2 * PAGE_SIZE, 1).ahead(u64::MAX - page(4) + 1, u64::MAX);
        assert!(last.is_none_or(|last| last.end() == u64::MAX));
    }

    #[test]
    fn nothing_has_no_parts() {
        assert_eq!(span(0x1234, 0).chunks().next(), None);
        assert_eq!(span(0x1234, 0).pages().next(), None);
    }

    /// Addresses around the borders of the address space, of pages and chunks, or just any.
    fn any_address() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            0..4 * PAGE_SIZE,
            (0..4u64, -9..9i64).prop_map(|(n, off)| (n * CHUNK_SIZE).wrapping_add_signed(off)),
            (0..4 * PAGE_SIZE).prop_map(|off| u64::MAX - off),
        ]
    }

    proptest! {
        /// The same question in numbers that cannot overflow.
        #[test]
        fn locates_as_wide_numbers_do(
            iova in any_address(),
            address in any_address(),
            length in any_address(),
            asked in any_address(),
            bytes in any_address(),
        ) {
            let wide = |n: u64| u128::from(n);
            let limit = wide(u64::MAX);
            let fits = wide(iova) + wide(length) <= limit
                && wide(address) + wide(length) <= limit;
            let window = Window::new(iova, address, length);
            prop_assert_eq!(window.is_some(), fits);
            let Some(window) = window else { return Ok(()) };

            let inside = asked >= iova
                && wide(asked) + wide(bytes) <= wide(iova) + wide(length);
            let found = window.locate(asked, bytes);
            prop_assert_eq!(found.is_some(), inside);
            if let Some(found) = found {
                prop_assert_eq!(found.start() - address, asked - iova);
                prop_assert_eq!(found.length(), bytes);
                prop_assert!(wide(found.start()) + wide(found.length()) <= limit);
            }
        }

        /// Parts are neighbours, make up the whole, and none reaches into the next.
        #[test]
        fn parts_are_a_partition(
            start in any_address(),
            length in 0..5 * CHUNK_SIZE,
            pages in any::<bool>(),
        ) {
            let Some(whole) = Window::ALL.locate(start, length) else { return Ok(()) };
            let (parts, size) = match pages {
                true => (whole.pages(), PAGE_SIZE),
                false => (whole.chunks(), CHUNK_SIZE),
            };
            let mut at = start;
            for part in parts {
                prop_assert_eq!(part.start(), at);
                prop_assert!(part.length() > 0);
                prop_assert_eq!(part.start() / size, (part.end() - 1) / size);
                prop_assert!(part.end() % size == 0 || part.end() == whole.end());
                at = part.end();
            }
            prop_assert_eq!(at, whole.end());
        }
    }
}
