// SPDX-License-Identifier: GPL-2.0

//! Devices for DMA without hardware, and a shadow that maps for them: what is mapped is never used.

use core::ops::Deref;
use kernel::{
    bindings,
    device::{Bound, Device},
    dma::{DmaAddress, DmaMask},
    error::to_result,
    faux,
    prelude::*,
};
use mmu_notifier_helpers::{
    dma::DmaMap, invlock::Publish, mirror::Mirror, pages::Faulted, range::Invalidation,
};

/// An entry that was mapped: address, page frame, address for the device.
pub(crate) type Mapped = (usize, usize, DmaAddress);

/// A map as a shadow.
pub(crate) struct Window(DmaMap);

impl Window {
    pub(crate) const fn new(map: DmaMap) -> Self {
        Self(map)
    }
}

impl Deref for Window {
    type Target = DmaMap;

    fn deref(&self) -> &DmaMap {
        &self.0
    }
}

// SAFETY: `DmaMap::map` neither sleeps nor waits for memory, and what was mapped is noted within
// the capacity of the vector. The entries are dropped; what is mapped of them `zap` unmaps.
unsafe impl Publish<Faulted<'_, KVec<Mapped>>> for Window {
    type Output = Result;

    fn publish(&mut self, Faulted { pages, reserve }: Faulted<'_, KVec<Mapped>>) -> Result {
        self.0.map(pages, |addr, entry, dma| {
            // There is room for each page.
            let _ = reserve.push_within_capacity((addr, entry.pfn(), dma));
        })
    }
}

/// A driver with a map for its device as shadow.
pub(crate) struct Driver;

// SAFETY: What is in the range is unmapped, and no device uses an address. That does not sleep.
unsafe impl Mirror for Driver {
    type Shadow = Window;
    type Reserve = KVec<Mapped>;

    fn zap(&self, map: &mut Window, invalidation: &Invalidation) {
        map.0.unmap(invalidation.range());
    }
}

/// Makes a device that reaches addresses of `bits` bits; without `bits`, one that is not known to
/// be coherent.
pub(crate) fn new_device(bits: Option<u32>) -> Result<faux::Registration> {
    let registration = faux::Registration::new(c"mmu_notifier_helpers_kunit", None)?;
    if let Some(bits) = bits {
        let mask = DmaMask::try_new(bits)?.value();
        let raw = core::ptr::from_ref(bound(&registration))
            .cast_mut()
            .cast::<bindings::device>();
        // SAFETY: The registration keeps the device, which nobody else knows, and a `Device` is a
        // transparent wrapper. The bus leaves it to its users to say where the mask is; one that is
        // shared lies in the device itself.
        to_result(unsafe {
            (*raw).dma_mask = &raw mut (*raw).coherent_dma_mask;
            bindings::dma_set_mask(raw, mask)
        })?;
    }
    Ok(registration)
}

/// The device that a registration keeps bound.
pub(crate) fn bound(registration: &faux::Registration) -> &Device<Bound> {
    let device: &faux::Device<Bound> = registration.as_ref();
    device.as_ref()
}
