// SPDX-License-Identifier: GPL-2.0

//! A device with private memory, which is memory of the system's that the CPU does not find.

#![forbid(unsafe_code)]

use crate::{ffi_mover::Moving, wait::eventually};
use core::ops::Deref;
use kernel::{
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};
use mmu_notifier_helpers::{
    device_memory::{Chunk, CpuFault, DeviceMemory, Kind},
    migrate::{Room, MOST_PAGES},
    pages::{OwnPages, HUGE_ORDER, HUGE_PAGES},
    range::Owner,
};

/// How many times 2 MiB a device has.
pub(crate) const BLOCKS: usize = 2;
/// More places than a test needs.
pub(crate) const MANY: usize = BLOCKS * HUGE_PAGES;

/// What is known of the memory, and what is done when the CPU stumbles on it.
pub(crate) struct Driver {
    backing: [OwnPages; BLOCKS],
    emptied: [Atomic<usize>; BLOCKS],
    /// How many places the CPU finds, for single pages and for 2 MiB.
    singles: Atomic<usize>,
    huges: Atomic<usize>,
    /// What the CPU is told in place of that, if it is not zero.
    refusal: Atomic<i32>,
}

impl DeviceMemory for Driver {
    fn emptied(&self, block: usize) {
        self.emptied[block].fetch_add(1, Relaxed);
    }

    fn migrate_to_ram(chunk: &Chunk<Self>, fault: CpuFault<'_>) -> Result {
        let this = chunk.driver();
        match this.refusal.load(Relaxed) {
            0 => {
                let (singles, huges) = (this.singles.load(Relaxed), this.huges.load(Relaxed));
                fault.migrate(0, &mut Moving::from(chunk, singles, huges))
            }
            errno => Err(Error::from_errno(errno)),
        }
    }
}

/// Who owns the memory of all devices.
pub(crate) fn owner() -> Owner {
    static IDENTITY: Atomic<i32> = Atomic::new(0);

    Owner::of(&IDENTITY)
}

/// Makes a chunk of `pages` pages with memory for [`BLOCKS`].
pub(crate) fn chunk(kind: Kind, pages: usize) -> Result<Pin<KBox<Chunk<Driver>>>> {
    let block = || OwnPages::new(HUGE_ORDER).ok_or(ENOMEM);
    let driver = Driver {
        backing: [block()?, block()?],
        emptied: [Atomic::new(0), Atomic::new(0)],
        singles: Atomic::new(MANY),
        huges: Atomic::new(MANY),
        refusal: Atomic::new(0),
    };
    let name = c"mmu_notifier_helpers_kunit";
    KBox::pin_init(Chunk::new(driver, owner(), kind, pages, name), GFP_KERNEL)
}

/// A device. When it is dropped, it gives back what processes have in its memory.
pub(crate) struct Device(Pin<KBox<Chunk<Driver>>>);

impl Device {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(chunk(Kind::Private, BLOCKS * HUGE_PAGES)?))
    }

    /// How often each block was emptied.
    pub(crate) fn emptied(&self) -> [usize; BLOCKS] {
        let emptied = &self.driver().emptied;
        core::array::from_fn(|block| emptied[block].load(Relaxed))
    }

    /// Lets the CPU find as many places from now on when it stumbles.
    pub(crate) fn let_find(&self, singles: usize, huges: usize) {
        self.driver().singles.store(singles, Relaxed);
        self.driver().huges.store(huges, Relaxed);
    }

    /// Answers the CPU with `refusal`, or with what is in the page.
    pub(crate) fn refuse(&self, refusal: Option<Error>) {
        let errno = refusal.map_or(0, Error::to_errno);
        self.driver().refusal.store(errno, Relaxed);
    }

    /// Moves all pages to the system's memory, as far as there are places, and tells how many are
    /// left.
    pub(crate) fn give_back(&self, singles: usize, huges: usize) -> Result<usize> {
        let mut room = Room::new(MOST_PAGES, GFP_KERNEL)?;
        Ok(self.evict(&mut room, &mut Moving::from(self, singles, huges)))
    }
}

impl Deref for Device {
    type Target = Chunk<Driver>;

    fn deref(&self) -> &Chunk<Driver> {
        &self.0
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // What is left is waited for.
        if !eventually(|| self.give_back(MANY, MANY) == Ok(0)) {
            pr_err!("a device under test does not get its memory back\n");
        }
    }
}

/// Where the CPU finds what is in the frame `pfn`, if that is private memory of `chunk`.
pub(crate) fn backing(chunk: &Chunk<Driver>, pfn: usize) -> Option<usize> {
    let index = chunk.index(pfn)?;
    let block = chunk.driver().backing.get(index / HUGE_PAGES)?;
    Some(block.pfn() + index % HUGE_PAGES)
}
