// SPDX-License-Identifier: GPL-2.0

//! The example of the module `dma`, word for word: it compiles.

use kernel::{
    device::{Bound, Device},
    dma::DmaAddress,
    mm::MmWithUser,
    page::PAGE_SHIFT,
    prelude::*,
    sync::Arc,
};
use mmu_notifier_helpers::{
    dma::DmaMap,
    fault::{Access, Buffer, Request},
    interval::IntervalNotifier,
    invlock::Publish,
    mirror::{Mirror, Subscription},
    pages::Faulted,
    range::{Invalidation, PageRange},
};

/// Memory that a device works on, and the table by which it finds each page, in their order.
pub struct Region {
    map: DmaMap,
    table: KVec<Option<DmaAddress>>,
}

// SAFETY: Neither sleeps nor waits for memory. The entries are dropped; `zap` unmaps what was
// mapped of them.
unsafe impl Publish<Faulted<'_, ()>> for Region {
    type Output = Result;

    fn publish(&mut self, Faulted { pages, .. }: Faulted<'_, ()>) -> Result {
        let start = self.map.range().start();
        self.map.map(pages, |addr, _entry, dma| {
            self.table[(addr - start) >> PAGE_SHIFT] = Some(dma);
        })
    }
}

/// The driver.
pub struct Driver;

// SAFETY: What is invalidated is not in the table any more, which the device reads for each
// transfer, nor mapped.
unsafe impl Mirror for Driver {
    type Shadow = Region;
    type Reserve = ();

    fn zap(&self, region: &mut Region, invalidation: &Invalidation) {
        let range = invalidation.range();
        let first = (range.start() - region.map.range().start()) >> PAGE_SHIFT;
        region.table[first..first + range.pages()].fill(None);
        region.map.unmap(range);
    }
}

/// Registers memory of a process.
pub fn register(
    dev: &Device<Bound>,
    mm: &MmWithUser,
    range: PageRange,
) -> Result<Arc<IntervalNotifier<Driver>>> {
    let region = Region {
        map: DmaMap::new(dev, range, 0)?,
        table: KVec::from_elem(None, range.pages(), GFP_KERNEL)?,
    };
    let shadow = kernel::new_mutex!(region, "Region");
    let driver = Ok::<_, Error>(Driver);
    Arc::pin_init(
        IntervalNotifier::insert(mm, range, driver, shadow),
        GFP_KERNEL,
    )
}

/// Lets the device write to all of it: `transfer` is called for each page and returns when the
/// device has done.
pub fn write(
    region: &IntervalNotifier<Driver>,
    mm: &MmWithUser,
    transfer: impl FnMut(DmaAddress),
) -> Result {
    let mut buffer = Buffer::new(region.range().pages(), GFP_KERNEL)?;
    let request = Request::droppable(*region.range(), Access::Write);
    let region = region.fault(mm, &request, &mut buffer, &mut ())?;
    region.table.iter().flatten().copied().for_each(transfer);
    Ok(())
}
