// SPDX-License-Identifier: GPL-2.0

//! What was read of the CPU's page tables, one page each.
//!
//! What is read is stale the moment that the page-table lock is dropped, unless no invalidation
//! came in between. So results exist only while a shadow takes them in ([`Publish`]), which happens
//! under its lock and after the check.
//!
//! C header: [`include/linux/hmm.h`](srctree/include/linux/hmm.h)
//!
//! [`Publish`]: crate::invlock::Publish

use crate::{
    bindings,
    range::{Owner, PageRange},
};
use core::{marker::PhantomData, num::NonZero};
use kernel::{
    ffi::c_void,
    page::{PAGE_SHIFT, PAGE_SIZE},
    uaccess::UserPtr,
};

pub(crate) const VALID: usize = bindings::hmm_pfn_flags_HMM_PFN_VALID;
pub(crate) const WRITE: usize = bindings::hmm_pfn_flags_HMM_PFN_WRITE;
pub(crate) const ERROR: usize = bindings::hmm_pfn_flags_HMM_PFN_ERROR;
pub(crate) const FLAGS: usize = bindings::hmm_pfn_flags_HMM_PFN_FLAGS;
pub(crate) const ORDER_SHIFT: u32 = bindings::hmm_pfn_flags_HMM_PFN_ORDER_SHIFT as u32;
const ORDER_MASK: usize = 0x1f;
/// That the CPU cannot reach the page while the device may: [`Entry::exclusive`]. Not of hmm's, and
/// higher than the number of any frame, as physical addresses have 52 bits at most.
pub(crate) const EXCLUSIVE: usize = 1 << 52;

/// log2 of the pages of a huge page that one entry of the second level maps, and of no less than
/// the device memory that is moved at a time.
pub const HUGE_ORDER: u32 = 9;
/// The pages of such a page.
pub const HUGE_PAGES: usize = 1 << HUGE_ORDER;

/// log2 of the pages that are mapped together with that of the entry.
#[inline]
pub(crate) const fn order(entry: usize) -> u32 {
    (entry >> ORDER_SHIFT & ORDER_MASK) as u32
}

/// A page-table entry that a device may use for as long as its shadow holds it.
///
/// It can be had from [`Pages`] only and cannot be copied, so that there is one for each time that
/// it was read and checked. It can be moved, but there is one place to move it to: [`Publish`] is
/// unsafe to implement, and so is [`Mirror`], which promise that an entry goes from [`Pages`] into
/// the shadow, and from there nowhere.
///
/// # Invariants
///
/// - An entry of `hmm_range_fault()` with `HMM_PFN_VALID` set, which keeps it from being zero.
/// - Its shadow is taking it in, or has done so and not been told to remove it, or is being
///   dropped.
///
/// [`Publish`]: crate::invlock::Publish
/// [`Mirror`]: crate::mirror::Mirror
#[derive(PartialEq, Eq)]
#[repr(transparent)]
pub struct Entry(NonZero<usize>);

impl Entry {
    /// Whether the device may write.
    ///
    /// C: `HMM_PFN_WRITE`.
    pub const fn writable(&self) -> bool {
        self.0.get() & WRITE != 0
    }

    /// The number of the page frame, in pages of [`PAGE_SIZE`] bytes. By itself it keeps nothing:
    /// the page is the process's for as long as the entry is in its locked shadow.
    ///
    /// C: `hmm_pfn_to_phys()`, shifted.
    pub const fn pfn(&self) -> usize {
        self.0.get() & !(FLAGS | EXCLUSIVE)
    }

    /// Notes that the device may write to the page, so that what it writes is not lost when the
    /// page is reclaimed: the CPU's page tables do not tell.
    ///
    /// # Safety
    ///
    /// The entry must be in a shadow, or be one that a shadow takes in just now, and the lock of
    /// that shadow held for the length of the call: that is what keeps the page from being freed.
    ///
    /// # Context
    ///
    /// Does not sleep.
    ///
    /// C: `set_page_dirty()`.
    pub unsafe fn mark_dirty(&self) {
        // SAFETY: By the type invariant the frame was mapped by a process when the entry was read,
        // so it has a `struct page`, and no invalidation of it has completed, nor does one while
        // the lock is held, by the promise of the caller.
        unsafe { bindings::mnh_set_page_dirty(self.pfn()) };
    }

    /// Whether the device has the page for itself: the CPU cannot reach it before the entry is
    /// invalidated.
    pub const fn exclusive(&self) -> bool {
        self.0.get() & EXCLUSIVE != 0
    }

    /// The same entry, with where the CPU finds what is in a page of device memory.
    ///
    /// # Safety
    ///
    /// The frame `pfn`, and as many after it as the entry maps, must be system memory, and the
    /// driver must keep them for as long as the pages of device memory are in use.
    pub const unsafe fn backed_by(self, pfn: usize) -> Self {
        // INVARIANT: It stays valid, which keeps it from being zero.
        match NonZero::new(self.0.get() & (FLAGS | EXCLUSIVE) | pfn) {
            Some(entry) => Self(entry),
            None => self,
        }
    }

    /// log2 of the number of pages that the CPU maps together with this one.
    /// `hmm_pfn_to_map_order()` in C.
    pub const fn order(&self) -> u32 {
        order(self.0.get())
    }

    /// Copies pages to `dst`, from the one that is number `page` of those that the entry maps.
    ///
    /// A CPU or another device may write to a page meanwhile; each byte is then an old or a new
    /// one, as for any device.
    ///
    /// # Context
    ///
    /// Any in which the lock may be held; does not sleep, and takes as long as the copy does.
    ///
    /// C: `memcpy_from_page()`.
    ///
    /// # Safety
    ///
    /// - The entry must be in a shadow, or be one that a shadow takes in just now, and the lock of
    ///   that shadow held for the length of the call: that is what keeps the pages from being
    ///   freed.
    /// - It must map all the pages.
    /// - They must not be device-private memory, which the CPU cannot reach. They may be if the
    ///   [request had an owner](crate::fault::Request::with_owner), and are not otherwise.
    pub unsafe fn copy_to(&self, page: usize, dst: &mut [[u8; PAGE_SIZE]]) {
        // SAFETY: `dst` is as long. The type invariant says that the frames were mapped when the
        // entry was read, by the caller's promise no invalidation of it has completed since, and
        // frames that can be faulted in for a process have a `struct page` and, unless they are
        // device-private memory, a kernel mapping.
        unsafe {
            bindings::mnh_copy_from_pfn(dst.as_mut_ptr().cast(), self.pfn() + page, dst.len())
        }
    }

    /// Copies `src` to pages, from number `page` on of those that the entry maps, and marks them
    /// dirty.
    ///
    /// # Context
    ///
    /// As for [`Self::copy_to`].
    ///
    /// C: `memcpy_to_page()`, `set_page_dirty()`.
    ///
    /// # Safety
    ///
    /// As for [`Entry::copy_to`]; and the entry must be [writable](Entry::writable).
    pub unsafe fn copy_from(&self, page: usize, src: &[[u8; PAGE_SIZE]]) {
        // SAFETY: As in `copy_to`, and by the caller's promise the process may write to the pages,
        // so they are shared with nobody who may not see the write.
        unsafe { bindings::mnh_copy_to_pfn(self.pfn() + page, src.as_ptr().cast(), src.len()) }
    }

    /// Copies `pages` pages, from number `page` on, to memory of the current process, without a
    /// page fault: tells whether that was possible. Some of it may have been copied if not.
    ///
    /// # Context
    ///
    /// Process context. Does not sleep, so it may be called under a lock that spins.
    ///
    /// C: `copy_to_user_nofault()`.
    ///
    /// # Safety
    ///
    /// As for [`Entry::copy_to`].
    pub unsafe fn copy_to_user(&self, page: usize, dst: UserPtr, pages: usize) -> bool {
        // SAFETY: As in `copy_to`. The function checks the user's address.
        unsafe { bindings::mnh_copy_from_pfn_to_user(dst.as_mut_ptr(), self.pfn() + page, pages) }
    }

    /// Copies `pages` pages from memory of the current process, without a page fault, to those from
    /// number `page` on: tells whether that was possible. Some of it may have been copied if not.
    ///
    /// # Context
    ///
    /// As for [`Self::copy_to_user`].
    ///
    /// C: `copy_from_user_nofault()`, `set_page_dirty()`.
    ///
    /// # Safety
    ///
    /// As for [`Entry::copy_from`].
    pub unsafe fn copy_from_user(&self, page: usize, src: UserPtr, pages: usize) -> bool {
        // SAFETY: As in `copy_from`. The function checks the user's address.
        unsafe { bindings::mnh_copy_to_pfn_from_user(self.pfn() + page, src.as_const_ptr(), pages) }
    }
}

/// Copies `pages` pages from the frame `src` on to the frame `dst` on.
///
/// # Context
///
/// Any; does not sleep, and takes as long as the copy does.
///
/// # Safety
///
/// The frames must be memory that the CPU can reach, that nobody writes to and that stays where it
/// is for the length of the call; those from `dst` on must be the caller's to write.
///
/// C: `copy_highpage()`.
pub unsafe fn copy_frames(dst: usize, src: usize, pages: usize) {
    // SAFETY: By the caller's promise.
    unsafe { bindings::mnh_copy_pfns(dst, src, pages) }
}

/// Fills `pages` pages from the frame `dst` on with zeroes.
///
/// # Context
///
/// Any; does not sleep, and takes as long as that does.
///
/// # Safety
///
/// The frames must be memory that the CPU can reach, and the caller's to write.
///
/// C: `clear_highpage()`.
pub unsafe fn clear_frames(dst: usize, pages: usize) {
    // SAFETY: By the caller's promise.
    unsafe { bindings::mnh_clear_pfns(dst, pages) }
}

/// Pages of the system's memory that belong to the driver, which are neighbours.
///
/// # Invariants
///
/// `pfn` is the first of 2<sup>`order`</sup> pages that were allocated together.
#[derive(Debug)]
pub struct OwnPages {
    pfn: usize,
    order: u32,
}

impl OwnPages {
    /// 2<sup>`order`</sup> pages, with undefined contents, if there are any.
    ///
    /// # Context
    ///
    /// May sleep.
    ///
    /// C: `alloc_pages()`.
    pub fn new(order: u32) -> Option<Self> {
        // SAFETY: May sleep, which is all that the function asks for.
        let pfn = unsafe { bindings::mnh_alloc_pages(order) };
        // INVARIANT: They were just allocated. A value that is not returned would be dropped, so
        // there is none then.
        (pfn != 0).then(|| Self { pfn, order })
    }

    /// The number of the first page frame, which is the driver's for as long as this is there; the
    /// 2<sup>`order`</sup> - 1 after it are as well.
    ///
    /// C: `page_to_pfn()`.
    pub const fn pfn(&self) -> usize {
        self.pfn
    }
}

impl Drop for OwnPages {
    fn drop(&mut self) {
        // SAFETY: By the type invariant. Does not sleep.
        unsafe { bindings::mnh_free_pages(self.pfn, self.order) };
    }
}

/// What was read for one page.
#[derive(PartialEq, Eq)]
pub enum PageState {
    /// It is mapped.
    Mapped(Entry),
    /// It is not present, or not so that it may be read: never touched, swapped out, being
    /// migrated. It may be possible to fault it in.
    Empty,
    /// It cannot be accessed: there is no VMA, or one that may not be read, or the memory has no
    /// `struct page`, or is secret.
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

    /// The one entry that maps all of the range, if the CPU maps it by one: what the entries of the
    /// single pages say more of is only where each lies.
    pub fn huge(&self) -> Option<Entry> {
        let entry = Entry(NonZero::new(*self.pfns.first()?)?);
        let mapped = 1usize << entry.order();
        let whole = entry.0.get() & (VALID | ERROR) == VALID
            && mapped > 1
            && mapped % self.pfns.len() == 0
            && self.range.first_page() % self.pfns.len() == 0;
        // INVARIANT: It is valid, as was just checked.
        whole.then_some(entry)
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
        /// In which memory it was.
        memory: Memory,
    },
    /// It was not present, or not so that it could be read.
    Empty,
    /// It could not be accessed: there was no VMA, or one that might not be read, or the memory had
    /// no `struct page`.
    Error,
}

/// Where a page lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Memory {
    /// In the system's memory.
    System = bindings::mnh_memory_MNH_MEMORY_SYSTEM,
    /// It is the page of zeroes that stands for memory never written.
    Zero = bindings::mnh_memory_MNH_MEMORY_ZERO,
    /// In device memory that the CPU cannot reach, of the owner who asked.
    OwnPrivate = bindings::mnh_memory_MNH_MEMORY_OWN_PRIVATE,
    /// In device memory that the CPU can reach, of the owner who asked.
    OwnCoherent = bindings::mnh_memory_MNH_MEMORY_OWN_COHERENT,
    /// In device memory that the CPU can reach, of another owner.
    ForeignCoherent = bindings::mnh_memory_MNH_MEMORY_FOREIGN_COHERENT,
}

impl Memory {
    /// By number, as a buffer remembers them in place of frames.
    const ALL: [Self; 5] = [
        Self::System,
        Self::Zero,
        Self::OwnPrivate,
        Self::OwnCoherent,
        Self::ForeignCoherent,
    ];
}

/// Turns entries into what [`view`] makes a [`View`] of. They are of no use otherwise then.
///
/// # Safety
///
/// The entries must have been read and checked for a shadow whose lock is held.
pub(crate) unsafe fn make_views(entries: &mut [usize], asking: Option<Owner>) {
    let asking = asking.map_or(core::ptr::null(), |owner| owner.addr() as *const c_void);
    let (mut known, mut memory) = (None, 0);
    for entry in entries.iter_mut().filter(|entry| **entry & VALID != 0) {
        let pfn = *entry & !(FLAGS | EXCLUSIVE);
        let order = order(*entry);
        // What is mapped together is all in the same memory.
        let together = (order > 0).then_some(pfn >> order);
        if together.is_none() || together != known {
            // SAFETY: A frame that a process maps has a `struct page`, and as long as the lock is
            // held no invalidation of it completes, so it stays mapped and whoever has the memory
            // keeps it.
            memory = unsafe { bindings::mnh_pfn_memory(pfn, asking) };
            known = together;
        }
        *entry = *entry & FLAGS | memory as usize;
    }
}

/// What [`make_views`] left of an entry.
#[inline]
pub(crate) fn view(entry: usize) -> View {
    if entry & ERROR != 0 {
        return View::Error;
    }
    if entry & VALID == 0 {
        return View::Empty;
    }
    View::Mapped {
        writable: entry & WRITE != 0,
        order: order(entry),
        memory: Memory::ALL
            .get(entry & !FLAGS)
            .copied()
            .unwrap_or(Memory::System),
    }
}
