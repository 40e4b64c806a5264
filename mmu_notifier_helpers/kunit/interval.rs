// SPDX-License-Identifier: GPL-2.0

//! Subscriptions: what they are told, and what they hold on to.

#![forbid(unsafe_code)]

use kernel::prelude::*;

#[kunit_tests(mmu_notifier_helpers_interval)]
mod tests {
    use crate::{
        check::Outcome,
        ffi_mm::{
            count, map, map_over, new_mm, unmap, unmap_without_memory, users, write,
            Protection::ReadWrite,
        },
        ffi_recorder::{fault, watch, watch_two_pass, Passes},
        stage::{pages, Stage},
        thread::Thread,
    };
    use kernel::{prelude::*, sync::Arc};
    use mmu_notifier_helpers::{fault::Access, mirror::Subscription, range::Event};

    #[test]
    fn removed_subscriptions_hold_nothing() -> Outcome {
        let mm = new_mm()?;
        let range = map(&mm, 4, ReadWrite)?;
        check_eq!((users(&mm), count(&mm)), (1, 1));
        for _ in 0..2 {
            let notifier = watch::<0>(&mm, range)?;
            check_eq!((users(&mm), count(&mm)), (1, 2));
            check!(core::ptr::eq(notifier.mm().as_raw(), mm.as_raw()));
            fault(&*notifier, &mm, range, Access::Write)?;
            check_eq!(notifier.lock().len(), 4);
            drop(notifier);
            check_eq!((users(&mm), count(&mm)), (1, 1));
        }
        Ok(())
    }

    #[test]
    fn a_removed_subscription_is_told_nothing() -> Outcome {
        let mm = new_mm()?;
        let range = map(&mm, 4, ReadWrite)?;
        let old = watch::<0>(&mm, range)?;
        fault(&*old, &mm, range, Access::Write)?;
        drop(old);
        // One in its place has a shadow of its own.
        let new = watch::<0>(&mm, range)?;
        check_eq!(new.lock().len(), 0);
        unmap(&mm, &range)?;
        check_eq!(new.lock().last_zap(), Some((range, Event::Unmap, true)));
        Ok(())
    }

    #[test]
    fn a_zap_is_cut_to_what_is_watched() -> Outcome {
        let mm = new_mm()?;
        let all = map(&mm, 8, ReadWrite)?;
        let watched = pages(&all, 2, 4)?;
        let notifier = watch::<0>(&mm, watched)?;
        fault(&*notifier, &mm, watched, Access::Write)?;

        unmap(&mm, &pages(&all, 7, 1)?)?;
        unmap(&mm, &pages(&all, 0, 2)?)?;
        check_eq!(notifier.lock().zaps().count(), 0);

        unmap(&mm, &pages(&all, 4, 3)?)?;
        let shadow = notifier.lock();
        let lost = pages(&all, 4, 2)?;
        check_eq!(shadow.last_zap(), Some((lost, Event::Unmap, true)));
        check_eq!(shadow.zaps().count(), 1);
        check_eq!(shadow.len(), 2);
        check!(shadow.page(watched.start()).is_some());
        Ok(())
    }

    #[test]
    fn mapping_over_memory_zaps_it() -> Outcome {
        let mm = new_mm()?;
        let range = map(&mm, 4, ReadWrite)?;
        write(&mm, range.start(), 7)?;
        let notifier = watch::<0>(&mm, range)?;
        fault(&*notifier, &mm, range, Access::Read)?;
        let page = notifier.lock().page(range.start());
        check_eq!(page.and_then(|page| page.mapped()), Some((7, true)));

        map_over(&mm, &range)?;
        check_eq!(notifier.lock().len(), 0);
        check_eq!(
            notifier.lock().last_zap(),
            Some((range, Event::Unmap, true))
        );
        fault(&*notifier, &mm, range, Access::Read)?;
        let page = notifier.lock().page(range.start());
        check_eq!(page.and_then(|page| page.mapped()), Some((0, false)));
        Ok(())
    }

    #[test]
    fn copy_on_write_zaps_the_page() -> Outcome {
        let mm = new_mm()?;
        let range = map(&mm, 4, ReadWrite)?;
        let notifier = watch::<0>(&mm, range)?;
        // Memory never written is the page of zeroes until then.
        fault(&*notifier, &mm, range, Access::Read)?;
        let written = pages(&range, 1, 1)?;
        write(&mm, written.start(), 9)?;
        let shadow = notifier.lock();
        check_eq!(shadow.last_zap(), Some((written, Event::Clear, true)));
        check_eq!(shadow.len(), 3);
        check!(shadow.page(written.start()).is_none());
        Ok(())
    }

    #[test]
    fn two_drivers_share_an_address_space() -> Outcome {
        let mm = new_mm()?;
        let all = map(&mm, 8, ReadWrite)?;
        let first = watch::<1>(&mm, pages(&all, 0, 5)?)?;
        let second = watch::<2>(&mm, pages(&all, 3, 5)?)?;
        check_eq!(count(&mm), 3);
        fault(&*first, &mm, *first.range(), Access::Write)?;
        fault(&*second, &mm, *second.range(), Access::Write)?;

        unmap(&mm, &pages(&all, 2, 2)?)?;
        let zap = |range| Some((range, Event::Unmap, true));
        check_eq!(first.lock().last_zap(), zap(pages(&all, 2, 2)?));
        check_eq!(second.lock().last_zap(), zap(pages(&all, 3, 1)?));
        check_eq!(first.lock().len(), 3);
        check_eq!(second.lock().len(), 4);

        drop(first);
        unmap(&mm, &pages(&all, 4, 1)?)?;
        check_eq!(second.lock().last_zap(), zap(pages(&all, 4, 1)?));
        drop(second);
        check_eq!((users(&mm), count(&mm)), (1, 1));
        Ok(())
    }

    #[test]
    fn a_driver_tells_two_address_spaces_apart() -> Outcome {
        let (one, other) = (new_mm()?, new_mm()?);
        let range = map(&one, 4, ReadWrite)?;
        // The same addresses in both.
        map_over(&other, &range)?;
        write(&one, range.start(), 1)?;
        write(&other, range.start(), 2)?;
        let notifiers = [watch::<0>(&one, range)?, watch::<0>(&other, range)?];
        fault(&*notifiers[0], &one, range, Access::Read)?;
        fault(&*notifiers[1], &other, range, Access::Read)?;
        for (notifier, byte) in notifiers.iter().zip([1, 2]) {
            let page = notifier.lock().page(range.start());
            check_eq!(page.and_then(|page| page.mapped()), Some((byte, true)));
        }
        unmap(&one, &range)?;
        check_eq!(notifiers[0].lock().counts(), (0, 1));
        check_eq!(notifiers[1].lock().counts(), (4, 0));
        drop(notifiers);
        check_eq!((count(&one), count(&other)), (1, 1));
        Ok(())
    }

    #[test]
    fn exit_empties_a_live_shadow() -> Outcome {
        let mm = new_mm()?;
        let range = map(&mm, 4, ReadWrite)?;
        let notifier = watch::<0>(&mm, range)?;
        fault(&*notifier, &mm, range, Access::Write)?;
        check_eq!(notifier.lock().len(), 4);
        drop(mm);
        let shadow = notifier.lock();
        // The core takes the page tables apart after that, and tells of it.
        check_eq!(shadow.zaps().next(), Some((range, Event::Release, true)));
        check_eq!(shadow.len(), 0);
        drop(shadow);
        // The subscription keeps the structure and nobody else does; the memory is gone for good.
        check_eq!((users(notifier.mm()), count(notifier.mm())), (0, 1));
        check!(notifier.mm().mmget_not_zero().is_none());
        let other = new_mm()?;
        check_eq!(fault(&*notifier, &other, range, Access::Read), Err(EINVAL));
        Ok(())
    }

    #[test]
    fn insertion_during_an_invalidation_misses_none() -> Outcome {
        let stage = Stage::new(2)?;
        let before = count(&stage.mm);
        let early = watch::<1>(&stage.mm, stage.range)?;
        let invalidating = stage.invalidate(&pages(&stage.range, 0, 1)?)?;
        // The core lets it wait until the invalidation ends, since it may concern it as well.
        let second = pages(&stage.range, 1, 1)?;
        let late = watch::<2>(&stage.mm, second)?;
        let (theirs, mm, gate) = (late.clone(), stage.mm.clone(), stage.gate.clone());
        let reading = Thread::spawn(move || -> Result<bool> {
            fault(&*theirs, &mm, second, Access::Write)?;
            Ok(gate.was_passed())
        })?;
        check!(reading.wait_until_it_sleeps()?);
        stage.gate.open();
        check!(reading.join()??);
        invalidating.join()?;

        check_eq!(late.lock().counts(), (1, 0));
        stage.invalidate(&second)?.join()?;
        check_eq!(late.lock().last_zap(), Some((second, Event::Clear, true)));
        check_eq!(late.lock().len(), 0);
        drop((late, early));
        check_eq!((users(&stage.mm), count(&stage.mm)), (1, before));
        Ok(())
    }

    #[test]
    fn removal_right_after_insertion_during_an_invalidation() -> Outcome {
        let stage = Stage::new(1)?;
        let before = count(&stage.mm);
        let early = watch::<1>(&stage.mm, stage.range)?;
        let invalidating = stage.invalidate(&stage.range)?;
        // What never was in the tree need not wait.
        drop(watch::<2>(&stage.mm, stage.range)?);
        check!(!stage.gate.was_passed());
        stage.gate.open();
        invalidating.join()?;
        drop(early);
        check_eq!((users(&stage.mm), count(&stage.mm)), (1, before));
        Ok(())
    }

    #[test]
    fn removal_waits_for_an_invalidation() -> Outcome {
        let stage = Stage::new(1)?;
        let before = count(&stage.mm);
        let notifier = watch::<1>(&stage.mm, stage.range)?;
        let invalidating = stage.invalidate(&stage.range)?;
        let gate = stage.gate.clone();
        let removing = Thread::spawn(move || {
            drop(notifier);
            gate.was_passed()
        })?;
        check!(removing.wait_until_it_sleeps()?);
        stage.gate.open();
        check!(removing.join()?);
        invalidating.join()?;
        check_eq!((users(&stage.mm), count(&stage.mm)), (1, before));
        Ok(())
    }

    #[test]
    fn second_passes_come_after_all_first_ones() -> Outcome {
        let mm = new_mm()?;
        let range = map(&mm, 4, ReadWrite)?;
        let passes = Arc::new(Passes::default(), GFP_KERNEL)?;
        let one = watch_two_pass(&mm, range, passes.clone())?;
        let other = watch_two_pass(&mm, pages(&range, 1, 3)?, passes.clone())?;
        fault(&*one, &mm, range, Access::Write)?;
        fault(&*other, &mm, *other.range(), Access::Write)?;
        unmap(&mm, &pages(&range, 0, 2)?)?;
        check_eq!(one.lock().len(), 2);
        check_eq!(other.lock().len(), 2);
        check_eq!(passes.started.get(), 2);
        check_eq!(passes.finished.get(), 2);
        check_eq!(passes.late.get(), 0);
        // Alone, as when there is nothing to wait for.
        unmap(&mm, &pages(&range, 0, 1)?)?;
        check_eq!(passes.finished.get(), 2);
        drop((one, other));
        check_eq!((users(&mm), count(&mm)), (1, 1));
        Ok(())
    }

    #[test]
    fn without_memory_a_second_pass_comes_at_once() -> Outcome {
        let mm = new_mm()?;
        let range = map(&mm, 4, ReadWrite)?;
        let passes = Arc::new(Passes::default(), GFP_KERNEL)?;
        let one = watch_two_pass(&mm, range, passes.clone())?;
        let other = watch_two_pass(&mm, pages(&range, 1, 3)?, passes.clone())?;
        fault(&*one, &mm, range, Access::Write)?;
        fault(&*other, &mm, *other.range(), Access::Write)?;
        let can_fail = unmap_without_memory(&mm, &pages(&range, 1, 1)?)?;
        check_eq!((passes.started.get(), passes.finished.get()), (2, 2));
        // The first one has no memory to note that it is to be finished later.
        check_eq!(passes.late.get(), usize::from(can_fail));
        check_eq!(one.lock().len(), 3);
        check_eq!(other.lock().len(), 2);
        Ok(())
    }
}
