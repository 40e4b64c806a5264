// SPDX-License-Identifier: GPL-2.0

//! The bookkeeping of the lock against a reference that remembers everything.

#![cfg(not(loom))]

use core::ops::Range;
use std::pin::Pin;

use kernel::{page::PAGE_SIZE, prelude::*, sync::lock::spinlock::SpinLockBackend};
use mmu_notifier_helpers::{
    in_flight::InFlight,
    invlock::{new_invlock, InvLock, Publish, Reader, Reading},
    range::PageRange,
    readers::Mark,
    wait::Deadline,
};
use pin_init::stack_pin_init;
use proptest::{collection::vec, prelude::*, sample::Index};

/// Pages that ranges are made of.
const PAGES: usize = 12;
/// Room for invalidations: few, so that it is often too little.
const ROOM: usize = 3;

fn any_range() -> impl Strategy<Value = PageRange> {
    (0..PAGES, 1..=4usize).prop_map(|(first, n)| {
        let end = (first + n).min(PAGES);
        PageRange::new(first * PAGE_SIZE, end * PAGE_SIZE).unwrap()
    })
}

fn pages(range: &PageRange) -> Range<usize> {
    range.first_page()..range.end_page()
}

/// Every invalidation in flight.
#[derive(Default)]
struct Reference {
    in_flight: Vec<PageRange>,
    /// Whether there was room for all of them since there was none.
    exact: bool,
}

impl Reference {
    fn add(&mut self, range: PageRange) {
        self.exact = (self.exact || self.in_flight.is_empty()) && self.in_flight.len() < ROOM;
        self.in_flight.push(range);
    }

    fn remove(&mut self, which: &Index) -> Option<PageRange> {
        if self.in_flight.is_empty() {
            return None;
        }
        let i = which.index(self.in_flight.len());
        Some(self.in_flight.swap_remove(i))
    }

    fn overlaps(&self, range: &PageRange) -> bool {
        self.in_flight.iter().any(|known| known.overlaps(range))
    }

    /// Whether `said` is what may be said of `range`: the truth, or too much when there was too
    /// little room.
    fn allows(&self, range: &PageRange, said: bool) -> bool {
        match (self.overlaps(range), said) {
            (true, said) => said,
            (false, true) => !self.exact && !self.in_flight.is_empty(),
            (false, false) => true,
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Add(PageRange),
    Remove(Index),
    Ask(PageRange),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        any_range().prop_map(Step::Add),
        any::<Index>().prop_map(Step::Remove),
        any_range().prop_map(Step::Ask),
    ]
}

/// A device that maps pages.
struct Shadow([Option<usize>; PAGES]);

/// The pages of a range, with a name for them.
struct Plan(PageRange, usize);

// SAFETY: Only assigns.
unsafe impl Publish<Plan> for Shadow {
    type Output = ();

    fn publish(&mut self, Plan(range, name): Plan) {
        self.0[pages(&range)].fill(Some(name));
    }
}

type Lock = InvLock<Shadow, SpinLockBackend, ROOM>;

#[derive(Clone, Debug)]
enum Event {
    Start(PageRange),
    /// Caused by a reader, of whatever range.
    StartBy(Index, PageRange),
    End(Index),
    Begin(PageRange),
    Publish(Index),
    GiveUp(Index),
    Release,
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => any_range().prop_map(Event::Start),
        4 => (any::<Index>(), any_range()).prop_map(|(who, range)| Event::StartBy(who, range)),
        8 => any::<Index>().prop_map(Event::End),
        12 => any_range().prop_map(Event::Begin),
        8 => any::<Index>().prop_map(Event::Publish),
        4 => any::<Index>().prop_map(Event::GiveUp),
        1 => Just(Event::Release),
    ]
}

/// A reader that is reading.
struct Underway<'r, 'a> {
    reading: Reading<'r, 'a, Mark, Shadow, SpinLockBackend, ROOM>,
    range: PageRange,
    name: usize,
    collided: bool,
}

/// Takes one out of those under way.
fn take<T>(underway: &mut Vec<T>, which: &Index) -> Option<T> {
    (!underway.is_empty()).then(|| underway.swap_remove(which.index(underway.len())))
}

proptest! {
    #[test]
    fn what_is_in_flight_is_known(steps in vec(any_step(), 0..60)) {
        let mut reference = Reference::default();
        let mut in_flight = InFlight::<ROOM>::EMPTY;
        for step in steps {
            match step {
                Step::Add(range) => {
                    reference.add(range);
                    in_flight.add(range);
                }
                Step::Remove(which) => match reference.remove(&which) {
                    Some(range) => prop_assert!(in_flight.remove(&range)),
                    None => prop_assert!(!in_flight.remove(&PageRange::ALL)),
                },
                Step::Ask(range) => {
                    prop_assert!(reference.allows(&range, in_flight.overlaps(&range)));
                }
            }
        }
        while let Some(range) = reference.in_flight.pop() {
            prop_assert!(in_flight.remove(&range));
        }
        prop_assert!(!in_flight.overlaps(&PageRange::ALL));
    }

    #[test]
    fn readers_collide_when_they_must_and_only_then(events in vec(any_event(), 0..80)) {
        stack_pin_init!(let lock = new_invlock!(Shadow([None; PAGES])));
        let lock: &Lock = &lock;
        let deadline = Deadline::new();
        lock.expire(&deadline);

        // Each reader begins once.
        let ranges: Vec<_> = events
            .iter()
            .filter_map(|event| match event {
                Event::Begin(range) => Some(*range),
                _ => None,
            })
            .collect();
        let mut readers: Vec<Pin<KBox<Reader<'_, Mark, _, _, ROOM>>>> = ranges
            .iter()
            .map(|range| KBox::pin_init(Reader::new(lock, *range, Mark::new()), GFP_KERNEL))
            .collect::<Result<_>>()
            .unwrap();
        let mut fresh = readers.iter_mut().enumerate();

        let mut reference = Reference::default();
        let mut underway: Vec<Underway<'_, '_>> = Vec::new();
        let mut shadow = [None; PAGES];
        let mut released = false;
        for event in events {
            match event {
                Event::Start(range) => {
                    lock.start(&range, |shadow| shadow.0[pages(&range)].fill(None));
                    shadow[pages(&range)].fill(None);
                    reference.add(range);
                    for reader in &mut underway {
                        reader.collided |= reader.range.overlaps(&range);
                    }
                }
                Event::StartBy(who, range) => {
                    let who = (!underway.is_empty()).then(|| who.index(underway.len()));
                    let originator = who.map(|who| underway[who].reading.identity());
                    lock.start_by(&range, originator, |shadow| shadow.0[pages(&range)].fill(None));
                    shadow[pages(&range)].fill(None);
                    reference.add(range);
                    for (i, reader) in underway.iter_mut().enumerate() {
                        reader.collided |= reader.range.overlaps(&range) && Some(i) != who;
                    }
                }
                Event::End(which) => {
                    if let Some(range) = reference.remove(&which) {
                        lock.end(&range);
                    }
                }
                Event::Begin(range) => {
                    let (name, reader) = fresh.next().unwrap();
                    match reader.as_mut().begin(&deadline) {
                        Ok(reading) => {
                            prop_assert!(!released && reference.allows(&range, false));
                            prop_assert!(!reading.collided());
                            underway.push(Underway { reading, range, name, collided: false });
                        }
                        Err(error) if released => prop_assert_eq!(error, ESRCH),
                        Err(error) => {
                            prop_assert_eq!(error, EBUSY);
                            prop_assert!(reference.allows(&range, true));
                        }
                    }
                }
                Event::Publish(which) => {
                    if let Some(reader) = take(&mut underway, &which) {
                        prop_assert_eq!(reader.reading.collided(), reader.collided);
                        let plan = Plan(reader.range, reader.name);
                        let published = reader.reading.publish(plan).is_ok();
                        prop_assert_eq!(published, !reader.collided);
                        if published {
                            shadow[pages(&reader.range)].fill(Some(reader.name));
                        }
                    }
                }
                Event::GiveUp(which) => drop(take(&mut underway, &which)),
                Event::Release => {
                    lock.release(|shadow| shadow.0.fill(None));
                    shadow.fill(None);
                    released = true;
                    for reader in &mut underway {
                        reader.collided = true;
                    }
                }
            }
            for reader in &underway {
                prop_assert_eq!(reader.reading.collided(), reader.collided);
            }
            prop_assert_eq!(lock.lock().0, shadow);
        }
    }
}

/// A reader that begins again has left nothing of its first time behind.
#[test]
fn a_reader_begins_again_afresh() {
    stack_pin_init!(let lock = new_invlock!(Shadow([None; PAGES])));
    let lock: &Lock = &lock;
    let range = PageRange::new(0, PAGE_SIZE).unwrap();
    stack_pin_init!(let reader = Reader::new(lock, range, Mark::new()));

    let reading = reader.as_mut().begin(&Deadline::new()).unwrap();
    lock.start(&range, |_| ());
    assert!(reading.collided());
    // Without its drop, the reader is still listed.
    core::mem::forget(reading);
    lock.end(&range);

    let reading = reader.as_mut().begin(&Deadline::new()).unwrap();
    assert!(!reading.collided());
    assert!(reading.publish(Plan(range, 7)).is_ok());
    assert_eq!(lock.lock().0[0], Some(7));
}
