// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! Which addresses a region has, and how its page list counts them.
//!
//! Addresses and lengths come from users and from devices. They are checked here, and are ranges
//! of whole pages afterwards.

#![forbid(unsafe_code)]

use core::ops::Range;
use kernel::{
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
};
use mmu_notifier_helpers::range::PageRange;

/// The addresses of a region, in pages of its own size: that of the CPU, or a huge page.
///
/// # Invariants
///
/// `range` begins and ends at multiples of `1 << page_shift`, which is no less than a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    range: PageRange,
    page_shift: u32,
}

impl Region {
    /// The region of the `length` bytes from `address`, widened to whole pages of `1 << page_shift`
    /// bytes.
    ///
    /// # Errors
    ///
    /// `EOVERFLOW` when it does not end in the address space; `EINVAL` when it has no page, or
    /// pages have no such size.
    pub fn new(address: usize, length: usize, page_shift: u32) -> Result<Self> {
        let page_size = match 1usize.checked_shl(page_shift) {
            Some(size) if size >= PAGE_SIZE => size,
            _ => return Err(EINVAL),
        };
        let end = address
            .checked_add(length)
            .and_then(|end| end.checked_next_multiple_of(page_size))
            .ok_or(EOVERFLOW)?;
        // INVARIANT: Both are multiples.
        Ok(Self {
            range: PageRange::new(address & !(page_size - 1), end)?,
            page_shift,
        })
    }

    /// All of it.
    pub const fn range(&self) -> &PageRange {
        &self.range
    }

    /// log2 of the size of a page of the region.
    pub const fn page_shift(&self) -> u32 {
        self.page_shift
    }

    /// How many pages of the CPU make one of the region.
    pub const fn pages_per_entry(&self) -> usize {
        1 << (self.page_shift as usize - PAGE_SHIFT)
    }

    /// How many entries the page list has.
    pub const fn entries(&self) -> usize {
        self.range.len() >> self.page_shift
    }

    const fn page_size(&self) -> usize {
        1 << self.page_shift
    }

    /// The pages of the region with the `bytes` bytes from `address`, which a device asks for.
    ///
    /// # Errors
    ///
    /// `EFAULT` when they are not all in the region; `EINVAL` when there is no page.
    pub fn pages_of(&self, address: u64, bytes: u64) -> Result<PageRange> {
        let end = address.checked_add(bytes).ok_or(EFAULT)?;
        if address < self.range.start() as u64 || end > self.range.end() as u64 {
            return Err(EFAULT);
        }
        let mask = self.page_size() - 1;
        // No overflow: the end of the region is a multiple.
        PageRange::new(address as usize & !mask, (end as usize + mask) & !mask)
    }

    /// The entries of the list with any byte from `start` to `end`, as far as they are in the
    /// region.
    pub fn entries_within(&self, start: u64, end: u64) -> Range<usize> {
        let start = start.max(self.range.start() as u64) as usize;
        let end = end.min(self.range.end() as u64) as usize;
        if start >= end {
            return 0..0;
        }
        let first = (start - self.range.start()) >> self.page_shift;
        let last = (end - 1 - self.range.start()) >> self.page_shift;
        first..last + 1
    }

    /// The entries for `pages`, which are of the region.
    pub fn entries_of(&self, pages: &PageRange) -> Range<usize> {
        self.entries_within(pages.start() as u64, pages.end() as u64)
    }

    /// The address of an entry of the list.
    pub const fn address_of(&self, entry: usize) -> usize {
        self.range.start() + (entry << self.page_shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const P: usize = PAGE_SIZE;
    const HUGE: u32 = 21;

    #[test]
    fn refuses_what_is_no_region() {
        let shift = PAGE_SHIFT as u32;
        assert_eq!(Region::new(P, 0, shift), Err(EINVAL));
        assert_eq!(Region::new(0, usize::MAX, shift), Err(EOVERFLOW));
        assert_eq!(Region::new(usize::MAX, 1, shift), Err(EOVERFLOW));
        assert_eq!(Region::new(1, usize::MAX, shift), Err(EOVERFLOW));
        assert_eq!(Region::new(usize::MAX - P, 1, HUGE), Err(EOVERFLOW));
        assert_eq!(Region::new(P, P, 11), Err(EINVAL));
        assert_eq!(Region::new(P, P, 64), Err(EINVAL));
    }

    #[test]
    fn no_bytes_within_a_page_are_a_page() {
        let region = Region::new(P + 1, 0, PAGE_SHIFT as u32).unwrap();
        assert_eq!(*region.range(), PageRange::new(P, 2 * P).unwrap());
        assert_eq!(region.entries(), 1);
    }

    #[test]
    fn refuses_what_a_device_asks_outside() {
        let region = Region::new(4 * P, 4 * P, PAGE_SHIFT as u32).unwrap();
        let (start, end) = (4 * P as u64, 8 * P as u64);
        for (address, bytes, error) in [
            (start - 1, 2, EFAULT),
            (start, 4 * P as u64 + 1, EFAULT),
            (end, 1, EFAULT),
            (start, u64::MAX, EFAULT),
            (u64::MAX, 2, EFAULT),
            (start, 0, EINVAL),
        ] {
            assert_eq!(
                region.pages_of(address, bytes),
                Err(error),
                "{address:#x}+{bytes}"
            );
        }
        assert_eq!(region.pages_of(start, end - start), Ok(*region.range()));
    }

    proptest! {
        #[test]
        fn entries_are_those_with_a_byte(
            shift in prop_oneof![Just(PAGE_SHIFT as u32), Just(HUGE)],
            address in 0..1usize << 24, length in 1..1usize << 24,
            start in 0..1u64 << 25, bytes in 0..1u64 << 25,
        ) {
            let region = Region::new(address, length, shift).unwrap();
            let size = 1u64 << shift;
            let naive: Vec<_> = (0..region.entries())
                .filter(|&entry| {
                    let at = region.address_of(entry) as u64;
                    bytes != 0 && start < at + size && at < start + bytes
                })
                .collect();
            let entries: Vec<_> = region.entries_within(start, start + bytes).collect();
            prop_assert_eq!(entries, naive);
        }

        #[test]
        fn what_a_device_asks_is_widened(
            shift in prop_oneof![Just(PAGE_SHIFT as u32), Just(HUGE)],
            address in 0..1usize << 24, length in 1..1usize << 24,
            offset in 0..1u64 << 24, bytes in 1..1u64 << 24,
        ) {
            let region = Region::new(address, length, shift).unwrap();
            let start = region.range().start() as u64 + offset;
            let inside = start + bytes <= region.range().end() as u64;
            let pages = region.pages_of(start, bytes);
            prop_assert_eq!(pages.is_ok(), inside);
            if let Ok(pages) = pages {
                prop_assert!(pages.start() as u64 <= start);
                prop_assert!(pages.end() as u64 >= start + bytes);
                let entries = region.entries_of(&pages);
                prop_assert_eq!(region.address_of(entries.start), pages.start());
                prop_assert_eq!(region.address_of(entries.end), pages.end());
            }
        }
    }
}
