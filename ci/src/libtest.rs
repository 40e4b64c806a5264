// SPDX-License-Identifier: GPL-2.0

//! Reads what `cargo test` prints.

use crate::report::{Case, Verdict};

/// The cases in an output; a summary line that does not match what came is a failed case.
pub(crate) fn parse(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut binary = String::new();
    let mut first = 0;
    for line in text.lines().map(str::trim) {
        if let Some(now) = starts(line) {
            binary = now;
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            let counted: usize = ["passed", "failed", "ignored"]
                .iter()
                .filter_map(|what| count(rest, what))
                .sum();
            if cases.len() - first != counted {
                cases.push(Case::new(
                    format!("{binary}{SUMMARY}"),
                    Verdict::Fail(format!(
                        "{} results where {counted} are counted",
                        cases.len() - first
                    )),
                ));
            }
            first = cases.len();
        } else if let Some(case) = line
            .strip_prefix("test ")
            .and_then(|rest| result(&binary, rest))
        {
            cases.push(case);
        }
    }
    if cases.len() != first {
        cases.push(Case::new(
            format!("{binary}{SUMMARY}"),
            Verdict::Fail("it did not come to its end".into()),
        ));
    }
    cases
}

/// What the names of cases end with that are no tests, but about a binary's.
const SUMMARY: &str = " summary";

/// Whether a case is about a binary's tests.
pub(crate) fn is_summary(case: &Case) -> bool {
    case.name.ends_with(SUMMARY)
}

/// A test that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    binary: String,
    /// What the harness calls it.
    pub(crate) name: String,
}

impl Listed {
    pub(crate) fn new(binary: &str, name: &str) -> Self {
        Self {
            binary: binary.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Its name in the results.
    pub(crate) fn case(&self) -> String {
        format!("{} {}", self.binary, self.name)
    }

    /// Whether it is an example in the documentation.
    pub(crate) fn is_doc(&self) -> bool {
        self.binary.ends_with(DOC)
    }
}

/// The tests that `cargo test -- --list` names.
pub(crate) fn listed(text: &str) -> Vec<Listed> {
    let mut found = Vec::new();
    let mut binary = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(now) = starts(line) {
            binary = now;
        } else if let Some(name) = line.strip_suffix(": test") {
            found.push(Listed::new(&binary, name));
        }
    }
    found
}

/// What the names of binaries with examples in the documentation end with.
const DOC: &str = " (doc)";

/// The binary that starts with this line of cargo's, if one does.
fn starts(line: &str) -> Option<String> {
    if let Some(rest) = line.strip_prefix("Running ") {
        return Some(crate_of(rest));
    }
    let documented = line.strip_prefix("Doc-tests ")?;
    Some(format!("{documented}{DOC}"))
}

/// How a test is meant to end, which the harness adds to its name where it ran, and nowhere else.
const MODES: [&str; 3] = [" - should panic", " - compile fail", " - compile"];

fn result(binary: &str, rest: &str) -> Option<Case> {
    let (name, result) = rest.rsplit_once(" ... ")?;
    let name = MODES
        .iter()
        .find_map(|mode| name.strip_suffix(mode))
        .unwrap_or(name);
    let verdict = match result.split_once(", ").unwrap_or((result, "")) {
        ("ok", _) => Verdict::Pass,
        ("FAILED", _) => Verdict::Fail("see the log".into()),
        ("ignored", "") => Verdict::Fail("ignored without a cause".into()),
        ("ignored", cause) => Verdict::Skip(cause.into()),
        _ => return None,
    };
    Some(Case::new(format!("{binary} {name}"), verdict))
}

/// The name of the crate in `unittests src/x.rs (/target/debug/deps/x-0123456789abcdef)`.
fn crate_of(running: &str) -> String {
    let file = running
        .rsplit('/')
        .next()
        .unwrap_or(running)
        .trim_end_matches(')');
    file.rsplit_once('-')
        .map_or(file, |(name, _)| name)
        .to_owned()
}

fn count(summary: &str, what: &str) -> Option<usize> {
    let before = summary.split(&format!(" {what}")).next()?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_test_is_a_case() {
        let text = "     Running unittests src/lib.rs (/t/debug/deps/range-00ff)\n\nrunning 3 tests\n\
            test a::b ... ok\ntest c ... FAILED\ntest d ... ignored, needs a kernel\n\n\
            test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            \n   Doc-tests range\n\nrunning 1 test\ntest src/lib.rs - f (line 3) - compile fail ... ok\n\n\
            test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.1s\n";
        let cases = parse(text);
        assert_eq!(
            cases,
            [
                Case::new("range a::b", Verdict::Pass),
                Case::new("range c", Verdict::Fail("see the log".into())),
                Case::new("range d", Verdict::Skip("needs a kernel".into())),
                Case::new("range (doc) src/lib.rs - f (line 3)", Verdict::Pass),
            ]
        );
    }

    #[test]
    fn a_test_has_one_name_listed_and_run() {
        let list =
            "   Compiling range v0.1.0\n     Running unittests src/lib.rs (/t/deps/range-00ff)\n\
            a::b: test\nc: benchmark\n\n1 test, 1 benchmark\n\
            \x20  Doc-tests range\nsrc/lib.rs - f (line 3): test\n";
        let listed = listed(list);
        let of = |listed: &Listed| (listed.case(), listed.is_doc());
        assert_eq!(
            listed.iter().map(of).collect::<Vec<_>>(),
            [
                ("range a::b".to_owned(), false),
                ("range (doc) src/lib.rs - f (line 3)".to_owned(), true),
            ]
        );
        for mode in ["", " - should panic", " - compile fail", " - compile"] {
            let ran = format!(
                "Running unittests src/lib.rs (/t/deps/range-00ff)\ntest a::b{mode} ... ok\n\
                 test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured\n"
            );
            assert_eq!(parse(&ran), [Case::new(listed[0].case(), Verdict::Pass)]);
        }
    }

    #[test]
    fn a_test_ignored_without_a_cause_fails() {
        let text =
            "test a ... ignored\ntest result: ok. 0 passed; 0 failed; 1 ignored; 0 measured\n";
        assert!(matches!(parse(text)[0].verdict, Verdict::Fail(_)));
    }

    #[test]
    fn a_binary_that_is_cut_short_fails() {
        let cut = parse("test a ... ok\n");
        assert!(matches!(cut[1].verdict, Verdict::Fail(_)));
        assert!(is_summary(&cut[1]) && !is_summary(&cut[0]));
        let text = "test a ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n";
        assert!(matches!(parse(text)[1].verdict, Verdict::Fail(_)));
    }
}
