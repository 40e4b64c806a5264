// SPDX-License-Identifier: GPL-2.0

//! What a driver implements, and what each kind of notifier offers it.

use crate::{
    bindings as extra,
    fault::{self, Buffer, Locking, Request},
    invlock::Publish,
    pages::{Faulted, View},
    range::{Event, Invalidation, Owner, PageRange},
    wait::Deadline,
};
use core::ops::Deref;
use kernel::{
    bindings,
    mm::{Mm, MmWithUser},
    prelude::*,
};

/// What a driver keeps of the addresses that it mirrors, and does when they are invalidated.
///
/// # Safety
///
/// [`zap`](Self::zap) must keep the promises that are made of the entries of a shadow: that those
/// which are there are true, and their pages in use.
///
/// - When it returns, there is no entry for the addresses of the invalidation in the shadow, and
///   the device uses none that it cached.
/// - It puts none in, neither one by one nor with a shadow that takes the place of this one, and
///   takes them out to drop them only: what is out has not been checked any more.
/// - It does not sleep where the context of [`zap`](Self::zap) forbids it.
pub unsafe trait Mirror: Send + Sync + Sized + 'static {
    /// The driver's copy of page-table entries. It takes in pages that were faulted in, with an
    /// error if it cannot, and what it reserved for that.
    type Shadow: for<'p> Publish<Faulted<'p, Self::Reserve>, Output = Result>
        + Send
        + Unpin
        + 'static;

    /// Memory that is reserved before a fault, since none can be had during it.
    type Reserve: 'static;

    /// Removes every entry for the addresses of `invalidation` from the shadow, and makes the
    /// device forget what it cached of them.
    ///
    /// The pages may be freed as soon as it returns. The last call is for every address, with
    /// [`Event::Release`]: the address space goes away.
    ///
    /// # Context
    ///
    /// The shadow's lock is held, and whatever the core holds while it changes page tables. Must
    /// not allocate with `__GFP_RECLAIM`. Under a lock that spins, it must not sleep. Under one
    /// that sleeps it may if the invalidation is [blockable](Invalidation::blockable), but not wait
    /// for anything that itself waits for page faults.
    ///
    /// # Errors
    ///
    /// None: it cannot fail. What an [`IntervalNotifier`] refuses it has refused before.
    ///
    /// C: `invalidate_range_start()` and `release()` of `struct mmu_notifier_ops`, `invalidate()`
    /// of `struct mmu_interval_notifier_ops`.
    ///
    /// [`IntervalNotifier`]: crate::interval::IntervalNotifier
    fn zap(&self, shadow: &mut Self::Shadow, invalidation: &Invalidation);

    /// Called for each time that an invalidation interfered with reading the entries of `range`, so
    /// that they are read again. For statistics.
    ///
    /// # Context
    ///
    /// Process context, no lock held.
    fn collided(&self, _range: &PageRange) {}

    /// Called when a fault of `range` is about to hold off others with the mmap lock. For
    /// statistics.
    ///
    /// # Context
    ///
    /// Process context, no lock held.
    fn excluding(&self, _range: &PageRange) {}

    /// Called when an invalidation was refused, since it may not sleep and the lock is taken. For
    /// statistics.
    ///
    /// # Context
    ///
    /// As for [`Mirror::zap`], without the shadow's lock; must not sleep.
    fn refused(&self) {}
}

/// A subscription of a driver to the invalidations of addresses, which owns the shadow that they
/// invalidate: an [`IntervalNotifier`] or an [`Attachment`] to a [`PerMm`].
///
/// It is what a driver asks for the `mm`, instead of storing one beside it.
///
/// [`IntervalNotifier`]: crate::interval::IntervalNotifier
/// [`Attachment`]: crate::notifier::Attachment
/// [`PerMm`]: crate::notifier::PerMm
pub trait Subscription: sealed::Sealed + Sized {
    /// What the driver gave.
    type Mirror: Mirror;

    /// The shadow, locked for the device to use. It can be looked at, not changed.
    type Guard<'a>: Deref<Target = <Self::Mirror as Mirror>::Shadow>
    where
        Self: 'a;

    /// The driver's data that belongs to this subscription.
    ///
    /// # Context
    ///
    /// Any; does not sleep.
    fn mirror(&self) -> &Self::Mirror;

    /// The address space, to which the subscription has a reference (`mmgrab()`). Its users may be
    /// gone: [`Mm::mmget_not_zero`] tells.
    ///
    /// # Context
    ///
    /// Any; does not sleep.
    ///
    /// C: `mm` of `struct mmu_notifier` and of `struct mmu_interval_notifier`.
    fn mm(&self) -> &Mm;

    /// The addresses watched.
    ///
    /// # Context
    ///
    /// Any; does not sleep.
    fn range(&self) -> &PageRange;

    /// Locks the shadow for the device to use.
    ///
    /// Until the guard is dropped no entry goes away, and no page that one names is freed.
    /// Invalidations wait for it, so it must not be held while waiting for a page fault, for the
    /// mmap lock or for memory (no `__GFP_RECLAIM`), nor while giving up a reference to the users
    /// of the `mm` (`mmput`), which may be the last.
    ///
    /// A guard that has no name lives to the end of its statement, so a second one in the same
    /// statement waits for ever.
    ///
    /// # Context
    ///
    /// Where the lock may be taken: process context without any lock of the memory management, and
    /// not from [`Mirror::zap`] or [`Publish`], which have it. A mutex sleeps; a spinlock turns
    /// preemption off until the guard is dropped.
    ///
    /// C: `spin_lock()`, `mutex_lock()`.
    fn lock(&self) -> Self::Guard<'_>;

    /// Reads page-table entries as `request` says, faulting pages in, and lets the shadow take them
    /// in, with what was set aside in `reserve`. Returns with the shadow locked, so that the device
    /// gets to use what it asked for.
    ///
    /// The shadow takes in what is true: no invalidation of the range was in flight or came since
    /// the entries were read. They are read again until that holds. After a few collisions the
    /// address space is held still for it as far as that is possible, with the mmap lock and the
    /// locks of the VMAs held for writing; no I/O and no user space is waited for meanwhile.
    ///
    /// What is waited for with these locks held are invalidations of the range that come without
    /// the mmap lock (reclaim, migration, truncation), as long as their callbacks take. With an
    /// [`Attachment`] that ends with the deadline or when the task is killed. With an
    /// [`IntervalNotifier`] it ends with the invalidations and by nothing else: the core's
    /// `mmu_interval_read_begin()` cannot be interrupted, and looks at what no module sees. Nor can
    /// the reader begin before the locks are taken: with whatever invalidated the range until they
    /// are had it would collide, and it is such storms that they are taken for.
    ///
    /// [`Attachment`]: crate::notifier::Attachment
    /// [`IntervalNotifier`]: crate::interval::IntervalNotifier
    ///
    /// # Context
    ///
    /// May sleep. Takes the mmap lock, so it must not be held, and neither must any lock that an
    /// invalidation takes. The guard borrows `mm`,
    /// which is thereby given up after it.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: the range has more pages than `buffer`, or not as many as the request has
    ///   accesses, or is not watched as a whole by this subscription; or `mm` is not its address
    ///   space.
    /// - `EFAULT`: a page that is asked for cannot be faulted in: there is no mapping, or one that
    ///   may not be read, or one without `struct page` (of a device's registers), or of secret
    ///   memory, or the memory or what backs it is broken. With [`Locking::Held`] also a page of
    ///   userfaultfd. Or the OOM reaper has emptied the address space.
    /// - `EPERM`: a page is asked for to be written, and the mapping is read-only.
    /// - `ENOMEM`: a page fault ran out of memory.
    /// - `EBUSY`: invalidations kept interfering until the request's timeout was over, counted from
    ///   the first collision. Faulting pages in may take longer, as it waits for I/O and user
    ///   space.
    /// - `EINTR`: the task is being killed.
    /// - `ESRCH`: the address space is gone. It is not for as long as `mm` keeps its users, so a
    ///   driver has nothing to do about it.
    /// - What the shadow returns. It keeps what it took in before.
    ///
    /// On an error the shadow has taken in nothing, unless the error is its own.
    ///
    /// C: `hmm_range_fault()`, `hmm_range_fault_unlocked_timeout()`.
    ///
    /// [`Locking::Held`]: fault::Locking::Held
    fn fault<'a>(
        &'a self,
        mm: &'a MmWithUser,
        request: &Request<'_>,
        buffer: &mut Buffer,
        reserve: &mut <Self::Mirror as Mirror>::Reserve,
    ) -> Result<Self::Guard<'a>> {
        fault::run(self, mm, request, buffer, Some(reserve))
    }

    /// Tells what is mapped in `range`, page by page, and faults nothing in. All of it was true at
    /// one time. The shadow stays as it is. Device-private memory is shown to its `owner` only, and
    /// not present for others.
    ///
    /// # Context
    ///
    /// As for [`Self::fault`].
    ///
    /// # Errors
    ///
    /// `EINVAL`, `EBUSY`, `EINTR` and `EFAULT` of the OOM reaper, as for [`Self::fault`].
    ///
    /// C: `hmm_range_fault()` without a request.
    fn look<'b>(
        &self,
        mm: &MmWithUser,
        range: PageRange,
        owner: Option<Owner>,
        buffer: &'b mut Buffer,
    ) -> Result<impl Iterator<Item = View> + 'b> {
        let request = match owner {
            Some(owner) => Request::new(range, fault::Access::Look).with_owner(owner),
            None => Request::new(range, fault::Access::Look),
        };
        let guard = fault::run(self, mm, &request, buffer, None)?;
        // SAFETY: They were just read and checked, and the guard is the lock.
        unsafe { buffer.make_views(range, owner) };
        drop(guard);
        Ok(buffer.views(range))
    }

    /// The protocol: begins; lets `read` fill `pfns`, which returns whether it did and saw no
    /// collision; and lets the shadow take them in if there was none, if there is a `reserve`.
    ///
    /// [`None`] is a collision. Errors are those of `read`, of the shadow, and of waiting for
    /// invalidations in flight until `deadline`: `EBUSY`, `EINTR`, `ESRCH`.
    #[doc(hidden)]
    fn read(
        &self,
        range: PageRange,
        locking: Locking,
        deadline: &Deadline,
        pfns: &mut [usize],
        reserve: Option<&mut <Self::Mirror as Mirror>::Reserve>,
        read: impl FnOnce(&sealed::Record, &mut [usize]) -> Result<bool>,
    ) -> Result<Option<Self::Guard<'_>>>;
}

pub(crate) mod sealed {
    use super::*;
    use crate::readers::{Mark, Marked};
    use kernel::types::Opaque;

    /// The `struct mmu_interval_notifier` by which hmm sees a collision.
    pub struct Record {
        pub(crate) notifier: *mut bindings::mmu_interval_notifier,
        pub(crate) seq: c_ulong,
    }

    /// A `struct mmu_interval_notifier` that is in no tree: hmm takes the mm from it, and as its
    /// sequence the mark of a reader, if there is one.
    pub(crate) struct Passive(Opaque<bindings::mmu_interval_notifier>);

    impl Passive {
        pub(crate) fn new(mm: &Mm) -> Self {
            Self(Opaque::new(bindings::mmu_interval_notifier {
                mm: mm.as_raw(),
                invalidate_seq: Mark::CLEAR,
                ..Default::default()
            }))
        }

        pub(crate) fn record(&self) -> Record {
            Record {
                notifier: self.0.get(),
                seq: Mark::CLEAR,
            }
        }
    }

    // SAFETY: The mark is the sequence, a field.
    unsafe impl Marked for Passive {
        fn mark(&self) -> &Mark {
            // SAFETY: A mark is transparent for an atomic number, and the field is a number that
            // hmm reads as one; nobody writes to it otherwise.
            unsafe { &*(&raw mut (*self.0.get()).invalidate_seq).cast() }
        }
    }

    /// What this crate alone implements.
    pub trait Sealed {}
}

impl Invalidation {
    /// What `raw` says of the addresses `watched`: [`None`] if nothing.
    ///
    /// # Safety
    ///
    /// `raw` must be valid.
    pub(crate) unsafe fn from_raw(
        raw: *const bindings::mmu_notifier_range,
        watched: &PageRange,
    ) -> Option<Self> {
        // SAFETY: By the caller's promise.
        let (range, blockable) = unsafe { (&*raw, extra::mnh_range_blockable(raw)) };
        let watched = PageRange::covering(range.start, range.end)?.intersection(watched)?;
        let event = event(range.event);
        // The core leaves the field as it was on the stack for all others.
        let owner = match event {
            Event::Migrate | Event::Exclusive => Owner::from_addr(range.owner as usize),
            _ => None,
        };
        Some(Self::new(watched, event, blockable).with_owner(owner))
    }
}

fn event(raw: bindings::mmu_notifier_event) -> Event {
    match raw {
        bindings::mmu_notifier_event_MMU_NOTIFY_UNMAP => Event::Unmap,
        bindings::mmu_notifier_event_MMU_NOTIFY_CLEAR => Event::Clear,
        bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_VMA => Event::ProtectionVma,
        bindings::mmu_notifier_event_MMU_NOTIFY_PROTECTION_PAGE => Event::ProtectionPage,
        bindings::mmu_notifier_event_MMU_NOTIFY_SOFT_DIRTY => Event::SoftDirty,
        bindings::mmu_notifier_event_MMU_NOTIFY_RELEASE => Event::Release,
        bindings::mmu_notifier_event_MMU_NOTIFY_MIGRATE => Event::Migrate,
        bindings::mmu_notifier_event_MMU_NOTIFY_EXCLUSIVE => Event::Exclusive,
        _ => Event::Other,
    }
}

/// Lets lockdep know at once that reclaim takes the lock that `lock` takes, so that an allocation
/// under it is reported the first time that it happens, and not when memory is short.
pub(crate) fn teach_lockdep(lock: impl FnOnce()) {
    // SAFETY: Tells lockdep of a context; it is left below.
    unsafe { extra::mnh_fs_reclaim_acquire() };
    lock();
    // SAFETY: Leaves the context entered above.
    unsafe { extra::mnh_fs_reclaim_release() };
}
