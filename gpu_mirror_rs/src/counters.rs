// SPDX-License-Identifier: GPL-2.0

//! What a device has done, for debugfs.

#![forbid(unsafe_code)]

use kernel::{
    debugfs::ScopedDir,
    sync::atomic::{Atomic, Relaxed},
};

/// Counts since the module was loaded. They wrap.
pub(crate) struct Counters {
    /// Ranges that were faulted in.
    pub(crate) faults: Atomic<u64>,
    /// Pages in these ranges.
    pub(crate) pages: Atomic<u64>,
    /// Invalidations that reached a mirror.
    pub(crate) invalidations: Atomic<u64>,
    /// Times that a range was read again, because an invalidation interfered.
    pub(crate) collisions: Atomic<u64>,
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            faults: Atomic::new(0),
            pages: Atomic::new(0),
            invalidations: Atomic::new(0),
            collisions: Atomic::new(0),
        }
    }

    /// Makes a file for each, which holds the decimal number.
    pub(crate) fn expose<'data>(&'data self, dir: &ScopedDir<'data, '_>) {
        dir.read_only_file(c"faults", &self.faults);
        dir.read_only_file(c"pages", &self.pages);
        dir.read_only_file(c"invalidations", &self.invalidations);
        dir.read_only_file(c"collisions", &self.collisions);
    }
}

/// Adds `n` to a counter that only statistics read.
pub(crate) fn count(counter: &Atomic<u64>, n: usize) {
    counter.fetch_add(n as u64, Relaxed);
}
