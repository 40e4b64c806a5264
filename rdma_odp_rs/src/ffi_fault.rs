// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! Reading the page tables of a process for a region.
//!
//! # Locks
//!
//! mmap lock → locks of the VMAs → the region's mutex. What holds others off holds all three
//! until the entries are merged.

use crate::{
    bindings as extra,
    entry::{Entry, ERROR},
    ffi_umem::{Locked, OdpUmem},
    region::Region,
    umem::{Access, Backing},
};
use core::cell::Cell;
use kernel::{
    bindings, error::to_result, mm::MmWithUser, page::PAGE_SIZE, prelude::*, types::Opaque,
};
use mmu_notifier_helpers::{
    fault::DEFAULT_TIMEOUT,
    mmap::{has_no_secret, MmapLocked, MmapReadKillable, MmapWriteKillable},
    range::PageRange,
    retry::Patience,
    wait::{fatal_signal_pending, Clock},
};

/// One fault of a region.
pub(crate) struct Source<'a> {
    umem: &'a OdpUmem,
    region: &'a Region,
    mm: &'a MmWithUser,
    clock: Cell<Option<Clock>>,
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
            default_flags: access.wanted().raw(),
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

    /// Fills `read` with what is there, and returns the sequence to compare with.
    ///
    /// # Errors
    ///
    /// `EFAULT`: `access` wants a page of secret memory.
    fn look(
        &self,
        mmap: &MmapWriteKillable<'_>,
        pages: &PageRange,
        access: Access,
        read: &mut [Entry],
    ) -> Result<usize> {
        let began = self.begin();
        let passive = self.passive();
        let mut hmm = Self::request(&passive, pages, Access::Look, read);
        // SAFETY: The mmap lock is held, `mm` keeps its users above zero, there is room for an
        // entry for each page, and the record lives on.
        to_result(unsafe { extra::hmm_range_fault(&mut hmm) })?;
        hide_secrets(mmap, pages, access, read)?;
        Ok(began)
    }
}

/// Makes errors of the entries of secret memory.
///
/// # Errors
///
/// `EFAULT`: a page of it is wanted.
fn hide_secrets(
    mmap: &impl MmapLocked,
    pages: &PageRange,
    access: Access,
    read: &mut [Entry],
) -> Result {
    for secret in mmap.secrets(pages) {
        if access != Access::Look {
            return Err(EFAULT);
        }
        let entries = read.get_mut(secret).ok_or(EINVAL)?;
        entries.fill(Entry::from_raw(ERROR));
    }
    Ok(())
}

/// Faults in what `access` wants and `read`, a look at `pages`, did not find. Returns whether it is
/// worth looking again.
fn fault_in_nowait(
    mmap: &MmapWriteKillable<'_>,
    pages: &PageRange,
    access: Access,
    read: &[Entry],
) -> bool {
    let addresses = (pages.start()..pages.end()).step_by(PAGE_SIZE);
    addresses.zip(read).all(|(address, &entry)| {
        access.satisfied_by(entry)
            || !fatal_signal_pending() && mmap.fault_in(address, access == Access::Write)
    })
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
        // Later is as good: what was mapped here before has been unmapped, which is a collision.
        if has_no_secret(self.mm, pages) {
            return Ok(());
        }
        hide_secrets(&MmapReadKillable::lock(self.mm)?, pages, access, read)
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
        let mmap = MmapWriteKillable::lock(self.mm)?;
        mmap.exclude_vma_readers(pages)?;
        let mut began = self.look(&mmap, pages, access, read)?;
        // Who zaps in a loop has had the time to do so again, and always will.
        if !read.iter().all(|&entry| access.satisfied_by(entry))
            && fault_in_nowait(&mmap, pages, access, read)
        {
            began = self.look(&mmap, pages, access, read)?;
        }
        let done = then(began, read);
        drop(mmap);
        done
    }

    fn lock(&self) -> Locked<'_> {
        self.umem.lock()
    }

    fn collided(&self, nth: u32) -> Result {
        if nth == 1 {
            self.clock.set(Some(Clock::start(DEFAULT_TIMEOUT)));
        }
        self.go_on()
    }

    fn patience(&self) -> Patience {
        let clock = self.clock.take();
        let patience = clock.as_ref().map_or(Patience::Fresh, Clock::patience);
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
