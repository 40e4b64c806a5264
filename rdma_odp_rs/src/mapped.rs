// SPDX-License-Identifier: GPL-2.0 OR Linux-OpenIB

//! Where a region's page list may have pages, so that nobody looks for them elsewhere.
//!
//! A bit stands for [`CHUNK`] entries, a page of the list. The drivers know nothing of it. A bit
//! that is set is a hint: the entries may all be gone.

#![forbid(unsafe_code)]

use core::ops::Range;
use kernel::{alloc::Flags, prelude::*};

/// The entries that a bit stands for: a page of the list.
pub const CHUNK: usize = 512;
const BITS: usize = usize::BITS as usize;

/// The parts of `entries` for which one note is enough.
pub fn runs(mut entries: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    core::iter::from_fn(move || {
        let end = entries.end.min((entries.start / CHUNK + 1) * CHUNK);
        let run = entries.start..end;
        entries.start = end;
        (!run.is_empty()).then_some(run)
    })
}

/// The bits of a list.
pub struct Mapped {
    /// Those of a list that is short, as most are.
    first: usize,
    more: KVec<usize>,
}

impl Mapped {
    /// For a list of `entries`, none of which has a page.
    ///
    /// # Context
    ///
    /// Sleeps if the flags let it.
    ///
    /// # Errors
    ///
    /// `ENOMEM`.
    pub fn new(entries: usize, flags: Flags) -> Result<Self> {
        let words = entries.div_ceil(CHUNK).div_ceil(BITS).saturating_sub(1);
        let mut more = KVec::with_capacity(words, flags)?;
        for _ in 0..words {
            more.push(0, flags)?;
        }
        Ok(Self { first: 0, more })
    }

    fn word(&mut self, chunk: usize) -> Option<&mut usize> {
        match (chunk / BITS).checked_sub(1) {
            None => Some(&mut self.first),
            Some(word) => self.more.get_mut(word),
        }
    }

    /// Notes that `entry` may have a page, and with it all of its run.
    pub fn note(&mut self, entry: usize) {
        let chunk = entry / CHUNK;
        if let Some(word) = self.word(chunk) {
            *word |= 1 << (chunk % BITS);
        }
    }

    /// Notes that none of the entries of `chunk` has a page.
    fn forget(&mut self, chunk: usize) {
        if let Some(word) = self.word(chunk) {
            *word &= !(1 << (chunk % BITS));
        }
    }

    /// The next chunk from `chunk` on, but before `end`, whose bit is set.
    fn next(&mut self, mut chunk: usize, end: usize) -> Option<usize> {
        while chunk < end {
            let rest = *self.word(chunk)? >> (chunk % BITS);
            if rest != 0 {
                chunk += rest.trailing_zeros() as usize;
                return (chunk < end).then_some(chunk);
            }
            chunk = (chunk / BITS + 1) * BITS;
        }
        None
    }

    /// Takes the entries of `entries` that may have a page, in runs and in order, from the front of
    /// `entries`. Who takes a run empties it.
    pub fn take(&mut self, entries: &mut Range<usize>) -> Option<Range<usize>> {
        if entries.start >= entries.end {
            return None;
        }
        let Some(chunk) = self.next(entries.start / CHUNK, entries.end.div_ceil(CHUNK)) else {
            entries.start = entries.end;
            return None;
        };
        let all = chunk * CHUNK..(chunk + 1) * CHUNK;
        let run = all.start.max(entries.start)..all.end.min(entries.end);
        entries.start = run.end;
        if run == all {
            self.forget(chunk);
        }
        Some(run)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const ENTRIES: usize = 3 * BITS * CHUNK / 2;

    #[derive(Clone, Debug)]
    enum Step {
        Note(usize),
        Take(usize, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..ENTRIES).prop_map(Step::Note),
            (0..=ENTRIES, 0..=ENTRIES).prop_map(|(a, b)| Step::Take(a.min(b), a.max(b))),
            (0..ENTRIES, 0..64usize).prop_map(|(a, n)| Step::Take(a, (a + n).min(ENTRIES))),
            Just(Step::Take(0, ENTRIES)),
        ]
    }

    proptest! {
        #[test]
        fn every_page_is_found(steps in prop::collection::vec(step(), 1..100)) {
            let mut mapped = Mapped::new(ENTRIES, GFP_KERNEL).unwrap();
            let mut pages = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Note(entry) => {
                        mapped.note(entry);
                        pages.insert(entry);
                    }
                    Step::Take(start, end) => {
                        let (mut left, mut at) = (start..end, start);
                        while let Some(run) = mapped.take(&mut left) {
                            prop_assert!(at <= run.start && run.end <= end && !run.is_empty());
                            at = run.end;
                            run.for_each(|entry| { pages.remove(&entry); });
                        }
                        prop_assert_eq!(pages.range(start..end).next(), None);
                    }
                }
            }
        }
    }

    #[test]
    fn what_was_never_mapped_costs_nothing() {
        let mut mapped = Mapped::new(ENTRIES, GFP_KERNEL).unwrap();
        assert_eq!(mapped.take(&mut (0..ENTRIES)), None);
        mapped.note(ENTRIES - 1);
        let mut all = 0..ENTRIES;
        assert_eq!(mapped.take(&mut all), Some(ENTRIES - CHUNK..ENTRIES));
        assert_eq!(mapped.take(&mut all), None);
    }
}
