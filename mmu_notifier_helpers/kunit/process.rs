// SPDX-License-Identifier: GPL-2.0

//! Mirrors of a process that changes its memory, forks, is reaped and exits.

#![forbid(unsafe_code)]

use kernel::prelude::*;

#[kunit_tests(mmu_notifier_helpers_process)]
mod tests {
    use crate::{
        bindings::*,
        check::{Failure, Outcome},
        ffi_hold::Hold,
        ffi_mm::{map, new_mm, users, Protection},
        ffi_recorder::{
            attach, attach_with, fault, request, watch, watch_two_pass, Context, Notifier, Passes,
            Recorder, Seen, Shadow,
        },
        gate::Gate,
        ledger::{contexts, Ledger},
        puppet::{Puppet, ADDR},
        stage::Stage,
        wait::PATIENCE,
    };
    use kernel::{page::PAGE_SIZE, prelude::*, sync::Arc, time::Delta};
    use mmu_notifier_helpers::{
        fault::{Access, Request},
        mirror::Subscription,
        mmap::{has_no_secret, MmapLocked, MmapReadKillable},
        notifier::Attachment,
        range::{Event, PageRange},
    };

    const READ: i64 = PROT_READ as i64;
    const READ_WRITE: i64 = (PROT_READ | PROT_WRITE) as i64;

    /// A process with `pages` pages of memory, written to.
    fn process(pages: usize) -> Outcome<(Puppet, PageRange)> {
        let (puppet, range) = Puppet::with_memory(pages)?;
        fill(&puppet, &range)?;
        Ok((puppet, range))
    }

    /// Lets the process write to its memory.
    fn fill(puppet: &Puppet, range: &PageRange) -> Outcome {
        check_eq!(puppet.fill(range)?, range.len() as i64);
        Ok(())
    }

    fn mirror(puppet: &Puppet, range: PageRange) -> Outcome<Arc<Notifier<0>>> {
        let mm = puppet.mm()?;
        let notifier = watch::<0>(&mm, range)?;
        fault(&*notifier, &mm, range, Access::Write)?;
        check_eq!(notifier.lock().len(), range.pages());
        Ok(notifier)
    }

    #[test]
    fn changes_that_a_process_makes() -> Outcome {
        let (puppet, range) = process(4)?;
        let notifier = mirror(&puppet, range)?;
        let (addr, len) = (range.start() as i64, range.len() as i64);

        puppet.call(__NR_mprotect, [addr, len, READ])?;
        check_eq!(
            notifier.lock().last_zap(),
            Some((range, Event::ProtectionVma, true))
        );
        check_eq!(notifier.lock().len(), 0);
        check_eq!(
            fault(&*notifier, &*puppet.mm()?, range, Access::Write),
            Err(EPERM)
        );
        fault(&*notifier, &*puppet.mm()?, range, Access::Read)?;

        puppet.call(__NR_mprotect, [addr, len, READ_WRITE])?;
        check_eq!(
            notifier.lock().last_zap(),
            Some((range, Event::ProtectionVma, true))
        );
        fault(&*notifier, &*puppet.mm()?, range, Access::Write)?;

        let half = PageRange::new(range.start(), range.start() + 2 * PAGE_SIZE)?;
        puppet.call(
            __NR_madvise,
            [addr, half.len() as i64, MADV_DONTNEED.into()],
        )?;
        check_eq!(notifier.lock().last_zap(), Some((half, Event::Clear, true)));
        check_eq!(notifier.lock().len(), 2);
        Ok(())
    }

    #[test]
    fn fork_takes_write_access_and_nothing_else() -> Outcome {
        let (puppet, range) = process(4)?;
        let notifier = mirror(&puppet, range)?;
        let before = notifier.lock().zaps().count();
        let child = puppet.fork()?;
        {
            let shadow = notifier.lock();
            check_eq!(shadow.zaps().count(), before + 1);
            check_eq!(
                shadow.last_zap(),
                Some((range, Event::ProtectionPage, true))
            );
            check_eq!(shadow.len(), 0);
        }

        // The child is nobody's mirror; what it does is not told.
        let zaps = notifier.lock().zaps().count();
        fill(&child, &range)?;
        check_eq!(notifier.lock().zaps().count(), zaps);
        let child_mm = child.mm()?;
        check_eq!(
            fault(&*notifier, &child_mm, range, Access::Read),
            Err(EINVAL)
        );
        drop(child_mm);

        // What the device writes to after this is the parent's own.
        fault(&*notifier, &*puppet.mm()?, range, Access::Write)?;
        let theirs = watch::<1>(&*child.mm()?, range)?;
        fault(&*theirs, &*child.mm()?, range, Access::Write)?;
        for addr in (range.start()..range.end()).step_by(PAGE_SIZE) {
            let page = |seen: Option<Seen>| match seen {
                Some(Seen::Mapped {
                    pfn,
                    writable: true,
                    ..
                }) => Some(pfn),
                _ => None,
            };
            let ours = page(notifier.lock().page(addr));
            let theirs = page(theirs.lock().page(addr));
            check!(ours.is_some());
            check!(theirs.is_some());
            check!(ours != theirs);
        }
        drop(child);
        let release = (range, Event::Release, true);
        check!(theirs.lock().was_told(release));
        check_eq!(theirs.lock().len(), 0);
        check_eq!(notifier.lock().len(), range.pages());
        Ok(())
    }

    #[test]
    fn exit_empties_the_mirror() -> Outcome {
        let (puppet, range) = process(4)?;
        let notifier = mirror(&puppet, range)?;
        drop(puppet);
        let shadow = notifier.lock();
        let release = (range, Event::Release, true);
        check!(shadow.was_told(release));
        check_eq!(shadow.len(), 0);
        check!(notifier.mm().mmget_not_zero().is_none());
        Ok(())
    }

    #[test]
    fn huge_pages_say_their_order() -> Outcome {
        let (puppet, range) = process(1024)?;
        // From the second 2 MiB on nothing is mapped any more, and then by a huge page.
        let huge = PageRange::new(ADDR + 512 * PAGE_SIZE, range.end())?;
        let (addr, len) = (huge.start() as i64, huge.len() as i64);
        puppet.call(__NR_madvise, [addr, len, MADV_DONTNEED.into()])?;
        puppet.call(__NR_madvise, [addr, len, MADV_HUGEPAGE.into()])?;
        let part = PageRange::new(huge.start() + 8 * PAGE_SIZE, huge.start() + 12 * PAGE_SIZE)?;
        let notifier = mirror(&puppet, part)?;
        let shadow = notifier.lock();
        let Some(Seen::Mapped { pfn, .. }) = shadow.page(part.start()) else {
            return Err(Failure::untrue("the page is mapped"));
        };
        check_eq!(pfn % 512, 8);
        for (n, addr) in (part.start()..part.end()).step_by(PAGE_SIZE).enumerate() {
            let wanted = Seen::Mapped {
                pfn: pfn + n,
                order: 9,
                writable: true,
                exclusive: false,
                first: 0,
            };
            check_eq!(shadow.page(addr), Some(wanted));
        }
        Ok(())
    }

    #[test]
    fn secret_memory_stays_secret() -> Outcome {
        let (puppet, range) = Puppet::with_memory(4)?;
        let secret = PageRange::new(range.start() + PAGE_SIZE, range.end() - PAGE_SIZE)?;
        let (addr, len) = (secret.start() as i64, secret.len() as i64);
        let file = puppet.call(__NR_memfd_secret, [0])?;
        puppet.call(__NR_ftruncate, [file, len])?;
        let flags = (MAP_SHARED | MAP_FIXED).into();
        puppet.call(__NR_mmap, [addr, len, READ_WRITE, flags, file, 0])?;
        fill(&puppet, &range)?;

        let mm = puppet.mm()?;
        let mmap = MmapReadKillable::lock(&mm)?;
        check!(mmap.secrets(&range).eq(core::iter::once(1..3)));
        check!(mmap.secrets(&PageRange::ALL).count() == 1);
        drop(mmap);
        check!(!has_no_secret(&mm, &range));
        check!(!has_no_secret(&mm, &secret));

        let notifier = watch::<0>(&mm, range)?;
        for access in [Access::Read, Access::Write] {
            for make in [Request::new, Request::droppable] {
                let wanted = make(range, access);
                check_eq!(request(&*notifier, &mm, &wanted, 4), Err(EFAULT));
            }
        }
        check_eq!(notifier.lock().publications(), 0);
        fault(&*notifier, &mm, range, Access::Look)?;
        let shadow = notifier.lock();
        for (page, is_secret) in [false, true, true, false].into_iter().enumerate() {
            let seen = shadow.page(range.start() + page * PAGE_SIZE);
            check_eq!(seen == Some(Seen::Error), is_secret);
        }
        Ok(())
    }

    #[test]
    fn the_reaper_is_refused_while_the_shadow_is_in_use() -> Outcome {
        let (puppet, range) = process(4)?;
        let notifier = mirror(&puppet, range)?;
        let reaper = Puppet::start()?;
        let pid = i64::from(puppet.pid()?);
        let fd = reaper.call(__NR_pidfd_open, [pid, 0])?;
        // It is killed, but does not come out of the kernel to die.
        reaper.call(__NR_kill, [pid, SIGKILL.into()])?;

        let before = notifier.lock().zaps().count();
        let shadow = notifier.lock();
        reaper.begin(__NR_process_mrelease, [fd, 0]);
        check_eq!(reaper.finish(), Err(EAGAIN));
        check_eq!(shadow.counts(), (4, before));
        drop(shadow);
        check_eq!(notifier.mirror().refusals.get(), 1);

        check_eq!(reaper.call(__NR_process_mrelease, [fd, 0]), Ok(0));
        check_eq!(
            notifier.lock().last_zap(),
            Some((range, Event::Clear, false))
        );
        check_eq!(notifier.lock().counts(), (0, before + 1));

        // What would be faulted in now is zeroes and not the process's data.
        check_eq!(
            fault(&*notifier, &*puppet.mm()?, range, Access::Read),
            Err(EFAULT)
        );
        drop(puppet);
        let release = (range, Event::Release, true);
        check!(notifier.lock().was_told(release));
        Ok(())
    }

    #[test]
    fn the_reaper_is_refused_in_two_passes() -> Outcome {
        let (puppet, range) = process(4)?;
        let passes = Arc::new(Passes::default(), GFP_KERNEL)?;
        let counts = || (passes.started.get(), passes.finished.get());
        let mm = puppet.mm()?;
        let first = watch_two_pass(&mm, range, passes.clone())?;
        let behind = PageRange::new(range.start() + PAGE_SIZE, range.end())?;
        let second = watch_two_pass(&mm, behind, passes.clone())?;
        fault(&*first, &mm, range, Access::Write)?;
        fault(&*second, &mm, behind, Access::Write)?;
        drop(mm);
        let (reaper, fd) = killed_before_a_reaper(&puppet)?;
        check_eq!(counts(), (0, 0));

        // What the first one has started is finished, though the second one refuses.
        let shadow = second.lock();
        let outcome = reaper.call(__NR_process_mrelease, [fd, 0]);
        check_eq!(outcome, Err(EAGAIN));
        check_eq!(shadow.counts(), (3, 0));
        drop(shadow);
        check_eq!(counts(), (1, 1));
        check_eq!(first.mirror().refusals.get(), 0);
        check_eq!(second.mirror().refusals.get(), 1);

        check_eq!(reaper.call(__NR_process_mrelease, [fd, 0]), Ok(0));
        check_eq!(counts(), (3, 3));
        for (notifier, watched) in [(&first, range), (&second, behind)] {
            let shadow = notifier.lock();
            check_eq!(shadow.last_zap(), Some((watched, Event::Clear, false)));
            check_eq!(shadow.len(), 0);
        }
        Ok(())
    }

    /// Kills the process, which does not come out of the kernel to die, and returns who can take
    /// its memory from it, by the number.
    fn killed_before_a_reaper(puppet: &Puppet) -> Outcome<(Puppet, i64)> {
        let reaper = Puppet::start()?;
        let pid = i64::from(puppet.pid()?);
        let fd = reaper.call(__NR_pidfd_open, [pid, 0])?;
        reaper.call(__NR_kill, [pid, SIGKILL.into()])?;
        Ok((reaper, fd))
    }

    #[test]
    fn a_reader_that_waits_can_be_killed() -> Outcome {
        let _ledger = Ledger::open()?;
        let stage = Stage::new(1)?;
        let context = Context::<1>::get(&stage.mm)?;
        let mirror = Arc::new(attach(&context)?, GFP_KERNEL)?;
        let invalidating = stage.invalidate(&stage.range)?;

        let puppet = Puppet::start()?;
        let (theirs, mm, range) = (mirror.clone(), stage.mm.clone(), stage.range);
        puppet.send(move || {
            // The half of it, after which a reader looks around by itself, is longer than it is
            // waited for.
            let timeout = Delta::from_nanos(4 * PATIENCE.as_nanos());
            let patient = Request::new(range, Access::Read).with_timeout(timeout);
            request(&*theirs, &mm, &patient, 1)
        })?;
        check!(puppet.sleeps_on_its_errand()?);
        killed_before_a_reaper(&puppet)?;
        check_eq!(puppet.back()?, Err(EINTR));
        check!(!stage.gate.was_passed());
        check_eq!(mirror.lock().publications(), 0);

        // Nothing of it is left that the end of the invalidation, or the next reader, meets.
        stage.gate.open();
        invalidating.join()?;
        fault(&*mirror, &stage.mm, stage.range, Access::Read)?;
        check_eq!(mirror.lock().len(), 1);
        Ok(())
    }

    #[test]
    fn a_context_that_cannot_be_registered_is_freed() -> Outcome {
        let ledger = Ledger::open()?;
        let mm = new_mm()?;
        // Without a mapping there is no other lock to take.
        map(&mm, 1, Protection::Read)?;
        let puppet = Puppet::start()?;
        killed_before_a_reaper(&puppet)?;
        // The mmap lock is free, so it is had; a task that is killed does not get the others.
        let theirs = mm.clone();
        puppet.send(move || Context::<1>::get(&theirs).map(drop))?;
        check_eq!(puppet.back()?, Err(EINTR));
        drop(puppet);
        ledger.balance([&mm])?;

        let context = Context::<1>::get(&mm)?;
        check_eq!(contexts(), 1);
        drop(context);
        ledger.balance([&mm])
    }

    /// The context of a process, which has a mirror with all of `range` in it.
    fn context(puppet: &Puppet, range: PageRange) -> Outcome<Attachment<Recorder<1>>> {
        let mm = puppet.mm()?;
        let context = Context::<1>::get(&mm)?;
        let mirror = attach_with(&context, Recorder::default(), Shadow::of(range))?;
        fault(&mirror, &mm, range, Access::Write)?;
        check_eq!(mirror.lock().len(), range.pages());
        Ok(mirror)
    }

    #[test]
    fn a_child_has_no_context() -> Outcome {
        let _ledger = Ledger::open()?;
        let (puppet, range) = process(4)?;
        let mirror = context(&puppet, range)?;
        let child = puppet.fork()?;
        // The parent's pages are shared from now on, so the device may not write to them.
        check_eq!(mirror.lock().len(), 0);
        let protect = (range, Event::ProtectionPage, true);
        check_eq!(mirror.lock().last_zap(), Some(protect));
        check_eq!(contexts(), 1);

        let mm = puppet.mm()?;
        fault(&mirror, &mm, range, Access::Write)?;
        let child_mm = child.mm()?;
        check_eq!(fault(&mirror, &child_mm, range, Access::Read), Err(EINVAL));
        let zaps = mirror.lock().zaps().count();
        fill(&child, &range)?;
        check_eq!(mirror.lock().counts(), (4, zaps));

        let of_child = Context::<1>::get(&child_mm)?;
        check_eq!(contexts(), 2);
        check!(!core::ptr::eq(&*of_child, mirror.per_mm()));
        Ok(())
    }

    #[test]
    fn exit_empties_a_context() -> Outcome {
        let _ledger = Ledger::open()?;
        let (puppet, range) = process(4)?;
        let mirror = context(&puppet, range)?;
        drop(puppet);
        let release = (PageRange::ALL, Event::Release, true);
        check_eq!(mirror.lock().last_zap(), Some(release));
        check_eq!(mirror.lock().len(), 0);
        check_eq!(users(mirror.mm()), 0);
        check!(mirror.mm().mmget_not_zero().is_none());
        Ok(())
    }

    #[test]
    fn a_context_refuses_no_invalidation() -> Outcome {
        let _ledger = Ledger::open()?;
        let (puppet, range) = process(4)?;
        // Another notifier refuses, before and after ours is asked: nothing may stay in flight.
        let mm = puppet.mm()?;
        let gate = Gate::new()?;
        gate.open();
        let first = Hold::new(&mm, range, gate.clone())?;
        let mirror = context(&puppet, range)?;
        let last = Hold::new(&mm, range, gate)?;
        drop(mm);
        let reaper = Puppet::start()?;
        let pid = i64::from(puppet.pid()?);
        let fd = reaper.call(__NR_pidfd_open, [pid, 0])?;
        reaper.call(__NR_kill, [pid, SIGKILL.into()])?;

        check_eq!(reaper.call(__NR_process_mrelease, [fd, 0]), Err(EAGAIN));
        let clear = (range, Event::Clear, false);
        check_eq!(mirror.lock().last_zap(), Some(clear));
        check_eq!(mirror.lock().counts(), (0, 1));
        let mm = puppet.mm()?;
        // Not EBUSY: the memory of the process is not what it was, but nothing is in flight.
        check_eq!(fault(&mirror, &mm, range, Access::Read), Err(EFAULT));
        check_eq!(Context::<1>::get(&mm).err(), Some(EFAULT));
        drop((mm, first, last));
        check_eq!(reaper.call(__NR_process_mrelease, [fd, 0]), Ok(0));
        Ok(())
    }
}
