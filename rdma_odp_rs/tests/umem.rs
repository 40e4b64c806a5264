// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! Regions on page tables that change while they are read.
//!
//! What is checked at every step: no list has a page that the page table does not have in the same
//! place, however faults and invalidations interleave; and after a fault it has all that was asked.

use kernel::{page::PAGE_SHIFT, page::PAGE_SIZE, prelude::*};
use mmu_notifier_helpers::{range::PageRange, retry::Patience};
use proptest::prelude::*;
use rdma_odp_rs::{
    entry::Entry,
    mapped::Mapped,
    region::Region,
    umem::{self, Access, Backing, Pages},
};
use std::{
    cell::{Cell, RefCell, RefMut},
    collections::BTreeSet,
    ops::Range,
};

const VALID: usize = 1 << 63;
const WRITE: usize = 1 << 62;
const DMA_MAPPED: usize = 1 << 60;
const ORDER_SHIFT: usize = 53;
const BASE: usize = 1 << 30;

/// What the page table has at an address.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pte {
    /// No memory is there.
    Hole,
    Absent,
    Present {
        pfn: usize,
        writable: bool,
    },
}

struct List {
    entries: Vec<Entry>,
    mapped: Mapped,
    sequence: usize,
    is_virtual: bool,
    dma: BTreeSet<usize>,
    dirty: BTreeSet<usize>,
    visited: Cell<usize>,
}

/// An invalidation, before the page table is read or after it.
#[derive(Clone, Copy, Debug)]
struct Storm {
    page: usize,
    pages: usize,
    late: bool,
}

struct World {
    region: Region,
    ptes: RefCell<Vec<Pte>>,
    list: RefCell<List>,
    /// One each time that page tables are read.
    storms: RefCell<Vec<Option<Storm>>>,
    next_pfn: Cell<usize>,
    order: u32,
    collisions: Cell<u32>,
    reads: Cell<u32>,
    killed: Cell<bool>,
}

struct Locked<'a>(RefMut<'a, List>);

impl Pages for Locked<'_> {
    fn get(&self, index: usize) -> Entry {
        self.0.visited.set(self.0.visited.get() + 1);
        self.0.entries[index]
    }
    fn set(&mut self, index: usize, entry: Entry) {
        self.0.entries[index] = entry;
    }
    fn slots(&mut self, entries: Range<usize>) -> &mut [Entry] {
        assert!(!entries.is_empty());
        &mut self.0.entries[entries]
    }
    fn mapped(&mut self) -> &mut Mapped {
        &mut self.0.mapped
    }
    fn is_virtual(&self) -> bool {
        self.0.is_virtual
    }
    fn unmap_dma(&mut self, index: usize) {
        assert!(self.0.dma.remove(&index), "{index} is not mapped for DMA");
    }
    fn set_dirty(&mut self, pfn: usize) {
        self.0.dirty.insert(pfn);
    }
    fn sequence(&self) -> usize {
        self.0.sequence
    }
}

impl World {
    fn new(pages: usize, page_shift: u32, ptes: Vec<Pte>, is_virtual: bool) -> Self {
        let region = Region::new(BASE, pages * PAGE_SIZE, page_shift).unwrap();
        let entries = region.entries();
        assert_eq!(ptes.len(), region.range().pages());
        Self {
            region,
            ptes: RefCell::new(ptes),
            list: RefCell::new(List {
                entries: vec![Entry::NONE; entries],
                mapped: Mapped::new(entries, GFP_KERNEL).unwrap(),
                sequence: 1,
                is_virtual,
                dma: BTreeSet::new(),
                dirty: BTreeSet::new(),
                visited: Cell::new(0),
            }),
            storms: RefCell::new(Vec::new()),
            next_pfn: Cell::new(1 << 20),
            order: page_shift - PAGE_SHIFT as u32,
            collisions: Cell::new(0),
            reads: Cell::new(0),
            killed: Cell::new(false),
        }
    }

    fn index(&self, address: usize) -> usize {
        (address - BASE) / PAGE_SIZE
    }

    /// The kernel takes pages away, having told us.
    fn invalidate(&self, page: usize, pages: usize) {
        let end = (page + pages).min(self.ptes.borrow().len());
        let page = page.min(end);
        let address = |page| (BASE + page * PAGE_SIZE) as u64;
        let mut list = Locked(self.list.borrow_mut());
        list.0.sequence += 2;
        umem::unmap(&mut list, &self.region, address(page), address(end));
        for pte in &mut self.ptes.borrow_mut()[page..end] {
            if let Pte::Present { .. } = pte {
                *pte = Pte::Absent;
            }
        }
    }

    fn storm(&self, late: bool) {
        let storm = self.storms.borrow().last().copied().flatten();
        if let Some(storm) = storm.filter(|storm| storm.late == late) {
            self.invalidate(storm.page, storm.pages);
        }
    }

    fn fault_in(&self, pages: &PageRange, access: Access, read: &mut [Entry]) -> Result {
        let first = self.index(pages.start());
        for (at, entry) in read.iter_mut().enumerate().take(pages.pages()) {
            let pte = &mut self.ptes.borrow_mut()[first + at];
            let base = self.next_pfn.get();
            match pte {
                Pte::Hole if access != Access::Look => return Err(EFAULT),
                Pte::Absent if access != Access::Look => {
                    *pte = Pte::Present {
                        pfn: base,
                        writable: access == Access::Write,
                    };
                    self.next_pfn.set(base + 1);
                }
                Pte::Present { writable, .. } if access == Access::Write => *writable = true,
                _ => (),
            }
            *entry = match *pte {
                Pte::Present { pfn, writable } => Entry::from_raw(
                    pfn | VALID
                        | if writable { WRITE } else { 0 }
                        | (self.order as usize) << ORDER_SHIFT,
                ),
                _ => Entry::NONE,
            };
        }
        Ok(())
    }

    /// No entry is stale, and what is marked for DMA is mapped.
    fn check(&self) {
        let list = self.list.borrow();
        let per_entry = self.region.pages_per_entry();
        for (index, entry) in list.entries.iter().enumerate() {
            if entry.is_valid() {
                match self.ptes.borrow()[index * per_entry] {
                    Pte::Present { pfn, writable } => {
                        assert_eq!(entry.pfn(), pfn, "entry {index} is stale");
                        assert!(!entry.is_writable() || writable);
                    }
                    pte => panic!("entry {index} has a page where there is {pte:?}"),
                }
            }
            assert_eq!(entry.is_dma_mapped(), list.dma.contains(&index));
        }
    }

    fn map(&self, page: usize, pages: usize, access: Access, room: usize) -> Result {
        self.reads.set(0);
        let address = (BASE + page * PAGE_SIZE) as u64;
        let range = self.region.pages_of(address, (pages * PAGE_SIZE) as u64)?;
        let mut buffer = vec![Entry::NONE; room * self.region.pages_per_entry()];
        let list = umem::map(self, &range, access, &mut buffer)?;
        for index in self.region.entries_of(&range) {
            let entry = list.get(index);
            match access {
                Access::Look => (),
                Access::Read => assert!(entry.is_valid()),
                Access::Write => assert!(entry.is_valid() && entry.is_writable()),
            }
        }
        Ok(())
    }

    /// The driver maps what is there for DMA.
    fn map_dma(&self) {
        let mut list = self.list.borrow_mut();
        for index in 0..list.entries.len() {
            let entry = list.entries[index];
            if entry.is_valid() && !entry.is_dma_mapped() {
                list.entries[index] = Entry::from_raw(entry.raw() | DMA_MAPPED);
                list.dma.insert(index);
            }
        }
    }
}

impl Backing for World {
    type Locked<'a> = Locked<'a>;

    fn region(&self) -> &Region {
        &self.region
    }
    fn begin(&self) -> usize {
        self.list.borrow().sequence
    }
    fn read(&self, pages: &PageRange, access: Access, read: &mut [Entry]) -> Result {
        self.reads.set(self.reads.get() + 1);
        self.storm(false);
        self.fault_in(pages, access, read)?;
        self.storm(true);
        self.storms.borrow_mut().pop();
        Ok(())
    }
    fn read_excluding<R>(
        &self,
        pages: &PageRange,
        access: Access,
        read: &mut [Entry],
        then: impl FnOnce(usize, &[Entry]) -> Result<R>,
    ) -> Result<R> {
        self.read(pages, access, read)?;
        let began = self.begin();
        self.fault_in(pages, Access::Look, read)?;
        then(began, read)
    }
    fn lock(&self) -> Locked<'_> {
        Locked(self.list.borrow_mut())
    }
    fn collided(&self, _nth: u32) -> Result {
        self.collisions.set(self.collisions.get() + 1);
        self.go_on()
    }
    fn patience(&self) -> Patience {
        Patience::Fresh
    }
    fn go_on(&self) -> Result {
        if self.killed.get() {
            return Err(EINTR);
        }
        Ok(())
    }
    fn too_small(&self, _order: u32) {}
}

fn absent(pages: usize) -> Vec<Pte> {
    vec![Pte::Absent; pages]
}

#[test]
fn what_is_there_is_not_read_again() {
    let world = World::new(64, 12, absent(64), true);
    world.map(0, 64, Access::Read, 64).unwrap();
    assert_eq!(world.reads.get(), 1);
    world.map(3, 8, Access::Read, 64).unwrap();
    assert_eq!(world.reads.get(), 0);
    // It is read-only, and made writable without an invalidation.
    world.map(3, 8, Access::Write, 64).unwrap();
    assert_eq!(world.reads.get(), 1);
    world.check();
}

#[test]
fn a_hole_is_no_page() {
    let mut ptes = absent(8);
    ptes[5] = Pte::Hole;
    let world = World::new(8, 12, ptes, true);
    assert_eq!(world.map(0, 8, Access::Read, 2), Err(EFAULT));
    assert_eq!(world.map(0, 8, Access::Look, 2), Ok(()));
    world.check();
}

#[test]
fn a_fault_of_what_is_taken_away_for_ever_ends() {
    let world = World::new(64, 12, absent(64), true);
    // What one batch has read is gone when the other is read.
    let storm = |page, late| {
        Some(Storm {
            page,
            pages: 1,
            late,
        })
    };
    *world.storms.borrow_mut() = [storm(0, false), storm(32, false)].repeat(500);
    assert_eq!(world.map(0, 64, Access::Read, 32), Err(EBUSY));
    world.check();
    *world.storms.borrow_mut() = vec![storm(0, true); 1000];
    world.killed.set(true);
    assert_eq!(world.map(0, 1, Access::Read, 32), Err(EINTR));
}

#[test]
fn a_small_page_in_a_region_of_huge_ones_is_refused() {
    let mut world = World::new(1024, 21, absent(1024), false);
    assert_eq!(world.map(0, 1024, Access::Read, 2), Ok(()));
    assert_eq!(world.list.borrow().entries.len(), 2);
    world.check();
    world.invalidate(512, 512);
    assert!(world.list.borrow().entries[0].is_valid());
    assert!(!world.list.borrow().entries[1].is_valid());
    world.order = 0;
    assert_eq!(world.map(0, 1024, Access::Read, 2), Err(EINVAL));
    assert_eq!(world.map(0, 1024, Access::Read, 0), Err(EINVAL));
}

#[test]
fn unmapping_visits_what_may_be_mapped() {
    let pages = 1 << 20;
    let world = World::new(pages, 12, absent(pages), true);
    world.map(1 << 19, 1, Access::Write, 1).unwrap();
    world.list.borrow().visited.set(0);
    world.invalidate(0, pages);
    assert!(world.list.borrow().visited.get() < 1024);
    world.list.borrow().visited.set(0);
    world.invalidate(0, pages);
    assert_eq!(world.list.borrow().visited.get(), 0);
}

#[test]
fn a_page_is_dirty_if_the_device_may_have_written() {
    for is_virtual in [true, false] {
        for dma in [true, false] {
            let world = World::new(2, 12, absent(2), is_virtual);
            world.map(0, 1, Access::Write, 2).unwrap();
            world.map(1, 1, Access::Read, 2).unwrap();
            if dma && !is_virtual {
                world.map_dma();
            }
            let written = world.list.borrow().entries[0].pfn();
            world.invalidate(0, 2);
            let expected: BTreeSet<_> =
                (is_virtual || dma).then_some(written).into_iter().collect();
            assert_eq!(world.list.borrow().dirty, expected);
            world.check();
        }
    }
}

/// Nobody should change a page without an invalidation. If it happens, what the device has mapped is
/// unmapped, and the rest goes on, also behind the last one.
#[test]
fn a_page_that_has_changed_unseen_is_unmapped() {
    for moved in [0..1, 1..3, 3..4, 0..4] {
        let world = World::new(4, 12, absent(4), false);
        world.map(0, 4, Access::Read, 4).unwrap();
        world.map_dma();
        for page in moved.clone() {
            world.ptes.borrow_mut()[page] = Pte::Absent;
        }
        world.map(0, 4, Access::Write, 4).unwrap();
        world.check();
        let kept: BTreeSet<_> = (0..4).filter(|page| !moved.contains(page)).collect();
        assert_eq!(world.list.borrow().dma, kept);
    }
}

#[derive(Clone, Debug)]
enum Step {
    Map {
        page: usize,
        pages: usize,
        access: Access,
        room: usize,
        storms: Vec<Option<Storm>>,
    },
    Invalidate {
        page: usize,
        pages: usize,
    },
    MapDma,
}

const PAGES: usize = 1100;

fn run() -> impl Strategy<Value = (usize, usize)> {
    (0..PAGES, prop_oneof![1..4usize, 1..PAGES]).prop_map(|(page, n)| (page, n.min(PAGES - page)))
}

fn storm() -> impl Strategy<Value = Option<Storm>> {
    prop::option::of(
        (run(), any::<bool>()).prop_map(|((page, pages), late)| Storm { page, pages, late }),
    )
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (
            run(),
            prop_oneof![Just(Access::Look), Just(Access::Read), Just(Access::Write)],
            1..600usize,
            prop::collection::vec(storm(), 0..12),
        )
            .prop_map(|((page, pages), access, room, storms)| Step::Map {
                page,
                pages,
                access,
                room,
                storms
            }),
        run().prop_map(|(page, pages)| Step::Invalidate { page, pages }),
        Just(Step::MapDma),
    ]
}

proptest! {
    #[test]
    fn no_page_is_stale(
        holes in prop::collection::btree_set(0..PAGES, 0..3),
        is_virtual in any::<bool>(),
        steps in prop::collection::vec(step(), 1..20),
    ) {
        let mut ptes = absent(PAGES);
        for &hole in &holes {
            ptes[hole] = Pte::Hole;
        }
        let world = World::new(PAGES, 12, ptes, is_virtual);
        for step in steps {
            match step {
                Step::Map { page, pages, access, room, storms } => {
                    *world.storms.borrow_mut() = storms;
                    let hole = holes.range(page..page + pages).next().is_some();
                    match world.map(page, pages, access, room) {
                        Ok(()) => prop_assert!(!hole || access == Access::Look),
                        Err(e) => prop_assert!(e == EFAULT && hole, "{e:?}"),
                    }
                }
                Step::Invalidate { page, pages } => world.invalidate(page, pages),
                Step::MapDma if is_virtual => (),
                Step::MapDma => world.map_dma(),
            }
            world.check();
        }
        world.invalidate(0, PAGES);
        world.check();
        prop_assert!(world.list.borrow().dma.is_empty());
        prop_assert!(world.list.borrow().entries.iter().all(|entry| *entry == Entry::NONE));
    }
}
