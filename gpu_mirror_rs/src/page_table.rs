// SPDX-License-Identifier: GPL-2.0

//! The device's page table: a radix tree of five levels of 512 slots, as deep as the CPU's.
//!
//! Pure: it knows pages and slots, not what an entry is, and runs on the host as it is. The caller
//! locks it. Adding entries allocates nothing; the nodes that it may take come from a [`Reserve`],
//! which is filled before the lock is taken. Nodes that become empty are freed, so that the table
//! never holds more memory than the entries in it account for.

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

/// Bytes that a leaf maps.
pub const LEAF_SIZE: usize = SLOTS * PAGE_SIZE;
/// Pages that a leaf maps.
pub const LEAF_PAGES: usize = SLOTS;

/// The end of the addresses that the table can hold: 57 bits, the most that x86_64 gives users.
const END: usize = 1 << (PAGE_SHIFT + 5 * BITS);

/// 512 entries, one a page. For entries of a word it is a page long.
type Leaf<E> = [Option<E>; SLOTS];
type Directory<C> = [Slot<C>; SLOTS];
type Level2<E> = Directory<Leaf<E>>;
type Level3<E> = Directory<Level2<E>>;
type Level4<E> = Directory<Level3<E>>;
type Root<E> = Directory<Level4<E>>;

/// Where a directory keeps one child.
struct Slot<C> {
    child: Option<KBox<C>>,
    /// How many slots of the child are used. It is kept here and not in the child, which is then a
    /// power of two in size. Zero only if there is no child.
    used: usize,
}

/// The reserve had no node where one was needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage;

trait Node<E>: Sized {
    /// log2 of the bytes that one slot stands for.
    const SHIFT: usize;
    /// What holds the nodes of one path below this one, down to a leaf.
    type Spare: Default;

    fn init() -> impl Init<Self, Infallible>;

    fn fill(spare: &mut Self::Spare) -> Result;

    /// The leaf that maps `addr`.
    fn leaf(&self, addr: usize) -> Option<&Leaf<E>>;

    /// Sets entries, all of the leaf that maps `addr`. Returns how many slots of this node are
    /// newly used.
    fn set(
        &mut self,
        addr: usize,
        entries: impl Iterator<Item = (usize, E)>,
        spare: &mut Self::Spare,
    ) -> Result<usize, Shortage>;

    /// Drops the entries in `range`, which lies in this node. Returns how many of its slots are no
    /// longer used.
    fn zap(&mut self, range: &PageRange) -> usize;

    fn index(addr: usize) -> usize {
        (addr >> Self::SHIFT) % SLOTS
    }
}

impl<E> Node<E> for Leaf<E> {
    const SHIFT: usize = PAGE_SHIFT;
    type Spare = ();

    fn init() -> impl Init<Self, Infallible> {
        init_array_from_fn(|_| None)
    }

    fn fill(_spare: &mut ()) -> Result {
        Ok(())
    }

    fn leaf(&self, _addr: usize) -> Option<&Leaf<E>> {
        Some(self)
    }

    fn set(
        &mut self,
        _addr: usize,
        entries: impl Iterator<Item = (usize, E)>,
        _spare: &mut (),
    ) -> Result<usize, Shortage> {
        let replaced =
            entries.map(|(addr, entry)| self[<Self as Node<E>>::index(addr)].replace(entry));
        Ok(replaced.filter(Option::is_none).count())
    }

    fn zap(&mut self, range: &PageRange) -> usize {
        let first = <Self as Node<E>>::index(range.start());
        let slots = &mut self[first..first + range.pages()];
        slots.iter_mut().filter_map(Option::take).count()
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

    fn leaf(&self, addr: usize) -> Option<&Leaf<E>> {
        self[Self::index(addr)].child.as_ref()?.leaf(addr)
    }

    fn set(
        &mut self,
        addr: usize,
        entries: impl Iterator<Item = (usize, E)>,
        (spare, below): &mut Self::Spare,
    ) -> Result<usize, Shortage> {
        let slot = &mut self[Self::index(addr)];
        let mut child = match slot.child.take() {
            Some(child) => child,
            None => spare.take().ok_or(Shortage)?,
        };
        let was_used = slot.used != 0;

        let set = child.set(addr, entries, below);
        slot.used += set.unwrap_or(0);
        // An empty child goes back to where it came from.
        *(if slot.used != 0 {
            &mut slot.child
        } else {
            spare
        }) = Some(child);

        set.map(|_| usize::from(!was_used && slot.used != 0))
    }

    fn zap(&mut self, range: &PageRange) -> usize {
        let first = Self::index(range.start());
        let last = Self::index(range.end() - 1);
        // Where the first slot begins: ranges in a node never wrap.
        let mut start = range.start() >> Self::SHIFT << Self::SHIFT;
        let mut emptied = 0;
        for slot in &mut self[first..=last] {
            let end = start + (1 << Self::SHIFT);
            if let Some(child) = &mut slot.child {
                if range.start() <= start && end <= range.end() {
                    slot.used = 0;
                } else if let Ok(part) =
                    PageRange::new(range.start().max(start), range.end().min(end))
                {
                    slot.used -= child.zap(&part);
                }
                if slot.used == 0 {
                    slot.child = None;
                    emptied += 1;
                }
            }
            start = end;
        }
        emptied
    }
}

/// Nodes that [`PageTable::map`] may need, allocated where that is allowed.
pub struct Reserve<E>(<Root<E> as Node<E>>::Spare);

impl<E> Default for Reserve<E> {
    /// An empty reserve.
    fn default() -> Self {
        Self(Default::default())
    }
}

impl<E> Reserve<E> {
    /// Fills the reserve up, so that it serves one call of [`PageTable::map`].
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

/// A page table with an entry of type `E` for each page that it maps.
pub struct PageTable<E>(KBox<Root<E>>);

impl<E> PageTable<E> {
    /// A table that maps nothing.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new() -> Result<Self> {
        Ok(Self(KBox::init(
            <Root<E> as Node<E>>::init(),
            GFP_KERNEL_ACCOUNT,
        )?))
    }

    /// Sets `entries`, each with its byte address in `range`, whose pages one leaf maps. Pages of
    /// the range that are not named keep what they have.
    ///
    /// Allocates nothing.
    ///
    /// # Errors
    ///
    /// [`Shortage`] when `reserve` had been used up or the addresses are beyond what the table can
    /// hold. Nothing is changed then.
    pub fn map(
        &mut self,
        range: &PageRange,
        entries: impl Iterator<Item = (usize, E)>,
        reserve: &mut Reserve<E>,
    ) -> Result<(), Shortage> {
        if range.end() > END || range.start() / LEAF_SIZE != (range.end() - 1) / LEAF_SIZE {
            return Err(Shortage);
        }
        self.0.set(range.start(), entries, &mut reserve.0)?;
        Ok(())
    }

    /// Drops the entries of `range`. Costs by the leaf, and nothing where no leaf is.
    pub fn zap(&mut self, range: &PageRange) {
        if let Ok(held) = PageRange::new(range.start(), range.end().min(END)) {
            self.0.zap(&held);
        }
    }

    /// The entries from the start of `range` to the first page that has none.
    pub fn mapped(&self, range: PageRange) -> impl Iterator<Item = &E> {
        let leaves = range.leaves().map(move |part| {
            let first = part.first_page() % SLOTS;
            let leaf = (part.end() <= END)
                .then(|| self.0.leaf(part.start()))
                .flatten();
            // A missing leaf ends the walk as a page without an entry does.
            leaf.map_or(&[const { None }][..], |leaf| {
                &leaf[first..first + part.pages()]
            })
        });
        leaves.flatten().map_while(Option::as_ref)
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
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    type Model = BTreeMap<usize, u32>;

    fn pages(first: usize, n: usize) -> PageRange {
        PageRange::new(first << PAGE_SHIFT, (first + n) << PAGE_SHIFT).unwrap()
    }

    fn map(table: &mut PageTable<u32>, range: PageRange, value: u32) {
        let mut reserve = Reserve::default();
        for part in range.leaves() {
            reserve.fill().unwrap();
            let entries = (part.first_page()..part.end_page()).map(|p| (p << PAGE_SHIFT, value));
            table.map(&part, entries, &mut reserve).unwrap();
        }
    }

    fn get(table: &PageTable<u32>, page: usize) -> Option<u32> {
        table.mapped(pages(page, 1)).next().copied()
    }

    /// Every directory's count is that of its child's used slots, and no child is empty.
    fn check_counts(table: &PageTable<u32>) {
        fn directory<C>(dir: &Directory<C>, child: impl Fn(&C) -> usize) -> usize {
            for slot in dir {
                assert_eq!(slot.used, slot.child.as_ref().map_or(0, |c| child(c)));
                assert_eq!(slot.child.is_some(), slot.used != 0);
            }
            dir.iter().filter(|slot| slot.child.is_some()).count()
        }
        let leaf = |l: &Leaf<u32>| l.iter().flatten().count();
        directory(&table.0, |l4| {
            directory(l4, |l3| directory(l3, |l2| directory(l2, leaf)))
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
        Zap(PageRange),
        ZapAll,
    }

    fn any_op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => (any_range(), any::<u32>()).prop_map(|(r, v)| Op::Map(r, v)),
            8 => any_range().prop_map(Op::Zap),
            1 => Just(Op::ZapAll),
        ]
    }

    proptest! {
        // Each case walks the whole table after each step.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn behaves_as_a_map(ops in proptest::collection::vec(any_op(), 1..24)) {
            let mut table = PageTable::new().unwrap();
            let mut model = Model::new();
            for op in ops {
                let touched = match op {
                    Op::Map(range, value) => {
                        map(&mut table, range, value);
                        model.extend((range.first_page()..range.end_page()).map(|p| (p, value)));
                        range
                    }
                    Op::Zap(range) => {
                        table.zap(&range);
                        model.retain(|p, _| !(range.first_page()..range.end_page()).contains(p));
                        range
                    }
                    Op::ZapAll => {
                        table.zap(&PageRange::ALL);
                        model.clear();
                        pages(0, 1)
                    }
                };
                check_counts(&table);
                for page in touched.first_page().saturating_sub(2)..touched.end_page() + 2 {
                    prop_assert_eq!(get(&table, page), model.get(&page).copied(), "page {:#x}", page);
                }
                let run: Vec<_> = table.mapped(touched).copied().collect();
                let expected: Vec<_> = (touched.first_page()..touched.end_page())
                    .map_while(|p| model.get(&p).copied())
                    .collect();
                prop_assert_eq!(run, expected);
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
    fn maps_nothing_without_nodes() {
        let mut table = PageTable::new().unwrap();
        let mut empty = Reserve::default();
        let one = |v: u32| core::iter::once((5usize << PAGE_SHIFT, v));
        assert_eq!(table.map(&pages(5, 1), one(1), &mut empty), Err(Shortage));
        assert_eq!(get(&table, 5), None);
        check_counts(&table);

        // Where the nodes are there already, none is needed.
        map(&mut table, pages(4, 1), 1);
        assert_eq!(table.map(&pages(5, 1), one(2), &mut empty), Ok(()));
        assert_eq!(get(&table, 5), Some(2));
    }

    #[test]
    fn takes_no_node_for_no_entry() {
        let mut table = PageTable::<u32>::new().unwrap();
        let mut reserve = Reserve::default();
        reserve.fill().unwrap();
        table
            .map(&pages(5, 1), core::iter::empty(), &mut reserve)
            .unwrap();
        check_counts(&table);
        assert!(reserve.0 .0.is_some());
    }

    #[test]
    fn refuses_what_it_cannot_hold() {
        let mut table = PageTable::<u32>::new().unwrap();
        let mut reserve = Reserve::default();
        reserve.fill().unwrap();
        let end = END >> PAGE_SHIFT;
        // Two leaves; an address past the end, which must not wrap to the first.
        for range in [pages(511, 2), pages(end, 1), pages(end - 1, 2)] {
            let entries = core::iter::once((range.start(), 1));
            assert_eq!(table.map(&range, entries, &mut reserve), Err(Shortage));
        }
        assert_eq!(table.mapped(pages(0, 1)).count(), 0);
        map(&mut table, pages(0, 1), 1);
        assert_eq!(table.mapped(pages(end, 1)).count(), 0);
        table.zap(&pages(end, 1));
        assert_eq!(get(&table, 0), Some(1));
        map(&mut table, pages(end - 1, 1), 2);
        assert_eq!(get(&table, end - 1), Some(2));
    }
}
