// SPDX-License-Identifier: GPL-2.0

//! The invlock: a lock around a shadow that knows which addresses are being invalidated.
//!
//! Pure: no bindings, so the same source runs in the kernel and under the model checker.
//!
//! # Protocol
//!
//! Two parties meet here.
//!
//! An *invalidation* goes from [`start`](InvLock::start) to [`end`](InvLock::end). In between the
//! page-table entries of its range change, and no shadow entry for them may exist. Invalidations
//! nest and run in parallel. The last one is [`release`](InvLock::release), which has no end.
//!
//! A *reader* goes from [`begin`](Reader::begin) to [`publish`](Reading::publish). In between it
//! reads page-table entries of its range, without the lock, and may sleep. What it read is
//! published if it is still true then, and otherwise read again.
//!
//! Each of these steps holds the lock, and so does who uses what was published.
//!
//! # States of a reader
//!
//! `r` stands for the range of an invalidation, if it has a page in common with that of the reader.
//!
//! ```text
//!           +------------------+
//!           |       idle       | <-----------------------------+
//!           +------------------+                               |
//!       begin |              ^ EBUSY: deadline                 |
//!             v              | EINTR: killed                   |
//!           +------------------+ ESRCH: released               |
//!           |     waiting      |                               |
//!           +------------------+                               |
//!             | no r in flight:                                |
//!             v listed, mark cleared                           |
//!           +------------------+  publish: shadow takes it in, |
//!           |     reading      |  returns locked; or drop      |
//!           |                  | ----------------------------->+
//!           +------------------+                               |
//!             | start(r), release:                             |
//!             v mark set                                       |
//!           +------------------+  publish: Err(Collided),      |
//!           |     collided     |  shadow untouched; or drop    |
//!           |                  | ------------------------------+
//!           +------------------+
//! ```
//!
//! An entry of the shadow is there from the `publish` that adds it to the `start` or `release` that
//! zaps it.
//!
//! A reader collides if and only if an invalidation that overlaps its range, and that it has not
//! caused itself, starts between `begin` and `publish`. Nothing else is remembered: a reader never
//! collides for having been slow, for what is mapped now, or for what happens elsewhere in the
//! address space.
//!
//! Why a published entry is true: it was read between `begin` and `publish`, both in the lock. Had
//! an overlapping invalidation been in flight at `begin`, there would have been no reading. Had one
//! started since, it would have set the mark, in the lock. So none was in flight for as long as the
//! entry was being read, up to `publish`; and one that starts later zaps it.
//!
//! A reader that moves pages causes an invalidation of them, after which its entries name the new
//! places. It is exempt from that one, which others are not: they may have read of the old places.
//!
//! # Cost
//!
//! Invalidations in flight are remembered in an array of [`IN_FLIGHT`] ranges of 16 bytes each. If
//! there are more at a time, the rest is only counted, and until that count is back at zero every
//! reader that begins waits as if its range were in flight; those that are reading are marked by
//! overlap as ever. No step allocates: a reader brings its own record. `start` takes time in
//! proportion to the readers that are under way, `begin` and `end` to the invalidations in flight,
//! up to that array's length.
//!
//! # Locks
//!
//! This one is the innermost: [`Publish`] and the closures that take away entries run under it. The
//! [crate](crate#locks-in-the-order-in-which-they-nest) lists those around it.

use crate::{
    in_flight::InFlight,
    range::{Owner, PageRange},
    readers::{Marked, Readers, Record},
    wait::{Deadline, WaitQueue},
};
use core::{ops::Deref, pin::Pin};
use kernel::{
    prelude::*,
    str::CStr,
    sync::{
        lock::{spinlock::SpinLockBackend, Backend, Guard, Lock},
        LockClassKey,
    },
};
use pin_init::{pin_data, pin_init, pinned_drop, PinInit};

/// How many invalidations in flight an [`InvLock`] tells apart, unless its type says otherwise.
/// They take 256 bytes of each lock.
pub const IN_FLIGHT: usize = 16;

/// A shadow that can take in what was read.
///
/// `P` is what there is to publish: entries, and the memory that was reserved for them.
///
/// # Safety
///
/// - [`publish`](Self::publish) must neither sleep nor wait for memory to be freed, on any path, so
///   it works with memory that was reserved before: reclaim waits for the lock under which it runs,
///   and the lock may be one that spins.
/// - The shadow must take in what was checked and nothing else: the entries of `plan`. What it took
///   in before, removed and kept, it must not take in again.
/// - No entry of `plan` may go anywhere but into the shadow: not into the memory that was reserved,
///   and not out by what is returned.
/// - Nothing else that safe code can do with the shadow may put an entry into it, or take one out
///   other than to drop it.
///
/// No compiler sees these, so that it must be an `unsafe impl` that vouches for them. It is for
/// this that publishing is a method of the shadow and not a closure of whoever faults.
pub unsafe trait Publish<P> {
    /// What publishing returns.
    type Output;

    /// Takes in `plan`.
    ///
    /// # Context
    ///
    /// The lock of the shadow is held, and what `plan` says of page-table entries is true.
    fn publish(&mut self, plan: P) -> Self::Output;
}

/// A lock that can be taken where sleeping is forbidden.
///
/// A notifier that wants to know the end of an invalidation cannot refuse its start, even one that
/// must not sleep: the core has no way to tell it that somebody else refused. So only these locks
/// have a [`start`](InvLock::start) and an [`end`](InvLock::end).
///
/// # Safety
///
/// [`Backend::lock`] must not sleep.
pub unsafe trait NonSleeping: Backend {}

// SAFETY: A `spinlock_t` spins. (It sleeps with `PREEMPT_RT`, as everything does that the core does
// there in such a place.)
unsafe impl NonSleeping for SpinLockBackend {}

/// An invalidation interfered: what was read must be read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Collided;

/// A shadow with its lock and the state of the protocol.
///
/// The entries of the shadow `S` come by [`Publish`] and go by `zap` closures; the lock `B` may be
/// any of the kernel's.
///
/// # Examples
///
/// ```
/// # extern crate pin_init as pinned_init;
/// use kernel::{prelude::*, sync::lock::spinlock::SpinLockBackend};
/// use mmu_notifier_helpers::{
///     invlock::{new_invlock, Collided, InvLock, Publish, Reader},
///     range::PageRange,
///     readers::Mark,
///     wait::Deadline,
/// };
/// # use pin_init::stack_pin_init;
///
/// /// A device that maps one page.
/// struct Tlb(Option<usize>);
///
/// // SAFETY: Only assigns.
/// unsafe impl Publish<usize> for Tlb {
///     type Output = ();
///
///     fn publish(&mut self, pfn: usize) {
///         self.0 = Some(pfn);
///     }
/// }
///
/// stack_pin_init!(let lock = new_invlock!(Tlb(None)));
/// let lock: &InvLock<Tlb, SpinLockBackend> = &lock;
/// let page = PageRange::from_pages(0x1000, 1)?;
/// stack_pin_init!(let reader = Reader::new(lock, page, Mark::new()));
///
/// // Undisturbed.
/// let reading = reader.as_mut().begin(&Deadline::new())?;
/// let (tlb, ()) = reading.publish(42).map_err(|Collided| EBUSY)?;
/// assert_eq!(tlb.0, Some(42));
/// drop(tlb);
///
/// // Disturbed: the entry goes, and what is being read is not published.
/// let reading = reader.as_mut().begin(&Deadline::new())?;
/// lock.start(&page, |tlb| tlb.0 = None);
/// lock.end(&page);
/// assert!(reading.publish(43).is_err());
/// assert_eq!(lock.lock().0, None);
/// # Ok::<(), Error>(())
/// ```
#[pin_data]
pub struct InvLock<S, B: Backend, const N: usize = IN_FLIGHT> {
    #[pin]
    state: Lock<State<S, N>, B>,
    #[pin]
    idle: WaitQueue,
}

struct State<S, const N: usize> {
    shadow: S,
    in_flight: InFlight<N>,
    readers: Readers,
    /// How many wait for `in_flight`.
    waiting: usize,
    released: bool,
}

// The shadow is never pinned: a guard gives references to it, and it may move with what is around
// it.
impl<S, const N: usize> Unpin for State<S, N> {}

impl<S, B: Backend, const N: usize> InvLock<S, B, N> {
    /// A lock around `shadow`, with nothing in flight. Use [`new_invlock!`], which makes the lock
    /// classes. Initialising it allocates nothing and cannot fail.
    ///
    /// # Context
    ///
    /// Any; does not sleep. Invalidations that are in flight already must not be told to it at
    /// their [end](Self::end).
    ///
    /// C: `spin_lock_init()` or `mutex_init()`, and `init_waitqueue_head()`.
    pub fn new(
        shadow: S,
        name: &'static CStr,
        lock_class: Pin<&'static LockClassKey>,
        queue_class: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        let state = State {
            shadow,
            in_flight: InFlight::EMPTY,
            readers: Readers::new(),
            waiting: 0,
            released: false,
        };
        pin_init!(Self {
            state <- Lock::new(state, name, lock_class),
            idle <- WaitQueue::new(name, queue_class),
        })
    }

    /// Locks the shadow for the device to use: while the guard lives no entry goes away, and no
    /// page that one names is freed. Entries can be looked at, not changed.
    ///
    /// # Context
    ///
    /// Sleeps if the lock does. Invalidations wait for the guard.
    pub fn lock(&self) -> ShadowGuard<'_, S, B, N> {
        ShadowGuard(self.state.lock())
    }

    /// Locks the shadow for what is neither an invalidation nor a reader: taking away entries that
    /// nobody asked to go, or adding a part without any. Tells whether it was released, too.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut S, bool) -> R) -> R {
        let mut state = self.state.lock();
        let released = state.released;
        f(&mut state.shadow, released)
    }

    /// Lets `deadline` pass and wakes who waits for it.
    #[cfg(not(CONFIG_RUST))]
    pub fn expire(&self, deadline: &Deadline) {
        let state = self.state.lock();
        deadline.pass();
        drop(state);
        self.idle.notify_all();
    }

    /// Kills who waits until `deadline`.
    #[cfg(not(CONFIG_RUST))]
    pub fn kill(&self, deadline: &Deadline) {
        let state = self.state.lock();
        deadline.kill();
        drop(state);
        self.idle.notify_all();
    }

    /// What the context of an address space does when a mirror comes or goes, for the models.
    #[cfg(not(CONFIG_RUST))]
    pub fn rearrange<R>(&self, f: impl FnOnce(&mut S, bool) -> R) -> R {
        self.with(f)
    }
}

impl<S, B: NonSleeping, const N: usize> InvLock<S, B, N> {
    /// Starts an invalidation of `range`: from now on nothing of it can be published. `zap` takes
    /// its entries out of the shadow; it has the lock, so it must neither sleep nor allocate with
    /// `__GFP_RECLAIM`.
    ///
    /// Invalidations nest and run in parallel. Each takes one [`end`](Self::end) of the same range.
    ///
    /// # Context
    ///
    /// Any; does not sleep.
    pub fn start(&self, range: &PageRange, zap: impl FnOnce(&mut S)) {
        self.start_by(range, None, zap);
    }

    /// The same, caused by `originator`. If that is the [identity](Reading::identity) of a reader,
    /// it is the only one that this invalidation does not disturb: what it is about to publish
    /// comes of it. That is how pages are moved and published where they went.
    ///
    /// # Context
    ///
    /// Any; does not sleep.
    pub fn start_by(&self, range: &PageRange, originator: Option<Owner>, zap: impl FnOnce(&mut S)) {
        let mut state = self.state.lock();
        state.in_flight.add(*range);
        state.readers.mark(range, originator);
        zap(&mut state.shadow);
    }

    /// Ends an invalidation of `range`: its page-table entries may be read again.
    ///
    /// # Context
    ///
    /// Any; does not sleep.
    pub fn end(&self, range: &PageRange) {
        let mut state = self.state.lock();
        let wake = state.in_flight.remove(range) && state.waiting > 0;
        drop(state);
        if wake {
            self.idle.notify_all();
        }
    }

    /// The last invalidation, of everything: the address space goes away. `zap` takes all entries
    /// out of the shadow, and nothing is ever published again: who waits to begin, or tries to,
    /// gets `ESRCH`.
    ///
    /// # Context
    ///
    /// Any; does not sleep.
    pub fn release(&self, zap: impl FnOnce(&mut S)) {
        let mut state = self.state.lock();
        state.released = true;
        state.readers.mark(&PageRange::ALL, None);
        zap(&mut state.shadow);
        drop(state);
        self.idle.notify_all();
    }
}

/// Makes an [`InvLock`] with lock classes of its own, and the given name in lockdep's reports.
#[macro_export]
macro_rules! new_invlock {
    ($shadow:expr $(, $name:literal)? $(,)?) => {
        $crate::invlock::InvLock::new(
            $shadow,
            ::kernel::optional_name!($($name)?),
            ::kernel::static_lock_class!(),
            ::kernel::static_lock_class!(),
        )
    };
}
pub use new_invlock;

/// A locked shadow. It can be looked at, not changed.
#[must_use = "the shadow is unlocked when the guard is dropped"]
pub struct ShadowGuard<'a, S, B: Backend, const N: usize = IN_FLIGHT>(Guard<'a, State<S, N>, B>);

impl<S, B: Backend, const N: usize> Deref for ShadowGuard<'_, S, B, N> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.0.shadow
    }
}

/// Somebody who wants to publish into a range of a shadow.
///
/// # Invariants
///
/// `record` is in the list of readers of `lock` if and only if `listed`.
#[pin_data(PinnedDrop)]
pub struct Reader<'a, M: Marked, S, B: Backend, const N: usize = IN_FLIGHT> {
    lock: &'a InvLock<S, B, N>,
    #[pin]
    record: Record,
    #[pin]
    marked: M,
    listed: bool,
}

impl<'a, M: Marked, S, B: Backend, const N: usize> Reader<'a, M, S, B, N> {
    /// A reader of `range`. The mark of `marked` is set when an invalidation interferes with it,
    /// which it can look at to give up early. It is registered by [`Self::begin`], not here;
    /// initialising it takes no lock, allocates nothing and cannot fail.
    ///
    /// # Context
    ///
    /// Any; does not sleep. It may be on the stack, where it stays until it is dropped, which takes
    /// the lock.
    pub fn new(
        lock: &'a InvLock<S, B, N>,
        range: PageRange,
        marked: M,
    ) -> impl PinInit<Self> + use<'a, M, S, B, N> {
        // INVARIANT: The record is new.
        pin_init!(Self {
            lock,
            record: Record::new(range),
            marked,
            listed: false,
        })
    }

    /// Waits until no invalidation of the range is in flight, and begins to read.
    ///
    /// # Context
    ///
    /// May sleep, whatever the lock. No lock may be held that somebody may want between the start
    /// and the end of an invalidation. The mmap lock is none of these: it is taken before the
    /// start, if at all.
    ///
    /// # Errors
    ///
    /// - `EBUSY`: invalidations of the range were in flight until the deadline.
    /// - `EINTR`: they were, and the task is being killed.
    /// - `ESRCH`: the address space is gone.
    pub fn begin(
        mut self: Pin<&mut Self>,
        deadline: &Deadline,
    ) -> Result<Reading<'_, 'a, M, S, B, N>> {
        self.as_mut().unlist();
        let lock = self.lock;
        let mut state = lock.state.lock();
        loop {
            if state.released {
                return Err(ESRCH);
            }
            if !state.in_flight.overlaps(self.record.range()) {
                break;
            }
            state.waiting += 1;
            let waited;
            (state, waited) = lock.idle.wait(state, deadline);
            state.waiting -= 1;
            if state.released {
                return Err(ESRCH);
            }
            if state.in_flight.overlaps(self.record.range()) {
                waited?;
            }
        }
        // INVARIANT: It is listed from here on.
        *self.as_mut().listed_mut() = true;
        let reader = self.as_ref();
        // SAFETY: By the type invariant the record was in no list. It is removed when the reader is
        // dropped, at the latest; the reader is pinned, and both record and mark are part of it.
        unsafe {
            state
                .readers
                .insert(reader.record(), reader.get_ref().marked.mark())
        };
        drop(state);
        Ok(Reading(self))
    }

    fn record(self: Pin<&Self>) -> Pin<&Record> {
        // SAFETY: The field is structurally pinned.
        unsafe { self.map_unchecked(|this| &this.record) }
    }

    fn listed_mut(self: Pin<&mut Self>) -> &mut bool {
        // SAFETY: The field is not structurally pinned.
        unsafe { &mut self.get_unchecked_mut().listed }
    }

    fn unlist(self: Pin<&mut Self>) {
        let lock = self.lock;
        if self.listed {
            self.unlist_from(&mut lock.state.lock().readers);
        }
    }

    /// `readers` must be those of `self.lock`.
    fn unlist_from(mut self: Pin<&mut Self>, readers: &mut Readers) {
        if core::mem::take(self.as_mut().listed_mut()) {
            // SAFETY: It was listed, by the type invariant in this list.
            unsafe { readers.remove(self.as_ref().record()) };
        }
    }
}

#[pinned_drop]
impl<M: Marked, S, B: Backend, const N: usize> PinnedDrop for Reader<'_, M, S, B, N> {
    fn drop(self: Pin<&mut Self>) {
        self.unlist();
    }
}

/// A reader that is reading. Dropped, it has read nothing.
#[must_use = "what is read must be published or read again"]
pub struct Reading<'r, 'a, M: Marked, S, B: Backend, const N: usize = IN_FLIGHT>(
    Pin<&'r mut Reader<'a, M, S, B, N>>,
);

impl<'a, M: Marked, S, B: Backend, const N: usize> Reading<'_, 'a, M, S, B, N> {
    /// What the reader was made with.
    pub fn marked(&self) -> &M {
        &self.0.marked
    }

    /// What tells the reader from all others, for [`InvLock::start_by`].
    pub fn identity(&self) -> Owner {
        self.0.record.identity()
    }

    /// Whether [`publish`](Self::publish) would fail if it were called now.
    pub fn collided(&self) -> bool {
        self.0.marked.mark().collided()
    }

    /// Publishes what was read, and returns with the shadow locked, so that the device can use it
    /// before the next invalidation.
    ///
    /// # Context
    ///
    /// Sleeps if the lock does.
    ///
    /// # Errors
    ///
    /// [`Collided`] if an invalidation of the range has started since [`Reader::begin`]: the shadow
    /// is as it was, and `plan` is dropped.
    pub fn publish<P>(mut self, plan: P) -> Result<(ShadowGuard<'a, S, B, N>, S::Output), Collided>
    where
        S: Publish<P>,
    {
        let lock = self.0.lock;
        let mut state = lock.state.lock();
        self.0.as_mut().unlist_from(&mut state.readers);
        if self.collided() {
            return Err(Collided);
        }
        let output = state.shadow.publish(plan);
        Ok((ShadowGuard(state), output))
    }
}

impl<M: Marked, S, B: Backend, const N: usize> Drop for Reading<'_, '_, M, S, B, N> {
    fn drop(&mut self) {
        self.0.as_mut().unlist();
    }
}
