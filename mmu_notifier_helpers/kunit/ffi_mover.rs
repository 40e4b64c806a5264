// SPDX-License-Identifier: GPL-2.0

//! A mover whose places are counted.

use crate::device::{backing, Driver};
use kernel::prelude::*;
use mmu_notifier_helpers::{
    device_memory::{Chunk, Kind, Physical},
    frames::Order,
    migrate::{Destination, Mover, Place, Source},
    pages,
};

/// Coherent memory at an address at which no chunk is made.
pub(crate) fn nowhere(addr: u64) -> Kind {
    // SAFETY: Only what is refused is asked for.
    Kind::Coherent(unsafe { Physical::new(addr) })
}

/// Moves pages, for as long as there are places.
pub(crate) struct Moving<'a> {
    /// How many places there are for single pages, and for 2 MiB.
    pub(crate) singles: usize,
    pub(crate) huges: usize,
    /// Whose private memory pages may be in, or go to.
    device: Option<&'a Chunk<Driver>>,
    to_device: bool,
    /// The order of the places, whatever is asked for.
    pub(crate) order: Option<u32>,
    /// What is done after the first place was found, before it is copied to.
    pub(crate) meanwhile: Option<&'a dyn Fn()>,
    /// The first frames of the places.
    pub(crate) placed: KVec<usize>,
}

impl<'a> Moving<'a> {
    fn new(
        device: Option<&'a Chunk<Driver>>,
        to_device: bool,
        singles: usize,
        huges: usize,
    ) -> Self {
        Self {
            singles,
            huges,
            device,
            to_device,
            order: None,
            meanwhile: None,
            placed: KVec::new(),
        }
    }

    /// To the system's memory, from there.
    pub(crate) fn within_system(singles: usize, huges: usize) -> Self {
        Self::new(None, false, singles, huges)
    }

    /// To the memory of `device`.
    pub(crate) fn to(device: &'a Chunk<Driver>, singles: usize, huges: usize) -> Self {
        Self::new(Some(device), true, singles, huges)
    }

    /// From the memory of `device` to the system's.
    pub(crate) fn from(device: &'a Chunk<Driver>, singles: usize, huges: usize) -> Self {
        Self::new(Some(device), false, singles, huges)
    }

    /// Where the CPU finds what is in the frame `pfn`.
    fn resolve(&self, pfn: usize) -> usize {
        let resolved = self.device.and_then(|device| backing(device, pfn));
        resolved.unwrap_or(pfn)
    }
}

impl Mover for Moving<'_> {
    fn allocate(&mut self, order: u32, at: Option<Place<'_>>) -> Option<Destination> {
        let left = match order {
            0 => &mut self.singles,
            _ => &mut self.huges,
        };
        *left = left.checked_sub(1)?;
        let new = match (self.device.filter(|_| self.to_device), order) {
            (Some(device), 0) => device.alloc(Order::Page),
            (Some(device), _) => device.alloc(Order::Huge),
            (None, order) => Destination::system(self.order.unwrap_or(order), at),
        }?;
        // Without it the test fails, too.
        let _ = self.placed.push(new.pfn(), GFP_KERNEL);
        Some(new)
    }

    fn copy(&mut self, source: Source, destination: &Destination) {
        if let Some(meanwhile) = self.meanwhile.take() {
            meanwhile();
        }
        let dst = self.resolve(destination.pfn());
        let pages = source.pages();
        match source.pfn() {
            // SAFETY: Nobody else uses either, and private memory was resolved. Both have as many
            // pages, which are neighbours.
            Some(src) => unsafe { pages::copy_frames(dst, self.resolve(src), pages) },
            // SAFETY: As above.
            None => unsafe { pages::clear_frames(dst, pages) },
        }
    }
}
