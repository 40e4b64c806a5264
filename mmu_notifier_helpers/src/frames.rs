// SPDX-License-Identifier: GPL-2.0

//! Which pages of a chunk of device memory are free.
//!
//! A bitmap with a count for each 2 MiB. Pure: it knows numbers of pages, not the memory. The
//! caller locks it, and may do so with a spinlock: nothing allocates once it is made, and freeing
//! cannot fail, which is what `folio_free()` under the page-table lock needs.
//!
//! Frames are handed out as single pages and as 2 MiB, and come back in whatever pieces the core
//! made of them. There is nothing to merge: 2 MiB of which each page is free are a free huge frame.
//! So that there are such, single pages come out of blocks that are broken already.

use kernel::{alloc::Flags, prelude::*};

/// Pages in a block, which is what a huge frame is made of: 2 MiB.
pub const BLOCK_PAGES: usize = 512;

const WORD_BITS: usize = u64::BITS as usize;

/// How large a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One page.
    Page,
    /// [`BLOCK_PAGES`] pages, aligned to as many.
    Huge,
}

impl Order {
    /// How many pages.
    pub const fn pages(self) -> usize {
        match self {
            Self::Page => 1,
            Self::Huge => BLOCK_PAGES,
        }
    }
}

/// The free pages of a chunk of device memory. Pages are numbered from its start.
///
/// # Examples
///
/// ```
/// use kernel::prelude::*;
/// use mmu_notifier_helpers::frames::{Frames, Order, BLOCK_PAGES};
///
/// let mut frames = Frames::new(2 * BLOCK_PAGES, GFP_KERNEL)?;
/// let huge = frames.alloc(Order::Huge).ok_or(ENOMEM)?;
/// let page = frames.alloc(Order::Page).ok_or(ENOMEM)?;
/// assert_eq!(frames.alloc(Order::Huge), None);
/// assert_eq!(frames.used(), BLOCK_PAGES + 1);
///
/// // The huge frame was split, and comes back in pieces.
/// frames.free(huge, 2);
/// frames.free(huge + 2, BLOCK_PAGES - 2);
/// assert_eq!(frames.alloc(Order::Huge), Some(huge));
/// # frames.free(page, 1);
/// # Ok::<(), Error>(())
/// ```
pub struct Frames {
    blocks: KVec<Block>,
    /// The blocks of which no page is used.
    fresh: BlockSet,
    /// The blocks of which some pages are used and some are not.
    broken: BlockSet,
    /// How many pages are used, of all blocks.
    used: usize,
}

impl Frames {
    /// `pages` free pages, as many for the whole life of the value.
    ///
    /// # Errors
    ///
    /// `EINVAL` when `pages` is zero or not a multiple of [`BLOCK_PAGES`], `ENOMEM`.
    pub fn new(pages: usize, flags: Flags) -> Result<Self> {
        if pages == 0 || pages % BLOCK_PAGES != 0 {
            return Err(EINVAL);
        }
        let n = pages / BLOCK_PAGES;
        let mut frames = Self {
            blocks: KVec::with_capacity(n, flags)?,
            fresh: BlockSet::new(n, flags)?,
            broken: BlockSet::new(n, flags)?,
            used: 0,
        };
        for i in 0..n {
            frames.blocks.push(Block::FRESH, flags)?;
            frames.fresh.put(i, true);
        }
        Ok(frames)
    }

    /// Takes a frame and returns its first page, or [`None`] when there is none of that order.
    ///
    /// The pages of a huge frame may be given back one by one.
    pub fn alloc(&mut self, order: Order) -> Option<usize> {
        let i = match order {
            Order::Page => self.broken.first().or_else(|| self.fresh.first()),
            Order::Huge => self.fresh.first(),
        }?;
        let block = self.blocks.get_mut(i)?;
        let first = match order {
            Order::Page => block.take_page()?,
            Order::Huge => block.take_all(),
        };
        self.changed(i, order.pages(), 0);
        Some(i * BLOCK_PAGES + first)
    }

    /// Gives back the `pages` pages from `first` on, which are used and lie in one block: a frame,
    /// or a piece of one.
    ///
    /// What is free stays free; to give it back is a bug of the caller, as is to name what is in no
    /// block.
    pub fn free(&mut self, first: usize, pages: usize) {
        let (i, first) = (first / BLOCK_PAGES, first % BLOCK_PAGES);
        debug_assert!(
            i < self.blocks.len() && pages <= BLOCK_PAGES - first,
            "not in one block"
        );
        let Some(block) = self.blocks.get_mut(i) else {
            return;
        };
        let freed = block.put(first, pages.min(BLOCK_PAGES - first));
        debug_assert_eq!(freed, pages, "freed twice");
        self.changed(i, 0, freed);
    }

    /// How many pages are used.
    pub const fn used(&self) -> usize {
        self.used
    }

    /// How many pages of the block are used that has the pages from `block * BLOCK_PAGES` on.
    pub fn used_in(&self, block: usize) -> usize {
        self.blocks.get(block).map_or(0, |block| block.used)
    }

    /// The blocks of which pages are used, in order.
    pub fn used_blocks(&self) -> impl Iterator<Item = usize> + '_ {
        let used = |(i, block): (usize, &Block)| (block.used != 0).then_some(i);
        self.blocks.iter().enumerate().filter_map(used)
    }

    /// Counts what was taken out of block `i` and put back.
    fn changed(&mut self, i: usize, taken: usize, freed: usize) {
        let Some(block) = self.blocks.get_mut(i) else {
            return;
        };
        let was = block.used;
        let is = was + taken - freed;
        block.used = is;
        self.used = self.used + taken - freed;
        // In between a block stays broken, and only the counts change.
        if [was, is].iter().any(|used| used % BLOCK_PAGES == 0) {
            self.fresh.put(i, is == 0);
            self.broken.put(i, is % BLOCK_PAGES != 0);
        }
    }
}

/// 2 MiB of device memory.
struct Block {
    /// A bit for each page that is free.
    free: [u64; BLOCK_PAGES / WORD_BITS],
    used: usize,
}

impl Block {
    const FRESH: Self = Self {
        free: [u64::MAX; BLOCK_PAGES / WORD_BITS],
        used: 0,
    };

    /// Takes the first free page.
    fn take_page(&mut self) -> Option<usize> {
        let i = self.free.iter().position(|word| *word != 0)?;
        let bit = self.free[i].trailing_zeros() as usize;
        self.free[i] ^= 1 << bit;
        Some(i * WORD_BITS + bit)
    }

    /// Takes every page, and returns the first.
    fn take_all(&mut self) -> usize {
        self.free = [0; BLOCK_PAGES / WORD_BITS];
        0
    }

    /// Gives back pages, and returns how many of them were used.
    fn put(&mut self, first: usize, pages: usize) -> usize {
        let (mut next, end) = (first, first + pages);
        let mut freed = 0;
        while next < end {
            let (word, bit) = (next / WORD_BITS, next % WORD_BITS);
            let n = (WORD_BITS - bit).min(end - next);
            let mask = u64::MAX >> (WORD_BITS - n) << bit;
            freed += (mask & !self.free[word]).count_ones() as usize;
            self.free[word] |= mask;
            next += n;
        }
        freed
    }
}

/// A set of blocks that finds its first member at little cost.
struct BlockSet {
    /// A bit for each member.
    words: KVec<u64>,
    /// No word before this one has a bit set.
    hint: usize,
}

impl BlockSet {
    /// An empty set with room for `n` blocks.
    fn new(n: usize, flags: Flags) -> Result<Self> {
        let len = n.div_ceil(WORD_BITS);
        let mut words = KVec::with_capacity(len, flags)?;
        for _ in 0..len {
            words.push(0, flags)?;
        }
        Ok(Self { words, hint: len })
    }

    fn first(&mut self) -> Option<usize> {
        while let Some(word) = self.words.get(self.hint) {
            if *word != 0 {
                return Some(self.hint * WORD_BITS + word.trailing_zeros() as usize);
            }
            self.hint += 1;
        }
        None
    }

    /// Makes `block` a member, or none.
    fn put(&mut self, block: usize, is_member: bool) {
        let (word, bit) = (block / WORD_BITS, 1 << (block % WORD_BITS));
        if is_member {
            self.words[word] |= bit;
            self.hint = self.hint.min(word);
        } else {
            self.words[word] &= !bit;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*, sample::Index};
    use std::collections::BTreeSet;

    /// Blocks of the chunk that the property test works on: few, so that it is full now and then.
    const BLOCKS: usize = 3;

    fn frames(blocks: usize) -> Frames {
        Frames::new(blocks * BLOCK_PAGES, GFP_KERNEL).unwrap()
    }

    #[derive(Clone, Debug)]
    enum Op {
        Pages(usize),
        Huge,
        /// Breaks a run of pages that is held in two.
        Split(Index),
        Free(Index),
        /// Gives back what is held from here on.
        FreeFrom(Index),
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            4 => (1..700usize).prop_map(Op::Pages),
            4 => Just(Op::Huge),
            6 => any::<Index>().prop_map(Op::Split),
            6 => any::<Index>().prop_map(Op::Free),
            1 => any::<Index>().prop_map(Op::FreeFrom),
        ]
    }

    /// The pages that are used, by name.
    #[derive(Default)]
    struct Model {
        used: [BTreeSet<usize>; BLOCKS],
        /// Runs of pages that are held, as frames or as pieces of one.
        held: Vec<(usize, usize)>,
    }

    impl Model {
        /// Takes a frame out of `frames`, which must be one that may be handed out.
        fn alloc(&mut self, frames: &mut Frames, order: Order) {
            let has_fresh = self.used.iter().any(BTreeSet::is_empty);
            let is_broken = |used: &BTreeSet<_>| (1..BLOCK_PAGES).contains(&used.len());
            let has_broken = self.used.iter().any(is_broken);

            let Some(first) = frames.alloc(order) else {
                assert!(!has_fresh);
                assert!(order == Order::Huge || !has_broken);
                return;
            };
            let (block, pages) = (first / BLOCK_PAGES, first..first + order.pages());
            assert_eq!(first % order.pages(), 0);
            if order == Order::Page && has_broken {
                assert!(!self.used[block].is_empty(), "broke a fresh block");
            }
            for page in pages {
                assert!(self.used[block].insert(page), "handed out twice");
            }
            self.held.push((first, order.pages()));
        }

        /// Breaks a run of pages that is held in two.
        fn split(&mut self, which: usize) {
            let (first, pages) = self.held[which];
            if pages > 1 {
                self.held[which].1 = pages / 2;
                self.held.push((first + pages / 2, pages - pages / 2));
            }
        }

        /// Gives back what is held at `which`.
        fn free(&mut self, frames: &mut Frames, which: usize) {
            let (first, pages) = self.held.swap_remove(which);
            frames.free(first, pages);
            for page in first..first + pages {
                assert!(self.used[first / BLOCK_PAGES].remove(&page));
            }
        }

        fn check(&self, frames: &Frames) {
            let used = self.used.each_ref().map(BTreeSet::len);
            assert_eq!(frames.used(), used.iter().sum::<usize>());
            assert_eq!([0, 1, 2].map(|block| frames.used_in(block)), used);
            assert!(frames
                .used_blocks()
                .eq((0..BLOCKS).filter(|block| used[*block] != 0)));
        }
    }

    proptest! {
        // Each case takes and frees thousands of pages.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn hands_out_what_is_free_and_nothing_else(ops in vec(any_op(), 0..40)) {
            let mut frames = frames(BLOCKS);
            let mut model = Model::default();
            for op in ops {
                let held = model.held.len();
                match op {
                    Op::Pages(n) => {
                        for _ in 0..n {
                            model.alloc(&mut frames, Order::Page);
                        }
                    }
                    Op::Huge => model.alloc(&mut frames, Order::Huge),
                    _ if held == 0 => (),
                    Op::Split(which) => model.split(which.index(held)),
                    Op::Free(which) => model.free(&mut frames, which.index(held)),
                    Op::FreeFrom(first) => {
                        for which in (first.index(held)..held).rev() {
                            model.free(&mut frames, which);
                        }
                    }
                }
                model.check(&frames);
            }

            while !model.held.is_empty() {
                model.free(&mut frames, 0);
            }
            model.check(&frames);
            for _ in 0..BLOCKS {
                prop_assert!(frames.alloc(Order::Huge).is_some());
            }
        }
    }

    #[test]
    fn refuses_what_is_no_number_of_blocks() {
        for pages in [0, 1, BLOCK_PAGES - 1, BLOCK_PAGES + 1] {
            assert_eq!(Frames::new(pages, GFP_KERNEL).err(), Some(EINVAL));
        }
    }

    #[test]
    fn hands_out_every_page_once() {
        let mut frames = frames(BLOCKS);
        let pages: BTreeSet<_> = core::iter::from_fn(|| frames.alloc(Order::Page)).collect();
        assert!(pages.into_iter().eq(0..BLOCKS * BLOCK_PAGES));
        assert_eq!(frames.used(), BLOCKS * BLOCK_PAGES);
    }

    #[test]
    fn single_pages_leave_huge_frames_alone() {
        let mut frames = frames(2);
        let pages: Vec<_> = (0..3).map(|_| frames.alloc(Order::Page).unwrap()).collect();
        assert!(pages
            .iter()
            .all(|page| page / BLOCK_PAGES == pages[0] / BLOCK_PAGES));
        let huge = frames.alloc(Order::Huge).unwrap();
        assert_eq!(frames.alloc(Order::Huge), None);

        // A hole in the huge frame is as good as any other.
        frames.free(huge + 3, 1);
        for _ in 0..BLOCK_PAGES - 2 {
            assert!(frames.alloc(Order::Page).is_some());
        }
        assert_eq!(frames.alloc(Order::Page), None);
    }

    #[test]
    fn pieces_make_a_huge_frame_again() {
        let mut frames = frames(1);
        assert_eq!(frames.alloc(Order::Huge), Some(0));
        // Within a word, over the border of two, and over several words.
        for (first, pages) in [(1, 1), (60, 8), (0, 1), (68, 444), (2, 58)] {
            assert_eq!(frames.alloc(Order::Huge), None);
            let used = frames.used_in(0);
            frames.free(first, pages);
            assert_eq!(frames.used_in(0), used - pages);
        }
        assert_eq!(frames.alloc(Order::Huge), Some(0));
    }

    #[test]
    fn many_blocks() {
        const MANY: usize = 200;
        let mut frames = frames(MANY);
        for _ in 0..MANY {
            assert!(frames.alloc(Order::Huge).is_some());
        }
        assert_eq!(frames.alloc(Order::Huge), None);
        assert_eq!(frames.alloc(Order::Page), None);
        assert!(frames.used_blocks().eq(0..MANY));

        // Far apart, each of them found again.
        for block in [70, 199, 0, 140] {
            frames.free(block * BLOCK_PAGES, BLOCK_PAGES);
            assert_eq!(frames.used_in(block), 0);
            assert_eq!(frames.alloc(Order::Huge), Some(block * BLOCK_PAGES));
            frames.free((block + 1) * BLOCK_PAGES - 1, 1);
            assert_eq!(
                frames.alloc(Order::Page),
                Some((block + 1) * BLOCK_PAGES - 1)
            );
        }
        assert_eq!(frames.used(), MANY * BLOCK_PAGES);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "freed twice")]
    fn nothing_is_freed_twice() {
        let mut frames = frames(1);
        let page = frames.alloc(Order::Page).unwrap();
        frames.free(page, 1);
        frames.free(page, 1);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "not in one block")]
    fn nothing_is_freed_over_the_end_of_a_block() {
        let mut frames = frames(2);
        for _ in 0..2 {
            frames.alloc(Order::Huge).unwrap();
        }
        frames.free(BLOCK_PAGES - 1, 2);
    }
}
