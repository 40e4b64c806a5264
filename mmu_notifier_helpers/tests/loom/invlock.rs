// SPDX-License-Identifier: GPL-2.0

//! Models of [`InvLock`].
//!
//! What all of them show: *no shadow entry is visible that an invalidation covers which was in
//! flight, or finished, since the entry was read from the page tables.* And what a reader may count
//! on: it finishes with at most one try more than there are invalidations of what it reads.
//!
//! [`InvLock`]: mmu_notifier_helpers::invlock::InvLock

use crate::{
    explore::holds,
    world::{pages, spawn, World},
};
use kernel::error::{
    code::{EBUSY, EINTR, ESRCH},
    Result,
};
use loom::thread;
use mmu_notifier_helpers::{
    range::PageRange,
    retry::{self, Attempt, Patience},
    wait::Deadline,
};
// Not loom's, whose drop fails once more when a model unwinds from a deadlock.
use std::sync::Arc;

/// The reader finishes with what it wants in the shadow, and within `tries`.
fn finishes<const N: usize>(world: &World<N>, range: &PageRange, tries: usize) {
    assert_eq!(world.fault(range, &Deadline::new(), tries), Ok(()));
}

/// A reader of the first page, and the deadline until which it waits.
fn impatient(world: &Arc<World<1>>) -> (thread::JoinHandle<Result>, Arc<Deadline>) {
    let deadline = Arc::new(Deadline::new());
    let until = deadline.clone();
    let reader = spawn(world, move |world| world.fault(&pages(0, 1), &until, 1));
    (reader, deadline)
}

mod collisions {
    use super::*;

    #[test]
    fn two_invalidators_one_reader() {
        holds("2 invalidators, 1 reader", || {
            let world = World::<2>::new();
            let first = spawn(&world, |world| world.invalidate(&pages(0, 1)));
            let second = spawn(&world, |world| {
                world.start(&pages(0, 2));
                world.change(&pages(0, 1));
                world.end(&pages(0, 2));
            });
            world.try_fault(&pages(0, 1), &Deadline::new()).unwrap();
            first.join().unwrap();
            second.join().unwrap();
            world.check();
        });
    }

    #[test]
    fn one_invalidator_two_readers() {
        holds("1 invalidator, 2 readers", || {
            let world = World::<1>::new();
            let invalidator = spawn(&world, |world| world.invalidate(&pages(0, 1)));
            let reader = spawn(&world, |world| finishes(world, &pages(0, 1), 2));
            world.try_fault(&pages(0, 1), &Deadline::new()).unwrap();
            invalidator.join().unwrap();
            reader.join().unwrap();
            world.check();
        });
    }

    #[test]
    fn nested_ranges() {
        holds("nested ranges", || {
            let world = World::<2>::new();
            let invalidator = spawn(&world, |world| {
                world.start(&pages(0, 3));
                world.invalidate(&pages(1, 2));
                world.change(&pages(0, 3));
                world.end(&pages(0, 3));
            });
            finishes(&world, &pages(1, 2), 3);
            invalidator.join().unwrap();
            world.check();
        });
    }

    #[test]
    fn equal_ranges_nested() {
        holds("equal ranges, nested", || {
            let world = World::<2>::new();
            let invalidator = spawn(&world, |world| {
                world.start(&pages(0, 1));
                world.invalidate(&pages(0, 1));
                world.change(&pages(0, 1));
                world.end(&pages(0, 1));
            });
            finishes(&world, &pages(0, 1), 3);
            invalidator.join().unwrap();
            world.check();
        });
    }

    #[test]
    fn crossed_ranges() {
        holds("crossed ranges", || {
            let world = World::<2>::new();
            let invalidator = spawn(&world, |world| {
                world.start(&pages(0, 2));
                world.start(&pages(1, 3));
                world.change(&pages(0, 2));
                world.end(&pages(0, 2));
                world.change(&pages(1, 3));
                world.end(&pages(1, 3));
            });
            finishes(&world, &pages(1, 2), 3);
            invalidator.join().unwrap();
            world.check();
        });
    }
}

/// Each invalidation of what a reader reads costs it one try at most.
#[test]
fn k_invalidations_cost_k_tries() {
    for k in 1..=3 {
        holds(&format!("{k} invalidations, {k} tries more"), move || {
            let world = World::<1>::new();
            let invalidator = spawn(&world, move |world| {
                for _ in 0..k {
                    world.invalidate(&pages(0, 1));
                }
            });
            finishes(&world, &pages(0, 1), k + 1);
            invalidator.join().unwrap();
            world.check();
        });
    }
}

/// Readers whom nobody has to disturb. Their deadline has passed before they begin, so that they
/// must not even wait.
mod disjoint {
    use super::*;

    fn undisturbed<const N: usize>(world: &World<N>, range: &PageRange) {
        let deadline = Deadline::new();
        world.lock().expire(&deadline);
        assert_eq!(world.fault(range, &deadline, 1), Ok(()));
    }

    #[test]
    fn neighbours_do_not_disturb() {
        holds("disjoint ranges, 2 invalidators", || {
            let world = World::<2>::new();
            let below = spawn(&world, |world| world.invalidate(&pages(0, 1)));
            let above = spawn(&world, |world| world.invalidate(&pages(2, 3)));
            undisturbed(&world, &pages(1, 2));
            below.join().unwrap();
            above.join().unwrap();
            world.check();
        });
    }

    /// However many there are.
    #[test]
    fn k_invalidations_elsewhere_do_not_starve() {
        for k in 1..=3 {
            holds(&format!("{k} invalidations elsewhere"), move || {
                let world = World::<1>::new();
                let elsewhere = spawn(&world, move |world| {
                    for _ in 0..k {
                        world.invalidate(&pages(1, 2));
                    }
                });
                undisturbed(&world, &pages(0, 1));
                elsewhere.join().unwrap();
                world.check();
            });
        }
    }

    /// In flight all the while.
    #[test]
    fn an_invalidation_elsewhere_that_does_not_end_does_not_starve() {
        holds("an endless invalidation elsewhere", || {
            let world = World::<1>::new();
            world.start(&pages(1, 2));
            let reader = spawn(&world, |world| undisturbed(world, &pages(2, 3)));
            undisturbed(&world, &pages(0, 1));
            reader.join().unwrap();
            world.end(&pages(1, 2));
            world.check();
        });
    }

    /// A reader that was there before does not make the next one collide.
    #[test]
    fn readers_do_not_disturb_each_other() {
        holds("2 readers of one range", || {
            let world = World::<1>::new();
            let reader = spawn(&world, |world| undisturbed(world, &pages(0, 1)));
            undisturbed(&world, &pages(0, 1));
            reader.join().unwrap();
            world.check();
        });
    }
}

mod overflow {
    use super::*;

    #[test]
    fn no_room_at_all() {
        holds("overflow, no room", || {
            let world = World::<0>::new();
            let invalidator = spawn(&world, |world| world.invalidate(&pages(0, 1)));
            finishes(&world, &pages(0, 1), 2);
            invalidator.join().unwrap();
            world.check();
        });
    }

    #[test]
    fn room_for_one_of_two() {
        holds("overflow, room for 1 of 2", || {
            let world = World::<1>::new();
            let first = spawn(&world, |world| world.invalidate(&pages(1, 2)));
            let second = spawn(&world, |world| world.invalidate(&pages(0, 1)));
            finishes(&world, &pages(0, 1), 2);
            first.join().unwrap();
            second.join().unwrap();
            world.check();
        });
    }

    /// The one that was remembered ends first, and then one that was not.
    #[test]
    fn drains_to_zero() {
        holds("overflow, draining", || {
            let world = World::<1>::new();
            let invalidator = spawn(&world, |world| {
                world.start(&pages(0, 1));
                world.start(&pages(1, 2));
                world.start(&pages(2, 3));
                world.end(&pages(0, 1));
                world.end(&pages(1, 2));
                world.change(&pages(2, 3));
                world.end(&pages(2, 3));
            });
            finishes(&world, &pages(2, 3), 2);
            invalidator.join().unwrap();
            // Nothing is left of it, neither of the room nor of the count.
            let deadline = Deadline::new();
            world.lock().expire(&deadline);
            assert_eq!(world.fault(&pages(0, 3), &deadline, 1), Ok(()));
            world.check();
        });
    }

    /// Readers that are reading when it overflows are disturbed by what they read alone.
    #[test]
    fn those_under_way_are_told_apart() {
        holds("overflow, under way", || {
            let world = World::<0>::new();
            let mut reading = None;
            world.read(&pages(0, 1), &Deadline::new(), |result| {
                let elsewhere = spawn(&world, |world| world.invalidate(&pages(1, 2)));
                elsewhere.join().unwrap();
                reading = Some(result.unwrap().publish());
            });
            assert_eq!(reading, Some(true));
            world.check();
        });
    }
}

mod waiting {
    use super::*;

    /// No wake-up is lost: loom reports a deadlock if one is.
    #[test]
    fn for_one_invalidation() {
        holds("waiting, 1 invalidation", || {
            let world = World::<1>::new();
            world.start(&pages(0, 1));
            let reader = spawn(&world, |world| finishes(world, &pages(0, 1), 1));
            world.change(&pages(0, 1));
            world.end(&pages(0, 1));
            reader.join().unwrap();
            world.check();
        });
    }

    #[test]
    fn for_two_invalidations() {
        holds("waiting, 2 invalidations", || {
            let world = World::<2>::new();
            world.start(&pages(0, 1));
            world.start(&pages(1, 2));
            let other = spawn(&world, |world| world.end(&pages(0, 1)));
            let reader = spawn(&world, |world| finishes(world, &pages(0, 2), 1));
            world.end(&pages(1, 2));
            reader.join().unwrap();
            other.join().unwrap();
            world.check();
        });
    }

    #[test]
    fn two_readers() {
        holds("waiting, 2 readers", || {
            let world = World::<1>::new();
            world.start(&pages(0, 2));
            let first = spawn(&world, |world| finishes(world, &pages(0, 1), 1));
            let second = spawn(&world, |world| finishes(world, &pages(0, 1), 1));
            world.end(&pages(0, 2));
            first.join().unwrap();
            second.join().unwrap();
            world.check();
        });
    }

    /// A reader waits for the count to drain, too.
    #[test]
    fn for_what_overflowed() {
        holds("waiting, overflow", || {
            let world = World::<0>::new();
            world.start(&pages(1, 2));
            let reader = spawn(&world, |world| finishes(world, &pages(0, 1), 1));
            world.end(&pages(1, 2));
            reader.join().unwrap();
            world.check();
        });
    }

    /// The invalidation does not end; the deadline comes at any time.
    #[test]
    fn until_the_deadline() {
        holds("waiting, deadline", || {
            let world = World::<1>::new();
            world.start(&pages(0, 1));
            let (reader, deadline) = impatient(&world);
            world.lock().expire(&deadline);
            assert_eq!(reader.join().unwrap(), Err(EBUSY));
            world.end(&pages(0, 1));
            world.check();
        });
    }

    /// Whichever of the two comes first, the reader does not stay.
    #[test]
    fn until_the_deadline_or_the_end() {
        holds("waiting, deadline or end", || {
            let world = World::<1>::new();
            world.start(&pages(0, 1));
            let (reader, deadline) = impatient(&world);
            let end = spawn(&world, |world| world.end(&pages(0, 1)));
            world.lock().expire(&deadline);
            let result = reader.join().unwrap();
            assert!(matches!(result, Ok(()) | Err(EBUSY)), "{result:?}");
            end.join().unwrap();
            world.check();
        });
    }

    /// Who finds the invalidation ended does not ask what time it is.
    #[test]
    fn the_end_counts_more_than_the_deadline() {
        holds("waiting, end before deadline", || {
            let world = World::<1>::new();
            world.start(&pages(0, 1));
            let (reader, deadline) = impatient(&world);
            world.end(&pages(0, 1));
            world.lock().expire(&deadline);
            assert_eq!(reader.join().unwrap(), Ok(()));
            world.check();
        });
    }

    /// The invalidation does not end; the reader is killed at any time.
    #[test]
    fn until_killed() {
        holds("waiting, killed", || {
            let world = World::<1>::new();
            world.start(&pages(0, 1));
            let (reader, deadline) = impatient(&world);
            world.lock().kill(&deadline);
            assert_eq!(reader.join().unwrap(), Err(EINTR));
            world.end(&pages(0, 1));
            world.check();
        });
    }

    /// Whichever of the two comes first, the reader does not stay.
    #[test]
    fn until_killed_or_the_end() {
        holds("waiting, killed or end", || {
            let world = World::<1>::new();
            world.start(&pages(0, 1));
            let (reader, deadline) = impatient(&world);
            let end = spawn(&world, |world| world.end(&pages(0, 1)));
            world.lock().kill(&deadline);
            let result = reader.join().unwrap();
            assert!(matches!(result, Ok(()) | Err(EINTR)), "{result:?}");
            end.join().unwrap();
            world.check();
        });
    }

    /// One of two that wait is killed; the other goes on to wait, and gets what it wants.
    #[test]
    fn one_of_two_killed() {
        holds("2 waiting, 1 killed", || {
            let world = World::<1>::new();
            world.start(&pages(0, 1));
            let (killed, deadline) = impatient(&world);
            let other = spawn(&world, |world| finishes(world, &pages(0, 1), 1));
            world.lock().kill(&deadline);
            assert_eq!(killed.join().unwrap(), Err(EINTR));
            world.end(&pages(0, 1));
            other.join().unwrap();
            world.check();
        });
    }

    /// The deadline is for waiting. Who need not wait does not lose by it.
    #[test]
    fn the_deadline_alone_disturbs_nobody() {
        holds("waiting for nothing", || {
            let world = World::<1>::new();
            let (reader, deadline) = impatient(&world);
            world.lock().expire(&deadline);
            assert_eq!(reader.join().unwrap(), Ok(()));
            world.check();
        });
    }
}

mod teardown {
    use super::*;

    /// What was published before is gone, and nothing comes after.
    fn is_empty_for_good<const N: usize>(world: &World<N>) {
        assert!(world.is_empty());
        let late = world.fault(&pages(0, 1), &Deadline::new(), 1);
        assert_eq!(late, Err(ESRCH));
        assert!(world.is_empty());
    }

    #[test]
    fn during_a_fault() {
        holds("release, 1 reader", || {
            let world = World::<1>::new();
            let reader = spawn(&world, |world| {
                world.fault(&pages(0, 1), &Deadline::new(), 2)
            });
            world.release();
            let result = reader.join().unwrap();
            assert!(matches!(result, Ok(()) | Err(ESRCH)), "{result:?}");
            is_empty_for_good(&world);
        });
    }

    #[test]
    fn during_two_faults() {
        holds("release, 2 readers", || {
            let world = World::<1>::new();
            let readers = [0, 1].map(|page| {
                spawn(&world, move |world| {
                    world.fault(&pages(page, page + 1), &Deadline::new(), 2)
                })
            });
            world.release();
            for reader in readers {
                let result = reader.join().unwrap();
                assert!(matches!(result, Ok(()) | Err(ESRCH)), "{result:?}");
            }
            is_empty_for_good(&world);
        });
    }

    /// Readers that wait are woken. The invalidation does not end.
    #[test]
    fn during_an_invalidation() {
        holds("release, while waiting", || {
            let world = World::<1>::new();
            world.start(&pages(0, 1));
            let reader = spawn(&world, |world| {
                world.fault(&pages(0, 1), &Deadline::new(), 1)
            });
            world.release();
            assert_eq!(reader.join().unwrap(), Err(ESRCH));
            is_empty_for_good(&world);
        });
    }

    /// That it is over for good counts more than that it is late.
    #[test]
    fn before_the_deadline() {
        holds("release, deadline", || {
            let world = World::<1>::new();
            world.start(&pages(0, 1));
            let (reader, deadline) = impatient(&world);
            world.release();
            world.lock().expire(&deadline);
            assert_eq!(reader.join().unwrap(), Err(ESRCH));
            is_empty_for_good(&world);
        });
    }

    #[test]
    fn beside_an_invalidation() {
        holds("release, 1 invalidator, 1 reader", || {
            let world = World::<1>::new();
            let invalidator = spawn(&world, |world| world.invalidate(&pages(0, 1)));
            let reader = spawn(&world, |world| {
                world.fault(&pages(0, 1), &Deadline::new(), 3)
            });
            world.release();
            invalidator.join().unwrap();
            let result = reader.join().unwrap();
            assert!(matches!(result, Ok(()) | Err(ESRCH)), "{result:?}");
            is_empty_for_good(&world);
        });
    }
}

/// Entries that are taken away under the lock by who invalidates nothing, as when a mirror goes.
mod rearrangement {
    use super::*;

    #[test]
    fn beside_a_fault_and_an_invalidation() {
        holds("entries taken away, 1 invalidator, 1 reader", || {
            let world = World::<1>::new();
            let invalidator = spawn(&world, |world| world.invalidate(&pages(0, 1)));
            let reader = spawn(&world, |world| finishes(world, &pages(0, 1), 2));
            assert!(!world.take_away());
            invalidator.join().unwrap();
            reader.join().unwrap();
            world.check();
        });
    }

    /// Once it finds that all is over nothing comes any more, whoever is reading.
    #[test]
    fn beside_a_release() {
        holds("entries taken away, release, 1 reader", || {
            let world = World::<1>::new();
            let release = spawn(&world, |world| world.release());
            let reader = spawn(&world, |world| {
                world.fault(&pages(0, 1), &Deadline::new(), 2)
            });
            if world.take_away() {
                assert!(world.is_empty());
                let late = world.fault(&pages(0, 1), &Deadline::new(), 1);
                assert_eq!(late, Err(ESRCH));
            }
            release.join().unwrap();
            let result = reader.join().unwrap();
            assert!(matches!(result, Ok(()) | Err(ESRCH)), "{result:?}");
            assert!(world.is_empty());
        });
    }
}

/// The loop that a fault runs: it excludes, after a collision, who holds the mmap lock.
mod progress {
    use super::*;

    /// A fault that has little patience left after its first collision.
    struct Impatient<'a> {
        world: &'a World<1>,
        collisions: u32,
    }

    impl Impatient<'_> {
        /// Publishes the page if it is there and nothing interferes.
        fn look(&self) -> kernel::error::Result<Option<()>> {
            let deadline = Deadline::new();
            let mut published = Ok(false);
            self.world.read(&pages(0, 1), &deadline, |result| {
                published = result.map(|reading| reading.pages() == 1 && reading.publish());
            });
            published.map(|published| published.then_some(()))
        }
    }

    impl Attempt for Impatient<'_> {
        type Published = ();

        fn optimistic(&mut self) -> kernel::error::Result<Option<()>> {
            let _mmap_lock = self.world.mmap_lock().read().unwrap();
            self.world.fault_in(&pages(0, 1));
            self.look()
        }

        /// As the fault of the crate. It may not wait for others with the lock held for writing, so
        /// that most of the work is done before.
        fn exclusive(&mut self) -> kernel::error::Result<Option<()>> {
            {
                let _mmap_lock = self.world.mmap_lock().read().unwrap();
                self.world.fault_in(&pages(0, 1));
            }
            let _mmap_lock = self.world.mmap_lock().write().unwrap();
            if let Some(published) = self.look()? {
                return Ok(Some(published));
            }
            self.world.fault_in(&pages(0, 1));
            self.look()
        }

        fn collided(&mut self, nth: u32) -> kernel::error::Result {
            self.collisions = nth;
            Ok(())
        }

        fn patience(&self) -> Patience {
            match self.collisions {
                0 => Patience::Fresh,
                1 => Patience::Wearing,
                _ => Patience::Over,
            }
        }
    }

    fn fault(world: &World<1>) -> kernel::error::Result {
        retry::publish(&mut Impatient {
            world,
            collisions: 0,
        })
    }

    /// However many zaps there are under the mmap lock, one between the page fault and the lock
    /// among them, they disturb a fault once at most.
    #[test]
    fn excludes_who_holds_the_mmap_lock() {
        for k in 1..=3 {
            holds(&format!("{k} zaps under the mmap lock"), move || {
                let world = World::<1>::new();
                let zapper = spawn(&world, move |world| {
                    for _ in 0..k {
                        let _mmap_lock = world.mmap_lock().read().unwrap();
                        world.zap(&pages(0, 1));
                    }
                });
                assert_eq!(fault(&world), Ok(()));
                zapper.join().unwrap();
                world.check();
            });
        }
    }

    /// Reclaim holds other locks. The fault may fail then, but publishes nothing that is not true.
    #[test]
    fn checks_with_the_mmap_lock_held() {
        holds("2 invalidations by reclaim", || {
            let world = World::<1>::new();
            let reclaim = spawn(&world, |world| {
                world.invalidate(&pages(0, 1));
                world.invalidate(&pages(0, 1));
            });
            let result = fault(&world);
            assert!(matches!(result, Ok(()) | Err(EBUSY)), "{result:?}");
            reclaim.join().unwrap();
            world.check();
        });
    }
}

/// A guard for the device keeps invalidations out, so what it sees stays.
#[test]
fn entries_stay_while_the_shadow_is_locked() {
    holds("device access, 1 invalidator", || {
        let world = World::<1>::new();
        finishes(&world, &pages(0, 1), 1);
        let invalidator = spawn(&world, |world| world.invalidate(&pages(0, 1)));
        let device = spawn(&world, |world| {
            let shadow = world.lock().lock();
            if let Some(version) = shadow.version(0) {
                thread::yield_now();
                assert_eq!(version, world.version(0));
            }
        });
        invalidator.join().unwrap();
        device.join().unwrap();
        world.check();
    });
}
