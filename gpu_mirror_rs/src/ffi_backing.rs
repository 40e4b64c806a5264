// SPDX-License-Identifier: GPL-2.0

//! The memory that simulates that of a private device.
//!
//! The CPU cannot reach the pages of such a device; what is in them is in system memory that
//! belongs to the driver. It is had by blocks of 2 MiB: in one piece, or in single pages when there
//! is no such piece. A block is there from before the first of its device pages is used until after
//! the last.

use crate::{engine::Resolve, memory::Control, migration::ToSystem, module_parameters};
use kernel::{
    prelude::*,
    sync::{
        atomic::{Acquire, Atomic, Full},
        Arc,
    },
};
use mmu_notifier_helpers::{
    device_memory::{Chunk, CpuFault, DeviceMemory, Kind, Physical},
    pages::{OwnPages, HUGE_ORDER, HUGE_PAGES},
};
use pin_init::init_array_from_fn;

/// log2 of the pages that come back together when a CPU stumbles on one of them: 64 KiB, as many as
/// the CPU's page faults on files map at a time.
const AROUND: u32 = 4;

/// The blocks of a chunk, each the address of a [`Block`] or zero.
///
/// # Invariants
///
/// An address is one from `KBox::into_raw()`, and nobody else's.
struct Backing(KVec<Atomic<usize>>);

/// The memory of a block.
enum Block {
    Whole(OwnPages),
    Scattered(KBox<[OwnPages; HUGE_PAGES]>),
}

impl Block {
    fn new() -> Result<Self> {
        if let Some(pages) = OwnPages::new(HUGE_ORDER) {
            return Ok(Self::Whole(pages));
        }
        let pages = init_array_from_fn(|_| OwnPages::new(0).ok_or(ENOMEM));
        Ok(Self::Scattered(KBox::init(pages, GFP_KERNEL)?))
    }

    /// The frame of page `page`, and how many pages from there on are neighbours.
    fn frame(&self, page: usize) -> (usize, usize) {
        match self {
            Self::Whole(pages) => (pages.pfn() + page, HUGE_PAGES - page),
            Self::Scattered(pages) => (pages[page].pfn(), 1),
        }
    }
}

impl Backing {
    /// For a chunk of `pages` pages, without any memory yet.
    fn new(pages: usize) -> Result<Self> {
        let blocks = pages.div_ceil(HUGE_PAGES);
        let mut backing = KVec::with_capacity(blocks, GFP_KERNEL)?;
        for _ in 0..blocks {
            backing.push(Atomic::new(0), GFP_KERNEL)?;
        }
        Ok(Self(backing))
    }

    /// Makes sure that there is memory for the page `index` of the chunk, which must be in use.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    fn ensure(&self, index: usize) -> Result {
        let slot = self.0.get(index / HUGE_PAGES).ok_or(EINVAL)?;
        if slot.load(Acquire) != 0 {
            return Ok(());
        }
        let new = KBox::into_raw(KBox::new(Block::new()?, GFP_KERNEL)?);
        // INVARIANT: It is given to the slot.
        if slot.cmpxchg(0, new as usize, Full).is_err() {
            // SAFETY: It came from `into_raw`, and somebody else's is used in place of it.
            drop(unsafe { KBox::from_raw(new) });
        }
        Ok(())
    }

    /// The frame with what is in the page `index` of the chunk, and how many pages from there on
    /// are neighbours. The page must be in use.
    fn frame(&self, index: usize) -> Option<(usize, usize)> {
        let block = self.0.get(index / HUGE_PAGES)?.load(Acquire) as *const Block;
        // SAFETY: By the type invariant it is valid unless it is null, and stays so for as long as
        // a page of the block is in use.
        Some(unsafe { block.as_ref() }?.frame(index % HUGE_PAGES))
    }

    /// Frees the memory of a block.
    ///
    /// Does not sleep.
    ///
    /// # Safety
    ///
    /// No device page of it may be in use.
    unsafe fn release(&self, block: usize) {
        if let Some(slot) = self.0.get(block) {
            let block = slot.xchg(0, Full) as *mut Block;
            // SAFETY: By the type invariant, and nobody uses it by the caller's promise.
            drop((!block.is_null()).then(|| unsafe { KBox::from_raw(block) }));
        }
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        for block in 0..self.0.len() {
            // SAFETY: The chunk is gone.
            unsafe { self.release(block) };
        }
    }
}

/// The memory of the coherent devices, if there are any. As in C, the one is not used without the
/// other.
pub(crate) fn coherent() -> Option<[Kind; 2]> {
    let addrs = [
        *module_parameters::spm_addr_dev0.value_ref(),
        *module_parameters::spm_addr_dev1.value_ref(),
    ];
    // SAFETY: Whoever loads the module says that the memory is there and set apart for it.
    (!addrs.contains(&0)).then(|| addrs.map(|addr| Kind::Coherent(unsafe { Physical::new(addr) })))
}

/// What the driver knows of the pages of a chunk.
pub(crate) struct Pages {
    control: Arc<Control>,
    /// Where the CPU finds what is in private pages.
    backing: Option<Backing>,
}

impl Pages {
    /// For a chunk of `pages` pages.
    pub(crate) fn new(control: Arc<Control>, kind: Kind, pages: usize) -> Result<Self> {
        let backing = match kind {
            Kind::Private => Some(Backing::new(pages)?),
            Kind::Coherent(_) => None,
        };
        Ok(Self { control, backing })
    }

    /// Makes sure that there is memory for the page `index`, which must be in use.
    ///
    /// May sleep.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub(crate) fn ensure(&self, index: usize) -> Result {
        self.backing
            .as_ref()
            .map_or(Ok(()), |backing| backing.ensure(index))
    }
}

impl DeviceMemory for Pages {
    fn emptied(&self, block: usize) {
        if let Some(backing) = &self.backing {
            // SAFETY: That is what the call says.
            unsafe { backing.release(block) };
        }
    }

    fn migrate_to_ram(chunk: &Chunk<Self>, fault: CpuFault<'_>) -> Result {
        let control = &chunk.driver().control;
        fault.migrate(AROUND, &mut ToSystem::for_cpu(chunk, control))
    }
}

impl Resolve for Chunk<Pages> {
    fn backing(&self, pfn: usize) -> Option<(usize, usize)> {
        self.driver().backing.as_ref()?.frame(self.index(pfn)?)
    }
}
