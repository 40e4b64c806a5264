// SPDX-License-Identifier: GPL-2.0

//! A signal that ends this program ends what it started as well: a build, a guest.

use std::process::Child;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use nix::sys::signal::{killpg, Signal};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// The process groups that run now.
static RUNNING: Mutex<Vec<i32>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<i32>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts to look out for signals. What `ci/run` started beside this program ends with it too.
pub(crate) fn watch() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let beside = std::env::var("CI_BESIDE").ok();
    let beside = beside.and_then(|group| group.parse().ok()).unwrap_or(0);
    std::thread::spawn(move || {
        for signal in signals.forever() {
            kill(beside);
            running().iter().copied().for_each(kill);
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
        running().push(group);
        Self(group)
    }

    /// Its number.
    pub(crate) fn number(&self) -> i32 {
        self.0
    }

    /// Kills all of it.
    pub(crate) fn kill(&self) {
        kill(self.0);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let mut running = running();
        if let Some(at) = running.iter().position(|group| *group == self.0) {
            running.swap_remove(at);
        }
    }
}

fn kill(group: i32) {
    // Group 0 would be our own.
    if group > 0 {
        // There may be nobody left in it.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
}
