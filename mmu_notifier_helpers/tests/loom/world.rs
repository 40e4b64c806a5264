// SPDX-License-Identifier: GPL-2.0

//! A model of an address space and of a driver with a shadow of it, around the real lock.

use core::pin::Pin;
use std::sync::{
    atomic::{AtomicUsize as Ghost, Ordering::Relaxed},
    // Not loom's, whose drop fails once more when a model unwinds from a deadlock.
    Arc,
};

use kernel::{page::PAGE_SIZE, prelude::*, sync::lock::spinlock::SpinLockBackend};
use loom::{
    sync::{
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire},
        },
        RwLock,
    },
    thread::{self, JoinHandle},
};
use mmu_notifier_helpers::{
    invlock::{new_invlock, InvLock, Publish, Reader, Reading},
    range::{Owner, PageRange},
    readers::Mark,
    wait::Deadline,
};
use pin_init::stack_pin_init;

const PAGES: usize = 3;

/// What the models assert in the end.
pub(crate) const STALE: &str = "a stale entry is visible";

/// Set in the version of a page-table entry that the CPU cannot use, because the page is being
/// moved.
pub(crate) const MOVING: usize = 1 << 31;
/// Set in the version of a page-table entry that has been zapped: there is no page.
const ZAPPED: usize = 1 << 30;
/// What a move adds to the version: the entry names another place, and no change of it does that.
pub(crate) const PLACE: usize = 1 << 16;

/// The version after a change that is no move. Whoever moves the page finds that it is gone.
pub(crate) fn changed(version: usize) -> usize {
    (version & !MOVING) + 1
}

/// Whether an entry with this version maps a page that can be read.
fn is_present(version: usize) -> bool {
    version & (MOVING | ZAPPED) == 0
}

/// The pages from `first` to before `end`.
pub(crate) fn pages(first: usize, end: usize) -> PageRange {
    PageRange::new(first * PAGE_SIZE, end * PAGE_SIZE).unwrap()
}

fn of(range: &PageRange) -> core::ops::Range<usize> {
    range.first_page()..range.end_page()
}

/// What the model knows of the invalidations of a page, by means that the lock does not see.
#[derive(Default)]
struct Truth {
    started: Ghost,
    in_flight: Ghost,
}

/// What was read of one page.
#[derive(Clone, Copy)]
struct Entry {
    version: usize,
    started: usize,
    in_flight: usize,
}

pub(crate) struct Shadow {
    entries: [Option<Entry>; PAGES],
    truth: Arc<[Truth; PAGES]>,
}

impl Shadow {
    /// The version of the entry of `page` that the device would use.
    pub(crate) fn version(&self, page: usize) -> Option<usize> {
        self.entries[page].map(|entry| entry.version)
    }
}

// SAFETY: Only assigns and compares.
unsafe impl Publish<Vec<(usize, Entry)>> for Shadow {
    type Output = ();

    fn publish(&mut self, plan: Vec<(usize, Entry)>) {
        for (page, entry) in plan {
            let truth = &self.truth[page];
            assert_eq!(
                (entry.in_flight, truth.in_flight.load(Relaxed)),
                (0, 0),
                "published during an invalidation"
            );
            assert_eq!(
                entry.started,
                truth.started.load(Relaxed),
                "published after an invalidation"
            );
            self.entries[page] = Some(entry);
        }
    }
}

pub(crate) type Lock<const N: usize> = InvLock<Shadow, SpinLockBackend, N>;

/// An address space of a few pages, and the driver's lock with room for `N` invalidations.
pub(crate) struct World<const N: usize> {
    lock: Pin<KBox<Lock<N>>>,
    mmap_lock: RwLock<()>,
    /// The page tables: a version for each entry, which every change of it counts up.
    versions: [AtomicUsize; PAGES],
    truth: Arc<[Truth; PAGES]>,
}

impl<const N: usize> World<N> {
    pub(crate) fn new() -> Arc<Self> {
        let truth = Arc::<[Truth; PAGES]>::default();
        let shadow = Shadow {
            entries: [None; PAGES],
            truth: truth.clone(),
        };
        Arc::new(Self {
            lock: KBox::pin_init(new_invlock!(shadow), GFP_KERNEL).unwrap(),
            mmap_lock: RwLock::new(()),
            versions: core::array::from_fn(|_| AtomicUsize::new(0)),
            truth,
        })
    }

    pub(crate) fn lock(&self) -> &Lock<N> {
        &self.lock
    }

    pub(crate) fn mmap_lock(&self) -> &RwLock<()> {
        &self.mmap_lock
    }

    /// The version of the page-table entry of `page`.
    pub(crate) fn version(&self, page: usize) -> usize {
        self.versions[page].load(Acquire)
    }

    pub(crate) fn start(&self, range: &PageRange) {
        self.start_by(range, None);
    }

    fn start_by(&self, range: &PageRange, originator: Option<Owner>) {
        self.lock.start_by(range, originator, |shadow| {
            for page in of(range) {
                self.truth[page].started.fetch_add(1, Relaxed);
                self.truth[page].in_flight.fetch_add(1, Relaxed);
                shadow.entries[page] = None;
            }
        });
    }

    /// Changes page-table entries, which is for whoever invalidates them.
    pub(crate) fn change(&self, range: &PageRange) {
        for page in of(range) {
            let _ = self.versions[page].fetch_update(AcqRel, Acquire, |old| Some(changed(old)));
        }
    }

    pub(crate) fn end(&self, range: &PageRange) {
        // Until the lock is taken nobody else may see a difference.
        for page in of(range) {
            self.truth[page].in_flight.fetch_sub(1, Relaxed);
        }
        self.lock.end(range);
    }

    pub(crate) fn invalidate(&self, range: &PageRange) {
        self.start(range);
        self.change(range);
        self.end(range);
    }

    /// Takes pages away, to be faulted in again.
    pub(crate) fn zap(&self, range: &PageRange) {
        self.start(range);
        self.change(range);
        for page in of(range) {
            self.versions[page].fetch_or(ZAPPED, AcqRel);
        }
        self.end(range);
    }

    /// Faults in pages that are zapped, which invalidates nothing.
    pub(crate) fn fault_in(&self, range: &PageRange) {
        for page in of(range) {
            self.versions[page].fetch_and(!ZAPPED, AcqRel);
        }
    }

    /// The address space goes away.
    pub(crate) fn release(&self) {
        self.lock.release(|shadow| shadow.entries = [None; PAGES]);
    }

    /// Takes all entries away, though nobody asked for that, and tells whether it is all over.
    pub(crate) fn take_away(&self) -> bool {
        self.lock.rearrange(|shadow, released| {
            shadow.entries = [None; PAGES];
            released
        })
    }

    fn entry(&self, page: usize, version: usize) -> Entry {
        let truth = &self.truth[page];
        Entry {
            version,
            started: truth.started.load(Relaxed),
            in_flight: truth.in_flight.load(Relaxed),
        }
    }

    /// Moves a page and publishes where it went, if nothing interferes: calls `then` in between,
    /// and tells whether it was published.
    pub(crate) fn migrate(&self, page: usize, then: impl FnOnce()) -> bool {
        let range = pages(page, page + 1);
        stack_pin_init!(let reader = Reader::new(&*self.lock, range, Mark::new()));
        let reading = reader.begin(&Deadline::new()).unwrap();
        self.start_by(&range, Some(reading.identity()));
        let old = self.versions[page].fetch_or(MOVING, AcqRel);
        self.end(&range);
        if old & MOVING != 0 {
            // Somebody else has the page.
            return false;
        }
        let plan = vec![(page, self.entry(page, old + PLACE))];
        then();
        let published = InHand { reading, plan }.publish();
        // From here on the CPU uses the page where it is now, if it is there still.
        let _ = self.versions[page].compare_exchange(old | MOVING, old + PLACE, AcqRel, Acquire);
        published
    }

    /// Begins to read, reads the page tables if that succeeds, and calls `then`.
    pub(crate) fn read(
        &self,
        range: &PageRange,
        deadline: &Deadline,
        then: impl FnOnce(Result<InHand<'_, '_, N>>),
    ) {
        stack_pin_init!(let reader = Reader::new(&*self.lock, *range, Mark::new()));
        then(reader.begin(deadline).map(|reading| {
            InHand {
                reading,
                plan: of(range)
                    .map(|page| (page, self.entry(page, self.version(page))))
                    .filter(|(_, entry)| is_present(entry.version))
                    .collect(),
            }
        }));
    }

    /// Reads and publishes, and tells whether nothing interfered.
    pub(crate) fn try_fault(&self, range: &PageRange, deadline: &Deadline) -> Result<bool> {
        let mut published = Ok(false);
        self.read(range, deadline, |result| {
            published = result.map(|reading| reading.publish());
        });
        published
    }

    /// The same until it succeeds, as often as `tries`.
    pub(crate) fn fault(&self, range: &PageRange, deadline: &Deadline, tries: usize) -> Result {
        for _ in 0..tries {
            if self.try_fault(range, deadline)? {
                return Ok(());
            }
        }
        panic!("the reader does not finish");
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock.lock().entries.iter().all(Option::is_none)
    }

    /// Asserts, with no invalidation in flight, that the shadow is as the page tables are.
    pub(crate) fn check(&self) {
        let shadow = self.lock.lock();
        for page in 0..PAGES {
            if let Some(version) = shadow.version(page) {
                assert_eq!(version, self.version(page), "{STALE}");
            }
        }
    }
}

/// What was read and not yet published.
pub(crate) struct InHand<'r, 'a, const N: usize> {
    reading: Reading<'r, 'a, Mark, Shadow, SpinLockBackend, N>,
    plan: Vec<(usize, Entry)>,
}

impl<const N: usize> InHand<'_, '_, N> {
    /// How many pages were there to be read.
    pub(crate) fn pages(&self) -> usize {
        self.plan.len()
    }

    /// Whether it could be published.
    pub(crate) fn publish(self) -> bool {
        self.reading.publish(self.plan).is_ok()
    }
}

/// A thread that does something in `world`.
pub(crate) fn spawn<T: 'static, const N: usize>(
    world: &Arc<World<N>>,
    f: impl FnOnce(&World<N>) -> T + 'static,
) -> JoinHandle<T> {
    let world = world.clone();
    thread::spawn(move || f(&world))
}
