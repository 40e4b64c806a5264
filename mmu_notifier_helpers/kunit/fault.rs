// SPDX-License-Identifier: GPL-2.0

//! Reading page-table entries: what is seen, and every way to be refused.

#![forbid(unsafe_code)]

use kernel::prelude::*;

#[kunit_tests(mmu_notifier_helpers_fault)]
mod tests {
    use crate::{
        check::{Failure, Outcome},
        ffi_mm::{map, map_over, new_mm, touch, unmap, write, Protection, SharedFile},
        ffi_recorder::{fault, request, watch, watch_with, Recorder, Seen},
    };
    use kernel::{page::PAGE_SIZE, prelude::*, time::Delta};
    use mmu_notifier_helpers::{
        fault::{Access, Buffer, Request},
        mirror::Subscription,
        mmap::MmapWriteKillable,
        pages::{Memory, View},
        range::{Event, PageRange},
    };

    /// A request for all pages of a range, made in either way.
    type Make = fn(PageRange, Access) -> Request<'static>;

    const BOTH: [Make; 2] = [Request::new, Request::droppable];

    #[test]
    fn memory_never_written_reads_as_zeroes() -> Outcome {
        for make in BOTH {
            let mm = new_mm()?;
            let range = map(&mm, 2, Protection::ReadWrite)?;
            let notifier = watch::<0>(&mm, range)?;
            let read = make(range, Access::Read);
            request(&*notifier, &mm, &read, 2)?;
            let shadow = notifier.lock();
            check_eq!(shadow.len(), 2);
            let Some(Seen::Mapped {
                writable,
                first,
                order,
                ..
            }) = shadow.page(range.start())
            else {
                return Err(Failure::untrue("the page is mapped"));
            };
            check_eq!((writable, first, order), (false, 0, 0));
        }
        Ok(())
    }

    #[test]
    fn what_is_faulted_in_for_writing_is_the_memory() -> Outcome {
        for make in BOTH {
            let mm = new_mm()?;
            let range = map(&mm, 3, Protection::ReadWrite)?;
            for (page, byte) in [5, 6, 7].into_iter().enumerate() {
                write(&mm, range.start() + page * PAGE_SIZE, byte)?;
            }
            let notifier = watch::<0>(&mm, range)?;
            let read = make(range, Access::Write);
            // A larger buffer than is needed changes nothing.
            request(&*notifier, &mm, &read, 5)?;
            let shadow = notifier.lock();
            for (page, byte) in [5, 6, 7].into_iter().enumerate() {
                let seen = shadow.page(range.start() + page * PAGE_SIZE);
                check_eq!(seen.and_then(|seen| seen.mapped()), Some((byte, true)));
            }
        }
        Ok(())
    }

    #[test]
    fn looking_faults_nothing_in() -> Outcome {
        let mm = new_mm()?;
        let range = map(&mm, 3, Protection::ReadWrite)?;
        let notifier = watch::<0>(&mm, range)?;
        let mut buffer = Buffer::new(3, GFP_KERNEL)?;
        for _ in 0..2 {
            check!(notifier
                .look(&mm, range, None, &mut buffer)?
                .eq([View::Empty; 3]));
        }
        touch(&mm, range.start())?;
        write(&mm, range.start() + PAGE_SIZE, 3)?;
        unmap(
            &mm,
            &PageRange::new(range.start() + 2 * PAGE_SIZE, range.end())?,
        )?;
        let mapped = |writable| View::Mapped {
            writable,
            order: 0,
            memory: if writable {
                Memory::System
            } else {
                Memory::Zero
            },
        };
        let views = [mapped(false), mapped(true), View::Error];
        check!(notifier.look(&mm, range, None, &mut buffer)?.eq(views));
        // The shadow has nothing of it.
        check_eq!(notifier.lock().publications(), 0);
        Ok(())
    }

    #[test]
    fn pages_can_be_faulted_in_with_the_lock_held_for_writing() -> Outcome {
        let mm = new_mm()?;
        let memory = map(&mm, 2, Protection::ReadWrite)?;
        let read_only = map(&mm, 1, Protection::Read)?;
        let nothing = map(&mm, 1, Protection::Nothing)?;
        let hole = map(&mm, 1, Protection::ReadWrite)?;
        unmap(&mm, &hole)?;
        let mmap = MmapWriteKillable::lock(&mm)?;
        mmap.exclude_vma_readers(&memory)?;
        for (addr, write, done) in [
            (memory.start(), false, true),
            (memory.start() + PAGE_SIZE, true, true),
            (read_only.start(), false, true),
            (read_only.start(), true, false),
            (nothing.start(), false, false),
            (hole.start(), false, false),
        ] {
            check_eq!(mmap.fault_in(addr, write), done);
        }
        drop(mmap);

        // The page of a file is there, or has to be made by the file system.
        let file = SharedFile::new(2)?;
        let mapped = file.map(&mm)?;
        write(&mm, mapped.start(), 1)?;
        file.unmap(0, mapped.len());
        let mmap = MmapWriteKillable::lock(&mm)?;
        mmap.exclude_vma_readers(&mapped)?;
        for (page, done) in [true, false].into_iter().enumerate() {
            for write in [false, true] {
                let addr = mapped.start() + page * PAGE_SIZE;
                check_eq!(mmap.fault_in(addr, write), done);
            }
        }
        drop(mmap);

        let notifier = watch::<0>(&mm, memory)?;
        let mut buffer = Buffer::new(2, GFP_KERNEL)?;
        let seen = notifier.look(&mm, memory, None, &mut buffer)?;
        let writable = |view| matches!(view, View::Mapped { writable: true, .. });
        check!(seen.map(writable).eq([false, true]));
        Ok(())
    }

    #[test]
    fn each_page_may_be_wanted_differently() -> Outcome {
        let mm = new_mm()?;
        // Where there is no page table, or after a page that is faulted in, the core faults in all
        // that one page table has room for: so there is one, and the more is wanted the later.
        let (range, behind) = (
            PageRange::from_pages(1 << 30, 3)?,
            PageRange::from_pages((1 << 30) + 3 * PAGE_SIZE as u64, 1)?,
        );
        map_over(&mm, &range)?;
        map_over(&mm, &behind)?;
        touch(&mm, behind.start())?;
        let notifier = watch::<0>(&mm, range)?;
        let each = [Access::Look, Access::Read, Access::Write];
        request(&*notifier, &mm, &Request::each(range, &each), 3)?;
        let shadow = notifier.lock();
        check_eq!(shadow.page(range.start()), Some(Seen::Empty));
        for (n, writable) in [(1, false), (2, true)] {
            let seen = shadow.page(range.start() + n * PAGE_SIZE);
            check_eq!(seen.and_then(|seen| seen.mapped()), Some((0, writable)));
        }
        drop(shadow);
        let few = Request::each(range, &each[1..]);
        check_eq!(request(&*notifier, &mm, &few, 3), Err(EINVAL));
        Ok(())
    }

    #[test]
    fn where_nothing_is_mapped() -> Outcome {
        let mm = new_mm()?;
        let range = map(&mm, 2, Protection::ReadWrite)?;
        let notifier = watch::<0>(&mm, PageRange::ALL)?;
        unmap(
            &mm,
            &PageRange::new(range.start() + PAGE_SIZE, range.end())?,
        )?;
        for make in BOTH {
            for access in [Access::Read, Access::Write] {
                let request_all = make(range, access);
                let outcome = request(&*notifier, &mm, &request_all, 2);
                check_eq!(outcome, Err(EFAULT));
            }
        }
        check_eq!(notifier.lock().len(), 0);
        fault(&*notifier, &mm, range, Access::Look)?;
        let shadow = notifier.lock();
        check_eq!(shadow.page(range.end() - PAGE_SIZE), Some(Seen::Error));
        Ok(())
    }

    #[test]
    fn what_the_protection_forbids() -> Outcome {
        let mm = new_mm()?;
        let read_only = map(&mm, 1, Protection::Read)?;
        let nothing = map(&mm, 1, Protection::Nothing)?;
        let notifier = watch::<0>(&mm, PageRange::ALL)?;
        for make in BOTH {
            for (range, access, outcome) in [
                (read_only, Access::Read, Ok(())),
                (read_only, Access::Write, Err(EPERM)),
                (nothing, Access::Read, Err(EFAULT)),
                (nothing, Access::Write, Err(EFAULT)),
            ] {
                let wanted = make(range, access);
                check_eq!(request(&*notifier, &mm, &wanted, 1), outcome);
            }
        }
        check_eq!(notifier.lock().len(), 1);
        Ok(())
    }

    #[test]
    fn requests_that_do_not_fit() -> Outcome {
        let (mm, other) = (new_mm()?, new_mm()?);
        let range = map(&mm, 4, Protection::ReadWrite)?;
        let part = PageRange::new(range.start() + PAGE_SIZE, range.end() - PAGE_SIZE)?;
        let notifier = watch::<0>(&mm, part)?;
        check_eq!(fault(&*notifier, &mm, range, Access::Read), Err(EINVAL));
        check_eq!(fault(&*notifier, &other, part, Access::Read), Err(EINVAL));
        let short = Request::new(part, Access::Read);
        check_eq!(request(&*notifier, &mm, &short, 1), Err(EINVAL));
        check_eq!(Buffer::new(0, GFP_KERNEL).err(), Some(EINVAL));
        check_eq!(notifier.lock().len(), 0);
        check_eq!(fault(&*notifier, &mm, part, Access::Read), Ok(()));
        Ok(())
    }

    #[test]
    fn a_collision_is_read_again() -> Outcome {
        let mm = new_mm()?;
        let range = map(&mm, 2, Protection::ReadWrite)?;
        let notifier = watch::<0>(&mm, range)?;
        fault(&*notifier, &mm, range, Access::Read)?;
        check_eq!(notifier.mirror().collisions.get(), 0);

        // Replacing the page of zeroes invalidates it, in the middle of reading.
        fault(&*notifier, &mm, range, Access::Write)?;
        check!((1..=2).contains(&notifier.mirror().collisions.get()));
        check_eq!(notifier.mirror().exclusions.get(), 0);
        let shadow = notifier.lock();
        check_eq!(shadow.publications(), 2);
        check_eq!(shadow.zaps().count(), 2);
        check!(shadow.zaps().all(|(_, event, _)| event == Event::Clear));
        for addr in [range.start(), range.start() + PAGE_SIZE] {
            let seen = shadow.page(addr).and_then(|page| page.mapped());
            check_eq!(seen, Some((0, true)));
        }
        Ok(())
    }

    #[test]
    fn no_time_is_one_try_with_others_held_off() -> Outcome {
        let mm = new_mm()?;
        let range = map(&mm, 1, Protection::ReadWrite)?;
        let notifier = watch::<0>(&mm, range)?;
        fault(&*notifier, &mm, range, Access::Read)?;
        let write = Request::new(range, Access::Write).with_timeout(Delta::ZERO);
        // The first try collides with what it does itself: the page of zeroes is replaced.
        check_eq!(request(&*notifier, &mm, &write, 1), Ok(()));
        check_eq!(notifier.mirror().collisions.get(), 1);
        check_eq!(notifier.mirror().exclusions.get(), 1);
        Ok(())
    }

    #[test]
    fn after_some_collisions_others_are_held_off() -> Outcome {
        let mm = new_mm()?;
        let range = map(&mm, 1, Protection::ReadWrite)?;
        map_over(&mm, &range)?;
        touch(&mm, range.start())?;
        let recorder = Recorder {
            restless: Some((mm.clone(), range)),
            ..Recorder::default()
        };
        let notifier = watch_with::<0>(&mm, range, recorder)?;
        fault(&*notifier, &mm, range, Access::Write)?;
        let (collisions, exclusions) = (
            notifier.mirror().collisions.get(),
            notifier.mirror().exclusions.get(),
        );
        check_eq!((collisions, exclusions), (4, 1));
        let seen = notifier.lock().page(range.start());
        check_eq!(seen.and_then(|page| page.mapped()), Some((0, true)));
        Ok(())
    }

    #[test]
    fn the_error_of_the_shadow_comes_back() -> Outcome {
        let mm = new_mm()?;
        let range = map(&mm, 17, Protection::ReadWrite)?;
        let notifier = watch::<0>(&mm, range)?;
        // More than it has room for.
        check_eq!(fault(&*notifier, &mm, range, Access::Read), Err(ENOSPC));
        // Nothing is left locked.
        check_eq!(notifier.lock().publications(), 1);
        check_eq!(fault(&*notifier, &mm, range, Access::Read), Err(ENOSPC));
        Ok(())
    }
}
