// SPDX-License-Identifier: GPL-2.0

//! Runs a command of the host: its output goes to a file, of which a failure
//! quotes what matters.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use duct::Expression;

use crate::interrupt;
use crate::progress::Progress;

/// How many lines of a log a failure quotes.
const QUOTED: usize = 12;

/// A command and the file that its output goes to.
pub(crate) struct Step {
    what: String,
    log: PathBuf,
    deadline: Option<Instant>,
}

impl Step {
    /// `what` names the step in messages.
    pub(crate) fn new(what: impl Into<String>, log: impl Into<PathBuf>) -> Self {
        Self {
            what: what.into(),
            log: log.into(),
            deadline: None,
        }
    }

    /// Fails, and ends the command, when it is not done by then.
    pub(crate) fn by(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Runs to the end under a spinner.
    pub(crate) fn run(&self, command: Expression) -> Result<()> {
        let progress = Progress::spinner(&self.what);
        self.run_with(command, progress, |_, _| ())
    }

    /// Runs to the end and shows each line of output to `each`.
    pub(crate) fn run_with(
        &self,
        command: Expression,
        mut progress: Progress,
        each: impl Fn(&Progress, &str),
    ) -> Result<()> {
        let mut log = File::create(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let reader = command
            .stdin_null()
            .stderr_to_stdout()
            .unchecked()
            .before_spawn(|command| {
                command.process_group(0);
                Ok(())
            })
            .reader()
            .with_context(|| format!("{} cannot start", self.what))?;
        let group = reader
            .pids()
            .first()
            .map(|&leader| interrupt::Group::led_by(leader));
        let reader = Arc::new(reader);
        let (send, lines) = mpsc::channel();
        let output = reader.clone();
        let pump = std::thread::spawn(move || {
            let mut output = BufReader::new(&*output);
            let mut line = Vec::new();
            while matches!(output.read_until(b'\n', &mut line), Ok(1..)) {
                if send.send(std::mem::take(&mut line)).is_err() {
                    break;
                }
            }
        });
        loop {
            match lines.recv_timeout(Duration::from_secs(1)) {
                Ok(line) => {
                    log.write_all(&line)?;
                    each(&progress, String::from_utf8_lossy(&line).trim_end());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            progress.keep_alive();
            if self
                .deadline
                .is_some_and(|deadline| deadline < Instant::now())
            {
                group.iter().for_each(interrupt::Group::kill);
                bail!(
                    "{} was not done in time; the log is {}",
                    self.what,
                    self.log.display()
                );
            }
        }
        let _ = pump.join();
        drop(group);
        drop(progress);
        let status = reader
            .try_wait()?
            .map(|output| output.status)
            .with_context(|| format!("{} left no status", self.what))?;
        if !status.success() {
            bail!(
                "{} failed ({status}); the log is {}\n{}",
                self.what,
                self.log.display(),
                quote(&self.log)
            );
        }
        Ok(())
    }
}

/// The first errors of a log, or its end when no line looks like one.
fn quote(log: &Path) -> String {
    indented(&first_errors(&read(log)))
}

/// The end of a log.
pub(crate) fn tail(log: &Path) -> String {
    indented(&last_lines(&read(log)))
}

fn read(log: &Path) -> String {
    // A log that cannot be read leaves the message without a quotation.
    std::fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

fn indented(lines: &[&str]) -> String {
    let indented = |line: &&str| format!("    {line}\n");
    lines.iter().map(indented).collect::<Vec<_>>().concat()
}

fn last_lines(text: &str) -> Vec<&str> {
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    lines[lines.len().saturating_sub(QUOTED)..].to_vec()
}

fn first_errors(text: &str) -> Vec<&str> {
    let marks = [
        "error:",
        "error[",
        "fatal:",
        " error ",
        "undefined symbol",
        "***",
        "cannot ",
    ];
    let is_error = |line: &str| {
        let lower = line.to_lowercase();
        // apt's start with a letter.
        line.starts_with("E: ") || marks.iter().any(|mark| lower.contains(mark))
    };
    let mut errors = text.lines().skip_while(|line| !is_error(line)).peekable();
    match errors.peek() {
        Some(_) => errors
            .filter(|line| !line.trim().is_empty())
            .take(QUOTED)
            .collect(),
        None => last_lines(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_from_the_first_error_on() {
        let text = "  CC a.o\nb.c:1:2: error: no\n  note\n";
        assert_eq!(first_errors(text), ["b.c:1:2: error: no", "  note"]);
    }

    #[test]
    fn quotes_the_end_when_no_line_is_an_error() {
        let text = (0..20).map(|n| format!("line {n}\n"));
        let text = text.collect::<Vec<_>>().concat();
        assert_eq!(first_errors(&text).last(), Some(&"line 19"));
        assert_eq!(first_errors(&text).len(), QUOTED);
    }

    #[test]
    fn a_step_that_takes_too_long_is_ended_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", pid.display());
        let late = Step::new("the step", dir.path().join("log"))
            .by(Instant::now() + Duration::from_secs(1))
            .run(duct::cmd!("sh", "-c", script))
            .unwrap_err()
            .to_string();
        assert!(late.contains("not done in time"), "{late}");
        let status = format!(
            "/proc/{}/status",
            std::fs::read_to_string(pid).unwrap().trim()
        );
        let is_gone = || match std::fs::read_to_string(&status) {
            Ok(status) => status.contains("State:\tZ"),
            Err(_) => true,
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_gone() {
            assert!(Instant::now() < deadline, "it still runs");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_failure_names_the_log_and_quotes_it() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let failed = Step::new("the step", &log)
            .run(duct::cmd!(
                "sh",
                "-c",
                "echo 'x: error: broken' >&2; exit 3"
            ))
            .unwrap_err()
            .to_string();
        assert!(failed.contains("the step failed"), "{failed}");
        assert!(failed.contains(log.to_str().unwrap()), "{failed}");
        assert!(failed.contains("x: error: broken"), "{failed}");
    }
}
