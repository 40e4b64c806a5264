// SPDX-License-Identifier: GPL-2.0

//! Private memory of a device: how it is had, how processes come by it, and how it comes back.

#![forbid(unsafe_code)]

use kernel::prelude::*;

#[kunit_tests(mmu_notifier_helpers_device_memory)]
mod tests {
    use crate::{
        bindings::{__NR_madvise, MADV_DONTNEED, MADV_HUGEPAGE},
        check::{Failure, Outcome},
        device::{chunk, owner, Device, BLOCKS, MANY},
        ffi_mm::{map, new_mm, reads_as, touch, unmap, write_each, Protection::ReadWrite},
        ffi_mover::{nowhere, Moving},
        ffi_recorder::{attach_with, request, Context, Recorder, Seen, Shadow},
        ledger::Ledger,
        puppet::Puppet,
        stage::pages,
    };
    use kernel::{mm::MmWithUser, page::PAGE_SIZE, prelude::*};
    use mmu_notifier_helpers::{
        device_memory::Kind,
        fault::{Access, Buffer, Request},
        frames::Order,
        migrate::{Room, Select, MOST_PAGES},
        mirror::Subscription,
        notifier::Attachment,
        pages::{Memory, View, HUGE_ORDER, HUGE_PAGES},
        range::PageRange,
    };

    type Space = Attachment<Recorder<1>>;

    /// A mirror that records what has to do with `range`, in whatever memory it is.
    fn space(mm: &MmWithUser, range: PageRange) -> Result<Space> {
        let shadow = Shadow::of(range).blind();
        attach_with(&Context::<1>::get(mm)?, Recorder::default(), shadow)
    }

    /// Moves pages without publishing where they went, and tells how many.
    fn migrate(
        space: &Space,
        mm: &MmWithUser,
        range: &PageRange,
        select: Select,
        moving: &mut Moving<'_>,
    ) -> Result<usize> {
        let mut room = Room::new(MOST_PAGES, GFP_KERNEL)?;
        let migrated = space.migrate(mm, range, select, moving, &mut room, None)?;
        Ok(migrated.pages)
    }

    /// In how many pieces the pages of `range` are that are in private memory, and how many are.
    fn private(space: &Space, mm: &MmWithUser, range: &PageRange) -> Result<(usize, usize)> {
        let mut buffer = Buffer::new(range.pages(), GFP_KERNEL)?;
        let views = space.look(mm, *range, Some(owner()), &mut buffer)?;
        let (mut small, mut huge) = (0, 0);
        for view in views {
            match view {
                View::Mapped {
                    memory: Memory::OwnPrivate,
                    order: 0,
                    ..
                } => small += 1,
                View::Mapped {
                    memory: Memory::OwnPrivate,
                    ..
                } => huge += 1,
                _ => (),
            }
        }
        Ok((small + huge / HUGE_PAGES, small + huge))
    }

    fn byte(page: usize) -> u8 {
        page as u8 | 1
    }

    #[test]
    fn pages_come_back_when_they_are_not_used() -> Outcome {
        let device = Device::new()?;
        check_eq!((device.kind(), device.pages()), (Kind::Private, MANY));
        let [first, second] = [Order::Page; 2].map(|order| device.alloc(order));
        let first = first.ok_or(ENOMEM)?;
        let second = second.ok_or(ENOMEM)?;
        check_eq!(device.used(), 2);
        check_eq!(first.order(), 0);
        check!(device.index(first.pfn()).is_some());
        check!(first.pfn() != second.pfn());
        drop(first);
        check_eq!((device.used(), device.emptied()), (1, [0; BLOCKS]));
        drop(second);
        check_eq!(device.used(), 0);
        check_eq!(device.emptied().iter().sum::<usize>(), 1);
        check!(device.index(0).is_none());
        Ok(())
    }

    #[test]
    fn blocks_are_handed_out_as_long_as_there_are_any() -> Outcome {
        let device = Device::new()?;
        for _ in 0..2 {
            let page = device.alloc(Order::Page).ok_or(ENOMEM)?;
            let huge = device.alloc(Order::Huge).ok_or(ENOMEM)?;
            check_eq!((huge.order(), huge.pfn() % HUGE_PAGES), (HUGE_ORDER, 0));
            check!(device.alloc(Order::Huge).is_none());
            check_eq!(device.used(), HUGE_PAGES + 1);
            drop(page);
            let other = device.alloc(Order::Huge).ok_or(ENOMEM)?;
            check!(device.alloc(Order::Page).is_none());
            drop((huge, other));
            check_eq!(device.used(), 0);
        }
        check_eq!(device.emptied(), [4, 2]);
        Ok(())
    }

    #[test]
    fn what_is_no_chunk() -> Outcome {
        let wrong = |kind, pages| chunk(kind, pages).err();
        for pages in [0, 1, HUGE_PAGES - 1, HUGE_PAGES + 1, usize::MAX] {
            check_eq!(wrong(Kind::Private, pages), Some(EINVAL));
            check_eq!(wrong(nowhere(0), pages), Some(EINVAL));
        }
        check_eq!(wrong(nowhere(PAGE_SIZE as u64), HUGE_PAGES), Some(EINVAL));
        // The kernel is there, and nothing after the last address.
        check_eq!(wrong(nowhere(16 << 20), HUGE_PAGES), Some(ENXIO));
        let last = u64::MAX - (HUGE_PAGES * PAGE_SIZE) as u64 + 1;
        check_eq!(wrong(nowhere(last), 2 * HUGE_PAGES), Some(EINVAL));
        Ok(())
    }

    #[test]
    fn the_cpu_gets_pages_back_one_by_one() -> Outcome {
        let _ledger = Ledger::open()?;
        let device = Device::new()?;
        let mm = new_mm()?;
        let range = map(&mm, 4, ReadWrite)?;
        write_each(&mm, &range, byte)?;
        let space = space(&mm, range)?;
        let mut moving = Moving::to(&device, MANY, 0);
        check_eq!(
            migrate(&space, &mm, &range, Select::System, &mut moving)?,
            4
        );
        check_eq!(device.used(), 4);
        check_eq!(private(&space, &mm, &range)?, (4, 4));

        touch(&mm, range.start())?;
        check_eq!(device.used(), 3);
        check_eq!(private(&space, &mm, &range)?, (3, 3));
        check!(reads_as(&mm, &range, byte)?);
        check_eq!((device.used(), device.emptied()), (0, [1, 0]));
        Ok(())
    }

    #[test]
    fn what_the_process_gives_up_comes_back() -> Outcome {
        let _ledger = Ledger::open()?;
        let device = Device::new()?;
        let mm = new_mm()?;
        let range = map(&mm, 4, ReadWrite)?;
        write_each(&mm, &range, byte)?;
        let space = space(&mm, range)?;
        let mut moving = Moving::to(&device, MANY, 0);
        check_eq!(
            migrate(&space, &mm, &range, Select::System, &mut moving)?,
            4
        );
        unmap(&mm, &pages(&range, 1, 2)?)?;
        check_eq!((device.used(), device.emptied()), (2, [0; BLOCKS]));
        drop((space, mm));
        check_eq!((device.used(), device.emptied()), (0, [1, 0]));
        Ok(())
    }

    #[test]
    fn pages_are_fetched_by_their_owner() -> Outcome {
        let _ledger = Ledger::open()?;
        let device = Device::new()?;
        let mm = new_mm()?;
        let range = map(&mm, 4, ReadWrite)?;
        write_each(&mm, &range, byte)?;
        let space = space(&mm, range)?;
        let mut moving = Moving::to(&device, 3, 0);
        check_eq!(
            migrate(&space, &mm, &range, Select::System, &mut moving)?,
            3
        );

        // Somebody else has none there.
        let other = mmu_notifier_helpers::range::Owner::of(&device);
        let mut moving = Moving::from(&device, MANY, 0);
        let select = Select::Private(other);
        check_eq!(migrate(&space, &mm, &range, select, &mut moving)?, 0);
        check_eq!(device.used(), 3);
        let select = Select::Private(owner());
        check_eq!(migrate(&space, &mm, &range, select, &mut moving)?, 3);
        check_eq!(device.used(), 0);
        check!(reads_as(&mm, &range, byte)?);
        Ok(())
    }

    /// A process with 2 MiB that lie in private memory in one piece, where that begins, and a
    /// mirror that records some pages in the middle.
    fn huge(device: &Device) -> Outcome<(Puppet, PageRange, Space, usize)> {
        let (puppet, range) = Puppet::with_memory(HUGE_PAGES)?;
        let args = [
            range.start() as i64,
            range.len() as i64,
            MADV_HUGEPAGE.into(),
        ];
        puppet.call(__NR_madvise, args)?;
        let mm = puppet.mm()?;
        write_each(&mm, &range, byte)?;
        let space = space(&mm, pages(&range, 8, 4)?)?;
        let mut moving = Moving::to(device, 0, 1);
        let moved = migrate(&space, &mm, &range, Select::System, &mut moving)?;
        check_eq!((moved, device.used()), (HUGE_PAGES, HUGE_PAGES));
        check_eq!(private(&space, &mm, &range)?, (1, HUGE_PAGES));
        let first = *moving.placed.first().ok_or(EINVAL)?;
        Ok((puppet, range, space, first))
    }

    #[test]
    fn a_fault_in_the_middle_of_a_huge_page_names_the_right_frames() -> Outcome {
        let _ledger = Ledger::open()?;
        let device = Device::new()?;
        let (puppet, range, space, first) = huge(&device)?;
        let mm = puppet.mm()?;
        // From the middle, from the start, and up to the end.
        for (from, count) in [(8, 4), (0, 12), (10, HUGE_PAGES - 10)] {
            let part = pages(&range, from, count)?;
            let wanted = Request::new(part, Access::Write).with_owner(owner());
            request(&space, &mm, &wanted, count)?;
            for page in from.max(8)..12 {
                let wanted = Seen::Mapped {
                    pfn: first + page,
                    order: HUGE_ORDER,
                    writable: true,
                    exclusive: false,
                    first: 0,
                };
                let addr = range.start() + page * PAGE_SIZE;
                check_eq!(space.lock().page(addr), Some(wanted));
            }
        }
        check_eq!(device.used(), HUGE_PAGES);
        Ok(())
    }

    #[test]
    fn the_cpu_gets_a_huge_page_back_whole() -> Outcome {
        let _ledger = Ledger::open()?;
        let device = Device::new()?;
        let (puppet, range, _space, _) = huge(&device)?;
        let mm = puppet.mm()?;
        touch(&mm, range.start() + 5 * PAGE_SIZE)?;
        check_eq!((device.used(), device.emptied()), (0, [1, 0]));
        check!(reads_as(&mm, &range, byte)?);
        Ok(())
    }

    #[test]
    fn a_huge_page_comes_back_in_pieces() -> Outcome {
        let _ledger = Ledger::open()?;
        let device = Device::new()?;
        let (puppet, range, space, _) = huge(&device)?;
        let mm = puppet.mm()?;
        // The core does not split it while the CPU holds it, but when the CPU comes again, which
        // then wants one page.
        device.let_find(100, 0);
        touch(&mm, range.start() + 5 * PAGE_SIZE)?;
        check_eq!(device.used(), HUGE_PAGES - 1);
        let left = HUGE_PAGES - 1;
        check_eq!(private(&space, &mm, &range)?, (left, left));
        check_eq!(device.emptied(), [0; BLOCKS]);

        let lost = pages(&range, 200, 12)?;
        let args = [lost.start() as i64, lost.len() as i64, MADV_DONTNEED.into()];
        puppet.call(__NR_madvise, args)?;
        check_eq!(device.used(), left - 12);
        let what_is_left = |page| {
            if (200..212).contains(&page) {
                0
            } else {
                byte(page)
            }
        };
        check!(reads_as(&mm, &range, what_is_left)?);
        check_eq!((device.used(), device.emptied()), (0, [1, 0]));
        let again = device.alloc(Order::Huge).ok_or(ENOMEM)?;
        check_eq!(device.used(), HUGE_PAGES);
        drop(again);
        Ok(())
    }

    #[test]
    fn the_cpu_waits_where_there_is_no_memory() -> Outcome {
        let _ledger = Ledger::open()?;
        let device = Device::new()?;
        let (puppet, range, space, _) = huge(&device)?;
        let mm = puppet.mm()?;
        // A thread of the kernel does not wait, but gets an error.
        device.let_find(0, 0);
        check_eq!(touch(&mm, range.start()), Err(EFAULT));
        device.refuse(Some(EIO));
        check_eq!(touch(&mm, range.start()), Err(EFAULT));
        check_eq!(private(&space, &mm, &range)?, (1, HUGE_PAGES));
        device.refuse(None);
        device.let_find(MANY, 0);
        check!(reads_as(&mm, &range, byte)?);
        check_eq!(device.used(), 0);
        Ok(())
    }

    #[test]
    fn whatever_is_in_use_can_be_evicted() -> Outcome {
        let _ledger = Ledger::open()?;
        let device = Device::new()?;
        let (puppet, range, space, _) = huge(&device)?;
        let mm = puppet.mm()?;
        let other = new_mm()?;
        let theirs = map(&other, 4, ReadWrite)?;
        write_each(&other, &theirs, byte)?;
        let their_space = self::space(&other, theirs)?;
        let mut moving = Moving::to(&device, MANY, 0);
        let moved = migrate(&their_space, &other, &theirs, Select::System, &mut moving)?;
        check_eq!((moved, device.used()), (4, HUGE_PAGES + 4));

        // Nobody can have what somebody else has got just now.
        let taken = device.alloc(Order::Page).ok_or(ENOMEM)?;
        check_eq!(device.give_back(0, 0), Ok(HUGE_PAGES + 5));
        check_eq!(device.give_back(2, 0), Ok(HUGE_PAGES + 3));
        check_eq!(device.give_back(MANY, 0), Ok(HUGE_PAGES + 1));
        check_eq!(device.give_back(0, 1), Ok(1));
        drop(taken);
        check_eq!((device.used(), device.emptied()), (0, [1, 1]));
        drop(device);
        check_eq!(private(&space, &mm, &range)?, (0, 0));
        check!(reads_as(&mm, &range, byte)?);
        check!(reads_as(&other, &theirs, byte)?);
        Ok(())
    }

    #[test]
    fn a_destination_is_evicted_by_nobody() -> Outcome {
        let device = Device::new()?;
        let [page, huge] = [Order::Page, Order::Huge].map(|order| device.alloc(order));
        check_eq!(device.give_back(MANY, MANY), Ok(HUGE_PAGES + 1));
        if page.is_none() || huge.is_none() {
            return Err(Failure::untrue("there is room for both"));
        }
        drop((page, huge));
        check_eq!(device.give_back(MANY, MANY), Ok(0));
        Ok(())
    }
}
