// SPDX-License-Identifier: GPL-2.0

//! Reading page-table entries for a shadow, faulting pages in where that is asked for.
//!
//! [`Subscription::fault`] is the way in; this module has what it is asked with, and does it, for
//! both kinds of notifier. When to try again and how is decided in [`crate::retry`].
//!
//! # Locks
//!
//! mmap lock → locks of the VMAs → the shadow's lock. An optimistic try holds the first for
//! reading, drops it, and takes the last; an exclusive one holds all three.
//!
//! C header: [`include/linux/hmm.h`](srctree/include/linux/hmm.h)

use crate::{
    bindings,
    mirror::{
        sealed::{Passive, Record},
        Mirror, Subscription,
    },
    mmap::{has_no_secret, MmapLocked, MmapReadKillable, MmapWriteKillable},
    pages::{self, View, ERROR, FLAGS, HUGE_ORDER, HUGE_PAGES, VALID, WRITE},
    range::{Owner, PageRange},
    retry::{self, Attempt, Patience},
    trace,
    wait::{fatal_signal_pending, Clock},
};
use kernel::{
    alloc::Flags, error::to_result, mm::MmWithUser, page::PAGE_SHIFT, prelude::*, time::Delta,
};

/// How long a reader puts up with collisions before it gives up with `EBUSY`, unless the driver
/// says otherwise: one second, as `HMM_RANGE_DEFAULT_TIMEOUT` in C.
pub const DEFAULT_TIMEOUT: Delta = Delta::from_millis(bindings::HMM_RANGE_DEFAULT_TIMEOUT as i64);

/// What the device wants of the pages.
///
/// C: `HMM_PFN_REQ_FAULT` and `HMM_PFN_REQ_WRITE` of `enum hmm_pfn_flags`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: tell what is there, and fault nothing in.
    Look,
    /// To read them.
    Read,
    /// To read and write them.
    Write,
}

impl Access {
    /// The request in the bits that results use too.
    const fn flags(self) -> usize {
        match self {
            Self::Look => 0,
            Self::Read => VALID,
            Self::Write => VALID | WRITE,
        }
    }

    /// Whether a page with the result `pfn` can be accessed so.
    const fn satisfied_by(self, pfn: usize) -> bool {
        pfn & self.flags() == self.flags()
    }
}

/// How the mmap lock is held while pages are faulted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locking {
    /// Throughout. Page-fault handlers that must drop it (userfaultfd) make the fault fail with
    /// `EFAULT`, and a kernel with `CONFIG_DEBUG_VM` says so in its log. `hmm_range_fault()` in C.
    Held,
    /// Until a handler wants to drop it; the range is read again then.
    /// `hmm_range_fault_unlocked_timeout()` in C.
    Droppable,
}

/// What is wanted of which pages.
#[derive(Clone, Copy)]
enum Wanted<'a> {
    All(Access, Locking),
    Each(&'a [Access]),
}

/// What a reader asks for.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    range: PageRange,
    wanted: Wanted<'a>,
    owner: Option<Owner>,
    timeout: Delta,
}

impl<'a> Request<'a> {
    /// To read the entries of `range` for `access`, with the mmap lock held while pages are faulted
    /// in and [`DEFAULT_TIMEOUT`].
    pub const fn new(range: PageRange, access: Access) -> Self {
        Self {
            range,
            wanted: Wanted::All(access, Locking::Held),
            owner: None,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// The same, but page-fault handlers may drop the mmap lock: [`Locking::Droppable`].
    pub const fn droppable(range: PageRange, access: Access) -> Self {
        Self {
            wanted: Wanted::All(access, Locking::Droppable),
            ..Self::new(range, access)
        }
    }

    /// To read the entries of `range`, the access to each page given by `accesses`, of which there
    /// must be as many as pages. The mmap lock is held: if a handler dropped it, the core would
    /// begin anew with what it has overwritten.
    ///
    /// The core faults in a hole of the page tables as a whole if one of its pages is wanted, and
    /// with a page the rest of its 2 MiB in the range, so a page that is only looked at may be
    /// faulted in with its neighbours.
    ///
    /// # Errors
    ///
    /// None here; the fault returns `EINVAL` if there are fewer or more than pages.
    ///
    /// C: `hmm_pfns` of `struct hmm_range` with `pfn_flags_mask`.
    pub const fn each(range: PageRange, accesses: &'a [Access]) -> Self {
        Self {
            wanted: Wanted::Each(accesses),
            ..Self::new(range, Access::Look)
        }
    }

    /// The same, but device memory of `owner` is handed out as it is, and not migrated to where the
    /// CPU can use it. `dev_private_owner` in C.
    pub const fn with_owner(self, owner: Owner) -> Self {
        Self {
            owner: Some(owner),
            ..self
        }
    }

    /// The same, but collisions are put up with for `timeout`, counted from the first. With none at
    /// all, the first collision is the last.
    pub const fn with_timeout(self, timeout: Delta) -> Self {
        Self { timeout, ..self }
    }

    fn locking(&self) -> Locking {
        match self.wanted {
            Wanted::All(_, locking) => locking,
            Wanted::Each(_) => Locking::Held,
        }
    }

    fn access(&self, page: usize) -> Access {
        match self.wanted {
            Wanted::All(access, _) => access,
            Wanted::Each(accesses) => accesses.get(page).copied().unwrap_or(Access::Look),
        }
    }

    fn wants_access(&self) -> bool {
        !matches!(self.wanted, Wanted::All(Access::Look, _))
    }

    fn may_write(&self) -> bool {
        !matches!(self.wanted, Wanted::All(Access::Look | Access::Read, _))
    }

    /// Whether every page of `pfns`, results for this request, can be accessed as is wanted.
    fn satisfied_by(&self, pfns: &[usize]) -> bool {
        let mut pages = pfns.iter().enumerate();
        pages.all(|(page, &pfn)| self.access(page).satisfied_by(pfn))
    }
}

/// Room for the entries of as many pages as one call reads at most: 8 bytes each. It may be used
/// for any number of faults, one at a time.
pub struct Buffer(KVVec<usize>);

impl Buffer {
    /// Room for `pages` pages.
    ///
    /// # Context
    ///
    /// Sleeps if the flags let it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`; `EINVAL` for no pages.
    pub fn new(pages: usize, flags: Flags) -> Result<Self> {
        if pages == 0 {
            return Err(EINVAL);
        }
        Ok(Self(KVVec::from_elem(0, pages, flags)?))
    }

    /// How many pages there is room for.
    pub fn pages(&self) -> usize {
        self.0.len()
    }

    /// Room for the entries of `range`.
    ///
    /// # Errors
    ///
    /// `EINVAL` if there is not so much.
    pub(crate) fn room(&mut self, range: &PageRange) -> Result<&mut [usize]> {
        self.0.get_mut(..range.pages()).ok_or(EINVAL)
    }

    /// Lets [`Self::views`] tell of the pages of `range`, as `asking` sees them.
    ///
    /// # Safety
    ///
    /// They must have been read last, and be checked, and the lock of the shadow held.
    pub(crate) unsafe fn make_views(&mut self, range: PageRange, asking: Option<Owner>) {
        if let Ok(entries) = self.room(&range) {
            // SAFETY: By the caller's promise.
            unsafe { pages::make_views(entries, asking) };
        }
    }

    /// What the pages of `range` looked like when [`Self::make_views`] was called.
    #[inline]
    pub(crate) fn views(&self, range: PageRange) -> impl Iterator<Item = View> + '_ {
        let entries = self.0.get(..range.pages()).unwrap_or(&[]);
        entries.iter().copied().map(pages::view)
    }
}

/// Does what [`Subscription::fault`] promises; without a `reserve` the shadow gets nothing.
pub(crate) fn run<'a, N: Subscription>(
    subscription: &'a N,
    mm: &MmWithUser,
    request: &Request<'_>,
    buffer: &mut Buffer,
    reserve: Option<&mut <N::Mirror as Mirror>::Reserve>,
) -> Result<N::Guard<'a>> {
    let range = request.range;
    let pfns = buffer.room(&range)?;
    let watched = subscription.range().intersection(&range) == Some(range);
    let fits = match request.wanted {
        Wanted::All(..) => true,
        Wanted::Each(accesses) => accesses.len() == pfns.len(),
    };
    if !core::ptr::eq(mm.as_raw(), subscription.mm().as_raw()) || !watched || !fits {
        return Err(EINVAL);
    }
    let mut fault = Fault {
        subscription,
        mm,
        request,
        pfns,
        reserve,
        clock: Clock::start(request.timeout),
        collisions: 0,
        excluded: false,
    };
    let result = retry::publish(&mut fault);
    let (collisions, excluded) = (fault.collisions, fault.excluded);
    let outcome = result.as_ref().map(|_| ()).map_err(|e| *e);
    trace::fault(mm, &range, request.access(0), outcome, collisions, excluded);
    result
}

struct Fault<'a, 'b, 'r, N: Subscription> {
    subscription: &'a N,
    mm: &'b MmWithUser,
    request: &'b Request<'r>,
    /// As many as the range has pages.
    pfns: &'b mut [usize],
    reserve: Option<&'b mut <N::Mirror as Mirror>::Reserve>,
    clock: Clock,
    collisions: u32,
    /// Whether others were held off.
    excluded: bool,
}

impl<'a, N: Subscription> Attempt for Fault<'a, '_, '_, N> {
    type Published = N::Guard<'a>;

    fn optimistic(&mut self) -> Result<Option<Self::Published>> {
        let (mm, request, clock) = (self.mm, self.request, &self.clock);
        self.subscription.read(
            request.range,
            request.locking(),
            clock.early(),
            self.pfns,
            self.reserve.as_deref_mut(),
            |record, pfns| fault_in(record, mm, request, pfns),
        )
    }

    fn exclusive(&mut self) -> Result<Option<Self::Published>> {
        let (mm, request) = (self.mm, self.request);
        self.excluded = true;
        trace::slow_path(mm, &request.range);
        self.subscription.mirror().excluding(&request.range);

        // All that waits for somebody else is done before anybody is held off. Whether it collides
        // does not matter, so that it goes through to the last page.
        if request.wants_access() {
            let passive = Passive::new(mm);
            fault_in(&passive.record(), mm, request, self.pfns)?;
        }

        let mmap = MmapWriteKillable::lock(mm)?;
        mmap.exclude_vma_readers(&request.range)?;
        let mut published = self.look(&mmap)?;
        // Who zaps in a loop has had the time to do so again, and always will.
        if published.is_none() && self.fault_in_nowait(&mmap) {
            published = self.look(&mmap)?;
        }
        drop(mmap);
        Ok(published)
    }

    fn collided(&mut self, nth: u32) -> Result {
        self.collisions = nth;
        trace::collision(self.mm, &self.request.range, nth);
        self.subscription.mirror().collided(&self.request.range);
        if nth == 1 {
            self.clock = Clock::start(self.request.timeout);
        }
        if fatal_signal_pending() {
            return Err(EINTR);
        }
        Ok(())
    }

    fn patience(&self) -> Patience {
        self.clock.patience()
    }
}

impl<'a, N: Subscription> Fault<'a, '_, '_, N> {
    /// Publishes what is there, if it is what is wanted and nobody interferes.
    fn look(&mut self, mmap: &MmapWriteKillable<'_>) -> Result<Option<N::Guard<'a>>> {
        let request = self.request;
        self.subscription.read(
            request.range,
            Locking::Held,
            self.clock.late(),
            self.pfns,
            self.reserve.as_deref_mut(),
            |record, pfns| {
                let whole = look(record, mmap, request, pfns)?;
                Ok(whole && request.satisfied_by(pfns))
            },
        )
    }

    /// Faults in what is wanted and was not there at the last look. Returns whether it is worth
    /// looking again.
    fn fault_in_nowait(&self, mmap: &MmapWriteKillable<'_>) -> bool {
        let first = self.request.range.start();
        self.pfns.iter().enumerate().all(|(page, &pfn)| {
            let access = self.request.access(page);
            access.satisfied_by(pfn)
                || !fatal_signal_pending()
                    && mmap.fault_in(first + (page << PAGE_SHIFT), access == Access::Write)
        })
    }
}

/// Fills `pfns`, of which there are as many as pages are asked for, and faults in what is wanted.
/// Returns whether it did: not if hmm saw a collision.
///
/// Errors are those of [`Subscription::fault`].
pub(crate) fn fault_in(
    record: &Record,
    mm: &MmWithUser,
    request: &Request<'_>,
    pfns: &mut [usize],
) -> Result<bool> {
    if !read(record, mm, request, request.owner, pfns)? {
        return Ok(false);
    }
    // A page of our own device that is mapped read-only, as after a fork, is not made writable
    // where it is. Without its owner it is migrated, and then faulted in as any other.
    if request.owner.is_some() && request.may_write() && !request.satisfied_by(pfns) {
        return read(record, mm, request, None, pfns);
    }
    Ok(true)
}

fn read(
    record: &Record,
    mm: &MmWithUser,
    request: &Request<'_>,
    owner: Option<Owner>,
    pfns: &mut [usize],
) -> Result<bool> {
    let mut hmm = range_for(record, request, owner, pfns);
    match request.wanted {
        Wanted::All(access, _) => hmm.default_flags = access.flags(),
        Wanted::Each(accesses) => {
            // Results take the place of requests, so these are written for each try.
            for (pfn, access) in pfns.iter_mut().zip(accesses) {
                *pfn = access.flags();
            }
            hmm.pfn_flags_mask = VALID | WRITE;
        }
    }
    let result = match request.locking() {
        Locking::Held => {
            let mmap = MmapReadKillable::lock(mm)?;
            // SAFETY: The mmap lock of the record's mm is held, `mm` keeps its users above zero,
            // and `hmm_pfns` has room for each page of the range.
            let result = unsafe { bindings::hmm_range_fault(&mut hmm) };
            if result == 0 {
                hide_secrets(&mmap, request, pfns)?;
            }
            result
        }
        Locking::Droppable => {
            // Without a timeout: none is needed, as the record collides once at most, and others
            // come of faults that make progress; and one would count the time that others hold the
            // lock. SAFETY: As above, but for the mmap lock, which the function takes itself; the
            // mm has subscriptions, one of which we read for.
            let result = unsafe { bindings::hmm_range_fault_unlocked_timeout(&mut hmm, 0) };
            // Later is as good: what was mapped here before has been unmapped, which is a
            // collision. The mmap lock is waited for a second time only where it must be: who
            // collapses huge pages keeps it for long.
            if result == 0 && !has_no_secret(mm, &request.range) {
                hide_secrets(&MmapReadKillable::lock(mm)?, request, pfns)?;
            }
            result
        }
    };
    let whole = undisturbed(result)?;
    straighten(&request.range, owner, pfns);
    Ok(whole)
}

/// Makes errors of the entries of secret memory.
///
/// # Errors
///
/// `EFAULT`: a page of it is wanted.
fn hide_secrets(mmap: &impl MmapLocked, request: &Request<'_>, pfns: &mut [usize]) -> Result {
    for secret in mmap.secrets(&request.range) {
        for page in secret {
            if request.access(page) != Access::Look {
                return Err(EFAULT);
            }
            *pfns.get_mut(page).ok_or(EINVAL)? = ERROR;
        }
    }
    Ok(())
}

/// Fills `pfns`, of which there are as many as pages are asked for, with what is there. Returns
/// whether it did: not if hmm saw a collision.
fn look(
    record: &Record,
    mmap: &impl MmapLocked,
    request: &Request<'_>,
    pfns: &mut [usize],
) -> Result<bool> {
    let mut hmm = range_for(record, request, request.owner, pfns);
    // SAFETY: The mmap lock of the record's mm, which has users, is held, and `hmm_pfns` has room
    // for each page of the range.
    let whole = undisturbed(unsafe { bindings::hmm_range_fault(&mut hmm) })?;
    straighten(&request.range, request.owner, pfns);
    if whole {
        hide_secrets(mmap, request, pfns)?;
    }
    Ok(whole)
}

/// Corrects what hmm says of 2 MiB of the owner's private memory that are mapped by one entry and
/// that the range begins in the middle of: it counts from the first frame of the entry, where all
/// others are counted from the first that is asked for (`hmm_vma_handle_absent_pmd()`).
fn straighten(range: &PageRange, owner: Option<Owner>, pfns: &mut [usize]) {
    let offset = range.first_page() % HUGE_PAGES;
    if owner.is_none() || offset == 0 {
        return;
    }
    for (page, pfn) in (offset..HUGE_PAGES).zip(pfns) {
        // What one entry maps lies in memory as it does in the address space.
        let right = (*pfn & !FLAGS) % HUGE_PAGES == page;
        if *pfn & VALID == 0 || pages::order(*pfn) < HUGE_ORDER || right {
            return;
        }
        *pfn += offset;
    }
}

/// Whether hmm got to the end, by what it returned. It says `EBUSY` for a collision, and for
/// nothing else.
fn undisturbed(result: c_int) -> Result<bool> {
    match to_result(result) {
        Ok(()) => Ok(true),
        Err(EBUSY) => Ok(false),
        Err(e) => Err(e),
    }
}

/// A request for the range that wants nothing yet, and takes nothing in `pfns` for a request.
fn range_for(
    record: &Record,
    request: &Request<'_>,
    owner: Option<Owner>,
    pfns: &mut [usize],
) -> bindings::hmm_range {
    bindings::hmm_range {
        notifier: record.notifier,
        notifier_seq: record.seq,
        start: request.range.start(),
        end: request.range.end(),
        hmm_pfns: pfns.as_mut_ptr(),
        default_flags: 0,
        pfn_flags_mask: 0,
        dev_private_owner: owner.map_or(core::ptr::null_mut(), |owner| owner.addr() as *mut c_void),
    }
}
