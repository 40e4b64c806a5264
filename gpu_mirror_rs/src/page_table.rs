// SPDX-License-Identifier: GPL-2.0

//! The device's page table: a radix tree of five levels of 512 slots, as deep as the CPU's.
//!
//! A slot of the last directory holds either a leaf, which is 512 entries of a page each, or one
//! *huge entry* that maps as many pages. A huge entry is mapped and dropped as a whole: to split it
//! would take memory where none can be had, and the kernel itself invalidates all of a huge page
//! that it splits. What is dropped too much is faulted in again.
//!
//! Pure: it knows pages and slots, not what an entry is, and runs on the host as it is. The caller
//! locks it. Adding entries allocates nothing; the nodes that it may take come from a [`Reserve`],
//! which is filled before the lock is taken. Nodes that become empty are freed, so that the table
//! never holds more memory than the entries in it account for, but for one directory of each level:
//! what is zapped is mostly mapped again, and to free a directory takes longer than to zap a leaf.

#![forbid(unsafe_code)]

use core::convert::Infallible;
use kernel::{
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
};
use mmu_notifier_helpers::range::PageRange;
use pin_init::{init_array_from_fn, Init};

/// Address bits that one level decodes.
const BITS: usize = 9;
/// Slots in a node.
const SLOTS: usize = 1 << BITS;

/// Bytes that a leaf or a huge entry maps.
pub const LEAF_SIZE: usize = SLOTS * PAGE_SIZE;
/// Pages that a leaf or a huge entry maps.
pub const LEAF_PAGES: usize = SLOTS;

/// The end of the addresses that the table can hold: 57 bits, the most that x86_64 gives users.
const END: usize = 1 << (PAGE_SHIFT + 5 * BITS);

/// 512 entries, one a page. For entries of a word it is a page long.
type Leaf<E> = [Option<E>; SLOTS];
type Directory<C> = [Slot<C>; SLOTS];
type Level2<E> = [Option<Mapping<E>>; SLOTS];
type Level3<E> = Directory<Level2<E>>;
type Level4<E> = Directory<Level3<E>>;
type Root<E> = Directory<Level4<E>>;

/// What maps [`LEAF_SIZE`] bytes.
enum Mapping<E> {
    Leaf {
        leaf: KBox<Leaf<E>>,
        /// How many slots of the leaf are used. It is kept here and not in the leaf, which is then
        /// a power of two in size, and so small that it fits beside the tag. Never zero.
        used: u16,
    },
    Huge(E),
}

/// Where a directory keeps one child.
struct Slot<C> {
    child: Option<KBox<C>>,
    /// How many slots of the child are used, kept here for the same reason. Zero only if there is
    /// no child.
    used: usize,
}

/// The parts of `range` in each of the slots that it touches, of `1 << shift` bytes each, as the
/// index of the slot, the part, and whether it is all of the slot. The range lies in one node.
fn parts(range: &PageRange, shift: usize) -> impl Iterator<Item = (usize, PageRange, bool)> {
    let (range, size) = (*range, 1 << shift);
    (range.start() >> shift..=(range.end() - 1) >> shift).filter_map(move |slot| {
        // Ranges in a node never wrap.
        let start = slot << shift;
        let part = PageRange::new(range.start().max(start), range.end().min(start + size)).ok()?;
        Some((slot % SLOTS, part, part.len() == size))
    })
}

/// A directory, of whatever level.
trait Node<E>: Sized {
    /// log2 of the bytes that one slot stands for.
    const SHIFT: usize;
    /// What holds the nodes of one path below this one, down to a leaf.
    type Spare: Default;

    fn init() -> impl Init<Self, Infallible>;

    fn fill(spare: &mut Self::Spare) -> Result;

    /// What maps `addr`.
    fn mapping(&self, addr: usize) -> Option<&Mapping<E>>;

    /// Lets `change` put something where the mapping of `addr` is kept; it does not empty the slot.
    /// Returns how many slots of this node are newly used. Directories come from `empty` or
    /// `spare`.
    fn update(
        &mut self,
        addr: usize,
        change: impl FnOnce(&mut Option<Mapping<E>>, &mut SpareLeaf<E>) -> Result,
        spare: &mut Self::Spare,
        empty: &mut Self::Spare,
    ) -> Result<usize>;

    /// Drops the entries in `range`, which lies in this node, and the huge entries that it touches.
    /// Returns how many of its slots are no longer used. Directories that are left without an entry
    /// go to `empty`, if there is none.
    fn zap(&mut self, range: &PageRange, empty: &mut Self::Spare) -> usize;

    /// Whether `f` holds for an entry in `range`, which lies in this node.
    fn any(&self, range: &PageRange, f: &impl Fn(&E) -> bool) -> bool;

    fn index(addr: usize) -> usize {
        (addr >> Self::SHIFT) % SLOTS
    }
}

type SpareLeaf<E> = Option<KBox<Leaf<E>>>;

impl<E> Mapping<E> {
    /// Sets entries of the leaf in `slot`. Where there is none, `spare` becomes it.
    fn set(
        slot: &mut Option<Self>,
        entries: impl Iterator<Item = (usize, E)>,
        spare: &mut SpareLeaf<E>,
    ) -> Result {
        let set = |leaf: &mut Leaf<E>| {
            let mut new = 0;
            for (addr, entry) in entries {
                new += u16::from(leaf[page_in_leaf(addr)].replace(entry).is_none());
            }
            new
        };
        if let Some(Self::Leaf { leaf, used }) = slot {
            *used += set(leaf);
            return Ok(());
        }
        let mut leaf = spare.take().ok_or(ENOMEM)?;
        match set(&mut leaf) {
            // An empty leaf goes back to where it came from.
            0 => *spare = Some(leaf),
            used => *slot = Some(Self::Leaf { leaf, used }),
        }
        Ok(())
    }
}

fn page_in_leaf(addr: usize) -> usize {
    (addr >> PAGE_SHIFT) % LEAF_PAGES
}

/// The slots of `range` in its leaf.
fn in_leaf(range: &PageRange) -> core::ops::Range<usize> {
    let first = page_in_leaf(range.start());
    first..first + range.pages()
}

impl<E> Node<E> for Level2<E> {
    const SHIFT: usize = PAGE_SHIFT + BITS;
    type Spare = SpareLeaf<E>;

    fn init() -> impl Init<Self, Infallible> {
        init_array_from_fn(|_| None)
    }

    fn fill(spare: &mut SpareLeaf<E>) -> Result {
        if spare.is_none() {
            *spare = Some(KBox::init(
                init_array_from_fn(|_| None),
                GFP_KERNEL_ACCOUNT,
            )?);
        }
        Ok(())
    }

    fn mapping(&self, addr: usize) -> Option<&Mapping<E>> {
        self[Self::index(addr)].as_ref()
    }

    fn update(
        &mut self,
        addr: usize,
        change: impl FnOnce(&mut Option<Mapping<E>>, &mut SpareLeaf<E>) -> Result,
        spare: &mut SpareLeaf<E>,
        _empty: &mut SpareLeaf<E>,
    ) -> Result<usize> {
        let slot = &mut self[Self::index(addr)];
        let was_used = slot.is_some();
        change(slot, spare)?;
        Ok(usize::from(!was_used && slot.is_some()))
    }

    fn zap(&mut self, range: &PageRange, _empty: &mut SpareLeaf<E>) -> usize {
        let mut emptied = 0;
        for (index, part, is_whole) in parts(range, Self::SHIFT) {
            let slot = &mut self[index];
            match slot {
                None => continue,
                Some(Mapping::Leaf { leaf, used }) if !is_whole => {
                    let slots = &mut leaf[in_leaf(&part)];
                    *used -= slots.iter_mut().filter_map(Option::take).count() as u16;
                    if *used != 0 {
                        continue;
                    }
                }
                Some(_) => (),
            }
            *slot = None;
            emptied += 1;
        }
        emptied
    }

    fn any(&self, range: &PageRange, f: &impl Fn(&E) -> bool) -> bool {
        parts(range, Self::SHIFT).any(|(index, part, _)| match &self[index] {
            None => false,
            Some(Mapping::Leaf { leaf, .. }) => leaf[in_leaf(&part)].iter().flatten().any(f),
            Some(Mapping::Huge(entry)) => f(entry),
        })
    }
}

impl<E, C: Node<E>> Node<E> for Directory<C> {
    const SHIFT: usize = C::SHIFT + BITS;
    type Spare = (Option<KBox<C>>, C::Spare);

    fn init() -> impl Init<Self, Infallible> {
        init_array_from_fn(|_| Slot {
            child: None,
            used: 0,
        })
    }

    fn fill((child, below): &mut Self::Spare) -> Result {
        if child.is_none() {
            *child = Some(KBox::init(C::init(), GFP_KERNEL_ACCOUNT)?);
        }
        C::fill(below)
    }

    fn mapping(&self, addr: usize) -> Option<&Mapping<E>> {
        self[Self::index(addr)].child.as_ref()?.mapping(addr)
    }

    fn update(
        &mut self,
        addr: usize,
        change: impl FnOnce(&mut Option<Mapping<E>>, &mut SpareLeaf<E>) -> Result,
        (spare, spare_below): &mut Self::Spare,
        (empty, empty_below): &mut Self::Spare,
    ) -> Result<usize> {
        let slot = &mut self[Self::index(addr)];
        let child = slot.child.take().or_else(|| empty.take());
        let mut child = child.or_else(|| spare.take()).ok_or(ENOMEM)?;
        let was_used = slot.used != 0;

        let added = child.update(addr, change, spare_below, empty_below);
        slot.used += added.unwrap_or(0);
        // An empty child goes back to where it came from, or could have.
        let place = match slot.used {
            0 if spare.is_none() => spare,
            0 => empty,
            _ => &mut slot.child,
        };
        *place = Some(child);

        added.map(|_| usize::from(!was_used && slot.used != 0))
    }

    fn zap(&mut self, range: &PageRange, (empty, below): &mut Self::Spare) -> usize {
        let mut emptied = 0;
        for (index, part, is_whole) in parts(range, Self::SHIFT) {
            let slot = &mut self[index];
            let Some(child) = &mut slot.child else {
                continue;
            };
            if is_whole {
                slot.used = 0;
                slot.child = None;
                emptied += 1;
                continue;
            }
            slot.used -= child.zap(&part, below);
            if slot.used == 0 {
                let child = slot.child.take();
                if empty.is_none() {
                    *empty = child;
                }
                emptied += 1;
            }
        }
        emptied
    }

    fn any(&self, range: &PageRange, f: &impl Fn(&E) -> bool) -> bool {
        parts(range, Self::SHIFT).any(|(index, part, _)| {
            let child = self[index].child.as_ref();
            child.is_some_and(|child| child.any(&part, f))
        })
    }
}

/// Nodes that [`PageTable::map`] and [`PageTable::map_huge`] may need, allocated where that is
/// allowed.
pub struct Reserve<E>(<Root<E> as Node<E>>::Spare);

impl<E> Default for Reserve<E> {
    /// An empty reserve.
    fn default() -> Self {
        Self(Default::default())
    }
}

impl<E> Reserve<E> {
    /// Fills the reserve up, so that it serves one call of [`PageTable::map`] or
    /// [`PageTable::map_huge`].
    ///
    /// May sleep. The memory is charged to the caller's memory cgroup, since the table that takes
    /// it holds it for as long as a user likes.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn fill(&mut self) -> Result {
        <Root<E> as Node<E>>::fill(&mut self.0)
    }
}

/// A page table with entries of type `E`, each of which maps one page or [`LEAF_PAGES`] of them.
pub struct PageTable<E> {
    root: KBox<Root<E>>,
    /// Directories that are used again.
    empty: <Root<E> as Node<E>>::Spare,
}

impl<E> PageTable<E> {
    /// A table that maps nothing.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        Ok(Self {
            root: KBox::init(<Root<E> as Node<E>>::init(), GFP_KERNEL_ACCOUNT)?,
            empty: Default::default(),
        })
    }

    /// Sets `entries`, each with its byte address in `range`, whose pages one leaf maps. Pages of
    /// the range that are not named keep what they have, but a huge entry gives way to the first
    /// entry, and leaves its other pages unmapped.
    ///
    /// Allocates nothing.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when `reserve` had been used up, `EINVAL` when the range is more than one leaf maps
    /// or beyond what the table can hold. Nothing is changed then.
    pub fn map(
        &mut self,
        range: &PageRange,
        entries: impl Iterator<Item = (usize, E)>,
        reserve: &mut Reserve<E>,
    ) -> Result {
        if range.end() > END || range.start() / LEAF_SIZE != (range.end() - 1) / LEAF_SIZE {
            return Err(EINVAL);
        }
        self.root.update(
            range.start(),
            |slot, spare| Mapping::set(slot, entries, spare),
            &mut reserve.0,
            &mut self.empty,
        )?;
        Ok(())
    }

    /// Maps the [`LEAF_SIZE`] bytes at `addr` with one entry, in place of all that was mapped
    /// there.
    ///
    /// Allocates nothing, and takes no leaf of `reserve`.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when `reserve` had been used up, `EINVAL` when `addr` is not a multiple of
    /// [`LEAF_SIZE`] or beyond what the table can hold. Nothing is changed then.
    pub fn map_huge(&mut self, addr: usize, entry: E, reserve: &mut Reserve<E>) -> Result {
        if addr % LEAF_SIZE != 0 || addr >= END {
            return Err(EINVAL);
        }
        let put = |slot: &mut Option<_>, _: &mut _| {
            *slot = Some(Mapping::Huge(entry));
            Ok(())
        };
        self.root
            .update(addr, put, &mut reserve.0, &mut self.empty)?;
        Ok(())
    }

    /// Drops the entries of `range`, and all of each huge entry that it touches. Costs by the leaf
    /// and the huge entry, and nothing where neither is.
    pub fn zap(&mut self, range: &PageRange) {
        if let Some(held) = held(range) {
            self.root.zap(&held, &mut self.empty);
        }
    }

    /// Whether `f` holds for any entry in `range`, which may have gaps. Costs by what is mapped.
    pub fn any(&self, range: &PageRange, f: impl Fn(&E) -> bool) -> bool {
        held(range).is_some_and(|held| self.root.any(&held, &f))
    }

    /// What maps the pages from the start of `range` to the first that has no entry: a run for each
    /// leaf and each huge entry.
    pub fn runs(&self, range: PageRange) -> impl Iterator<Item = Run<'_, E>> {
        let mut rest = Some(range);
        core::iter::from_fn(move || self.next_run(&mut rest))
    }

    /// The entries from the start of `range` to the first page that has none, page by page.
    pub fn mapped(&self, range: PageRange) -> impl Iterator<Item = Mapped<'_, E>> {
        let mut rest = Some(range);
        let mut run = Run::Pages(&[]);
        let mut next = 0;
        core::iter::from_fn(move || loop {
            if let Some(mapped) = run.page(next) {
                next += 1;
                return Some(mapped);
            }
            run = self.next_run(&mut rest)?;
            next = 0;
        })
    }

    /// Takes the first run off `rest`, which is what is left to walk.
    // Called once a leaf, so that what is done for each page stays small enough for registers.
    #[inline(never)]
    fn next_run(&self, rest: &mut Option<PageRange>) -> Option<Run<'_, E>> {
        let left = rest.take()?;
        let part = left.first_leaf();
        let run = self.run(&part)?;
        // A gap ends the walk.
        if run.pages() == part.pages() {
            *rest = left.tail(part.end());
        }
        Some(run)
    }

    /// The pages from the start of `part` to the first that has no entry. One leaf maps all of it.
    fn run(&self, part: &PageRange) -> Option<Run<'_, E>> {
        // An address past the end must not wrap.
        if part.end() > END {
            return None;
        }
        match self.root.mapping(part.start())? {
            Mapping::Leaf { leaf, used } => {
                let slots = &leaf[in_leaf(part)];
                let gap = match usize::from(*used) {
                    LEAF_PAGES => None,
                    _ => slots.iter().position(Option::is_none),
                };
                let slots = &slots[..gap.unwrap_or(slots.len())];
                (!slots.is_empty()).then_some(Run::Pages(slots))
            }
            Mapping::Huge(entry) => Some(Run::Huge {
                entry,
                first: page_in_leaf(part.start()),
                pages: part.pages(),
            }),
        }
    }
}

/// The part of `range` that a table can hold.
fn held(range: &PageRange) -> Option<PageRange> {
    PageRange::new(range.start(), range.end().min(END)).ok()
}

/// Consecutive pages that are mapped.
#[derive(Debug, PartialEq, Eq)]
pub enum Run<'a, E> {
    /// By an entry each. No slot is empty.
    Pages(&'a [Option<E>]),
    /// By one huge entry.
    Huge {
        /// The entry.
        entry: &'a E,
        /// Which of the entry's pages is the first of the run.
        first: usize,
        /// How many pages there are.
        pages: usize,
    },
}

/// An entry as it maps one page.
#[derive(Debug, PartialEq, Eq)]
pub struct Mapped<'a, E> {
    /// The entry.
    pub entry: &'a E,
    /// Which of the pages that the entry maps is meant: 0 unless it is a huge entry.
    pub page: usize,
}

impl<'a, E> Run<'a, E> {
    /// How many pages. Never zero.
    pub const fn pages(&self) -> usize {
        match self {
            Self::Pages(slots) => slots.len(),
            Self::Huge { pages, .. } => *pages,
        }
    }

    /// The page after the first `i`.
    pub fn page(&self, i: usize) -> Option<Mapped<'a, E>> {
        match *self {
            Self::Pages(slots) => Some(Mapped {
                entry: slots.get(i)?.as_ref()?,
                page: 0,
            }),
            Self::Huge {
                entry,
                first,
                pages,
            } => (i < pages).then_some(Mapped {
                entry,
                page: first + i,
            }),
        }
    }
}

/// Ranges, leaf by leaf.
pub trait Leaves {
    /// The parts of the range that one leaf each maps.
    fn leaves(self) -> impl Iterator<Item = PageRange>;
    /// The part that the first of these leaves maps.
    fn first_leaf(&self) -> PageRange;
}

impl Leaves for PageRange {
    fn leaves(self) -> impl Iterator<Item = PageRange> {
        let mut rest = Some(self);
        core::iter::from_fn(move || {
            let part = rest?.first_leaf();
            rest = self.tail(part.end());
            Some(part)
        })
    }

    fn first_leaf(&self) -> PageRange {
        let in_leaf = LEAF_PAGES - self.first_page() % LEAF_PAGES;
        self.chunks(in_leaf).next().unwrap_or(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::{num::NonZero, ops::Range};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// What maps a page: an entry, whether it is a huge one, and which of its pages this is.
    type Model = BTreeMap<usize, (u32, bool, usize)>;

    fn pages(first: usize, n: usize) -> PageRange {
        PageRange::new(first << PAGE_SHIFT, (first + n) << PAGE_SHIFT).unwrap()
    }

    fn numbers(range: &PageRange) -> Range<usize> {
        range.first_page()..range.end_page()
    }

    fn filled() -> Reserve<u32> {
        let mut reserve = Reserve::default();
        reserve.fill().unwrap();
        reserve
    }

    fn map(table: &mut PageTable<u32>, range: PageRange, value: u32) {
        let mut reserve = Reserve::default();
        for part in range.leaves() {
            reserve.fill().unwrap();
            let entries = numbers(&part).map(|p| (p << PAGE_SHIFT, value));
            table.map(&part, entries, &mut reserve).unwrap();
        }
    }

    fn map_huge(table: &mut PageTable<u32>, addr: usize, value: u32) {
        table.map_huge(addr, value, &mut filled()).unwrap();
    }

    /// The entry of a page, and which of its pages it is.
    fn get(table: &PageTable<u32>, page: usize) -> Option<(u32, usize)> {
        table
            .mapped(pages(page, 1))
            .next()
            .map(|mapped| (*mapped.entry, mapped.page))
    }

    /// Every count is that of the slots that are used, and no node is empty.
    fn check_counts(table: &PageTable<u32>) {
        fn directory<C>(dir: &Directory<C>, child: impl Fn(&C) -> usize) -> usize {
            for slot in dir {
                assert_eq!(slot.used, slot.child.as_ref().map_or(0, |c| child(c)));
                assert_eq!(slot.child.is_some(), slot.used != 0);
            }
            dir.iter().filter(|slot| slot.child.is_some()).count()
        }
        let level2 = |l2: &Level2<u32>| {
            for mapping in l2.iter().flatten() {
                if let Mapping::Leaf { leaf, used } = mapping {
                    assert_ne!(*used, 0);
                    assert_eq!(usize::from(*used), leaf.iter().flatten().count());
                }
            }
            l2.iter().flatten().count()
        };
        directory(&table.root, |l4| directory(l4, |l3| directory(l3, level2)));
    }

    /// Drops what a change of `range` drops of the model: all of a huge entry that it touches.
    fn zap(model: &mut Model, range: &PageRange) {
        model.retain(|page, (_, is_huge, index)| {
            let touched = match is_huge {
                true => pages(page - *index, LEAF_PAGES).overlaps(range),
                false => numbers(range).contains(page),
            };
            !touched
        });
    }

    /// Pages around the borders of leaves and directories, so that few operations meet.
    fn any_range() -> impl Strategy<Value = PageRange> {
        let border = prop_oneof![
            Just(0),
            Just(1 << 9),
            Just(1 << 18),
            Just(1 << 27),
            Just(1 << 36)
        ];
        (border, -600..600isize, 1..700usize)
            .prop_map(|(at, off, n)| pages(at.max(600usize).wrapping_add_signed(off), n))
    }

    #[derive(Clone, Debug)]
    enum Op {
        Map(PageRange, u32),
        MapHuge(usize, u32),
        Zap(PageRange),
        ZapAll,
    }

    fn any_op() -> impl Strategy<Value = Op> {
        let value = || 0..4u32;
        let leaf = any_range().prop_map(|r| r.start() / LEAF_SIZE * LEAF_SIZE);
        prop_oneof![
            8 => (any_range(), value()).prop_map(|(r, v)| Op::Map(r, v)),
            8 => (leaf, value()).prop_map(|(addr, v)| Op::MapHuge(addr, v)),
            8 => any_range().prop_map(Op::Zap),
            1 => Just(Op::ZapAll),
        ]
    }

    proptest! {
        // Each case walks the whole table after each step.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn behaves_as_a_map(
            ops in proptest::collection::vec((any_op(), any_range()), 1..24),
        ) {
            let mut table = PageTable::new().unwrap();
            let mut model = Model::new();
            for (op, asked) in ops {
                let touched = match op {
                    Op::Map(range, value) => {
                        map(&mut table, range, value);
                        zap(&mut model, &range);
                        model.extend(numbers(&range).map(|p| (p, (value, false, 0))));
                        range
                    }
                    Op::MapHuge(addr, value) => {
                        map_huge(&mut table, addr, value);
                        let range = pages(addr >> PAGE_SHIFT, LEAF_PAGES);
                        zap(&mut model, &range);
                        let huge = numbers(&range).enumerate();
                        model.extend(huge.map(|(i, p)| (p, (value, true, i))));
                        range
                    }
                    Op::Zap(range) => {
                        table.zap(&range);
                        zap(&mut model, &range);
                        range
                    }
                    Op::ZapAll => {
                        table.zap(&PageRange::ALL);
                        model.clear();
                        pages(0, 1)
                    }
                };
                check_counts(&table);

                let expect = |page| model.get(&page).map(|&(value, _, index)| (value, index));
                let around = touched.first_page().saturating_sub(LEAF_PAGES)
                    ..touched.end_page() + LEAF_PAGES;
                for page in around {
                    prop_assert_eq!(get(&table, page), expect(page), "page {:#x}", page);
                }
                for range in [touched, asked] {
                    let mapped: Vec<_> = table
                        .mapped(range)
                        .map(|mapped| (*mapped.entry, mapped.page))
                        .collect();
                    let expected: Vec<_> = numbers(&range).map_while(expect).collect();
                    prop_assert_eq!(mapped, expected);
                    for value in 0..4 {
                        let mut held = model.range(numbers(&range));
                        prop_assert_eq!(
                            table.any(&range, |entry| *entry == value),
                            held.any(|(_, page)| page.0 == value)
                        );
                    }
                }
            }
        }

        #[test]
        fn leaves_partition(range in any_range()) {
            let parts: Vec<_> = range.leaves().collect();
            prop_assert_eq!(parts[0].start(), range.start());
            prop_assert_eq!(parts.last().unwrap().end(), range.end());
            prop_assert!(parts.windows(2).all(|w| w[0].end() == w[1].start()));
            prop_assert!(parts.iter().all(|p| p.start() / LEAF_SIZE == (p.end() - 1) / LEAF_SIZE));
        }
    }

    #[test]
    fn nodes_are_powers_of_two_in_size() {
        type Entry = NonZero<usize>;
        assert_eq!(size_of::<Leaf<Entry>>(), PAGE_SIZE);
        assert_eq!(size_of::<Level2<Entry>>(), 2 * PAGE_SIZE);
        assert_eq!(size_of::<Level3<Entry>>(), 2 * PAGE_SIZE);
    }

    #[test]
    fn maps_nothing_without_nodes() {
        let mut table = PageTable::new().unwrap();
        let mut empty = Reserve::default();
        let one = |v: u32| core::iter::once((5usize << PAGE_SHIFT, v));
        assert_eq!(table.map(&pages(5, 1), one(1), &mut empty), Err(ENOMEM));
        assert_eq!(table.map_huge(0, 1, &mut empty), Err(ENOMEM));
        assert_eq!(get(&table, 5), None);
        check_counts(&table);

        // Where the nodes are there already, none is needed.
        map(&mut table, pages(4, 1), 1);
        assert_eq!(table.map(&pages(5, 1), one(2), &mut empty), Ok(()));
        assert_eq!(get(&table, 5), Some((2, 0)));
        assert_eq!(table.map_huge(0, 3, &mut empty), Ok(()));
        assert_eq!(get(&table, 5), Some((3, 5)));

        // A leaf is, to take the place of a huge entry. Without one that stays.
        assert_eq!(table.map(&pages(5, 1), one(4), &mut empty), Err(ENOMEM));
        assert_eq!(get(&table, 4), Some((3, 4)));
        assert_eq!(get(&table, 5), Some((3, 5)));
        check_counts(&table);
    }

    #[test]
    fn takes_no_node_for_no_entry() {
        let mut table = PageTable::<u32>::new().unwrap();
        let mut reserve = filled();
        let none = || core::iter::empty();
        table.map(&pages(5, 1), none(), &mut reserve).unwrap();
        check_counts(&table);
        assert!(reserve.0 .0.is_some());

        // Nor does a huge entry go for none.
        map_huge(&mut table, 0, 1);
        table.map(&pages(5, 1), none(), &mut reserve).unwrap();
        assert_eq!(get(&table, 5), Some((1, 5)));
        let (_, (_, (_, leaf))) = reserve.0;
        assert!(leaf.is_some());
    }

    #[test]
    fn a_huge_entry_takes_no_leaf() {
        let mut table = PageTable::<u32>::new().unwrap();
        let mut reserve = filled();
        table.map_huge(LEAF_SIZE, 1, &mut reserve).unwrap();
        let (level4, (level3, (level2, leaf))) = reserve.0;
        assert!(level4.is_none() && level3.is_none() && level2.is_none());
        assert!(leaf.is_some());
    }

    #[test]
    fn a_page_takes_the_place_of_a_huge_entry() {
        let mut table = PageTable::new().unwrap();
        map_huge(&mut table, 0, 1);
        map(&mut table, pages(7, 2), 2);
        check_counts(&table);
        let mapped: Vec<_> = (0..LEAF_PAGES)
            .filter(|&p| get(&table, p).is_some())
            .collect();
        assert_eq!(mapped, [7, 8]);
    }

    #[test]
    fn a_huge_entry_goes_as_a_whole() {
        let mut table = PageTable::new().unwrap();
        for leaf in 0..3 {
            map_huge(&mut table, leaf * LEAF_SIZE, 1);
        }
        // The last page of the first and the first page of the second.
        table.zap(&pages(LEAF_PAGES - 1, 2));
        check_counts(&table);
        assert!(!table.any(&pages(0, 2 * LEAF_PAGES), |_| true));
        assert_eq!(get(&table, 2 * LEAF_PAGES), Some((1, 0)));
        table.zap(&pages(3 * LEAF_PAGES - 1, 1));
        check_counts(&table);
        assert!(!table.any(&PageRange::ALL, |_| true));
    }

    #[test]
    fn runs_are_as_long_as_what_maps_them() {
        let mut table = PageTable::new().unwrap();
        map(&mut table, pages(510, 2), 1);
        map_huge(&mut table, LEAF_SIZE, 2);
        map(&mut table, pages(1024, 3), 3);
        map(&mut table, pages(1028, 1), 4);

        let runs = |range| table.runs(range).collect::<Vec<_>>();
        let huge = |first, pages| Run::Huge {
            entry: &2,
            first,
            pages,
        };
        assert_eq!(
            runs(pages(510, 1000)),
            [
                Run::Pages(&[Some(1); 2]),
                huge(0, 512),
                Run::Pages(&[Some(3); 3])
            ]
        );
        assert_eq!(runs(pages(600, 10)), [huge(88, 10)]);
        assert_eq!(runs(pages(1023, 2)), [huge(511, 1), Run::Pages(&[Some(3)])]);
        // What comes after a gap is no part of it, be the gap a page, a leaf or the first page.
        assert_eq!(runs(pages(1027, 2)), []);
        assert_eq!(runs(pages(1028, 1000)), [Run::Pages(&[Some(4)])]);
        assert_eq!(runs(pages(0, 512)), []);
    }

    #[test]
    fn refuses_what_it_cannot_hold() {
        let mut table = PageTable::<u32>::new().unwrap();
        let mut reserve = filled();
        let end = END >> PAGE_SHIFT;
        // Two leaves; an address past the end, which must not wrap to the first.
        for range in [pages(511, 2), pages(end, 1), pages(end - 1, 2)] {
            let entries = core::iter::once((range.start(), 1));
            assert_eq!(table.map(&range, entries, &mut reserve), Err(EINVAL));
        }
        for addr in [1, PAGE_SIZE, LEAF_SIZE + PAGE_SIZE, END, END + LEAF_SIZE] {
            assert_eq!(table.map_huge(addr, 1, &mut reserve), Err(EINVAL));
        }
        assert!(reserve.0 .0.is_some());
        assert!(!table.any(&PageRange::ALL, |_| true));

        map(&mut table, pages(0, 1), 1);
        assert_eq!(table.mapped(pages(end, 1)).count(), 0);
        assert!(!table.any(&pages(end, 1), |_| true));
        table.zap(&pages(end, 1));
        assert_eq!(get(&table, 0), Some((1, 0)));
        map(&mut table, pages(end - 1, 1), 2);
        assert_eq!(get(&table, end - 1), Some((2, 0)));
        map_huge(&mut table, END - LEAF_SIZE, 3);
        assert_eq!(get(&table, end - 1), Some((3, LEAF_PAGES - 1)));
        assert_eq!(table.mapped(pages(end - 1, 2)).count(), 1);
    }
}
