// SPDX-License-Identifier: GPL-2.0

//! The faults of the lock that was sketched on the mailing list in 2019, each alone in a model that
//! the model checker fails, and holds once that fault is put right.
//!
//! The lock that this crate has instead is in `invlock`. Its predecessor was a count of the
//! invalidations in flight and a sequence number for a whole address space: odd while a reader must
//! wait, and changed by every invalidation that a reader must not have missed.

#![cfg(loom)]

mod explore;
#[path = "sketch/invlock.rs"]
mod invlock;

use explore::{fails, holds};
use invlock::{Fault, Sketch, MINE, OTHER};
use loom::thread::{self, JoinHandle};
// Not loom's, whose drop fails once more when a model unwinds from a deadlock.
use std::sync::Arc;

/// What loom says when every thread waits for another.
const DEADLOCK: &str = "deadlock";
/// What the models themselves assert.
const STALE: &str = "a stale entry is visible";
const LATE: &str = "the reader does not finish";

/// A thread that invalidates `page` that many times, `interesting` to the driver or not.
fn invalidator(lock: &Arc<Sketch>, page: usize, interesting: bool, times: usize) -> JoinHandle<()> {
    let lock = lock.clone();
    thread::spawn(move || {
        for _ in 0..times {
            lock.invalidate(page, interesting);
        }
    })
}

/// A thread in which the time runs out at any time.
fn clock(lock: &Arc<Sketch>) -> JoinHandle<()> {
    let lock = lock.clone();
    thread::spawn(move || lock.time_out())
}

/// One invalidation comes and goes. The reader, which waits for as long as it takes, has its turn
/// after it at the latest.
fn becomes_free(fault: Option<Fault>) {
    let lock = Sketch::new(fault);
    let other = invalidator(&lock, MINE, true, 1);
    assert!(lock.fault(MINE, 2).is_some(), "{LATE}");
    other.join().unwrap();
    lock.check();
}

/// One invalidation was here before the reader. It cannot disturb it any more.
fn forgets_the_past(fault: Option<Fault>) {
    let lock = Sketch::new(fault);
    invalidator(&lock, MINE, true, 1).join().unwrap();
    assert!(lock.fault(MINE, 1).is_some(), "{LATE}");
    lock.check();
}

/// The time runs out at some time, and after that the reader gets through, with one try on either
/// path. Nothing is invalidated.
fn gets_through_slowly(fault: Option<Fault>) {
    let lock = Sketch::new(fault);
    let clock = clock(&lock);
    assert!(lock.fault(MINE, 1).is_some(), "{LATE}");
    clock.join().unwrap();
}

/// An invalidation on either path keeps the reader from publishing what it read before.
fn sees_collisions(fault: Option<Fault>) {
    let lock = Sketch::new(fault);
    let other = invalidator(&lock, MINE, true, 1);
    lock.fault(MINE, 2);
    other.join().unwrap();
    lock.check();
}

/// As [`sees_collisions`], while something that does not interest the driver is invalidated too.
fn sees_the_second(fault: Option<Fault>) {
    let lock = Sketch::new(fault);
    let first = invalidator(&lock, OTHER, false, 1);
    let second = invalidator(&lock, MINE, true, 1);
    lock.fault(MINE, 1);
    first.join().unwrap();
    second.join().unwrap();
    lock.check();
}

/// As [`sees_collisions`], when the time may have run out. The invalidation comes from reclaim,
/// which does not hold the mmap lock.
fn sees_collisions_on_the_slow_path(fault: Option<Fault>) {
    let lock = Sketch::new(fault);
    let clock = clock(&lock);
    let other = invalidator(&lock, MINE, true, 1);
    lock.fault(MINE, 1);
    clock.join().unwrap();
    other.join().unwrap();
    lock.check();
}

/// `times` invalidations of another page. The reader gets through in as many tries.
fn is_not_disturbed(fault: Option<Fault>, times: usize) {
    let lock = Sketch::new(fault);
    let other = invalidator(&lock, OTHER, true, times);
    assert!(lock.fault(MINE, times).is_some(), "{LATE}");
    other.join().unwrap();
}

macro_rules! models {
    ($($test:ident: $fault:expr, $model:ident, $message:expr;)*) => {$(
        mod $test {
            use super::*;

            #[test]
            fn sketch_fails() {
                fails(stringify!($test), $message, || $model(Some($fault)));
            }

            #[test]
            fn put_right_holds() {
                holds(concat!(stringify!($test), ", put right"), || $model(None));
            }
        }
    )*};
}

models! {
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

    #[test]
    fn sketch_fails_within_1() {
        fails("fault_6_starved_by_others, 1", LATE, || {
            is_not_disturbed(None, 1)
        });
    }

    #[test]
    fn sketch_fails_within_2() {
        fails("fault_6_starved_by_others, 2", LATE, || {
            is_not_disturbed(None, 2)
        });
    }

    #[test]
    fn sketch_fails_within_3() {
        fails("fault_6_starved_by_others, 3", LATE, || {
            is_not_disturbed(None, 3)
        });
    }
}
