// SPDX-License-Identifier: GPL-2.0

//! Contexts: how they are found, what they hold on to, and the mirrors that are attached to them.

#![forbid(unsafe_code)]

use kernel::prelude::*;

#[kunit_tests(mmu_notifier_helpers_per_mm)]
mod tests {
    use crate::{
        check::Outcome,
        ffi_hold::Hold,
        ffi_mm::{
            count, map, map_over, new_mm, synchronize, touch, unmap, users, write,
            Protection::ReadWrite,
        },
        ffi_recorder::{attach, attach_with, fault, request, Context, Recorder, Shadow},
        gate::Gate,
        ledger::{contexts, Ledger},
        stage::{pages, Stage},
        thread::Thread,
        wait::PATIENCE,
    };
    use kernel::{prelude::*, time::Delta};
    use mmu_notifier_helpers::{
        fault::{Access, Request},
        mirror::Subscription,
        range::{Event, PageRange},
    };

    #[test]
    fn a_context_is_made_once_and_found_again() -> Outcome {
        let ledger = Ledger::open()?;
        let mm = new_mm()?;
        for _ in 0..2 {
            let context = Context::<1>::get(&mm)?;
            check_eq!((contexts(), ledger.references()), (1, 1));
            check_eq!((users(&mm), count(&mm)), (1, 2));
            check!(core::ptr::eq(context.mm().as_raw(), mm.as_raw()));

            let again = Context::<1>::get(&mm)?;
            check!(core::ptr::eq(&*again, &*context));
            drop(context);
            synchronize();
            check_eq!((contexts(), ledger.references()), (1, 1));
            drop(again);
            ledger.balance([&mm])?;
        }
        Ok(())
    }

    #[test]
    fn the_last_reference_may_go_in_another_task() -> Outcome {
        let ledger = Ledger::open()?;
        let mm = new_mm()?;
        let range = map(&mm, 2, ReadWrite)?;
        let context = Context::<1>::get(&mm)?;
        let mirror = attach(&context)?;
        drop(context);
        fault(&mirror, &mm, range, Access::Write)?;
        Thread::spawn(move || drop(mirror))?.join()?;
        ledger.balance([&mm])
    }

    #[test]
    fn a_context_that_goes_away_keeps_the_module() -> Outcome {
        let ledger = Ledger::open()?;
        let (mm, busy) = (new_mm()?, new_mm()?);
        let range = map(&busy, 1, ReadWrite)?;
        let context = Context::<1>::get(&mm)?;

        // Callbacks that are under way anywhere put off what frees contexts.
        let gate = Gate::new()?;
        let hold = Hold::new(&busy, range, gate.clone())?;
        let their_mm = busy.clone();
        let unmapping = Thread::spawn(move || unmap(&their_mm, &range))?;
        gate.wait_for_arrival()?;
        drop(context);
        check_eq!((contexts(), ledger.references()), (1, 1));
        // There is another one for who asks now.
        let new = Context::<1>::get(&mm)?;
        check_eq!((contexts(), ledger.references()), (2, 2));
        drop(new);
        check_eq!(contexts(), 2);

        gate.open();
        unmapping.join()??;
        drop(hold);
        ledger.balance([&mm])
    }

    #[test]
    fn two_drivers_share_an_address_space() -> Outcome {
        let ledger = Ledger::open()?;
        let mm = new_mm()?;
        let range = map(&mm, 4, ReadWrite)?;
        let (one, other) = (Context::<1>::get(&mm)?, Context::<2>::get(&mm)?);
        check_eq!(contexts(), 1);
        check_eq!(count(&mm), 3);
        let (first, second) = (attach(&one)?, attach(&other)?);
        fault(&first, &mm, range, Access::Write)?;
        fault(&second, &mm, pages(&range, 0, 3)?, Access::Write)?;

        let lost = pages(&range, 2, 2)?;
        unmap(&mm, &lost)?;
        check_eq!(first.lock().len(), 2);
        check_eq!(second.lock().len(), 2);
        check_eq!(first.lock().last_zap(), Some((lost, Event::Unmap, true)));
        check_eq!(second.lock().last_zap(), Some((lost, Event::Unmap, true)));

        drop((first, one));
        let lost = pages(&range, 1, 1)?;
        unmap(&mm, &lost)?;
        check_eq!(second.lock().last_zap(), Some((lost, Event::Unmap, true)));
        drop((second, other));
        ledger.balance([&mm])
    }

    #[test]
    fn a_driver_tells_two_address_spaces_apart() -> Outcome {
        let ledger = Ledger::open()?;
        let (one, other) = (new_mm()?, new_mm()?);
        let range = map(&one, 2, ReadWrite)?;
        // The same addresses in both.
        map_over(&other, &range)?;
        write(&one, range.start(), 1)?;
        write(&other, range.start(), 2)?;
        let contexts_of = (Context::<1>::get(&one)?, Context::<1>::get(&other)?);
        check_eq!(contexts(), 2);
        let (first, second) = (attach(&contexts_of.0)?, attach(&contexts_of.1)?);
        fault(&first, &one, range, Access::Read)?;
        fault(&second, &other, range, Access::Read)?;
        check_eq!(fault(&first, &other, range, Access::Read), Err(EINVAL));
        for (mirror, byte) in [(&first, 1), (&second, 2)] {
            let page = mirror.lock().page(range.start());
            check_eq!(page.and_then(|page| page.mapped()), Some((byte, true)));
        }
        unmap(&one, &range)?;
        check_eq!(first.lock().counts(), (0, 1));
        check_eq!(second.lock().counts(), (2, 0));
        drop((first, second, contexts_of));
        ledger.balance([&one, &other])
    }

    #[test]
    fn mirrors_come_and_go() -> Outcome {
        let ledger = Ledger::open()?;
        let mm = new_mm()?;
        let range = map(&mm, 4, ReadWrite)?;
        let context = Context::<1>::get(&mm)?;
        let mut mirrors = KVec::new();
        for _ in 0..5 {
            let mirror = attach(&context)?;
            fault(&mirror, &mm, range, Access::Write)?;
            mirrors.push(mirror, GFP_KERNEL)?;
        }
        unmap(&mm, &pages(&range, 0, 1)?)?;
        check!(mirrors.iter().all(|mirror| mirror.lock().len() == 3));

        // Another one in the place of one in the middle starts with nothing.
        drop(mirrors.remove(2).map_err(|_| EINVAL)?);
        let new = attach(&context)?;
        check_eq!(new.lock().counts(), (0, 0));
        fault(&new, &mm, pages(&range, 1, 3)?, Access::Write)?;
        let lost = pages(&range, 1, 1)?;
        unmap(&mm, &lost)?;
        let zap = Some((lost, Event::Unmap, true));
        check!(mirrors.iter().all(|mirror| mirror.lock().last_zap() == zap));
        check_eq!(new.lock().counts(), (2, 1));
        check!(mirrors.iter().all(|mirror| mirror.lock().len() == 2));
        drop((new, mirrors, context));
        ledger.balance([&mm])
    }

    #[test]
    fn exit_empties_mirrors_for_good() -> Outcome {
        let ledger = Ledger::open()?;
        let mm = new_mm()?;
        let range = map(&mm, 2, ReadWrite)?;
        let context = Context::<1>::get(&mm)?;
        let (one, other) = (attach(&context)?, attach(&context)?);
        fault(&one, &mm, range, Access::Write)?;
        fault(&other, &mm, range, Access::Read)?;
        drop(mm);

        let release = (PageRange::ALL, Event::Release, true);
        for mirror in [&one, &other] {
            let shadow = mirror.lock();
            check_eq!(shadow.counts(), (0, 1));
            check_eq!(shadow.last_zap(), Some(release));
        }
        check_eq!((users(context.mm()), count(context.mm())), (0, 1));
        check!(one.mm().mmget_not_zero().is_none());
        check_eq!(attach(&context).err(), Some(ESRCH));
        check_eq!(ledger.references(), 1);
        drop((one, other, context));
        ledger.balance([])
    }

    #[test]
    fn a_context_is_not_made_during_an_invalidation() -> Outcome {
        let _ledger = Ledger::open()?;
        let stage = Stage::new(1)?;
        let invalidating = stage.invalidate(&stage.range)?;
        let (mm, gate) = (stage.mm.clone(), stage.gate.clone());
        let getting = Thread::spawn(move || -> Result<_> {
            let context = Context::<1>::get(&mm)?;
            Ok((context, gate.was_passed()))
        })?;
        check!(getting.wait_until_it_sleeps()?);
        stage.gate.open();
        let (context, passed) = getting.join()??;
        check!(passed);
        invalidating.join()?;

        let mirror = attach(&context)?;
        fault(&mirror, &stage.mm, stage.range, Access::Write)?;
        stage.invalidate(&stage.range)?.join()?;
        check_eq!(mirror.lock().counts(), (0, 1));
        Ok(())
    }

    #[test]
    fn a_mirror_attached_during_an_invalidation_waits_for_it() -> Outcome {
        let _ledger = Ledger::open()?;
        let stage = Stage::new(2)?;
        let context = Context::<1>::get(&stage.mm)?;
        let (first, second) = (pages(&stage.range, 0, 1)?, pages(&stage.range, 1, 1)?);
        let early = attach(&context)?;
        let invalidating = stage.invalidate(&first)?;
        let late = attach(&context)?;
        check_eq!(early.lock().last_zap(), Some((first, Event::Clear, true)));
        check_eq!(late.lock().zaps().count(), 0);

        // What is not being invalidated is not disturbed.
        fault(&late, &stage.mm, second, Access::Write)?;
        check_eq!(late.lock().len(), 1);
        check_eq!(late.mirror().collisions.get(), 0);

        // The rest waits, as long as it is told to.
        let impatient = Request::new(first, Access::Write).with_timeout(Delta::from_millis(20));
        check_eq!(request(&late, &stage.mm, &impatient, 1), Err(EBUSY));
        let (mm, gate) = (stage.mm.clone(), stage.gate.clone());
        let reading = Thread::spawn(move || -> Result<_> {
            let patient = Request::new(first, Access::Write).with_timeout(PATIENCE);
            request(&late, &mm, &patient, 1)?;
            Ok((late, gate.was_passed()))
        })?;
        check!(reading.wait_until_it_sleeps()?);
        stage.gate.open();
        let (late, passed) = reading.join()??;
        check!(passed);
        invalidating.join()?;
        check_eq!(late.lock().len(), 2);
        check_eq!(early.lock().len(), 0);
        Ok(())
    }

    #[test]
    fn a_fault_collides_with_what_comes_after_it_began() -> Outcome {
        let _ledger = Ledger::open()?;
        let mm = new_mm()?;
        let range = map(&mm, 2, ReadWrite)?;
        let context = Context::<1>::get(&mm)?;
        let mirror = attach(&context)?;
        fault(&mirror, &mm, range, Access::Read)?;
        check_eq!(mirror.mirror().collisions.get(), 0);
        // Replacing the page of zeroes invalidates it, in the middle of reading.
        fault(&mirror, &mm, range, Access::Write)?;
        check!((1..=2).contains(&mirror.mirror().collisions.get()));
        let shadow = mirror.lock();
        check_eq!((shadow.len(), shadow.publications()), (2, 2));
        let page = shadow.page(range.start());
        check_eq!(page.and_then(|page| page.mapped()), Some((0, true)));
        Ok(())
    }

    #[test]
    fn after_some_collisions_others_are_held_off() -> Outcome {
        let _ledger = Ledger::open()?;
        let mm = new_mm()?;
        let range = map(&mm, 1, ReadWrite)?;
        touch(&mm, range.start())?;
        let context = Context::<1>::get(&mm)?;
        let recorder = Recorder {
            restless: Some((mm.clone(), range)),
            ..Recorder::default()
        };
        let mirror = attach_with(&context, recorder, Shadow::default())?;
        fault(&mirror, &mm, range, Access::Write)?;
        let told = mirror.mirror();
        check_eq!(told.collisions.get(), 4);
        check_eq!(told.exclusions.get(), 1);
        check_eq!(mirror.lock().publications(), 1);
        check_eq!(mirror.lock().len(), 1);
        Ok(())
    }
}
