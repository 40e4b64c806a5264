// SPDX-License-Identifier: GPL-2.0

//! What was read of the CPU's page tables, one page each.
//!
//! What is read is stale the moment that the page-table lock is dropped, unless no invalidation came
//! in between. So results exist only while a shadow takes them in ([`Publish`]), which happens under
//! its lock and after the check.
//!
//! C header: [`include/linux/hmm.h`](srctree/include/linux/hmm.h)
//!
//! [`Publish`]: crate::invlock::Publish

use crate::{bindings, range::PageRange};
use core::{marker::PhantomData, num::NonZero};
use kernel::page::{PAGE_SHIFT, PAGE_SIZE};

pub(crate) const VALID: usize = bindings::hmm_pfn_flags_HMM_PFN_VALID;
pub(crate) const WRITE: usize = bindings::hmm_pfn_flags_HMM_PFN_WRITE;
const ERROR: usize = bindings::hmm_pfn_flags_HMM_PFN_ERROR;
pub(crate) const FLAGS: usize = bindings::hmm_pfn_flags_HMM_PFN_FLAGS;
const ORDER_SHIFT: u32 = bindings::hmm_pfn_flags_HMM_PFN_ORDER_SHIFT as u32;
const ORDER_MASK: usize = 0x1f;

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

    /// Copies the page to `dst`.
    ///
    /// A CPU or another device may write to the page meanwhile; each byte is then an old or a new
    /// one, as for any device.
    ///
    /// # Safety
    ///
    /// - The entry must be in a shadow, or be one that a shadow takes in just now, and the lock of
    ///   that shadow held for the length of the call: that is what keeps the page from being freed.
    /// - The page must not be device-private memory, which the CPU cannot reach. It may be if the
    ///   [request had an owner](crate::fault::Request::with_owner), and is not otherwise.
    pub unsafe fn copy_to(&self, dst: &mut [u8; PAGE_SIZE]) {
        // SAFETY: `dst` is a page long. The type invariant says that the frame was mapped when the
        // entry was read, by the caller's promise no invalidation of it has completed since, and
        // frames that can be faulted in for a process have a `struct page` and, unless they are
        // device-private memory, a kernel mapping.
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
    /// It is not present, or not so that it may be read: never touched, swapped out, being migrated.
    /// It may be possible to fault it in.
    Empty,
    /// It cannot be accessed: there is no VMA, or one that may not be read, or the memory has no
    /// `struct page`.
    Error,
}

/// The pages of one range, read and checked, while the shadow is locked.
pub struct Pages<'a> {
    range: PageRange,
    pfns: &'a [usize],
    // What a shadow gets must not outlive the lock, and not leave for another thread.
    _locked: PhantomData<*mut &'a ()>,
}

impl<'a> Pages<'a> {
    /// The caller has checked, and holds the lock for as long as the value lives; `pfns` are the
    /// results of `hmm_range_fault()` for `range`.
    pub(crate) const fn new(range: PageRange, pfns: &'a [usize]) -> Self {
        Self {
            range,
            pfns,
            _locked: PhantomData,
        }
    }

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

/// Pages that were faulted in, and the memory that a shadow reserved to take them in.
pub struct Faulted<'a, R> {
    /// The pages.
    pub pages: Pages<'a>,
    /// What the caller of the fault reserved.
    pub reserve: &'a mut R,
}

/// What a page looked like: a piece of news, not something to access memory by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// It was mapped.
    Mapped {
        /// Whether it could be written.
        writable: bool,
        /// log2 of the number of pages that the CPU mapped together with this one.
        order: u32,
        /// Whether it was the page of zeroes that stands for memory never written.
        zero_page: bool,
    },
    /// It was not present, or not so that it could be read.
    Empty,
    /// It could not be accessed: there was no VMA, or one that might not be read, or the memory had
    /// no `struct page`.
    Error,
}

impl From<&PageState> for View {
    fn from(state: &PageState) -> Self {
        match state {
            PageState::Mapped(entry) => Self::Mapped {
                writable: entry.writable(),
                order: entry.order(),
                // SAFETY: The function compares numbers.
                zero_page: unsafe { bindings::mnh_is_zero_pfn(entry.pfn()) },
            },
            PageState::Empty => Self::Empty,
            PageState::Error => Self::Error,
        }
    }
}
