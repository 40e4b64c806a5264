// SPDX-License-Identifier: GPL-2.0

//! Ranges of whole pages, and what an invalidation says about one.
//!
//! A range comes either from a user, and then every way in checks its arithmetic, or from the core,
//! and then it is widened to whole pages. After that it is a value that cannot be wrong.
//!
//! C header: [`include/linux/mmu_notifier.h`](srctree/include/linux/mmu_notifier.h)

use kernel::{
    page::{PAGE_MASK, PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
};

/// A non-empty range of whole pages of a user address space, `[start, end)` in bytes.
///
/// # Invariants
///
/// `start` and `end` are multiples of [`PAGE_SIZE`] and `start < end`.
///
/// # Examples
///
/// ```
/// use kernel::{page::PAGE_SIZE, prelude::*};
/// use mmu_notifier_helpers::range::PageRange;
///
/// // What a user names is checked.
/// let range = PageRange::from_pages(0x10_0000, 3)?;
/// assert_eq!(range.len(), 3 * PAGE_SIZE);
/// assert_eq!(PageRange::from_pages(0x10_0001, 3), Err(EINVAL));
///
/// // What the core names is widened.
/// assert_eq!(PageRange::covering(0x10_0001, 0x10_2001), Some(range));
///
/// // In parts, for a buffer that has room for two pages.
/// let parts: Vec<usize> = range.chunks(2).map(|part| part.pages()).collect();
/// assert_eq!(parts, [2, 1]);
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRange {
    start: usize,
    end: usize,
}

impl PageRange {
    /// Every address that a range can hold. The last page of the address space is left out: its end
    /// is not a number, and no architecture maps it for users.
    // INVARIANT: both are page-aligned, and 0 is less than the last page.
    pub const ALL: Self = Self {
        start: 0,
        end: PAGE_MASK,
    };

    /// The range from `start` to `end`, both in bytes.
    ///
    /// # Errors
    ///
    /// `EINVAL` when either is not page-aligned or the range is empty.
    pub fn new(start: usize, end: usize) -> Result<Self> {
        if (start | end) & !PAGE_MASK != 0 || start >= end {
            return Err(EINVAL);
        }
        // INVARIANT: just checked.
        Ok(Self { start, end })
    }

    /// The `npages` pages from the byte address `addr`, as a user names them.
    ///
    /// # Errors
    ///
    /// `EINVAL` when `addr` is not page-aligned, `npages` is zero, or the end does not fit an
    /// address.
    pub fn from_pages(addr: u64, npages: u64) -> Result<Self> {
        let end = npages
            .checked_mul(PAGE_SIZE as u64)
            .and_then(|size| addr.checked_add(size))
            .ok_or(EINVAL)?;
        Self::new(
            addr.try_into().map_err(|_| EINVAL)?,
            end.try_into().map_err(|_| EINVAL)?,
        )
    }

    /// The smallest range that holds every byte of `[start, end)`, or [`None`] when there is none.
    ///
    /// The core means "to the end of the address space" by `ULONG_MAX`, which is cut to
    /// [`PageRange::ALL`].
    pub fn covering(start: usize, end: usize) -> Option<Self> {
        let start = start & PAGE_MASK;
        let end = end
            .checked_add(PAGE_SIZE - 1)
            .map_or(PAGE_MASK, |end| end & PAGE_MASK);
        Self::new(start, end).ok()
    }

    /// The first byte.
    pub const fn start(&self) -> usize {
        self.start
    }

    /// The byte after the last.
    pub const fn end(&self) -> usize {
        self.end
    }

    /// The number of the first page.
    pub const fn first_page(&self) -> usize {
        self.start >> PAGE_SHIFT
    }

    /// The number of the page after the last.
    pub const fn end_page(&self) -> usize {
        self.end >> PAGE_SHIFT
    }

    /// How many bytes. Never zero.
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// How many pages. Never zero.
    pub const fn pages(&self) -> usize {
        self.len() >> PAGE_SHIFT
    }

    /// Whether the two have a page in common.
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end
    }

    /// The pages that both have.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end)).ok()
    }

    /// The part from the byte address `addr` on: [`None`] when `addr` is not page-aligned or no
    /// page is left.
    pub fn tail(&self, addr: usize) -> Option<Self> {
        Self::new(self.start.max(addr), self.end).ok()
    }

    /// The range in consecutive parts of at most `max_pages` pages, none for `max_pages` zero.
    pub fn chunks(&self, max_pages: usize) -> impl Iterator<Item = Self> {
        let (end, step) = (self.end, max_pages.saturating_mul(PAGE_SIZE) & PAGE_MASK);
        let mut next = self.start;
        core::iter::from_fn(move || {
            let chunk = Self::new(next, next.saturating_add(step).min(end)).ok()?;
            next = chunk.end;
            Some(chunk)
        })
    }
}

/// Why page-table entries change. `enum mmu_notifier_event` in C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// `munmap()`, or the old place of an `mremap()`.
    Unmap,
    /// Entries are cleared for any other reason: `madvise()`, reclaim, copy-on-write, truncation.
    Clear,
    /// The protection of a whole VMA changes, `mprotect()`.
    ProtectionVma,
    /// The protection of single pages changes.
    ProtectionPage,
    /// Soft-dirty accounting: the page and its access stay.
    SoftDirty,
    /// The address space is going away. The last event that a `PerMm` sees; an interval notifier is
    /// told of the mappings that go after it.
    Release,
    /// Pages are collected to be migrated by a device driver.
    Migrate,
    /// Entries become device-exclusive.
    Exclusive,
    /// A reason that this crate does not know. To be treated as [`Event::Clear`].
    Other,
}

/// Who caused an invalidation, or owns device memory: the address of something of the driver's,
/// which is compared and never followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(usize);

impl Owner {
    /// The owner that `object` stands for, for as long as it is not moved or freed.
    pub fn of<T>(object: &T) -> Self {
        Self(core::ptr::from_ref(object) as usize)
    }

    /// From what the core stores. There is no owner at no address.
    pub const fn from_addr(addr: usize) -> Option<Self> {
        match addr {
            0 => None,
            addr => Some(Self(addr)),
        }
    }

    /// What the core stores.
    pub const fn addr(self) -> usize {
        self.0
    }
}

/// What the core tells of one invalidation, cut to what the subscription watches.
#[derive(Clone, Copy, Debug)]
pub struct Invalidation {
    range: PageRange,
    event: Event,
    blockable: bool,
    owner: Option<Owner>,
}

impl Invalidation {
    /// An invalidation of `range`, in which callbacks may sleep if `blockable`.
    pub const fn new(range: PageRange, event: Event, blockable: bool) -> Self {
        Self {
            range,
            event,
            blockable,
            owner: None,
        }
    }

    /// The same, caused by `owner`.
    pub const fn with_owner(self, owner: Option<Owner>) -> Self {
        Self { owner, ..self }
    }

    /// The addresses whose entries must go.
    pub const fn range(&self) -> &PageRange {
        &self.range
    }

    /// Why they must.
    pub const fn event(&self) -> Event {
        self.event
    }

    /// Who caused it. A driver that finds itself here may leave entries in place that it is about
    /// to change on its own; whoever reads the range collides all the same.
    pub const fn owner(&self) -> Option<Owner> {
        self.owner
    }

    /// Whether the callback may sleep. `mmu_notifier_range_blockable()` in C; false in the OOM
    /// reaper.
    pub const fn blockable(&self) -> bool {
        self.blockable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const P: usize = PAGE_SIZE;

    #[test]
    fn refuses_what_is_no_range() {
        for (start, end) in [(0, 0), (P, P), (2 * P, P), (1, P), (0, P + 1), (P - 1, P)] {
            assert_eq!(
                PageRange::new(start, end),
                Err(EINVAL),
                "{start:#x}..{end:#x}"
            );
        }
    }

    #[test]
    fn refuses_what_a_hostile_user_asks() {
        let p = P as u64;
        for (addr, npages) in [
            (0, 0),
            (1, 1),
            (0, u64::MAX),
            (0, 1 << 52),
            (p, (1 << 52) - 1),
            (!(p - 1), 1),
            (u64::MAX, 1),
        ] {
            assert_eq!(
                PageRange::from_pages(addr, npages),
                Err(EINVAL),
                "{addr:#x}+{npages}"
            );
        }
        // The largest that is one.
        let all = PageRange::from_pages(0, (1 << 52) - 1).unwrap();
        assert_eq!(all, PageRange::ALL);
    }

    #[test]
    fn covering_takes_the_end_of_the_address_space() {
        assert_eq!(PageRange::covering(0, usize::MAX), Some(PageRange::ALL));
        assert_eq!(PageRange::covering(0, P), PageRange::new(0, P).ok());
        assert_eq!(
            PageRange::covering(P + 1, P + 2),
            PageRange::new(P, 2 * P).ok()
        );
        assert_eq!(PageRange::covering(P, P), None);
        assert_eq!(PageRange::covering(3 * P, P), None);
    }

    #[test]
    fn chunks_of_no_pages_are_none() {
        assert_eq!(PageRange::ALL.chunks(0).count(), 0);
    }

    fn any_range() -> impl Strategy<Value = PageRange> {
        (0..64usize, 1..64usize)
            .prop_map(|(first, n)| PageRange::new(first * P, (first + n) * P).unwrap())
    }

    fn pages(range: &PageRange) -> Vec<usize> {
        (range.first_page()..range.end_page()).collect()
    }

    proptest! {
        #[test]
        fn set_operations_agree_with_sets(a in any_range(), b in any_range()) {
            let both: Vec<_> = pages(&a).into_iter().filter(|p| pages(&b).contains(p)).collect();
            prop_assert_eq!(a.overlaps(&b), !both.is_empty());
            prop_assert_eq!(a.intersection(&b).map_or(vec![], |i| pages(&i)), both);
        }

        #[test]
        fn chunks_partition(a in any_range(), max in 1..80usize) {
            let chunks: Vec<_> = a.chunks(max).collect();
            prop_assert_eq!(chunks.iter().flat_map(pages).collect::<Vec<_>>(), pages(&a));
            prop_assert!(chunks.iter().all(|c| c.pages() <= max));
            prop_assert!(chunks.iter().rev().skip(1).all(|c| c.pages() == max));
        }

        #[test]
        fn tail_is_what_is_left(a in any_range(), first in 0..140usize) {
            let left: Vec<_> = pages(&a).into_iter().filter(|p| *p >= first).collect();
            prop_assert_eq!(a.tail(first * P).map_or(vec![], |t| pages(&t)), left);
        }

        #[test]
        fn covering_is_the_smallest(start in 0..20 * P, len in 1..10 * P) {
            let range = PageRange::covering(start, start + len).unwrap();
            prop_assert!(range.start() <= start && start + len <= range.end());
            prop_assert!(start - range.start() < P && range.end() - (start + len) < P);
        }

        #[test]
        fn users_pages_are_taken_as_they_are(first in 0u64..1 << 51, n in 1u64..1 << 51) {
            let range = PageRange::from_pages(first << PAGE_SHIFT, n).unwrap();
            prop_assert_eq!(range.first_page() as u64, first);
            prop_assert_eq!(range.pages() as u64, n);
        }
    }
}
