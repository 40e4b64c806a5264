// SPDX-License-Identifier: GPL-2.0

//! Judges a kernel log: nothing in it may be a report of a fault.

use std::sync::LazyLock;

use regex::Regex;

/// How many lines of one report are shown.
const SHOWN: usize = 60;

/// What starts a report. There is no list of exceptions.
static REPORT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?x)
        \bWARNING: | \bBUG: | \bBUG\ at\b | kernel\ BUG | \bOops\b | Kernel\ panic
        | \bINFO:\ (possible|suspicious|trying\ to\ register|task\ .*\ blocked\ for) | suspicious\ RCU
        | possible\ (recursive|circular|irq\ lock) | \bKASAN: | \bUBSAN: | \bKCSAN: | \bKFENCE: | \bODEBUG:
        | scheduling\ while\ atomic | sleeping\ function\ called\ from\ invalid
        | blocked\ for\ more\ than | rcu:\ INFO: | (self-)?detected\ (expedited\ )?stall
        | general\ protection | stack\ segment: | invalid\ opcode: | double\ fault
        | unable\ to\ handle | unchecked\ MSR\ access | refcount_t: | list_(add|del)\ corruption
        | kmemleak:.*suspected | page\ allocation\ failure | Bad\ page | Bad\ rss-counter
        | soft\ lockup | hard\ LOCKUP | cut\ here | printk\ messages\ dropped
        ",
    )
    .expect("the expression is constant")
});

/// Lines that user space wrote, which the kernel's log carries too.
static USER_SPACE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^(\[[^\]]*\]\s*)*(ci|udev|systemd\S*):").expect("the expression is constant")
});

/// One report, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// The line that says what it is.
    pub(crate) title: String,
    /// The lines from there on.
    pub(crate) text: Vec<String>,
}

/// The reports of a boot. A log that lacks the `last` line that was to come may lack reports too.
pub(crate) fn judge_whole(log: &str, last: &str) -> Vec<Report> {
    let mut reports = judge(log);
    if !log.contains(last) {
        let title = format!("none is to be trusted: the log ends before \"{last}\"");
        reports.push(Report {
            text: vec![title.clone()],
            title,
        });
    }
    reports
}

/// The reports in a log, in order. Lines that belong to one another are one report.
pub(crate) fn judge(log: &str) -> Vec<Report> {
    let lines: Vec<&str> = log.lines().map(str::trim_end).collect();
    let mut reports = Vec::new();
    let mut next = 0;
    while let Some(at) = (next..lines.len()).find(|&at| is_report(lines[at])) {
        let text: Vec<String> = lines[at..]
            .iter()
            .take(SHOWN)
            .take_while(|line| !line.contains("end trace"))
            .map(|line| line.to_string())
            .collect();
        next = at + text.len().max(1);
        let title = text
            .iter()
            .find(|line| !line.contains("cut here"))
            .unwrap_or(&text[0])
            .clone();
        reports.push(Report { title, text });
    }
    reports
}

fn is_report(line: &str) -> bool {
    REPORT.is_match(line) && !USER_SPACE.is_match(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_report_is_seen() {
        for line in [
            "[   10.1] WARNING: CPU: 1 PID: 7 at mm/hmm.c:1 f+0x1/0x2",
            "[   10.1] WARNING: mm/page_alloc.c:5196 at f+0x1/0x2, CPU#1: prog/7",
            "[   10.1][  T7] BUG: KASAN: slab-use-after-free in f+0x1/0x2",
            "[   10.1] BUG: kernel NULL pointer dereference, address: 0",
            "[   10.1] BUG: unable to handle page fault for address: ffff",
            "[   10.1] kernel BUG at mm/memory.c:12!",
            "[   10.1] Oops: 0000 [#1] SMP KASAN",
            "[   10.1] Oops: general protection fault, probably for non-canonical address",
            "[   10.1] WARNING: possible circular locking dependency detected",
            "[   10.1] WARNING: possible recursive locking detected",
            "[   10.1] INFO: possible irq lock inversion dependency detected",
            "[   10.1] WARNING: suspicious RCU usage",
            "[   10.1] BUG: scheduling while atomic: prog/7/0x2",
            "[   10.1] BUG: sleeping function called from invalid context at x.c:1",
            "[   10.1] INFO: task prog:7 blocked for more than 120 seconds.",
            "[   10.1] rcu: INFO: rcu_preempt self-detected stall on CPU",
            "[   10.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!",
            "[   10.1] UBSAN: array-index-out-of-bounds in x.c:1:2",
            "[   10.1] kmemleak: 3 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
            "[   10.1] Kernel panic - not syncing: Fatal exception",
            "[   10.1] prog: page allocation failure: order:10, mode:0xcc0",
            "[   10.1] ODEBUG: free active (active state 0) object type: work_struct",
            "[   10.1] refcount_t: underflow; use-after-free.",
            "** 12 printk messages dropped **",
        ] {
            assert_eq!(judge(line).len(), 1, "{line}");
        }
    }

    #[test]
    fn a_quiet_log_has_no_report() {
        let log = "[    0.0] Linux version 7.3.4\n\
                   [    0.1] rcu: Hierarchical RCU implementation.\n\
                   [    0.2] kmemleak: Kernel memory leak detector disabled\n\
                   [    1.0] Warning: unable to open an initial console.\n\
                   [    1.1] ci: WARNING: no dbus\n\
                   [    1.2] ci: program ends with 0\n\
                   [    1.3] debug: Lock dependency validator: Copyright (c) 2006\n\
                   [    2.0] HMM test module loaded. This is only for testing HMM.\n";
        assert_eq!(judge(log), []);
    }

    #[test]
    fn a_log_that_is_cut_short_is_reported() {
        assert_eq!(judge_whole("a\n[1] ci: the end 0\n", "ci: the end"), []);
        assert_eq!(judge_whole("a\n", "ci: the end").len(), 1);
    }

    #[test]
    fn the_lines_of_one_report_are_one_report() {
        let log =
            "a\n[1] ------------[ cut here ]------------\n[1] WARNING: x at y\n[1] Call Trace:\n\
                   [1] ---[ end trace 0000000000000000 ]---\nb\n[2] BUG: z\nc\n";
        let reports = judge(log);
        assert_eq!(reports.len(), 2);
        assert_eq!(reports[0].title, "[1] WARNING: x at y");
        assert_eq!(reports[0].text.len(), 3);
        assert_eq!(reports[1].text, ["[2] BUG: z", "c"]);
    }
}
