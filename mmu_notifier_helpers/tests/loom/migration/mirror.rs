// SPDX-License-Identifier: GPL-2.0

//! A model of a mirror on an interval notifier of the whole address space, as that of the kernel's
//! HMM test driver is, right but for at most one fault.

use loom::sync::{
    atomic::{
        AtomicUsize,
        Ordering::{AcqRel, Acquire},
    },
    Condvar, Mutex,
};
// Not loom's, whose drop fails once more when a model unwinds from a deadlock.
use std::sync::Arc;

use super::Driver;
use crate::world::{changed, MOVING, PLACE, STALE};

/// What the mirror does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The invalidation that the driver causes when it moves a page changes no reader's sequence.
    OwnEventIgnored,
    /// Where the page went is published whatever came in between.
    PublishedUnchecked,
}

struct State {
    /// How many invalidations are in flight.
    active: usize,
    /// The sequence of the subscription.
    seq: usize,
    /// The version of the entry that the shadow holds.
    shadow: Option<usize>,
}

/// The mirror.
pub(super) struct Mirror {
    fault: Option<Fault>,
    state: Mutex<State>,
    idle: Condvar,
    /// The page table.
    version: AtomicUsize,
}

impl Mirror {
    pub(super) fn new(fault: Option<Fault>) -> Arc<Self> {
        Arc::new(Self {
            fault,
            state: Mutex::new(State {
                active: 0,
                seq: 0,
                shadow: None,
            }),
            idle: Condvar::new(),
            version: AtomicUsize::new(0),
        })
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn start(&self, own: bool) {
        let mut state = self.state.lock().unwrap();
        state.active += 1;
        if !(own && self.has(Fault::OwnEventIgnored)) {
            state.seq += 1;
        }
        state.shadow = None;
    }

    fn end(&self) {
        self.state.lock().unwrap().active -= 1;
        self.idle.notify_all();
    }

    fn begin(&self) -> usize {
        let mut state = self.state.lock().unwrap();
        while state.active > 0 {
            state = self.idle.wait(state).unwrap();
        }
        state.seq
    }
}

impl Driver for Mirror {
    fn invalidate(&self) {
        self.start(false);
        let _ = (self.version).fetch_update(AcqRel, Acquire, |old| Some(changed(old)));
        self.end();
    }

    fn fault(&self) {
        let seq = self.begin();
        let version = self.version.load(Acquire);
        let mut state = self.state.lock().unwrap();
        if state.seq == seq && version & MOVING == 0 {
            state.shadow = Some(version);
        }
    }

    fn migrate(&self) {
        self.start(true);
        let old = self.version.fetch_or(MOVING, AcqRel);
        self.end();
        // After its own invalidation, since one sequence cannot leave it out. What came before this
        // and after that has changed the entry, which is looked at.
        let seq = self.begin();
        let there = self.version.load(Acquire) == old | MOVING;
        let mut state = self.state.lock().unwrap();
        if self.has(Fault::PublishedUnchecked) || state.seq == seq && there {
            state.shadow = Some(old + PLACE);
        }
        drop(state);
        let _ = (self.version).compare_exchange(old | MOVING, old + PLACE, AcqRel, Acquire);
    }

    fn check(&self) {
        let state = self.state.lock().unwrap();
        if let Some(version) = state.shadow {
            assert_eq!(version, self.version.load(Acquire), "{STALE}");
        }
    }
}
