// SPDX-License-Identifier: GPL-2.0

//! The mmap lock, taken so that a task which is being killed does not wait for it, and what can be
//! done with an address space while it is held.

use crate::{bindings as extra, range::PageRange};
use core::{iter, ops::Range};
use kernel::{
    bindings, error::to_result, mm::MmWithUser, page::PAGE_SHIFT, prelude::*, types::NotThreadSafe,
};

mod sealed {
    pub trait Sealed {}
}

/// The mmap lock, held either way.
pub trait MmapLocked: sealed::Sealed {
    /// Of which address space.
    fn mm(&self) -> &MmWithUser;

    /// Where in `range` there is secret memory: the numbers of its pages, counted from the first of
    /// the range. hmm hands it out as any other, but nobody except its processes may see what is in
    /// it, and the kernel has no mapping of it.
    ///
    /// C: `memfd_secret()`, `vma_is_secretmem()`.
    fn secrets(&self, range: &PageRange) -> impl Iterator<Item = Range<usize>> {
        let (first, last) = (range.start(), range.end());
        let mut next = first;
        iter::from_fn(move || {
            let (mut start, mut end) = (next, last);
            // SAFETY: The mmap lock is held, as it is by all that implements this.
            let found = unsafe { extra::mnh_find_secret(self.mm().as_raw(), &mut start, &mut end) };
            next = end;
            found.then(|| (start - first) >> PAGE_SHIFT..(end - first) >> PAGE_SHIFT)
        })
    }
}

/// Whether there is no secret memory in `range`, as far as can be told without the mmap lock: if
/// not, [`MmapLocked::secrets`] knows.
///
/// # Context
///
/// Any in which RCU may be used. Waits for nobody, whoever has the mmap lock.
pub fn has_no_secret(mm: &MmWithUser, range: &PageRange) -> bool {
    // SAFETY: `mm` is valid; the function locks what it looks at.
    !cfg!(CONFIG_SECRETMEM)
        || unsafe { extra::mnh_has_no_secret(mm.as_raw(), range.start(), range.end()) }
}

/// The mmap lock of an address space that has not been given up, held for reading.
///
/// # Invariants
///
/// Owns the lock.
pub struct MmapReadKillable<'a> {
    mm: &'a MmWithUser,
    // The lock is released by the task that took it.
    _nts: NotThreadSafe,
}

impl<'a> MmapReadKillable<'a> {
    /// Takes the lock.
    ///
    /// # Context
    ///
    /// Sleeps. The task must not have the lock, in either way, nor any that is taken below it.
    ///
    /// # Errors
    ///
    /// `EINTR` when the task is killed; `EFAULT` when the OOM reaper has emptied the address space,
    /// so that pages faulted in now would be zeroes in place of data.
    pub fn lock(mm: &'a MmWithUser) -> Result<Self> {
        // SAFETY: The reference keeps the mm.
        to_result(unsafe { extra::mnh_mmap_read_lock_killable(mm.as_raw()) })?;
        // INVARIANT: The lock was just taken.
        let guard = Self {
            mm,
            _nts: NotThreadSafe,
        };
        check_stable(mm)?;
        Ok(guard)
    }
}

impl sealed::Sealed for MmapReadKillable<'_> {}

impl MmapLocked for MmapReadKillable<'_> {
    fn mm(&self) -> &MmWithUser {
        self.mm
    }
}

impl Drop for MmapReadKillable<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held, by the type invariant.
        unsafe { bindings::mmap_read_unlock(self.mm.as_raw()) };
    }
}

/// The mmap lock of an address space, held for writing.
///
/// # Invariants
///
/// Owns the lock.
pub struct MmapWriteKillable<'a> {
    mm: &'a MmWithUser,
    // The lock is released by the task that took it.
    _nts: NotThreadSafe,
}

impl<'a> MmapWriteKillable<'a> {
    /// Takes the lock.
    ///
    /// # Errors
    ///
    /// As [`MmapReadKillable::lock`], and so is the context.
    pub fn lock(mm: &'a MmWithUser) -> Result<Self> {
        // SAFETY: The reference keeps the mm.
        to_result(unsafe { extra::mnh_mmap_write_lock_killable(mm.as_raw()) })?;
        // INVARIANT: The lock was just taken.
        let guard = Self {
            mm,
            _nts: NotThreadSafe,
        };
        check_stable(mm)?;
        Ok(guard)
    }

    /// Faults in the page at `address`, to be written to if `write` says so, if that can be done
    /// without dropping the lock, and without waiting for a disk or for user space: of memory that
    /// is anonymous or of a file in memory (shmem, hugetlb), and only while nothing of the address
    /// space is swapped out. [`false`]: it was not done, since that is not so, userfaultfd would be
    /// asked, the page-fault handler refuses, or hmm would not fault the page in. [`true`]: it is
    /// worth looking again.
    ///
    /// To break the sharing of a page, or to move it here from a device, invalidates it.
    ///
    /// # Context
    ///
    /// Sleeps, to allocate memory. No lock may be held that an invalidation takes.
    ///
    /// C: `handle_mm_fault()` with `FAULT_FLAG_RETRY_NOWAIT`.
    pub fn fault_in(&self, address: usize, write: bool) -> bool {
        // SAFETY: The lock is held, by the type invariant.
        unsafe { extra::mnh_fault_in_nowait(self.mm.as_raw(), address, write) }
    }

    /// Waits for those who hold a VMA of `range` by its own lock alone, and keeps others from doing
    /// so until the mmap lock is released.
    ///
    /// # Context
    ///
    /// Sleeps.
    ///
    /// # Errors
    ///
    /// `EINTR` when the task is killed.
    pub fn exclude_vma_readers(&self, range: &PageRange) -> Result {
        // SAFETY: The lock is held for writing, by the type invariant.
        to_result(unsafe {
            extra::mnh_vma_start_write_range(self.mm.as_raw(), range.start(), range.end())
        })
    }
}

impl sealed::Sealed for MmapWriteKillable<'_> {}

impl MmapLocked for MmapWriteKillable<'_> {
    fn mm(&self) -> &MmWithUser {
        self.mm
    }
}

impl Drop for MmapWriteKillable<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held, by the type invariant.
        unsafe { extra::mnh_mmap_write_unlock(self.mm.as_raw()) };
    }
}

/// The mmap lock must be held.
fn check_stable(mm: &MmWithUser) -> Result {
    // SAFETY: The reference keeps the mm.
    match unsafe { extra::mnh_check_stable_address_space(mm.as_raw()) } {
        0 => Ok(()),
        _ => Err(EFAULT),
    }
}
