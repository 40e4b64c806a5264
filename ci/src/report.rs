// SPDX-License-Identifier: GPL-2.0

//! What the suites found, as tables, one closing line and JUnit XML.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use comfy_table::{presets, Table};
use quick_junit::{NonSuccessKind, Report as Junit, TestCase, TestCaseStatus, TestSuite};

/// What became of one case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It passed.
    Pass,
    /// It failed, for this cause.
    Fail(String),
    /// It was skipped, for this cause.
    Skip(String),
}

impl Verdict {
    fn word(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail(_) => "FAIL",
            Self::Skip(_) => "skip",
        }
    }
}

/// One case of a suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    /// What the C driver made of it, which no verdict depends on.
    pub(crate) c: Option<Verdict>,
}

impl Case {
    /// A case that nothing stands beside.
    pub(crate) fn new(name: impl Into<String>, verdict: Verdict) -> Self {
        Self {
            name: name.into(),
            verdict,
            c: None,
        }
    }
}

/// What a suite found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) suite: &'static str,
    pub(crate) cases: Vec<Case>,
    pub(crate) took: Duration,
    /// What it is to take of the default run, if it is a part of that.
    pub(crate) share: Option<Duration>,
    pub(crate) limit: Duration,
    pub(crate) logs: PathBuf,
    /// What there is to say of the C driver as a whole.
    pub(crate) c_remark: Option<String>,
}

/// How many cases of each kind there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Counts {
    fn of<'a>(verdicts: impl Iterator<Item = &'a Verdict>) -> Self {
        verdicts.fold(Self::default(), |mut counts, verdict| {
            match verdict {
                Verdict::Pass => counts.passed += 1,
                Verdict::Fail(_) => counts.failed += 1,
                Verdict::Skip(_) => counts.skipped += 1,
            }
            counts
        })
    }

    /// The one line that closes a run.
    pub(crate) fn line(self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// Everything counted together.
pub(crate) fn total(found: &[Found]) -> Counts {
    Counts::of(
        found
            .iter()
            .flat_map(|found| &found.cases)
            .map(|case| &case.verdict),
    )
}

/// The cases of a suite beside what the C driver made of them, where it ran.
pub(crate) fn beside(found: &Found) -> Option<Table> {
    let compared: Vec<&Case> = found.cases.iter().filter(|case| case.c.is_some()).collect();
    if compared.is_empty() {
        return None;
    }
    let mut table = table(&["case", "Rust", "C (beside)"]);
    for case in compared {
        table.add_row([
            &*case.name,
            case.verdict.word(),
            case.c.as_ref().map_or("", Verdict::word),
        ]);
    }
    Some(table)
}

/// The summary of all suites.
pub(crate) fn summary(found: &[Found]) -> Table {
    let mut table = table(&[
        "suite",
        "passed",
        "failed",
        "skipped",
        "C (beside)",
        "time",
        "share",
        "limit",
    ]);
    for found in found {
        let counts = Counts::of(found.cases.iter().map(|case| &case.verdict));
        let c = Counts::of(found.cases.iter().filter_map(|case| case.c.as_ref()));
        let mut c = if c == Counts::default() {
            String::new()
        } else {
            format!("{} of {}", c.passed, c.passed + c.failed + c.skipped)
        };
        if let Some(remark) = &found.c_remark {
            c = format!("{c}, {remark}");
        }
        table.add_row([
            found.suite.to_owned(),
            counts.passed.to_string(),
            counts.failed.to_string(),
            counts.skipped.to_string(),
            c,
            time(found.took),
            found.share.map(time).unwrap_or_default(),
            time(found.limit),
        ]);
    }
    table
}

/// The last part of a dotted name: the parts before it are the same for all.
fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

pub(crate) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{}:{:02} min", seconds / 60, seconds % 60)
}

/// The failures with their causes, and the skipped cases by theirs.
pub(crate) fn causes(found: &[Found]) -> String {
    let mut text = String::new();
    for found in found {
        let mut skipped: Vec<(&str, Vec<&str>)> = Vec::new();
        for case in &found.cases {
            match &case.verdict {
                Verdict::Pass => {}
                Verdict::Fail(cause) => {
                    text += &format!("{}: FAIL {}: {cause}\n", found.suite, case.name)
                }
                Verdict::Skip(cause) => {
                    match skipped.iter_mut().find(|(known, _)| known == cause) {
                        Some((_, names)) => names.push(&case.name),
                        None => skipped.push((cause, vec![&case.name])),
                    }
                }
            }
        }
        for (cause, names) in skipped {
            text += &format!(
                "{}: skipped {}, {cause}: {}\n",
                found.suite,
                names.len(),
                names
                    .iter()
                    .map(|name| short(name))
                    .collect::<Vec<_>>()
                    .join(" ")
            );
        }
        text += &format!(
            "{}: the output is in {}\n",
            found.suite,
            found.logs.display()
        );
    }
    text
}

/// An empty table with this header.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_preset(presets::ASCII_MARKDOWN)
        .set_header(header);
    table
}

/// Writes everything as JUnit XML.
pub(crate) fn junit(found: &[Found], file: &Path) -> Result<()> {
    let mut report = Junit::new("mmu-notifier-helpers");
    for found in found {
        let mut suite = TestSuite::new(found.suite);
        suite.set_time(found.took);
        for case in &found.cases {
            let status = match &case.verdict {
                Verdict::Pass => TestCaseStatus::success(),
                Verdict::Fail(cause) => {
                    let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                    status.set_message(cause.as_str());
                    status
                }
                Verdict::Skip(cause) => {
                    let mut status = TestCaseStatus::skipped();
                    status.set_message(cause.as_str());
                    status
                }
            };
            let mut test = TestCase::new(case.name.as_str(), status);
            test.set_classname(found.suite);
            suite.add_test_case(test);
        }
        report.add_test_suite(suite);
    }
    std::fs::write(file, report.to_string()?)
        .with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found() -> Found {
        let mut compared = Case::new("a", Verdict::Pass);
        compared.c = Some(Verdict::Fail("x".into()));
        Found {
            suite: "host",
            cases: vec![
                compared,
                Case::new("b", Verdict::Fail("broken <here>".into())),
                Case::new("c", Verdict::Skip("no device".into())),
                Case::new("d", Verdict::Skip("no device".into())),
            ],
            took: Duration::from_secs(3),
            share: Some(Duration::from_secs(61)),
            limit: Duration::from_secs(60),
            logs: "/logs".into(),
            c_remark: None,
        }
    }

    #[test]
    fn the_c_driver_is_never_counted() {
        assert_eq!(total(&[found()]).line(), "1 passed, 1 failed, 2 skipped");
        assert!(summary(&[found()]).to_string().contains("0 of 1"));
    }

    #[test]
    fn a_share_stands_beside_the_time_if_there_is_one() {
        let mut found = found();
        assert!(summary(&[found.clone()])
            .to_string()
            .contains("| 0:03 min | 1:01 min | 1:00 min |"));
        found.share = None;
        assert!(!summary(&[found]).to_string().contains("1:01 min"));
    }

    #[test]
    fn causes_are_named_and_equal_ones_gathered() {
        let text = causes(&[found()]);
        assert!(text.contains("host: FAIL b: broken <here>"), "{text}");
        assert!(text.contains("host: skipped 2, no device: c d"), "{text}");
    }

    #[test]
    fn junit_has_every_case() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("junit.xml");
        junit(&[found()], &file).unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        assert_eq!(text.matches("<testcase").count(), 4, "{text}");
        assert!(
            text.contains("broken &lt;here&gt;") && text.contains("<skipped"),
            "{text}"
        );
    }
}
