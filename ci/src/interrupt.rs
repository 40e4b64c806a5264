// SPDX-License-Identifier: GPL-2.0

//! A signal that ends this program ends what it started as well: a build, a guest.

use std::process::Child;
use std::sync::atomic::{AtomicI32, Ordering};

use anyhow::Result;
use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// The process group that runs now; there is one at most.
static RUNNING: AtomicI32 = AtomicI32::new(0);

/// Starts to look out for signals.
pub(crate) fn watch() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            kill(RUNNING.load(Ordering::SeqCst));
            let _ = emulate_default_handler(signal);
        }
    });
    Ok(())
}

/// A process group of a child, killed on a signal for as long as this lives.
pub(crate) struct Group(i32);

impl Group {
    /// The group that `child` leads.
    pub(crate) fn of(child: &Child) -> Self {
        Self::led_by(child.id())
    }

    /// The group that a process leads.
    pub(crate) fn led_by(leader: u32) -> Self {
        let group = i32::try_from(leader).unwrap_or(0);
        RUNNING.store(group, Ordering::SeqCst);
        Self(group)
    }

    /// Kills all of it.
    pub(crate) fn kill(&self) {
        kill(self.0);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        RUNNING.store(0, Ordering::SeqCst);
    }
}

fn kill(group: i32) {
    // Group 0 would be our own.
    if group > 0 {
        // There may be nobody left in it.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}
