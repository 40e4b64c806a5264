// SPDX-License-Identifier: GPL-2.0

//! How often a fault tries, and how: what makes it end.
//!
//! Pure: what is tried is a trait, so that the model checker can see the real loop with its own
//! page tables.
//!
//! A fault is optimistic first: it reads page-table entries while anybody may change them, and
//! reads them again when somebody did. Under a storm of invalidations of the same addresses that
//! may never succeed. After [`OPTIMISTIC`] collisions, or half of the time that the caller gives, a
//! try excludes what it can: it has the pages faulted in, and then holds everybody off who changes
//! page tables under the locks of the address space while it looks. Who zaps in a loop may do so in
//! between, each time, in step with the fault; so what is missing is faulted in again then, if that
//! waits for no disk and no user space. Reclaim, migration, truncation and exit come under other
//! locks, so that try may collide as well. The caller's time bounds the whole.

#![forbid(unsafe_code)]

use kernel::prelude::*;

/// Collisions after which a fault stops being optimistic.
pub const OPTIMISTIC: u32 = 4;

/// How much of the time that the caller gives is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// Enough to be optimistic.
    Fresh,
    /// Less than half.
    Wearing,
    /// None.
    Over,
}

/// What a fault tries.
pub trait Attempt {
    /// What a try that succeeds leaves: the locked shadow.
    type Published;

    /// Reads entries while they may change, and publishes them unless they did: [`None`] then.
    ///
    /// # Errors
    ///
    /// `EBUSY` if half of the time was spent waiting for others; any other ends the fault.
    fn optimistic(&mut self) -> Result<Option<Self::Published>>;

    /// The same, holding off who can be held off.
    ///
    /// # Errors
    ///
    /// Each ends the fault.
    fn exclusive(&mut self) -> Result<Option<Self::Published>>;

    /// Told of the `nth` collision, from 1.
    ///
    /// # Errors
    ///
    /// Each ends the fault: the task is being killed.
    fn collided(&mut self, nth: u32) -> Result;

    /// What is left of the time that the caller gives.
    fn patience(&self) -> Patience;
}

/// Tries until something is published. However long the optimistic tries took, as they wait for I/O
/// and user space, there is an exclusive one before it gives up.
///
/// # Errors
///
/// `EBUSY` when the time is over; those of `attempt`.
pub fn publish<A: Attempt>(attempt: &mut A) -> Result<A::Published> {
    let mut collisions = 0;
    let mut patience = Patience::Fresh;
    loop {
        let optimistic = collisions < OPTIMISTIC && patience == Patience::Fresh;
        let tried = if optimistic {
            attempt.optimistic()
        } else {
            attempt.exclusive()
        };
        match tried {
            Ok(Some(published)) => return Ok(published),
            Ok(None) => (),
            Err(EBUSY) if optimistic => (),
            Err(e) => return Err(e),
        }
        collisions += 1;
        attempt.collided(collisions)?;
        patience = attempt.patience();
        if patience == Patience::Over && !optimistic {
            return Err(EBUSY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries that end as written, and whose clock jumps at a given collision.
    struct Script<'a> {
        optimistic: &'a [Result<Option<()>>],
        exclusive: &'a [Result<Option<()>>],
        wearing_from: u32,
        over_from: u32,
        killed_at: u32,
        collisions: u32,
    }

    impl Script<'_> {
        const QUIET: Self = Self {
            optimistic: &[],
            exclusive: &[],
            wearing_from: u32::MAX,
            over_from: u32::MAX,
            killed_at: u32::MAX,
            collisions: 0,
        };

        fn next(tries: &mut &[Result<Option<()>>]) -> Result<Option<()>> {
            let (first, rest) = tries.split_first().expect("one try more than was expected");
            *tries = rest;
            *first
        }

        /// Runs it, and checks that no try is left over.
        fn run(mut self) -> Result {
            let result = publish(&mut self);
            assert!(self.optimistic.is_empty() && self.exclusive.is_empty());
            result
        }
    }

    impl Attempt for Script<'_> {
        type Published = ();

        fn optimistic(&mut self) -> Result<Option<()>> {
            Self::next(&mut self.optimistic)
        }

        fn exclusive(&mut self) -> Result<Option<()>> {
            Self::next(&mut self.exclusive)
        }

        fn collided(&mut self, nth: u32) -> Result {
            assert_eq!(nth, self.collisions + 1);
            self.collisions = nth;
            if nth >= self.killed_at {
                return Err(EINTR);
            }
            Ok(())
        }

        fn patience(&self) -> Patience {
            match self.collisions {
                n if n >= self.over_from => Patience::Over,
                n if n >= self.wearing_from => Patience::Wearing,
                _ => Patience::Fresh,
            }
        }
    }

    const COLLISION: Result<Option<()>> = Ok(None);
    const SUCCESS: Result<Option<()>> = Ok(Some(()));

    #[test]
    fn an_undisturbed_fault_tries_once() {
        let script = Script {
            optimistic: &[SUCCESS],
            ..Script::QUIET
        };
        assert_eq!(script.run(), Ok(()));
    }

    #[test]
    fn excludes_after_some_collisions() {
        let script = Script {
            optimistic: &[COLLISION; OPTIMISTIC as usize],
            exclusive: &[COLLISION, COLLISION, SUCCESS],
            ..Script::QUIET
        };
        assert_eq!(script.run(), Ok(()));
    }

    #[test]
    fn excludes_after_some_time() {
        let script = Script {
            optimistic: &[COLLISION],
            exclusive: &[SUCCESS],
            wearing_from: 1,
            ..Script::QUIET
        };
        assert_eq!(script.run(), Ok(()));
        let waited = Script {
            optimistic: &[Err(EBUSY)],
            exclusive: &[SUCCESS],
            wearing_from: 1,
            ..Script::QUIET
        };
        assert_eq!(waited.run(), Ok(()));
    }

    #[test]
    fn ends_when_the_time_is_over() {
        let script = Script {
            optimistic: &[COLLISION; OPTIMISTIC as usize],
            exclusive: &[COLLISION; 3],
            over_from: OPTIMISTIC + 3,
            ..Script::QUIET
        };
        assert_eq!(script.run(), Err(EBUSY));
        let waited = Script {
            optimistic: &[COLLISION; OPTIMISTIC as usize],
            exclusive: &[Err(EBUSY)],
            ..Script::QUIET
        };
        assert_eq!(waited.run(), Err(EBUSY));
    }

    #[test]
    fn excludes_once_however_late_it_is() {
        let script = |exclusive| Script {
            optimistic: &[COLLISION],
            exclusive,
            over_from: 1,
            ..Script::QUIET
        };
        assert_eq!(script(&[SUCCESS]).run(), Ok(()));
        assert_eq!(script(&[COLLISION]).run(), Err(EBUSY));
    }

    #[test]
    fn ends_when_killed_or_refused() {
        let killed = Script {
            optimistic: &[COLLISION, COLLISION],
            killed_at: 2,
            ..Script::QUIET
        };
        assert_eq!(killed.run(), Err(EINTR));
        let refused = Script {
            optimistic: &[COLLISION, Err(EFAULT)],
            ..Script::QUIET
        };
        assert_eq!(refused.run(), Err(EFAULT));
    }
}
