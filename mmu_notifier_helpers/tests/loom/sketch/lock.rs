// SPDX-License-Identifier: GPL-2.0

//! A model of the sketched lock, right but for at most one fault.

use loom::sync::{
    atomic::{AtomicUsize, Ordering},
    Condvar, Mutex, RwLock,
};
// Not loom's, whose drop fails once more when a model unwinds from a deadlock.
use std::sync::Arc;

use super::{Subject, PAGES, STALE};

/// What the sketch does wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The end of an invalidation counts up what its start counted up.
    EndCountsUp,
    /// A reader does not note the sequence that it compares in the end.
    SequenceNotRecorded,
    /// "True" is "fine" on the slow path and "retry" on the fast one; the driver takes it for
    /// "retry".
    TrueIsRetry,
    /// The same, and the driver takes it for "fine".
    TrueIsFine,
    /// Only the first of the invalidations in flight can make the sequence odd.
    OnlyFirstSeen,
    /// With the mmap lock held for writing, the reader does not look for collisions.
    SlowPathUnchecked,
}

struct State {
    active: usize,
    seq: usize,
    timed_out: bool,
    /// The version of the entry that the shadow holds of each page.
    shadow: [Option<usize>; PAGES],
}

/// The sketched lock of an address space, and a driver with a shadow of it.
pub(super) struct Sketch {
    fault: Option<Fault>,
    /// The driver's lock, which the sketch relies on.
    state: Mutex<State>,
    idle: Condvar,
    mmap_lock: RwLock<()>,
    /// The page tables: a version for each entry, which every change of it counts up.
    versions: [AtomicUsize; PAGES],
}

impl Sketch {
    pub(super) fn new(fault: Option<Fault>) -> Arc<Self> {
        Arc::new(Self {
            fault,
            state: Mutex::new(State {
                active: 0,
                seq: 0,
                timed_out: false,
                shadow: [None; PAGES],
            }),
            idle: Condvar::new(),
            mmap_lock: RwLock::new(()),
            versions: [AtomicUsize::new(0), AtomicUsize::new(0)],
        })
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn try_fault(&self, page: usize) -> bool {
        let (seq, slow) = {
            let mut state = self.state.lock().unwrap();
            while state.seq & 1 == 1 && !state.timed_out {
                state = self.idle.wait(state).unwrap();
            }
            let seq = if self.has(Fault::SequenceNotRecorded) {
                0
            } else {
                state.seq
            };
            (seq, state.timed_out)
        };
        if slow {
            let _mmap_lock = self.mmap_lock.write().unwrap();
            self.read_and_publish(page, seq, true)
        } else {
            let _mmap_lock = self.mmap_lock.read().unwrap();
            self.read_and_publish(page, seq, false)
        }
    }

    fn read_and_publish(&self, page: usize, seq: usize, slow: bool) -> bool {
        let version = self.versions[page].load(Ordering::Acquire);
        let mut state = self.state.lock().unwrap();
        let collides = state.seq & 1 == 1 || state.seq != seq;
        let fine = match self.fault {
            Some(Fault::SlowPathUnchecked) if slow => true,
            Some(Fault::TrueIsRetry) if slow => false,
            Some(Fault::TrueIsFine) if !slow => collides,
            _ => !collides,
        };
        if fine {
            state.shadow[page] = Some(version);
        }
        fine
    }
}

impl Subject for Sketch {
    fn invalidate(&self, page: usize, interesting: bool) {
        {
            let mut state = self.state.lock().unwrap();
            let seen = !self.has(Fault::OnlyFirstSeen) || state.active == 0;
            if interesting && seen {
                state.seq |= 1;
            }
            state.active += 1;
            if interesting {
                state.shadow[page] = None;
            }
        }
        self.versions[page].fetch_add(1, Ordering::AcqRel);
        let mut state = self.state.lock().unwrap();
        if interesting {
            assert!(state.shadow[page].is_none(), "{STALE}");
        }
        if self.has(Fault::EndCountsUp) {
            state.active += 1;
        } else {
            state.active -= 1;
        }
        if state.active == 0 && state.seq & 1 == 1 {
            state.seq += 1;
            self.idle.notify_all();
        }
    }

    fn time_out(&self) {
        self.state.lock().unwrap().timed_out = true;
        self.idle.notify_all();
    }

    fn finishes(&self, page: usize, tries: usize) -> bool {
        (0..tries).any(|_| self.try_fault(page))
    }

    fn check(&self) {
        let state = self.state.lock().unwrap();
        for (entry, version) in state.shadow.iter().zip(&self.versions) {
            let current = version.load(Ordering::Acquire);
            assert!(entry.is_none_or(|entry| entry == current), "{STALE}");
        }
    }
}
