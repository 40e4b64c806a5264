// SPDX-License-Identifier: GPL-2.0

//! The faults of the lock that was sketched on the mailing list in 2019.
//!
//! It was a count of the invalidations in flight and a sequence number, for a whole address space:
//! odd while a reader must wait, and changed by every invalidation that a reader must not have
//! missed. Each fault has a scenario, in which the sketch fails the way that the fault makes it
//! fail, and does not once that fault is put right. The lock of this crate does not fail in any of
//! them.

mod lock;

use std::{ops::Deref, sync::Arc};

use loom::thread::{self, JoinHandle};
use mmu_notifier_helpers::wait::Deadline;

use crate::{
    explore::{fails, holds},
    world::{pages, World, STALE},
};
use lock::{Fault, Sketch};

/// The page that the reader wants.
const MINE: usize = 0;
/// A page that the reader does not care for.
const OTHER: usize = 1;
/// How many pages there are.
const PAGES: usize = 2;

/// What loom says when every thread waits for another.
const DEADLOCK: &str = "deadlock";
// What the models themselves assert.
const LATE: &str = "the reader does not finish";

/// A lock in an address space, with a driver that has a shadow.
trait Subject: Send + Sync + 'static {
    /// The kernel changes the entry of `page`, with the reverse map locked and not the mmap lock.
    /// It may interest the driver.
    fn invalidate(&self, page: usize, interesting: bool);

    /// The time that readers have is over.
    fn time_out(&self);

    /// The device faults on `page`. Whether it succeeds within `tries`.
    fn finishes(&self, page: usize, tries: usize) -> bool;

    /// Asserts, with no invalidation in flight, that the shadow is as the page tables are.
    fn check(&self);
}

/// The lock of this crate.
struct Ours {
    world: Arc<World<2>>,
    deadline: Deadline,
}

impl Ours {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            world: World::new(),
            deadline: Deadline::new(),
        })
    }

    fn try_fault(&self, page: usize) -> bool {
        let attempt = || self.world.try_fault(&pages(page, page + 1), &self.deadline);
        let published = if self.deadline.passed() {
            let _mmap_lock = self.world.mmap_lock().write().unwrap();
            attempt()
        } else {
            let _mmap_lock = self.world.mmap_lock().read().unwrap();
            attempt()
        };
        published.unwrap_or(false)
    }
}

impl Subject for Ours {
    /// What interests the driver makes no difference.
    fn invalidate(&self, page: usize, _interesting: bool) {
        self.world.invalidate(&pages(page, page + 1));
    }

    fn time_out(&self) {
        self.world.lock().expire(&self.deadline);
    }

    fn finishes(&self, page: usize, tries: usize) -> bool {
        (0..tries).any(|_| self.try_fault(page))
    }

    fn check(&self) {
        self.world.check();
    }
}

/// A thread that does something with `subject`.
fn spawn<S: Subject>(subject: &Arc<S>, f: impl FnOnce(&S) + 'static) -> JoinHandle<()> {
    let subject = subject.clone();
    thread::spawn(move || f(subject.deref()))
}

/// One invalidation comes and goes. The reader, which waits for as long as it takes, has its turn
/// after it at the latest.
fn becomes_free<S: Subject>(lock: Arc<S>) {
    let other = spawn(&lock, |lock| lock.invalidate(MINE, true));
    assert!(lock.finishes(MINE, 2), "{LATE}");
    other.join().unwrap();
    lock.check();
}

/// One invalidation was here before the reader. It cannot disturb it any more.
fn forgets_the_past<S: Subject>(lock: Arc<S>) {
    lock.invalidate(MINE, true);
    let reader = spawn(&lock, |lock| assert!(lock.finishes(MINE, 1), "{LATE}"));
    reader.join().unwrap();
    lock.check();
}

/// The time runs out at some time, and after that the reader gets through, with one try on either
/// path. Nothing is invalidated.
fn gets_through_slowly<S: Subject>(lock: Arc<S>) {
    let clock = spawn(&lock, |lock| lock.time_out());
    assert!(lock.finishes(MINE, 1), "{LATE}");
    clock.join().unwrap();
}

/// An invalidation keeps the reader from publishing what it read before.
fn sees_collisions<S: Subject>(lock: Arc<S>) {
    let other = spawn(&lock, |lock| lock.invalidate(MINE, true));
    lock.finishes(MINE, 2);
    other.join().unwrap();
    lock.check();
}

/// As [`sees_collisions`], while something that does not interest the driver is invalidated too.
fn sees_the_second<S: Subject>(lock: Arc<S>) {
    let first = spawn(&lock, |lock| lock.invalidate(OTHER, false));
    let second = spawn(&lock, |lock| lock.invalidate(MINE, true));
    lock.finishes(MINE, 1);
    first.join().unwrap();
    second.join().unwrap();
    lock.check();
}

/// As [`sees_collisions`], when the time may have run out. The invalidation comes from reclaim,
/// which does not hold the mmap lock.
fn sees_collisions_on_the_slow_path<S: Subject>(lock: Arc<S>) {
    let clock = spawn(&lock, |lock| lock.time_out());
    let other = spawn(&lock, |lock| lock.invalidate(MINE, true));
    lock.finishes(MINE, 1);
    clock.join().unwrap();
    other.join().unwrap();
    lock.check();
}

/// `k` invalidations of another page. The reader gets through in `tries`.
fn is_not_starved<S: Subject>(lock: Arc<S>, k: usize, tries: usize) {
    let other = spawn(&lock, move |lock| {
        for _ in 0..k {
            lock.invalidate(OTHER, true);
        }
    });
    assert!(lock.finishes(MINE, tries), "{LATE}");
    other.join().unwrap();
}

macro_rules! scenarios {
    ($($test:ident: $fault:expr, $scenario:ident, $message:expr;)*) => {$(
        mod $test {
            use super::*;

            #[test]
            fn sketch_fails() {
                fails(concat!(stringify!($test), ": sketch"), $message, || {
                    $scenario(Sketch::new(Some($fault)))
                });
            }

            #[test]
            fn put_right_holds() {
                holds(concat!(stringify!($test), ": sketch, put right"), || {
                    $scenario(Sketch::new(None))
                });
            }

            #[test]
            fn ours_holds() {
                holds(concat!(stringify!($test), ": ours"), || $scenario(Ours::new()));
            }
        }
    )*};
}

scenarios! {
    fault_1_end_counts_up: Fault::EndCountsUp, becomes_free, DEADLOCK;
    fault_2_sequence_never_recorded: Fault::SequenceNotRecorded, forgets_the_past, LATE;
    fault_3_true_taken_for_retry: Fault::TrueIsRetry, gets_through_slowly, LATE;
    fault_3_true_taken_for_fine: Fault::TrueIsFine, sees_collisions, STALE;
    fault_4_second_invalidation_unseen: Fault::OnlyFirstSeen, sees_the_second, STALE;
    fault_5_slow_path_unchecked: Fault::SlowPathUnchecked, sees_collisions_on_the_slow_path, STALE;
}

/// The sixth lies in the design and cannot be put right in it: however many tries a reader has, as
/// many invalidations elsewhere use them up.
mod fault_6_starved_by_others {
    use super::*;

    const MOST: usize = 3;

    fn name(whose: &str, k: usize) -> String {
        format!("fault_6_starved_by_others: {whose}, {k} invalidations")
    }

    #[test]
    fn sketch_fails() {
        for k in 1..=MOST {
            fails(&name("sketch", k), LATE, move || {
                is_not_starved(Sketch::new(None), k, k)
            });
        }
    }

    /// It is those that use them up: with one try more the reader gets through.
    #[test]
    fn sketch_holds_with_a_try_more() {
        for k in 1..=MOST {
            holds(&name("sketch, a try more", k), move || {
                is_not_starved(Sketch::new(None), k, k + 1)
            });
        }
    }

    #[test]
    fn ours_holds() {
        for k in 1..=MOST {
            holds(&name("ours, one try", k), move || {
                is_not_starved(Ours::new(), k, 1)
            });
        }
    }
}
