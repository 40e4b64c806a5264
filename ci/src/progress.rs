// SPDX-License-Identifier: GPL-2.0

//! What is shown while something takes long: a bar on a terminal, a line now
//! and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);

/// One long step.
pub(crate) struct Progress {
    bar: ProgressBar,
    what: String,
    /// What an earlier run did says nothing about the pace of this one.
    done_before: u64,
    started: Instant,
    line_due: Instant,
    terminal: bool,
}

impl Progress {
    /// A step of unknown length.
    pub(crate) fn spinner(what: &str) -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {msg}") {
            bar.set_style(style);
        }
        Self::start(bar, what, 0)
    }

    /// A step that is done when `total` things are, of which `done` are now.
    pub(crate) fn bar(what: &str, done: u64, total: u64) -> Self {
        let bar = ProgressBar::new(total).with_position(done);
        let template = "{prefix} [{elapsed}] {wide_bar} {pos}/{len}, {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self::start(bar, what, done)
    }

    fn start(bar: ProgressBar, what: &str, done_before: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        bar.set_prefix(what.to_owned());
        if terminal {
            bar.enable_steady_tick(Duration::from_millis(200));
        } else {
            eprintln!("{what} ...");
        }
        let now = Instant::now();
        Self {
            bar,
            what: what.to_owned(),
            done_before,
            started: now,
            line_due: now + LINE_EVERY,
            terminal,
        }
    }

    /// Says that one more thing is done.
    pub(crate) fn one_more(&self) {
        if self
            .bar
            .length()
            .is_some_and(|total| self.bar.position() < total)
        {
            self.bar.inc(1);
        }
        if self.bar.length().is_some() {
            self.bar.set_message(self.left());
        }
    }

    /// To be called at least once in a few seconds: prints the line when it is due.
    pub(crate) fn keep_alive(&mut self) {
        if self.terminal || Instant::now() < self.line_due {
            return;
        }
        self.line_due += LINE_EVERY;
        let elapsed = HumanDuration(self.started.elapsed());
        match self.bar.length() {
            Some(total) => {
                eprintln!(
                    "{}: {}/{total} after {elapsed}, {}",
                    self.what,
                    self.bar.position(),
                    self.left()
                );
            }
            None => eprintln!("{}: {elapsed}", self.what),
        }
    }

    /// An estimate from the pace so far.
    fn left(&self) -> String {
        let done = self.bar.position().saturating_sub(self.done_before);
        let to_do = self
            .bar
            .length()
            .unwrap_or(0)
            .saturating_sub(self.bar.position());
        if done == 0 {
            return "no estimate yet".into();
        }
        let seconds = self.started.elapsed().as_secs() * to_do / done;
        format!("about {} left", HumanDuration(Duration::from_secs(seconds)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A line for the user beside the result on standard output.
pub(crate) fn note(text: impl AsRef<str>) {
    eprintln!("ci: {}", text.as_ref());
}
