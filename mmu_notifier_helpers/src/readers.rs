// SPDX-License-Identifier: GPL-2.0

//! The readers that are under way, each known by the range that it reads.
//!
//! A reader's record lives on its stack and is linked into the list, so that registering needs no
//! memory that could be missing.

use crate::range::{Owner, PageRange};
use core::{cell::UnsafeCell, marker::PhantomPinned, pin::Pin, ptr::NonNull};
use kernel::sync::atomic::{Atomic, Relaxed};

/// Tells a reader that an invalidation interfered.
///
/// A number and not a flag, since `hmm_range_fault()` gives up early when the sequence of its
/// `struct mmu_interval_notifier` changes: in the kernel a mark is that field.
#[repr(transparent)]
pub struct Mark(Atomic<usize>);

impl Mark {
    /// The sequence of a reader that nothing has interfered with. Odd, as the core's own sequences
    /// are, and not the 2 that a new address space has, on which
    /// `hmm_range_fault_unlocked_timeout()` would wait.
    pub const CLEAR: usize = 1;
    const COLLIDED: usize = 0;

    /// A mark that is not set.
    pub fn new() -> Self {
        Self(Atomic::new(Self::CLEAR))
    }

    /// Whether it is set.
    ///
    /// Exact under the lock of the list that the reader is in. Without, it may be set a moment
    /// later, but does not go away.
    pub fn collided(&self) -> bool {
        self.0.load(Relaxed) != Self::CLEAR
    }

    fn clear(&self) {
        self.0.store(Self::CLEAR, Relaxed);
    }

    fn set(&self) {
        self.0.store(Self::COLLIDED, Relaxed);
    }
}

impl Default for Mark {
    fn default() -> Self {
        Self::new()
    }
}

/// A [`Mark`], or what has one inside.
///
/// # Safety
///
/// [`mark`](Self::mark) always returns the same part of `self`, not something that `self` refers
/// to: a reader that is leaked stays where it is, and what it refers to does not.
pub unsafe trait Marked {
    /// The mark.
    fn mark(&self) -> &Mark;
}

// SAFETY: A mark is part of itself.
unsafe impl Marked for Mark {
    fn mark(&self) -> &Mark {
        self
    }
}

/// What a list knows of one reader.
pub(crate) struct Record {
    range: PageRange,
    /// Belongs to the list while the record is in it, and is accessed with the list borrowed.
    links: UnsafeCell<Links>,
    _pin: PhantomPinned,
}

#[derive(Default)]
struct Links {
    prev: Option<NonNull<Record>>,
    next: Option<NonNull<Record>>,
    mark: Option<NonNull<Mark>>,
}

// SAFETY: `links` is accessed with the list borrowed, and a list is in one thread's hands at a
// time.
unsafe impl Send for Record {}
// SAFETY: As above.
unsafe impl Sync for Record {}

impl Record {
    /// A reader of `range`.
    pub(crate) fn new(range: PageRange) -> Self {
        Self {
            range,
            links: UnsafeCell::default(),
            _pin: PhantomPinned,
        }
    }

    pub(crate) fn range(&self) -> &PageRange {
        &self.range
    }

    /// What tells it from all others for as long as it is pinned.
    pub(crate) fn identity(&self) -> Owner {
        Owner::of(self)
    }
}

/// A list of readers.
///
/// # Invariants
///
/// Every record that can be reached from `first` was inserted here and not removed since, so it is
/// valid; `links` of each name its neighbours and a mark that is valid as well.
pub(crate) struct Readers {
    first: Option<NonNull<Record>>,
}

// SAFETY: Records can be reached from any thread that has the list.
unsafe impl Send for Readers {}

impl Readers {
    pub(crate) const fn new() -> Self {
        Self { first: None }
    }

    /// Adds a record, which tells of collisions by `mark`, and clears that.
    ///
    /// # Safety
    ///
    /// `record` must be in no list, and be [removed](Self::remove) from this one before it or
    /// `mark` goes away.
    pub(crate) unsafe fn insert(&mut self, record: Pin<&Record>, mark: &Mark) {
        mark.clear();
        let this = NonNull::from(record.get_ref());
        let links = Links {
            prev: None,
            next: self.first,
            mark: Some(mark.into()),
        };
        // SAFETY: The list is borrowed, and the record about to belong to it.
        unsafe { *record.links.get() = links };
        if let Some(next) = self.first {
            // SAFETY: `next` is valid by the type invariant, and the list is borrowed.
            unsafe { (*next.as_ref().links.get()).prev = Some(this) };
        }
        // INVARIANT: Record and mark are valid until it is removed, by the caller's promise.
        self.first = Some(this);
    }

    /// Takes a record out.
    ///
    /// # Safety
    ///
    /// `record` must be in this list.
    pub(crate) unsafe fn remove(&mut self, record: Pin<&Record>) {
        // SAFETY: The record is in the list, which is borrowed.
        let Links { prev, next, .. } = unsafe { core::mem::take(&mut *record.links.get()) };
        match prev {
            // SAFETY: Neighbours are valid by the type invariant, and the list is borrowed.
            Some(prev) => unsafe { (*prev.as_ref().links.get()).next = next },
            None => self.first = next,
        }
        if let Some(next) = next {
            // SAFETY: As above.
            unsafe { (*next.as_ref().links.get()).prev = prev };
        }
    }

    /// Sets the mark of every reader of a page of `range`, but of the one that is `originator`.
    pub(crate) fn mark(&self, range: &PageRange, originator: Option<Owner>) {
        let mut next = self.first;
        while let Some(record) = next {
            // SAFETY: Valid by the type invariant.
            let record = unsafe { record.as_ref() };
            // SAFETY: The list is borrowed.
            let links = unsafe { &*record.links.get() };
            let meant = record.range.overlaps(range) && originator != Some(record.identity());
            if let Some(mark) = links.mark.filter(|_| meant) {
                // SAFETY: Valid by the type invariant.
                unsafe { mark.as_ref() }.set();
            }
            next = links.next;
        }
    }
}
