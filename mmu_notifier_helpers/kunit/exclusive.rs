// SPDX-License-Identifier: GPL-2.0

//! Pages that the device has for itself, and how it loses them.

#![forbid(unsafe_code)]

use kernel::prelude::*;

#[kunit_tests(mmu_notifier_helpers_exclusive)]
mod tests {
    use crate::{
        bindings::{__NR_madvise, __NR_mprotect, MADV_HUGEPAGE, PROT_READ},
        check::Outcome,
        ffi_mm::{
            map, new_mm, reads_as, touch, unmap, write, write_each,
            Protection::{Read, ReadWrite},
            SharedFile,
        },
        ffi_recorder::{attach, attach_with, fault, Context, Recorder, Seen, Shadow},
        ledger::Ledger,
        puppet::Puppet,
        stage::pages,
    };
    use kernel::{mm::MmWithUser, page::PAGE_SIZE, prelude::*};
    use mmu_notifier_helpers::{
        fault::{Access, Buffer},
        mirror::Subscription,
        notifier::Attachment,
        pages::{View, HUGE_ORDER, HUGE_PAGES},
        range::{Event, PageRange},
    };

    type Space = Attachment<Recorder<1>>;

    fn make_exclusive(space: &Space, mm: &MmWithUser, addr: usize) -> Result {
        let mut buffer = Buffer::new(1, GFP_KERNEL)?;
        space.make_exclusive(mm, addr, &mut buffer, &mut ())
    }

    /// Whether the device has the page at `addr` for itself, and the first byte of it.
    fn exclusive(space: &Space, addr: usize) -> Option<(bool, u8)> {
        match space.lock().page(addr)? {
            Seen::Mapped {
                exclusive,
                first,
                writable: true,
                ..
            } => Some((exclusive, first)),
            _ => None,
        }
    }

    #[test]
    fn the_cpu_takes_a_page_back() -> Outcome {
        type Take = fn(&MmWithUser, usize) -> Result;
        let takes: [(Take, u8); 2] = [(touch, 5), (|mm, addr| write(mm, addr, 6), 6)];
        let _ledger = Ledger::open()?;
        for (take, left) in takes {
            let mm = new_mm()?;
            let range = map(&mm, 2, ReadWrite)?;
            write(&mm, range.start(), 5)?;
            let space = attach(&Context::<1>::get(&mm)?)?;
            fault(&space, &mm, range, Access::Write)?;
            for _ in 0..2 {
                make_exclusive(&space, &mm, range.start())?;
            }
            check_eq!(exclusive(&space, range.start()), Some((true, 5)));
            // The neighbour is as it was.
            let neighbour = range.start() + PAGE_SIZE;
            check_eq!(exclusive(&space, neighbour), Some((false, 0)));

            take(&mm, range.start())?;
            check_eq!(exclusive(&space, range.start()), None);
            check_eq!(exclusive(&space, neighbour), Some((false, 0)));
            let page = pages(&range, 0, 1)?;
            let zap = Some((page, Event::Clear, true));
            check_eq!(space.lock().last_zap(), zap);
            check!(reads_as(&mm, &page, |_| left)?);
            fault(&space, &mm, range, Access::Write)?;
            check_eq!(exclusive(&space, range.start()), Some((false, left)));
        }
        Ok(())
    }

    #[test]
    fn a_fault_makes_it_an_ordinary_page() -> Outcome {
        let _ledger = Ledger::open()?;
        let mm = new_mm()?;
        let range = map(&mm, 1, ReadWrite)?;
        write(&mm, range.start(), 5)?;
        let space = attach(&Context::<1>::get(&mm)?)?;
        make_exclusive(&space, &mm, range.start())?;
        fault(&space, &mm, range, Access::Read)?;
        check_eq!(exclusive(&space, range.start()), Some((false, 5)));
        Ok(())
    }

    #[test]
    fn protecting_takes_a_page_back() -> Outcome {
        let _ledger = Ledger::open()?;
        let (puppet, range) = Puppet::with_memory(2)?;
        let mm = puppet.mm()?;
        write_each(&mm, &range, |_| 5)?;
        let space = attach(&Context::<1>::get(&mm)?)?;
        make_exclusive(&space, &mm, range.start())?;
        check_eq!(exclusive(&space, range.start()), Some((true, 5)));
        let args = [range.start() as i64, range.len() as i64, PROT_READ.into()];
        puppet.call(__NR_mprotect, args)?;
        check_eq!(space.lock().len(), 0);
        check_eq!(make_exclusive(&space, &mm, range.start()), Err(EPERM));
        check!(reads_as(&mm, &range, |_| 5)?);
        Ok(())
    }

    #[test]
    fn memory_never_written_is_faulted_in() -> Outcome {
        let _ledger = Ledger::open()?;
        let mm = new_mm()?;
        let range = map(&mm, 2, ReadWrite)?;
        // One has the page of zeroes, the other nothing.
        touch(&mm, range.start())?;
        let space = attach(&Context::<1>::get(&mm)?)?;
        for addr in [range.start(), range.start() + PAGE_SIZE] {
            make_exclusive(&space, &mm, addr)?;
            check_eq!(exclusive(&space, addr), Some((true, 0)));
        }
        Ok(())
    }

    #[test]
    fn two_devices_take_turns() -> Outcome {
        let _ledger = Ledger::open()?;
        let mm = new_mm()?;
        let range = map(&mm, 1, ReadWrite)?;
        write(&mm, range.start(), 5)?;
        let context = Context::<1>::get(&mm)?;
        let spaces = [attach(&context)?, attach(&context)?];
        for turn in 0..4 {
            make_exclusive(&spaces[turn % 2], &mm, range.start())?;
            let has = spaces
                .each_ref()
                .map(|space| exclusive(space, range.start()));
            check_eq!(has[turn % 2], Some((true, 5)));
            check_eq!(has[1 - turn % 2], None);
        }
        Ok(())
    }

    #[test]
    fn huge_pages_are_split() -> Outcome {
        let _ledger = Ledger::open()?;
        let (puppet, range) = Puppet::with_memory(HUGE_PAGES)?;
        let args = [
            range.start() as i64,
            range.len() as i64,
            MADV_HUGEPAGE.into(),
        ];
        puppet.call(__NR_madvise, args)?;
        let mm = puppet.mm()?;
        write_each(&mm, &range, |page| page as u8)?;
        let wanted = pages(&range, 8, 4)?;
        let context = Context::<1>::get(&mm)?;
        let space = attach_with(&context, Recorder::default(), Shadow::of(wanted))?;
        let mut buffer = Buffer::new(4, GFP_KERNEL)?;
        let mut orders = |space: &Space| -> Result<_> {
            let order = |view| match view {
                View::Mapped { order, .. } => Some(order),
                View::Empty | View::Error => None,
            };
            let mut found = [None; 4];
            for (view, found) in space.look(&mm, wanted, None, &mut buffer)?.zip(&mut found) {
                *found = order(view);
            }
            Ok(found)
        };
        check_eq!(orders(&space)?, [Some(HUGE_ORDER); 4]);
        make_exclusive(&space, &mm, wanted.start() + PAGE_SIZE)?;
        check_eq!(
            exclusive(&space, wanted.start() + PAGE_SIZE),
            Some((true, 9))
        );
        check_eq!(orders(&space)?, [Some(0), None, Some(0), Some(0)]);
        check!(reads_as(&mm, &range, |page| page as u8)?);
        Ok(())
    }

    #[test]
    fn what_no_device_can_have() -> Outcome {
        let _ledger = Ledger::open()?;
        let (mm, other) = (new_mm()?, new_mm()?);
        let space = attach(&Context::<1>::get(&mm)?)?;
        let range = map(&mm, 1, ReadWrite)?;
        let read_only = map(&mm, 1, Read)?;
        let file = SharedFile::new(1)?;
        let mapped = file.map(&mm)?;
        let hole = map(&mm, 1, ReadWrite)?;
        unmap(&mm, &hole)?;
        let outcome = |range: &PageRange| make_exclusive(&space, &mm, range.start());
        check_eq!(outcome(&read_only), Err(EPERM));
        check_eq!(outcome(&mapped), Err(EOPNOTSUPP));
        check_eq!(outcome(&hole), Err(EFAULT));
        check_eq!(make_exclusive(&space, &mm, range.start() + 1), Err(EINVAL));
        check_eq!(make_exclusive(&space, &other, range.start()), Err(EINVAL));
        check_eq!(space.lock().publications(), 0);
        check_eq!(outcome(&range), Ok(()));
        Ok(())
    }
}
