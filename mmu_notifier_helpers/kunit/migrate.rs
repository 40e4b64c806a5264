// SPDX-License-Identifier: GPL-2.0

//! Moving pages within the system's memory: where they go, what the shadow is told, and what is
//! left when it is given up half-way.

#![forbid(unsafe_code)]

use kernel::prelude::*;

#[kunit_tests(mmu_notifier_helpers_migrate)]
mod tests {
    use crate::{
        bindings::{__NR_madvise, __NR_mprotect, MADV_DONTNEED, MADV_HUGEPAGE, PROT_READ},
        check::{Failure, Outcome},
        device::{Device, MANY},
        ffi_mm::{
            map, map_over, new_mm, reads_as, unmap, write_each,
            Protection::{Nothing, ReadWrite},
            SharedFile,
        },
        ffi_mover::Moving,
        ffi_recorder::{attach, attach_with, fault, Context, Recorder, Seen, Shadow},
        ledger::Ledger,
        puppet::Puppet,
        stage::pages,
    };
    use core::cell::Cell;
    use kernel::{mm::MmWithUser, page::PAGE_SIZE, prelude::*};
    use mmu_notifier_helpers::{
        fault::{Access, Buffer},
        migrate::{Collected, Migrated, Room, Select, MOST_PAGES},
        mirror::Subscription,
        notifier::Attachment,
        pages::{Memory, View, HUGE_ORDER, HUGE_PAGES},
        range::{Event, PageRange},
    };

    type Space = Attachment<Recorder<1>>;

    /// Moves pages of the system's memory, and publishes where they went.
    fn migrate(
        space: &Space,
        mm: &MmWithUser,
        range: &PageRange,
        moving: &mut Moving<'_>,
    ) -> Result<Migrated> {
        let mut room = Room::new(MOST_PAGES, GFP_KERNEL)?;
        let mut buffer = Buffer::new(MOST_PAGES, GFP_KERNEL)?;
        let mut reserve = ();
        let publish = Some((&mut buffer, &mut reserve));
        space.migrate(mm, range, Select::System, moving, &mut room, publish)
    }

    /// Where the shadow has the page at `addr`.
    fn frame(space: &Space, addr: usize) -> Option<usize> {
        match space.lock().page(addr)? {
            Seen::Mapped { pfn, .. } => Some(pfn),
            Seen::Empty | Seen::Error => None,
        }
    }

    /// How many pages the shadow has, and how often something was published.
    fn recorded(space: &Space) -> (usize, usize) {
        let shadow = space.lock();
        (shadow.len(), shadow.publications())
    }

    fn frames<const N: usize>(space: &Space, range: &PageRange) -> [Option<usize>; N] {
        core::array::from_fn(|page| frame(space, range.start() + page * PAGE_SIZE))
    }

    /// What the first byte of a page is.
    fn byte(page: usize) -> u8 {
        page as u8 | 1
    }

    #[test]
    fn pages_keep_their_data_and_the_shadow_names_the_new() -> Outcome {
        let _ledger = Ledger::open()?;
        let mm = new_mm()?;
        let range = map(&mm, 4, ReadWrite)?;
        let written = pages(&range, 0, 3)?;
        write_each(&mm, &written, byte)?;
        let space = attach(&Context::<1>::get(&mm)?)?;
        fault(&space, &mm, written, Access::Write)?;
        let old: [_; 3] = frames(&space, &range);

        let mut moving = Moving::within_system(MANY, 0);
        let migrated = migrate(&space, &mm, &range, &mut moving)?;
        let all = Migrated {
            end: range.end(),
            pages: 4,
        };
        check_eq!(migrated, all);
        let shadow = space.lock();
        check_eq!((shadow.len(), shadow.publications()), (4, 2));
        check!(shadow.zaps().all(|(_, event, _)| event == Event::Migrate));
        check!(shadow.zaps().count() > 0);
        for (page, addr) in (range.start()..range.end()).step_by(PAGE_SIZE).enumerate() {
            let hole = page == 3;
            let wanted = Seen::Mapped {
                pfn: *moving.placed.get(page).ok_or(EINVAL)?,
                order: 0,
                // Nobody has looked whether it is, and a fault for writing does.
                writable: !hole,
                exclusive: false,
                first: if hole { 0 } else { byte(page) },
            };
            check_eq!(shadow.page(addr), Some(wanted));
        }
        drop(shadow);
        check_eq!(space.mirror().collisions.get(), 0);
        for old in old {
            check!(old.is_some_and(|old| !moving.placed.contains(&old)));
        }
        check!(reads_as(&mm, &written, byte)?);

        // What the shadow has is what a fault finds.
        let published: [_; 4] = frames(&space, &range);
        fault(&space, &mm, range, Access::Read)?;
        check_eq!(frames(&space, &range), published);
        Ok(())
    }

    #[test]
    fn without_publishing_the_shadow_is_rid_of_the_old() -> Outcome {
        let _ledger = Ledger::open()?;
        let mm = new_mm()?;
        let range = map(&mm, 2, ReadWrite)?;
        write_each(&mm, &range, byte)?;
        let space = attach(&Context::<1>::get(&mm)?)?;
        fault(&space, &mm, range, Access::Write)?;
        let mut room = Room::new(2, GFP_KERNEL)?;
        let mut moving = Moving::within_system(MANY, 0);
        let select = Select::System;
        let migrated = space.migrate(&mm, &range, select, &mut moving, &mut room, None)?;
        check_eq!(migrated.pages, 2);
        check_eq!(recorded(&space), (0, 1));
        check!(reads_as(&mm, &range, byte)?);
        Ok(())
    }

    #[test]
    fn what_is_given_up_stays_where_it_was() -> Outcome {
        let _ledger = Ledger::open()?;
        let device = Device::new()?;
        let mm = new_mm()?;
        let range = map(&mm, 4, ReadWrite)?;
        write_each(&mm, &range, byte)?;
        let space = attach(&Context::<1>::get(&mm)?)?;
        fault(&space, &mm, range, Access::Write)?;
        let old: [_; 4] = frames(&space, &range);
        let mut room = Room::new(4, GFP_KERNEL)?;

        let how_far: [&dyn Fn(Collected<'_>) -> bool; 4] = [
            &|collected| (0..4).all(|page| collected.has(page)),
            &|collected| {
                let copied = collected.copy(&mut Moving::to(&device, 0, 0));
                (0..4).all(|page| !copied.has_place(page))
            },
            &|collected| {
                let copied = collected.copy(&mut Moving::to(&device, 4, 0));
                device.used() == 4 && (0..4).all(|page| copied.has_place(page))
            },
            &|collected| {
                let copied = collected.copy(&mut Moving::to(&device, 2, 0));
                device.used() == 2 && copied.has_place(1) && !copied.has_place(2)
            },
        ];
        for go in how_far {
            let mmap = mm.mmap_read_lock();
            let collected = Collected::collect(&mmap, &range, Select::System, true, &mut room)?;
            check!(go(collected));
            drop(mmap);
            check_eq!(space.lock().len(), 0);
            check_eq!(device.used(), 0);
            check!(reads_as(&mm, &range, byte)?);
            fault(&space, &mm, range, Access::Write)?;
            check_eq!(frames(&space, &range), old);
        }
        // Nobody has a reference too many, or they would not move.
        let mut moving = Moving::within_system(MANY, 0);
        check_eq!(migrate(&space, &mm, &range, &mut moving)?.pages, 4);
        check!(reads_as(&mm, &range, byte)?);
        Ok(())
    }

    #[test]
    fn without_places_pages_stay() -> Outcome {
        let _ledger = Ledger::open()?;
        let mm = new_mm()?;
        let range = map(&mm, 4, ReadWrite)?;
        write_each(&mm, &range, byte)?;
        let space = attach(&Context::<1>::get(&mm)?)?;
        fault(&space, &mm, range, Access::Write)?;
        let old: [_; 4] = frames(&space, &range);
        for places in [0, 2] {
            let mut moving = Moving::within_system(places, 0);
            check_eq!(migrate(&space, &mm, &range, &mut moving)?.pages, places);
            // Of those that stay the shadow is told nothing.
            for page in 0..4 {
                let addr = range.start() + page * PAGE_SIZE;
                check_eq!(frame(&space, addr), moving.placed.get(page).copied());
            }
            check!(reads_as(&mm, &range, byte)?);
            fault(&space, &mm, range, Access::Write)?;
            check!(frames::<4>(&space, &range)[places..] == old[places..]);
        }
        Ok(())
    }

    #[test]
    fn a_place_of_another_size_is_none() -> Outcome {
        let _ledger = Ledger::open()?;
        let mm = new_mm()?;
        let range = map(&mm, 4, ReadWrite)?;
        write_each(&mm, &pages(&range, 0, 2)?, byte)?;
        let space = attach(&Context::<1>::get(&mm)?)?;
        let mut moving = Moving::within_system(MANY, 0);
        moving.order = Some(2);
        check_eq!(migrate(&space, &mm, &range, &mut moving)?.pages, 0);
        check_eq!(moving.placed.len(), 4);
        check!(reads_as(&mm, &pages(&range, 0, 2)?, byte)?);
        Ok(())
    }

    /// A process with 2 MiB that the CPU maps by one entry once they are written to, and a mirror
    /// that records some pages in the middle.
    fn huge() -> Outcome<(Puppet, PageRange, Space)> {
        let (puppet, range) = Puppet::with_memory(HUGE_PAGES)?;
        let args = [
            range.start() as i64,
            range.len() as i64,
            MADV_HUGEPAGE.into(),
        ];
        puppet.call(__NR_madvise, args)?;
        let shadow = Shadow::of(pages(&range, 8, 4)?);
        let context = Context::<1>::get(&*puppet.mm()?)?;
        let space = attach_with(&context, Recorder::default(), shadow)?;
        Ok((puppet, range, space))
    }

    /// How many pages are mapped together with each of `range`, if it is the same for all.
    fn order(space: &Space, mm: &MmWithUser, range: &PageRange) -> Result<Option<u32>> {
        let mut buffer = Buffer::new(range.pages(), GFP_KERNEL)?;
        let mut views = space.look(mm, *range, None, &mut buffer)?;
        let first = views.next();
        let same = views.all(|view| Some(view) == first);
        Ok(match first {
            Some(View::Mapped {
                order,
                memory: Memory::System,
                ..
            }) if same => Some(order),
            _ => None,
        })
    }

    #[test]
    fn huge_pages_are_moved_as_such() -> Outcome {
        let _ledger = Ledger::open()?;
        let (puppet, range, space) = huge()?;
        let mm = puppet.mm()?;
        write_each(&mm, &range, byte)?;
        check_eq!(order(&space, &mm, &range)?, Some(HUGE_ORDER));
        let mut moving = Moving::within_system(0, 1);
        check_eq!(migrate(&space, &mm, &range, &mut moving)?.pages, HUGE_PAGES);
        check!(reads_as(&mm, &range, byte)?);
        check_eq!(order(&space, &mm, &range)?, Some(HUGE_ORDER));
        let [new] = moving.placed[..] else {
            return Err(Failure::untrue("there is one place"));
        };
        check_eq!(space.lock().len(), 4);
        for page in 8..12 {
            let wanted = Seen::Mapped {
                pfn: new + page,
                order: HUGE_ORDER,
                writable: true,
                exclusive: false,
                first: byte(page),
            };
            let addr = range.start() + page * PAGE_SIZE;
            check_eq!(space.lock().page(addr), Some(wanted));
        }
        Ok(())
    }

    #[test]
    fn huge_pages_are_split_where_there_are_small_places_only() -> Outcome {
        let _ledger = Ledger::open()?;
        // Enough, none after some, none at all: then it stays as it is.
        for (places, split, told) in [(HUGE_PAGES, 0, 0), (100, 0, 0), (0, HUGE_ORDER, 4)] {
            let (puppet, range, space) = huge()?;
            let mm = puppet.mm()?;
            write_each(&mm, &range, byte)?;
            check_eq!(order(&space, &mm, &range)?, Some(HUGE_ORDER));
            let mut moving = Moving::within_system(places, 0);
            // What it is asked for to see whether there are any.
            moving.singles += usize::from(places > 0);
            check_eq!(migrate(&space, &mm, &range, &mut moving)?.pages, places);
            check!(reads_as(&mm, &range, byte)?);
            // To split it is an invalidation that names nobody, after which nothing is published.
            check_eq!(space.lock().len(), told);
            check_eq!(order(&space, &mm, &range)?, Some(split));
            // The rest moves another time, so nobody has lost a reference to it.
            let mut moving = Moving::within_system(MANY, 1);
            check_eq!(migrate(&space, &mm, &range, &mut moving)?.pages, HUGE_PAGES);
            check!(reads_as(&mm, &range, byte)?);
        }
        Ok(())
    }

    #[test]
    fn holes_are_filled_as_a_whole_or_not_at_all() -> Outcome {
        let _ledger = Ledger::open()?;
        for (singles, huges, pages, mapped) in [
            (0, 1, HUGE_PAGES, Some(HUGE_ORDER)),
            (HUGE_PAGES, 0, HUGE_PAGES, Some(0)),
            (100, 0, 0, None),
        ] {
            let (puppet, range, space) = huge()?;
            let mm = puppet.mm()?;
            let mut moving = Moving::within_system(singles, huges);
            check_eq!(migrate(&space, &mm, &range, &mut moving)?.pages, pages);
            check_eq!(order(&space, &mm, &range)?, mapped);
            check!(reads_as(&mm, &range, |_| 0)?);
        }
        Ok(())
    }

    #[test]
    fn a_hole_that_is_given_up_costs_no_place() -> Outcome {
        let _ledger = Ledger::open()?;
        let device = Device::new()?;
        let (puppet, range, space) = huge()?;
        let mm = puppet.mm()?;
        let mut moving = Moving::to(&device, 100, 0);
        check_eq!(migrate(&space, &mm, &range, &mut moving)?.pages, 0);
        check_eq!(moving.placed.len(), 100);
        check_eq!(device.used(), 0);
        Ok(())
    }

    #[test]
    fn what_another_invalidates_meanwhile_is_not_published() -> Outcome {
        let _ledger = Ledger::open()?;
        let (puppet, range) = Puppet::with_memory(4)?;
        let mm = puppet.mm()?;
        write_each(&mm, &range, byte)?;
        let space = attach(&Context::<1>::get(&mm)?)?;
        fault(&space, &mm, range, Access::Write)?;

        let lost = pages(&range, 1, 1)?;
        let outcome = Cell::new(Err(EINVAL));
        let discard = || {
            let args = [lost.start() as i64, lost.len() as i64, MADV_DONTNEED.into()];
            outcome.set(puppet.call(__NR_madvise, args));
        };
        let mut moving = Moving::within_system(MANY, 0);
        moving.meanwhile = Some(&discard);
        migrate(&space, &mm, &range, &mut moving)?;
        check_eq!(outcome.get(), Ok(0));
        check_eq!(recorded(&space), (0, 1));
        check_eq!(space.lock().last_zap(), Some((lost, Event::Clear, true)));
        check!(reads_as(&mm, &range, |page| if page == 1 {
            0
        } else {
            byte(page)
        })?);

        // The rest is where it was to go, and nobody has a reference too many.
        fault(&space, &mm, range, Access::Write)?;
        for page in [0, 2, 3] {
            let addr = range.start() + page * PAGE_SIZE;
            check_eq!(frame(&space, addr), moving.placed.get(page).copied());
        }
        let mut again = Moving::within_system(MANY, 0);
        check_eq!(migrate(&space, &mm, &range, &mut again)?.pages, 4);
        Ok(())
    }

    #[test]
    fn a_range_ends_with_its_first_vma_or_the_room() -> Outcome {
        let _ledger = Ledger::open()?;
        let (puppet, range) = Puppet::with_memory(6)?;
        let second = pages(&range, 4, 2)?;
        let args = [second.start() as i64, second.len() as i64, PROT_READ.into()];
        puppet.call(__NR_mprotect, args)?;
        let mm = puppet.mm()?;
        let space = attach(&Context::<1>::get(&mm)?)?;
        let mut moving = Moving::within_system(MANY, 0);
        let first = Migrated {
            end: second.start(),
            pages: 4,
        };
        check_eq!(migrate(&space, &mm, &range, &mut moving)?, first);

        let mut room = Room::new(3, GFP_KERNEL)?;
        let select = Select::System;
        let part = space.migrate(&mm, &range, select, &mut moving, &mut room, None)?;
        let first = Migrated {
            end: range.start() + 3 * PAGE_SIZE,
            pages: 3,
        };
        check_eq!(part, first);
        Ok(())
    }

    #[test]
    fn what_cannot_be_moved() -> Outcome {
        let _ledger = Ledger::open()?;
        let (mm, other) = (new_mm()?, new_mm()?);
        let range = map(&mm, 2, ReadWrite)?;
        map_over(&other, &range)?;
        let space = attach(&Context::<1>::get(&mm)?)?;
        let mut moving = Moving::within_system(MANY, 0);
        check_eq!(migrate(&space, &other, &range, &mut moving), Err(EINVAL));

        let unreadable = map(&mm, 2, Nothing)?;
        check_eq!(migrate(&space, &mm, &unreadable, &mut moving), Err(EINVAL));
        unmap(&mm, &unreadable)?;
        check_eq!(migrate(&space, &mm, &unreadable, &mut moving), Err(EINVAL));
        check_eq!(moving.placed.len(), 0);

        let mut room = Room::new(1, GFP_KERNEL)?;
        let mmap = mm.mmap_read_lock();
        let collected = Collected::collect(&mmap, &range, Select::System, true, &mut room);
        check_eq!(collected.err(), Some(EINVAL));
        Ok(())
    }

    #[test]
    fn pages_of_files_stay() -> Outcome {
        let _ledger = Ledger::open()?;
        let mm = new_mm()?;
        let file = SharedFile::new(2)?;
        let range = file.map(&mm)?;
        write_each(&mm, &range, byte)?;
        let space = attach(&Context::<1>::get(&mm)?)?;
        let mut moving = Moving::within_system(MANY, 0);
        check_eq!(migrate(&space, &mm, &range, &mut moving)?.pages, 0);
        check_eq!(moving.placed.len(), 0);
        check!(reads_as(&mm, &range, byte)?);
        Ok(())
    }
}
