// SPDX-License-Identifier: GPL-2.0

//! DMA mapping of what is faulted in, for devices that do not exist: there is no IOMMU, so the
//! address for the device is the physical one.

#![forbid(unsafe_code)]

use kernel::prelude::*;

#[kunit_tests(mmu_notifier_helpers_dma)]
mod tests {
    use crate::{
        bindings::{
            __NR_madvise, __NR_mmap, MADV_HUGEPAGE, MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE,
            PROT_READ, PROT_WRITE,
        },
        check::Outcome,
        ffi_dma::{bound, new_device, Driver, Mapped, Window},
        ffi_mm::{map, new_mm, unmap, write, Protection},
        puppet::Puppet,
    };
    use kernel::{
        dma::DmaAddress,
        faux,
        mm::MmWithUser,
        page::{PAGE_SHIFT, PAGE_SIZE},
        prelude::*,
        sync::Arc,
    };
    use mmu_notifier_helpers::{
        dma::DmaMap,
        fault::{Access, Buffer, Request},
        interval::IntervalNotifier,
        mirror::Subscription,
        range::PageRange,
    };

    const HUGE_ORDER: u32 = 9;
    const HUGE_SIZE: usize = PAGE_SIZE << HUGE_ORDER;

    type Notifier = IntervalNotifier<Driver>;

    fn watch(
        mm: &MmWithUser,
        device: &faux::Registration,
        range: PageRange,
        order: u32,
    ) -> Result<Arc<Notifier>> {
        watch_with(mm, range, DmaMap::new(bound(device), range, order)?)
    }

    fn watch_with(mm: &MmWithUser, range: PageRange, map: DmaMap) -> Result<Arc<Notifier>> {
        Arc::pin_init(
            IntervalNotifier::insert(
                mm,
                range,
                Ok::<_, Error>(Driver),
                kernel::new_mutex!(Window::new(map), "DmaMap"),
            ),
            GFP_KERNEL,
        )
    }

    /// Faults in `range` and maps it.
    fn fault(
        notifier: &Notifier,
        mm: &MmWithUser,
        range: PageRange,
        access: Access,
    ) -> Result<KVec<Mapped>> {
        let mut mapped = KVec::with_capacity(range.pages(), GFP_KERNEL)?;
        let mut buffer = Buffer::new(range.pages(), GFP_KERNEL)?;
        drop(notifier.fault(mm, &Request::new(range, access), &mut buffer, &mut mapped)?);
        Ok(mapped)
    }

    fn page(range: &PageRange, n: usize) -> usize {
        range.start() + n * PAGE_SIZE
    }

    /// Memory with something in each of its pages.
    fn written(mm: &MmWithUser, pages: usize) -> Result<PageRange> {
        let range = map(mm, pages, Protection::ReadWrite)?;
        for n in 0..pages {
            write(mm, page(&range, n), 1)?;
        }
        Ok(range)
    }

    #[test]
    fn pages_are_mapped_until_they_are_invalidated() -> Outcome {
        let (mm, device) = (new_mm()?, new_device(Some(64))?);
        let range = written(&mm, 4)?;
        let notifier = watch(&mm, &device, range, 0)?;
        for n in 0..4 {
            check!(!notifier.lock().is_mapped(page(&range, n)));
        }
        let mapped = fault(&notifier, &mm, range, Access::Write)?;
        check_eq!(mapped.len(), 4);
        for (n, (addr, pfn, dma)) in mapped.into_iter().enumerate() {
            check_eq!(addr, page(&range, n));
            check_eq!(dma, (pfn << PAGE_SHIFT) as DmaAddress);
            check!(notifier.lock().is_mapped(addr));
        }
        check!(!notifier.lock().is_mapped(range.start() - PAGE_SIZE));
        check!(!notifier.lock().is_mapped(range.end()));

        unmap(&mm, &PageRange::new(page(&range, 1), page(&range, 3))?)?;
        let map = notifier.lock();
        check!(map.is_mapped(page(&range, 0)) && map.is_mapped(page(&range, 3)));
        check!(!map.is_mapped(page(&range, 1)) && !map.is_mapped(page(&range, 2)));
        Ok(())
    }

    #[test]
    fn what_is_mapped_stays_where_it_is() -> Outcome {
        let (mm, device) = (new_mm()?, new_device(Some(64))?);
        let range = written(&mm, 2)?;
        let notifier = watch(&mm, &device, range, 0)?;
        let first = fault(&notifier, &mm, range, Access::Read)?;
        for access in [Access::Read, Access::Write, Access::Look] {
            let again = fault(&notifier, &mm, range, access)?;
            check_eq!(&again[..], &first[..]);
        }
        Ok(())
    }

    #[test]
    fn a_page_that_took_the_place_of_another_is_mapped() -> Outcome {
        let (mm, device) = (new_mm()?, new_device(Some(64))?);
        let range = map(&mm, 1, Protection::ReadWrite)?;
        let notifier = watch(&mm, &device, range, 0)?;
        let zeroes = fault(&notifier, &mm, range, Access::Read)?;
        let own = fault(&notifier, &mm, range, Access::Write)?;
        check!(zeroes[0].1 != own[0].1);
        check_eq!(own[0].2, (own[0].1 << PAGE_SHIFT) as DmaAddress);
        check!(notifier.lock().is_mapped(range.start()));
        Ok(())
    }

    #[test]
    fn what_is_not_there_is_not_mapped() -> Outcome {
        let (mm, device) = (new_mm()?, new_device(Some(64))?);
        let range = map(&mm, 3, Protection::ReadWrite)?;
        write(&mm, page(&range, 1), 1)?;
        let notifier = watch(&mm, &device, range, 0)?;
        let mapped = fault(&notifier, &mm, range, Access::Look)?;
        check_eq!(mapped.len(), 1);
        check_eq!(mapped[0].0, page(&range, 1));
        let map = notifier.lock();
        check!(!map.is_mapped(page(&range, 0)) && !map.is_mapped(page(&range, 2)));
        Ok(())
    }

    #[test]
    fn unbinding_empties_the_map_for_good() -> Outcome {
        let (mm, device) = (new_mm()?, new_device(Some(64))?);
        let range = written(&mm, 2)?;
        let notifier = watch(&mm, &device, range, 0)?;
        fault(&notifier, &mm, range, Access::Write)?;
        drop(device);
        check!(!notifier.lock().is_mapped(range.start()));
        let outcome = fault(&notifier, &mm, range, Access::Write);
        check_eq!(outcome.err(), Some(ENXIO));
        // The invalidation finds nothing to do.
        unmap(&mm, &range)?;
        Ok(())
    }

    #[test]
    fn the_map_goes_before_the_device() -> Outcome {
        let (mm, device) = (new_mm()?, new_device(Some(64))?);
        let range = written(&mm, 2)?;
        for _ in 0..2 {
            let notifier = watch(&mm, &device, range, 0)?;
            check_eq!(fault(&notifier, &mm, range, Access::Write)?.len(), 2);
        }
        Ok(())
    }

    #[test]
    fn devices_that_need_bounce_buffers_are_refused() -> Outcome {
        let range = PageRange::new(0, PAGE_SIZE)?;
        // Not known to be coherent, and too few bits for the memory that there is.
        for bits in [None, Some(24)] {
            let device = new_device(bits)?;
            let outcome = DmaMap::new(bound(&device), range, 0);
            check_eq!(outcome.err(), Some(EOPNOTSUPP));
        }
        Ok(())
    }

    #[test]
    fn ranges_that_do_not_fit() -> Outcome {
        let (mm, device) = (new_mm()?, new_device(Some(64))?);
        let huge = PageRange::new(HUGE_SIZE, 2 * HUGE_SIZE)?;
        for (range, order) in [
            (PageRange::new(PAGE_SIZE, 2 * PAGE_SIZE)?, 1),
            (PageRange::new(PAGE_SIZE, 3 * PAGE_SIZE)?, 1),
            (PageRange::new(0, 3 * PAGE_SIZE)?, 1),
            (huge, HUGE_ORDER + 1),
            (huge, usize::BITS - PAGE_SHIFT as u32),
            (huge, usize::BITS),
        ] {
            let outcome = DmaMap::new(bound(&device), range, order);
            check_eq!(outcome.err(), Some(EINVAL));
        }
        let too_much = DmaMap::new(bound(&device), PageRange::ALL, 0);
        check_eq!(too_much.err(), Some(ENOMEM));

        // A map for less than what is watched, and so published.
        let range = written(&mm, 4)?;
        for (first, end) in [(1, 4), (0, 3)] {
            let part = PageRange::new(page(&range, first), page(&range, end))?;
            let notifier = watch_with(&mm, range, DmaMap::new(bound(&device), part, 0)?)?;
            let outcome = fault(&notifier, &mm, range, Access::Write);
            check_eq!(outcome.err(), Some(EINVAL));
            check_eq!(fault(&notifier, &mm, part, Access::Write)?.len(), 3);
        }
        Ok(())
    }

    #[test]
    fn single_pages_make_no_entry() -> Outcome {
        let (mm, device) = (new_mm()?, new_device(Some(64))?);
        let all = written(&mm, 3)?;
        let start = all.start().next_multiple_of(2 * PAGE_SIZE);
        let range = PageRange::new(start, start + 2 * PAGE_SIZE)?;
        let notifier = watch(&mm, &device, range, 1)?;
        let outcome = fault(&notifier, &mm, range, Access::Write);
        check_eq!(outcome.err(), Some(EINVAL));
        let half = PageRange::new(start, start + PAGE_SIZE)?;
        let outcome = fault(&notifier, &mm, half, Access::Write);
        check_eq!(outcome.err(), Some(EINVAL));
        check!(!notifier.lock().is_mapped(start));
        Ok(())
    }

    #[test]
    fn huge_pages_are_mapped_as_a_whole() -> Outcome {
        let device = new_device(Some(64))?;
        let puppet = Puppet::start()?;
        let range = PageRange::new(64 << 30, (64 << 30) + 2 * HUGE_SIZE)?;
        let (addr, len) = (range.start() as i64, range.len() as i64);
        let protection = PROT_READ | PROT_WRITE;
        let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
        puppet.call(
            __NR_mmap,
            [addr, len, protection.into(), flags.into(), -1, 0],
        )?;
        puppet.call(__NR_madvise, [addr, len, MADV_HUGEPAGE.into()])?;
        let mm = puppet.mm()?;
        let notifier = watch(&mm, &device, range, HUGE_ORDER)?;
        let mapped = fault(&notifier, &mm, range, Access::Write)?;
        check_eq!(mapped.len(), 2);
        for (n, (addr, pfn, dma)) in mapped.into_iter().enumerate() {
            check_eq!(addr, range.start() + n * HUGE_SIZE);
            check_eq!(dma, (pfn << PAGE_SHIFT) as DmaAddress);
            check_eq!(dma % HUGE_SIZE as DmaAddress, 0);
        }
        // A page of the second one goes away, and with it the whole entry.
        let middle = range.start() + HUGE_SIZE + 5 * PAGE_SIZE;
        unmap(&mm, &PageRange::new(middle, middle + PAGE_SIZE)?)?;
        let map = notifier.lock();
        check!(map.is_mapped(range.start()) && map.is_mapped(range.start() + HUGE_SIZE - 1));
        check!(!map.is_mapped(range.start() + HUGE_SIZE) && !map.is_mapped(range.end() - 1));
        Ok(())
    }
}
