// SPDX-License-Identifier: GPL-2.0

//! The mmap lock, taken so that a task which is being killed does not wait for it.

use crate::{bindings as extra, range::PageRange};
use kernel::{bindings, error::to_result, mm::MmWithUser, prelude::*, types::NotThreadSafe};

/// The mmap lock of an address space that has not been given up, held for reading.
///
/// # Invariants
///
/// Owns the lock.
pub(crate) struct MmapReadKillable<'a> {
    pub(crate) mm: &'a MmWithUser,
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
    pub(crate) fn lock(mm: &'a MmWithUser) -> Result<Self> {
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
pub(crate) struct MmapWriteKillable<'a> {
    mm: &'a MmWithUser,
    // The lock is released by the task that took it.
    _nts: NotThreadSafe,
}

impl<'a> MmapWriteKillable<'a> {
    /// Takes the lock.
    ///
    /// # Errors
    ///
    /// As [`MmapReadKillable::lock`].
    pub(crate) fn lock(mm: &'a MmWithUser) -> Result<Self> {
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

    /// Waits for those who hold a VMA of `range` by its own lock alone, and keeps others from doing
    /// so until the mmap lock is released.
    ///
    /// # Errors
    ///
    /// `EINTR` when the task is killed.
    pub(crate) fn exclude_vma_readers(&self, range: &PageRange) -> Result {
        // SAFETY: The lock is held for writing, by the type invariant.
        to_result(unsafe {
            extra::mnh_vma_start_write_range(self.mm.as_raw(), range.start(), range.end())
        })
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
