// SPDX-License-Identifier: GPL-2.0

//! What a device has done, in all and for each mirror, for debugfs.

#![forbid(unsafe_code)]

use crate::device::Shared;
use core::ops::Deref;
use kernel::{
    debugfs::{Dir, File},
    prelude::*,
    str::CString,
    sync::atomic::{Atomic, Relaxed},
};

/// Counts since the device or the mirror was made, each a file with a decimal number. They wrap.
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
    pub(crate) retries: File<Atomic<u64>>,
    /// Times that a range was read with the address space held still for it.
    #[pin]
    pub(crate) slow_paths: File<Atomic<u64>>,
    /// Invalidations that were refused, since they could not wait for the page table's lock. Never,
    /// for a lock that spins.
    #[pin]
    pub(crate) refusals: File<Atomic<u64>>,
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
            retries <- dir.read_only_file(c"retries", zero()),
            slow_paths <- dir.read_only_file(c"slow_paths", zero()),
            refusals <- dir.read_only_file(c"refusals", zero()),
        }? Error)
    }

    /// Adds `n` to one, which only statistics read.
    pub(crate) fn add(&self, counter: fn(&Self) -> &Atomic<u64>, n: usize) {
        counter(self).fetch_add(n as u64, Relaxed);
    }
}

/// The counters of one mirror, in a directory of their own below that of the device.
///
/// A mirror is an open file, so an address space may have several. Their directories have the
/// process in common: what was done in the address space is the sum, but for invalidations, of
/// which each mirror is told.
#[pin_data]
pub(crate) struct MirrorCounters {
    #[pin]
    counters: Counters,
    // Removed after the files in it.
    _dir: Dir,
}

impl MirrorCounters {
    /// Counters at zero. The directory has the number of the process that opens the device, as the
    /// first PID namespace has it, and one that makes it unique.
    pub(crate) fn new(device: &Shared) -> Result<impl PinInit<Self, Error>> {
        let name = CString::try_from_fmt(fmt!(
            "{}-{}",
            kernel::current!().group_leader().pid(),
            device.mirrors.fetch_add(1, Relaxed),
        ))?;
        let dir = device.debugfs.subdir(&name);
        Ok(pin_init::pin_init_scope(move || {
            Ok(try_pin_init!(Self {
                counters <- Counters::new(&dir),
                _dir: dir.clone(),
            }? Error))
        }))
    }
}

impl Deref for MirrorCounters {
    type Target = Counters;

    fn deref(&self) -> &Counters {
        &self.counters
    }
}
