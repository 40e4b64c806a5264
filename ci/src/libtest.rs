// SPDX-License-Identifier: GPL-2.0

//! Reads what `cargo test` prints.

use crate::report::{Case, Verdict};

/// The cases in an output; a summary line that does not match what came is a failed case.
pub(crate) fn parse(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut binary = String::new();
    let mut first = 0;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("Running ") {
            binary = crate_of(rest);
        } else if let Some(rest) = line.strip_prefix("Doc-tests ") {
            binary = format!("{rest} (doc)");
        } else if let Some(rest) = line.strip_prefix("test result: ") {
            let counted: usize = ["passed", "failed", "ignored"]
                .iter()
                .filter_map(|what| count(rest, what))
                .sum();
            if cases.len() - first != counted {
                cases.push(Case::new(
                    format!("{binary} summary"),
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
            format!("{binary} summary"),
            Verdict::Fail("it did not come to its end".into()),
        ));
    }
    cases
}

fn result(binary: &str, rest: &str) -> Option<Case> {
    let (name, result) = rest.rsplit_once(" ... ")?;
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
                Case::new(
                    "range (doc) src/lib.rs - f (line 3) - compile fail",
                    Verdict::Pass
                ),
            ]
        );
    }

    #[test]
    fn a_test_ignored_without_a_cause_fails() {
        let text =
            "test a ... ignored\ntest result: ok. 0 passed; 0 failed; 1 ignored; 0 measured\n";
        assert!(matches!(parse(text)[0].verdict, Verdict::Fail(_)));
    }

    #[test]
    fn a_binary_that_is_cut_short_fails() {
        assert!(matches!(
            parse("test a ... ok\n")[1].verdict,
            Verdict::Fail(_)
        ));
        let text = "test a ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored; 0 measured\n";
        assert!(matches!(parse(text)[1].verdict, Verdict::Fail(_)));
    }
}
