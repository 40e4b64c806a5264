// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! Reading the page tables of a process for a region.
//!
//! # Locks
//!
//! mmap lock → locks of the VMAs → the region's mutex. What holds others off holds all three
//! until the entries are merged.

use crate::{
    bindings as extra,
    entry::{Entry, ERROR, VALID, WRITE},
    ffi_umem::{Locked, OdpUmem},
    region::Region,
    umem::{Access, Backing},
};
use core::cell::Cell;
use kernel::{
    bindings,
    error::to_result,
    mm::MmWithUser,
    page::PAGE_SHIFT,
    prelude::*,
    time::Delta,
    types::{NotThreadSafe, Opaque},
};
use mmu_notifier_helpers::{
    fault::DEFAULT_TIMEOUT,
    range::PageRange,
    retry::Patience,
    wait::{fatal_signal_pending, Deadline},
};

/// One fault of a region.
pub(crate) struct Source<'a> {
    umem: &'a OdpUmem,
    region: &'a Region,
    mm: &'a MmWithUser,
    clock: Cell<Option<Clock>>,
}

/// When to stop being optimistic, and when to stop.
struct Clock {
    early: Deadline,
    late: Deadline,
}

impl<'a> Source<'a> {
    /// For the pages of `umem`, whose address space is `mm`.
    ///
    /// # Errors
    ///
    /// `EINVAL`: that is not its address space.
    pub(crate) fn new(umem: &'a OdpUmem, region: &'a Region, mm: &'a MmWithUser) -> Result<Self> {
        if umem.context().umems().mm().as_raw() != mm.as_raw() {
            return Err(EINVAL);
        }
        Ok(Self {
            umem,
            region,
            mm,
            clock: Cell::new(None),
        })
    }

    /// What asks hmm for `pages`. Its record is `passive`.
    fn request(
        passive: &Opaque<bindings::mmu_interval_notifier>,
        pages: &PageRange,
        access: Access,
        read: &mut [Entry],
    ) -> extra::hmm_range {
        extra::hmm_range {
            notifier: passive.get(),
            notifier_seq: SEQUENCE,
            start: pages.start(),
            end: pages.end(),
            // An `Entry` is a transparent number.
            hmm_pfns: read.as_mut_ptr().cast(),
            default_flags: match access {
                Access::Look => 0,
                Access::Read => VALID,
                Access::Write => VALID | WRITE,
            },
            pfn_flags_mask: 0,
            dev_private_owner: core::ptr::null_mut(),
        }
    }

    /// A record for hmm, which takes the mm from it and sees no collision by it: without the mmap
    /// lock it would try again on its own, and we count.
    fn passive(&self) -> Opaque<bindings::mmu_interval_notifier> {
        Opaque::new(bindings::mmu_interval_notifier {
            mm: self.mm.as_raw(),
            invalidate_seq: SEQUENCE,
            ..Default::default()
        })
    }

    /// Makes errors of the entries of secret memory, which hmm hands out as any other: nobody but
    /// its processes may see what is in it, and the kernel has no mapping of it.
    ///
    /// # Errors
    ///
    /// `EFAULT`: a page of it is wanted.
    ///
    /// # Safety
    ///
    /// The mmap lock must be held.
    unsafe fn hide_secrets(&self, pages: &PageRange, access: Access, read: &mut [Entry]) -> Result {
        let (mut start, mut end) = (pages.start(), pages.end());
        // SAFETY: By the caller's promise.
        while unsafe { extra::mnh_find_secret(self.mm.as_raw(), &mut start, &mut end) } {
            if access != Access::Look {
                return Err(EFAULT);
            }
            let first = (start - pages.start()) >> PAGE_SHIFT;
            let secret = (end - start) >> PAGE_SHIFT;
            for entry in read.iter_mut().skip(first).take(secret) {
                *entry = Entry::from_raw(ERROR);
            }
            (start, end) = (end, pages.end());
        }
        Ok(())
    }
}

/// A sequence that the core's, which are 2 and more, never has.
const SEQUENCE: usize = 1;

impl Backing for Source<'_> {
    type Locked<'b>
        = Locked<'b>
    where
        Self: 'b;

    fn region(&self) -> &Region {
        self.region
    }

    fn begin(&self) -> usize {
        // SAFETY: The record has the mm, which the context has a subscription in, and is valid for
        // as long as the region.
        unsafe { bindings::mmu_interval_read_begin(self.umem.record()) }
    }

    fn read(&self, pages: &PageRange, access: Access, read: &mut [Entry]) -> Result {
        if read.len() < pages.pages() {
            return Err(EINVAL);
        }
        let passive = self.passive();
        let mut hmm = Self::request(&passive, pages, access, read);
        // Without a timeout: the record never collides, so what is tried again is what has dropped
        // the lock and made progress, or a fatal signal ends it.
        // SAFETY: `mm` keeps its users above zero and has a subscription; there is room for an
        // entry for each page; and the record lives on.
        to_result(unsafe { extra::hmm_range_fault_unlocked_timeout(&mut hmm, 0) })?;
        if !cfg!(CONFIG_SECRETMEM) {
            return Ok(());
        }
        // Later is as good: what was mapped here before has been unmapped, which is a collision.
        // SAFETY: `mm` keeps its users above zero.
        if unsafe { extra::mnh_has_no_secret(self.mm.as_raw(), pages.start(), pages.end()) } {
            return Ok(());
        }
        let _mmap = MmapRead::lock(self.mm)?;
        // SAFETY: The mmap lock is held.
        unsafe { self.hide_secrets(pages, access, read) }
    }

    fn read_excluding<R>(
        &self,
        pages: &PageRange,
        access: Access,
        read: &mut [Entry],
        then: impl FnOnce(usize, &[Entry]) -> Result<R>,
    ) -> Result<R> {
        // All that waits for somebody else is done before anybody is held off.
        if access != Access::Look {
            self.read(pages, access, read)?;
        } else if read.len() < pages.pages() {
            return Err(EINVAL);
        }
        let mmap = MmapWrite::lock(self.mm)?;
        // SAFETY: The mmap lock is held for writing.
        to_result(unsafe {
            extra::mnh_vma_start_write_range(self.mm.as_raw(), pages.start(), pages.end())
        })?;
        let began = self.begin();
        let passive = self.passive();
        let mut hmm = Self::request(&passive, pages, Access::Look, read);
        // SAFETY: The mmap lock is held, and the rest is as for `read`.
        to_result(unsafe { extra::hmm_range_fault(&mut hmm) })?;
        // SAFETY: The mmap lock is held.
        unsafe { self.hide_secrets(pages, access, read) }?;
        let done = then(began, read);
        drop(mmap);
        done
    }

    fn lock(&self) -> Locked<'_> {
        self.umem.lock()
    }

    fn collided(&self, nth: u32) -> Result {
        if nth == 1 {
            self.clock.set(Some(Clock {
                early: Deadline::after(Delta::from_nanos(DEFAULT_TIMEOUT.as_nanos() / 2)),
                late: Deadline::after(DEFAULT_TIMEOUT),
            }));
        }
        self.go_on()
    }

    fn patience(&self) -> Patience {
        let clock = self.clock.take();
        let patience = match &clock {
            Some(clock) if clock.late.passed() => Patience::Over,
            Some(clock) if clock.early.passed() => Patience::Wearing,
            _ => Patience::Fresh,
        };
        self.clock.set(clock);
        patience
    }

    fn go_on(&self) -> Result {
        if fatal_signal_pending() {
            return Err(EINTR);
        }
        Ok(())
    }

    fn too_small(&self, order: u32) {
        // SAFETY: The region has a device.
        unsafe { extra::odp_say_order(self.umem.raw(), order) };
    }
}

/// The mmap lock of an address space that has not been given up, held for reading.
///
/// # Invariants
///
/// Owns the lock.
struct MmapRead<'a>(&'a MmWithUser, NotThreadSafe);

impl<'a> MmapRead<'a> {
    fn lock(mm: &'a MmWithUser) -> Result<Self> {
        // SAFETY: The reference keeps the mm.
        to_result(unsafe { extra::mnh_mmap_read_lock_killable(mm.as_raw()) })?;
        // INVARIANT: The lock was just taken.
        Ok(Self(mm, NotThreadSafe))
    }
}

impl Drop for MmapRead<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held, by the type invariant.
        unsafe { bindings::mmap_read_unlock(self.0.as_raw()) };
    }
}

/// The same, held for writing.
///
/// # Invariants
///
/// Owns the lock.
struct MmapWrite<'a>(&'a MmWithUser, NotThreadSafe);

impl<'a> MmapWrite<'a> {
    /// Takes it, and looks whether the OOM reaper has emptied the address space: `EFAULT` then.
    fn lock(mm: &'a MmWithUser) -> Result<Self> {
        // SAFETY: The reference keeps the mm.
        to_result(unsafe { extra::mnh_mmap_write_lock_killable(mm.as_raw()) })?;
        // INVARIANT: The lock was just taken.
        let guard = Self(mm, NotThreadSafe);
        // SAFETY: The reference keeps the mm.
        match unsafe { extra::mnh_check_stable_address_space(mm.as_raw()) } {
            0 => Ok(guard),
            _ => Err(EFAULT),
        }
    }
}

impl Drop for MmapWrite<'_> {
    fn drop(&mut self) {
        // SAFETY: The lock is held, by the type invariant.
        unsafe { extra::mnh_mmap_write_unlock(self.0.as_raw()) };
    }
}
