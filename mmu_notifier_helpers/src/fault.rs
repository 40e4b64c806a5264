// SPDX-License-Identifier: GPL-2.0

//! Reading page-table entries for a shadow, faulting pages in where that is asked for.
//!
//! What is read is stale the moment that the page-table lock is dropped, unless no invalidation
//! came in between. So results exist only inside the closure that publishes them, which runs under
//! the shadow's lock and after the check; [`IntervalNotifier::fault`] repeats the reading until the
//! check holds.
//!
//! C header: [`include/linux/hmm.h`](srctree/include/linux/hmm.h)

use crate::{
    bindings,
    interval::{IntervalNotifier, Mirror},
    range::PageRange,
};
use core::{marker::PhantomData, num::NonZero};
use kernel::{
    alloc::Flags,
    error::to_result,
    mm::MmWithUser,
    page::{PAGE_SHIFT, PAGE_SIZE},
    prelude::*,
    time::{msecs_to_jiffies, Delta, Instant, Monotonic},
    types::NotThreadSafe,
};

const VALID: usize = bindings::hmm_pfn_flags_HMM_PFN_VALID;
const WRITE: usize = bindings::hmm_pfn_flags_HMM_PFN_WRITE;
const ERROR: usize = bindings::hmm_pfn_flags_HMM_PFN_ERROR;
const FLAGS: usize = bindings::hmm_pfn_flags_HMM_PFN_FLAGS;
const ORDER_SHIFT: u32 = bindings::hmm_pfn_flags_HMM_PFN_ORDER_SHIFT as u32;
const ORDER_MASK: usize = 0x1f;

/// How long a reader puts up with collisions before it gives up with `EBUSY`, unless the driver
/// says otherwise: one second, as `HMM_RANGE_DEFAULT_TIMEOUT` in C.
pub const DEFAULT_TIMEOUT: Delta = Delta::from_millis(bindings::HMM_RANGE_DEFAULT_TIMEOUT as i64);

/// What the device wants of the pages.
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
}

/// How the mmap lock is held while pages are faulted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locking {
    /// Throughout. Page-fault handlers that must drop it (userfaultfd) make the fault fail with
    /// `EFAULT`. `hmm_range_fault()` in C.
    Held,
    /// Until a handler wants to drop it; the range is read again then.
    /// `hmm_range_fault_unlocked_timeout()` in C.
    Droppable,
}

/// Whether the current task is being killed, so that long work should end with `EINTR`.
///
/// C: `fatal_signal_pending(current)`.
pub fn fatal_signal_pending() -> bool {
    // SAFETY: Looks at the current task only.
    unsafe { bindings::mnh_fatal_signal_pending() }
}

/// What a reader asks for.
#[derive(Clone, Copy)]
pub struct Request {
    range: PageRange,
    access: Access,
    locking: Locking,
    timeout: Delta,
}

impl Request {
    /// To read the entries of `range` for `access`, with the mmap lock held and
    /// [`DEFAULT_TIMEOUT`].
    pub const fn new(range: PageRange, access: Access) -> Self {
        Self {
            range,
            access,
            locking: Locking::Held,
            timeout: DEFAULT_TIMEOUT,
        }
    }

    /// The same with the mmap lock held as `locking` says.
    pub const fn with_locking(self, locking: Locking) -> Self {
        Self { locking, ..self }
    }

    /// The same, but collisions are put up with for `timeout`.
    pub const fn with_timeout(self, timeout: Delta) -> Self {
        Self { timeout, ..self }
    }
}

/// Room for the entries of as many pages as one call reads at most.
pub struct Buffer(KVVec<usize>);

impl Buffer {
    /// Room for `pages` pages.
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
}

/// A page-table entry that a device may use for as long as its shadow holds it.
///
/// It can be had from [`Pages`] only and cannot be copied, so that there is one for each time that
/// it was read and checked.
///
/// # Invariants
///
/// An entry of `hmm_range_fault()` with `HMM_PFN_VALID` set, which keeps it from being zero.
#[derive(PartialEq, Eq)]
#[repr(transparent)]
pub struct Entry(NonZero<usize>);

impl Entry {
    /// Whether the device may write.
    pub const fn writable(&self) -> bool {
        self.0.get() & WRITE != 0
    }

    /// The number of the page frame.
    pub const fn pfn(&self) -> usize {
        self.0.get() & !FLAGS
    }

    /// log2 of the number of pages that the CPU maps together with this one.
    /// `hmm_pfn_to_map_order()` in C.
    pub const fn order(&self) -> u32 {
        (self.0.get() >> ORDER_SHIFT & ORDER_MASK) as u32
    }

    /// Whether it is the page of zeroes that stands for memory never written.
    pub fn is_zero_page(&self) -> bool {
        // SAFETY: The function compares numbers.
        unsafe { bindings::mnh_is_zero_pfn(self.pfn()) }
    }

    /// Copies the page to `dst`.
    ///
    /// A CPU or another device may write to the page meanwhile; each byte is then an old or a new
    /// one, as for any device.
    ///
    /// # Safety
    ///
    /// The entry must be in a shadow, or be the parameter of a publishing closure, and the lock of
    /// that shadow held for the length of the call: that is what keeps the page from being freed.
    pub unsafe fn copy_to(&self, dst: &mut [u8; PAGE_SIZE]) {
        // SAFETY: `dst` is a page long. The type invariant says that the frame was mapped when the
        // entry was read, by the caller's promise no invalidation of it has completed since, and
        // frames that can be faulted in for a process have a `struct page` and a kernel mapping.
        unsafe { bindings::mnh_copy_from_pfn(dst.as_mut_ptr().cast(), self.pfn()) }
    }

    /// Copies `src` to the page.
    ///
    /// # Safety
    ///
    /// As for [`Entry::copy_to`]; and the entry must be [writable](Entry::writable).
    pub unsafe fn copy_from(&self, src: &[u8; PAGE_SIZE]) {
        // SAFETY: As in `copy_to`, and by the caller's promise the process may write to the page,
        // so it is shared with nobody who may not see the write.
        unsafe { bindings::mnh_copy_to_pfn(self.pfn(), src.as_ptr().cast()) }
    }
}

/// What was read for one page.
#[derive(PartialEq, Eq)]
pub enum PageState {
    /// It is mapped.
    Mapped(Entry),
    /// It is not mapped, or not so that it may be read. It may be possible to fault it in.
    Empty,
    /// It cannot be accessed: no VMA, poisoned or special memory.
    Error,
}

/// The pages of one range, read and checked, while the shadow is locked.
pub struct Pages<'a> {
    range: PageRange,
    pfns: &'a [usize],
    // What the closure gets must not outlive the lock, and not leave for another thread.
    _locked: PhantomData<*mut &'a ()>,
}

impl<'a> Pages<'a> {
    /// The addresses that were read.
    pub const fn range(&self) -> &PageRange {
        &self.range
    }

    /// The pages in order, each with its address in bytes.
    pub fn entries(self) -> impl Iterator<Item = (usize, PageState)> + 'a {
        let start = self.range.start();
        self.pfns.iter().enumerate().map(move |(i, &pfn)| {
            let state = match NonZero::new(pfn) {
                _ if pfn & ERROR != 0 => PageState::Error,
                // INVARIANT: `pfn` is a result of `hmm_range_fault()` and valid.
                Some(entry) if pfn & VALID != 0 => PageState::Mapped(Entry(entry)),
                _ => PageState::Empty,
            };
            (start + (i << PAGE_SHIFT), state)
        })
    }
}

impl<T: Mirror> IntervalNotifier<T> {
    /// Reads page-table entries as `request` says and lets `publish` put them into the shadow.
    ///
    /// `publish` runs at most once: with the shadow locked, and only if no invalidation of the
    /// watched range was in flight or came since the entries were read. It must neither sleep nor
    /// allocate, since reclaim waits for the lock; reserve memory before the call.
    ///
    /// # Context
    ///
    /// May sleep. Takes the mmap lock for reading, so it must not be held, and neither must any
    /// lock that an invalidation takes.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: the range has more pages than `buffer`, is not watched as a whole by this
    ///   notifier, or lies in a mapping that cannot be read this way (of a device's registers);
    ///   `mm` is not the address space of the notifier.
    /// - `EFAULT`: a page that is asked for cannot be faulted in, or there is no mapping.
    /// - `EPERM`: the mapping forbids the access.
    /// - `ENOMEM`: a page fault ran out of memory.
    /// - `EBUSY`: the timeout went by since the first collision. With [`Locking::Droppable`] each
    ///   reading has as much besides, counted anew whenever a page-fault handler dropped the lock.
    /// - `EINTR`: the task is being killed.
    /// - What `publish` returns.
    pub fn fault(
        &self,
        mm: &MmWithUser,
        request: Request,
        buffer: &mut Buffer,
        publish: impl FnOnce(&mut T::Shadow, Pages<'_>) -> Result,
    ) -> Result {
        let range = request.range;
        let pfns = buffer.0.get_mut(..range.pages()).ok_or(EINVAL)?;
        if !core::ptr::eq(mm.as_raw(), self.mm().as_raw())
            || self.range().intersection(&range) != Some(range)
        {
            return Err(EINVAL);
        }

        let mut deadline = None;
        loop {
            match self.read_entries(mm, &request, pfns) {
                Ok(seq) => {
                    if let Some(mut shadow) = self.lock_unless_collided(seq) {
                        let pages = Pages {
                            range,
                            pfns,
                            _locked: PhantomData,
                        };
                        return publish(&mut shadow, pages);
                    }
                }
                Err(EBUSY) if request.locking == Locking::Held => (),
                Err(e) => return Err(e),
            }
            self.mirror().collided(&range);

            if fatal_signal_pending() {
                return Err(EINTR);
            }
            let now = Instant::<Monotonic>::now();
            if now - *deadline.get_or_insert(now + request.timeout) >= Delta::ZERO {
                return Err(EBUSY);
            }
        }
    }

    /// Fills `pfns` with the entries of the range asked for, of which there are as many.
    ///
    /// Returns the sequence that tells whether an invalidation interfered. The errors are those of
    /// [`IntervalNotifier::fault`]; `EBUSY` is a collision with [`Locking::Held`], and the end of
    /// the timeout otherwise.
    fn read_entries(
        &self,
        mm: &MmWithUser,
        request: &Request,
        pfns: &mut [usize],
    ) -> Result<c_ulong> {
        let mut hmm = bindings::hmm_range {
            notifier: self.as_raw(),
            notifier_seq: 0,
            start: request.range.start(),
            end: request.range.end(),
            hmm_pfns: pfns.as_mut_ptr(),
            default_flags: request.access.flags(),
            // What is in the buffer is no request, so it needs no clearing between tries.
            pfn_flags_mask: 0,
            dev_private_owner: core::ptr::null_mut(),
        };
        match request.locking {
            Locking::Held => {
                hmm.notifier_seq = self.read_begin();
                let _mmap = MmapReadKillable::lock(mm)?;
                // SAFETY: The mmap lock of the notifier's mm is held, `mm` keeps its users above
                // zero, and `hmm_pfns` has room for each page of the range.
                to_result(unsafe { bindings::hmm_range_fault(&mut hmm) })?;
            }
            Locking::Droppable => {
                // Zero would mean for ever.
                let ms = request.timeout.as_millis().clamp(1, u32::MAX.into()) as u32;
                let jiffies = msecs_to_jiffies(ms);
                // SAFETY: As above, but for the mmap lock, which the function takes itself; the
                // notifier was inserted, which made the subscriptions of the mm that it looks at.
                to_result(unsafe {
                    bindings::hmm_range_fault_unlocked_timeout(&mut hmm, jiffies)
                })?;
            }
        }
        Ok(hmm.notifier_seq)
    }
}

/// The mmap lock of an address space that has not been given up, held for reading.
///
/// # Invariants
///
/// Owns the lock.
struct MmapReadKillable<'a> {
    mm: &'a MmWithUser,
    // The lock is released by the task that took it.
    _nts: NotThreadSafe,
}

impl<'a> MmapReadKillable<'a> {
    /// Takes the lock.
    ///
    /// # Errors
    ///
    /// `EINTR` when the task is killed; `EFAULT` when the OOM reaper has emptied the address space,
    /// so that pages faulted in now would be zeroes in place of data.
    fn lock(mm: &'a MmWithUser) -> Result<Self> {
        // SAFETY: The reference keeps the mm.
        to_result(unsafe { bindings::mnh_mmap_read_lock_killable(mm.as_raw()) })?;
        // INVARIANT: The lock was just taken.
        let guard = Self {
            mm,
            _nts: NotThreadSafe,
        };
        // SAFETY: As above.
        match unsafe { bindings::mnh_check_stable_address_space(mm.as_raw()) } {
            0 => Ok(guard),
            _ => Err(EFAULT),
        }
    }
}

impl Drop for MmapReadKillable<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held, by the type invariant.
        unsafe { kernel::bindings::mmap_read_unlock(self.mm.as_raw()) };
    }
}
