// SPDX-License-Identifier: GPL-2.0

//! Models of a migration, which is a reader that invalidates what it reads, beside others.
//!
//! Between the invalidation and the end of the migration nobody can read the page: its entry says
//! that it is being moved. Before the end the migration publishes where it went.
//!
//! Each way of the kernel's HMM test driver to get this wrong has a scenario, in which its mirror
//! fails, and does not once that is put right. The lock of this crate does not fail in any of them.

mod mirror;

use std::{ops::Deref, sync::Arc};

use loom::thread::{self, JoinHandle};
use mmu_notifier_helpers::wait::Deadline;

use crate::{
    explore::{fails, holds},
    world::{pages, spawn as spawn_in, World, STALE},
};
use mirror::{Fault, Mirror};

/// A driver with a shadow of an address space of one page.
trait Driver: Send + Sync + 'static {
    /// The kernel changes the entry of the page.
    fn invalidate(&self);

    /// The device faults on the page, once.
    fn fault(&self);

    /// The driver moves the page.
    fn migrate(&self);

    /// Asserts, with no invalidation in flight, that the shadow is as the page table is.
    fn check(&self);
}

impl Driver for World<2> {
    fn invalidate(&self) {
        World::invalidate(self, &pages(0, 1));
    }

    fn fault(&self) {
        self.try_fault(&pages(0, 1), &Deadline::new()).unwrap();
    }

    fn migrate(&self) {
        World::migrate(self, 0, || ());
    }

    fn check(&self) {
        World::check(self);
    }
}

/// A thread that does something with `driver`.
fn spawn<D: Driver>(driver: &Arc<D>, f: impl FnOnce(&D) + 'static) -> JoinHandle<()> {
    let driver = driver.clone();
    thread::spawn(move || f(driver.deref()))
}

/// What another reader read before the migration is not published after it.
fn beside_a_reader<D: Driver>(driver: Arc<D>) {
    let reader = spawn(&driver, D::fault);
    driver.migrate();
    reader.join().unwrap();
    driver.check();
}

/// Where the page went is not published if it does not stay there.
fn beside_an_invalidation<D: Driver>(driver: Arc<D>) {
    let other = spawn(&driver, D::invalidate);
    driver.migrate();
    other.join().unwrap();
    driver.check();
}

macro_rules! scenarios {
    ($($test:ident: $fault:expr, $scenario:ident;)*) => {$(
        mod $test {
            use super::*;

            #[test]
            fn c_fails() {
                fails(concat!(stringify!($test), ": C"), STALE, || {
                    $scenario(Mirror::new(Some($fault)))
                });
            }

            #[test]
            fn put_right_holds() {
                holds(concat!(stringify!($test), ": C, put right"), || {
                    $scenario(Mirror::new(None))
                });
            }

            #[test]
            fn ours_holds() {
                holds(concat!(stringify!($test), ": ours"), || {
                    $scenario(World::<2>::new())
                });
            }
        }
    )*};
}

scenarios! {
    own_event_ignored_for_everybody: Fault::OwnEventIgnored, beside_a_reader;
    new_place_published_unchecked: Fault::PublishedUnchecked, beside_an_invalidation;
}

/// Who read before the migration, and who invalidates before it ends.
#[test]
fn beside_a_reader_and_an_invalidation() {
    holds("a migration beside a reader and an invalidation", || {
        let world = World::<2>::new();
        let mut other = None;
        world.read(&pages(0, 1), &Deadline::new(), |result| {
            let reading = result.unwrap();
            world.migrate(0, || {
                other = Some(spawn(&world, Driver::invalidate));
            });
            assert!(!reading.publish());
        });
        other.unwrap().join().unwrap();
        world.check();
    });
}

#[test]
fn beside_another_migration() {
    holds("2 migrations of one page", || {
        let world = World::<2>::new();
        let other = spawn(&world, Driver::migrate);
        Driver::migrate(&*world);
        other.join().unwrap();
        world.check();
    });
}

/// Its own invalidation is no reason for a migration not to publish, and neither are readers.
#[test]
fn is_not_disturbed_by_itself() {
    holds("an undisturbed migration", || {
        let world = World::<2>::new();
        let reader = spawn(&world, Driver::fault);
        assert!(world.migrate(0, || ()));
        reader.join().unwrap();
        world.check();
    });
}

/// Somebody else's is, at whatever time it comes before the migration publishes.
#[test]
fn is_disturbed_by_others() {
    holds("a disturbed migration", || {
        let world = World::<2>::new();
        let published = world.migrate(0, || {
            let other = spawn_in(&world, |world| world.invalidate(&pages(0, 1)));
            other.join().unwrap();
        });
        assert!(!published);
        assert!(world.is_empty());
    });
}

/// One of other pages is not.
#[test]
fn is_not_disturbed_by_neighbours() {
    holds("a migration beside others", || {
        let world = World::<2>::new();
        let other = spawn_in(&world, |world| world.invalidate(&pages(1, 2)));
        assert!(world.migrate(0, || ()));
        other.join().unwrap();
        world.check();
    });
}
