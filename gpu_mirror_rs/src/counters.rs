// SPDX-License-Identifier: GPL-2.0

//! What a device has done, for debugfs.

#![forbid(unsafe_code)]

use kernel::{
    debugfs::{Dir, File},
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

/// Counts since the module was loaded, each a file with a decimal number. They wrap.
///
/// Each file is an object of its own: `debugfs::Dir::scope` would make them in the root of debugfs
/// when memory for their directory is short, and not remove them.
#[pin_data]
pub(crate) struct Counters {
    /// Ranges that were faulted in.
    #[pin]
    pub(crate) faults: File<Atomic<u64>>,
    /// Pages in these ranges.
    #[pin]
    pub(crate) pages: File<Atomic<u64>>,
    /// Invalidations that reached a mirror.
    #[pin]
    pub(crate) invalidations: File<Atomic<u64>>,
    /// Times that a range was read again, because an invalidation interfered.
    #[pin]
    pub(crate) collisions: File<Atomic<u64>>,
}

impl Counters {
    /// Counters at zero, with their files in `dir`. Without memory for the files they count all the
    /// same.
    pub(crate) fn new(dir: &Dir) -> impl PinInit<Self, Error> + '_ {
        let zero = || Ok::<_, Error>(Atomic::new(0));
        try_pin_init!(Self {
            faults <- dir.read_only_file(c"faults", zero()),
            pages <- dir.read_only_file(c"pages", zero()),
            invalidations <- dir.read_only_file(c"invalidations", zero()),
            collisions <- dir.read_only_file(c"collisions", zero()),
        }? Error)
    }
}

/// Adds `n` to a counter that only statistics read.
pub(crate) fn count(counter: &Atomic<u64>, n: usize) {
    counter.fetch_add(n as u64, Relaxed);
}
