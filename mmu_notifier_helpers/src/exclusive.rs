// SPDX-License-Identifier: GPL-2.0

//! Pages that a device has for itself, so that it can do atomic operations that the CPU's do not
//! interfere with.
//!
//! The CPU cannot reach such a page: when it tries, the page becomes an ordinary one again, which
//! is an invalidation. Only anonymous memory can be had so, page by page; 2 MiB that the CPU maps
//! by one entry are mapped by single pages first.
//!
//! To take a page is an invalidation of it as well, which zaps the old entry and disturbs whoever
//! reads it, but not the one who takes it; that is a reader too, and publishes while the page is
//! locked.
//!
//! # Locks
//!
//! mmap lock → lock of the folio → the shadow's lock.
//!
//! C: `make_device_exclusive()` in `mm/rmap.c`.

use crate::{
    bindings,
    fault::{self, Access, Buffer, Request, DEFAULT_TIMEOUT},
    migrate::{self, LockedFolio},
    mirror::{sealed::Passive, Mirror, Subscription},
    mmap::MmapReadKillable,
    notifier::{Attachment, PerMmMirror},
    pages::EXCLUSIVE,
    range::PageRange,
    wait::{fatal_signal_pending, Deadline},
};
use kernel::{error::to_result, mm::MmWithUser, prelude::*};

impl<T: PerMmMirror> Attachment<T> {
    /// Takes the page at `addr` for the device alone, and lets the shadow take in an
    /// [exclusive](crate::pages::Entry::exclusive) entry for it, which is writable.
    ///
    /// The page is faulted in for writing before. It is an ordinary one again after the next
    /// invalidation.
    ///
    /// # Context
    ///
    /// May sleep. Takes the mmap lock for reading, so it must not be held.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: the address is none of a page, or `mm` is not the address space of this mirror.
    /// - `EOPNOTSUPP`: the memory is not anonymous, or of hugetlb.
    /// - `EBUSY`: others kept interfering for a second.
    /// - Those of [`Subscription::fault`] for writing.
    ///
    /// C: `make_device_exclusive()`.
    pub fn make_exclusive(
        &self,
        mm: &MmWithUser,
        addr: usize,
        buffer: &mut Buffer,
        reserve: &mut <T as Mirror>::Reserve,
    ) -> Result {
        let page = PageRange::from_pages(addr as u64, 1)?;
        if !core::ptr::eq(mm.as_raw(), self.mm().as_raw()) {
            return Err(EINVAL);
        }
        let deadline = Deadline::after(DEFAULT_TIMEOUT);
        let request = Request::droppable(page, Access::Write);
        loop {
            // What causes invalidations happens before the reader begins: copying the page, moving
            // it here, making it an ordinary one again. And a handler may drop the mmap lock here.
            let passive = Passive::new(mm);
            fault::fault_in(&passive.record(), mm, &request, buffer.room(&page)?)?;

            let mmap = MmapReadKillable::lock(mm)?;
            let (guard, folio) = self.publish(
                page,
                &deadline,
                buffer.room(&page)?,
                Some(&mut *reserve),
                |reading, entries| {
                    let mut first_pfn = 0;
                    // SAFETY: The mmap lock is held, and `mm` keeps its users above zero.
                    let pfn = unsafe {
                        bindings::mnh_make_device_exclusive(
                            mm.as_raw(),
                            addr,
                            reading.identity().addr() as *mut c_void,
                            &mut first_pfn,
                        )
                    };
                    if pfn < 0 {
                        to_result(pfn as c_int)?;
                    }
                    entries.fill(migrate::entry(pfn as usize, 0, true) | EXCLUSIVE);
                    // SAFETY: The function returned with the folio locked and a reference to it.
                    Ok(Some(unsafe { LockedFolio::new(first_pfn) }))
                },
            )?;
            let published = guard.is_some();
            drop(guard);
            drop(folio);
            drop(mmap);
            if published {
                return Ok(());
            }
            self.mirror().collided(&page);
            if fatal_signal_pending() {
                return Err(EINTR);
            }
            if deadline.passed() {
                return Err(EBUSY);
            }
        }
    }
}
