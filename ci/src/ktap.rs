// SPDX-License-Identifier: GPL-2.0

//! Reads KTAP as `kselftest_harness.h` and KUnit write it.

/// What one program printed, or one suite of KUnit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    /// How far it is indented, as one is in another.
    indent: usize,
    /// What it says that it is about; part of the names of its cases.
    name: Option<String>,
    /// How many results it promised.
    pub(crate) plan: Option<usize>,
    /// The results that came.
    pub(crate) lines: Vec<Line>,
}

/// One result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The name of the case.
    pub(crate) name: String,
    /// What became of it.
    pub(crate) result: Result,
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Result {
    /// It passed.
    Pass,
    /// It failed, for what the lines before it say.
    Fail(String),
    /// It was skipped, for this cause, which may be empty.
    Skip(String),
}

/// The streams in an output, one for each version line.
pub(crate) fn parse(text: &str) -> Vec<Stream> {
    let mut streams: Vec<Stream> = Vec::new();
    let mut remarks: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim_end) {
        let indented = line;
        let line = line.trim_start_matches(' ');
        let indent = indented.len() - line.len();
        if line.starts_with("TAP version ") || line.starts_with("KTAP version ") {
            streams.push(Stream {
                indent,
                ..Stream::default()
            });
            remarks.clear();
            continue;
        }
        // Those around it go on where it ends.
        let Some(stream) = streams
            .iter_mut()
            .rev()
            .find(|stream| stream.indent == indent)
        else {
            continue;
        };
        if let Some(plan) = line.strip_prefix("1..") {
            stream.plan = plan
                .split(' ')
                .next()
                .and_then(|number| number.parse().ok());
        } else if let Some(name) = line.strip_prefix("# Subtest: ") {
            stream.name = Some(name.to_owned());
        } else if let Some(mut line) = result(line, &remarks) {
            if let Some(name) = &stream.name {
                line.name = format!("{name}.{}", line.name);
            }
            stream.lines.push(line);
            remarks.clear();
        } else if let Some(remark) = line.strip_prefix("# ") {
            if !is_frame(remark) {
                remarks.push(remark);
            }
        }
    }
    streams
}

/// Whether a remark frames a case; what is between says why it failed.
fn is_frame(remark: &str) -> bool {
    let first = remark.split_whitespace().next().unwrap_or_default();
    first == "RUN" || first == "module:" || first.ends_with("speed:") || remark.contains(" pass:")
}

/// The names in the list that a program on `kselftest_harness.h` prints of its cases. It has
/// columns for fixtures, variants and cases, and each fixture's variants go with each of its cases.
pub(crate) fn listed(text: &str) -> Vec<String> {
    /// What is in a column that starts there and is so wide, or wider for a name that is longer,
    /// and where the next one starts.
    fn column(line: &str, from: usize, width: usize) -> (&str, usize) {
        let rest = line.get(from..).unwrap_or_default();
        let length = rest.find(' ').unwrap_or(rest.len());
        (&rest[..length], from + length.max(width) + 1)
    }
    let mut fixtures: Vec<(&str, Vec<&str>, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        if line.starts_with(['#', '-']) {
            continue;
        }
        let (fixture, next) = column(line, 0, 20);
        let (variant, next) = column(line, next, 25);
        let (case, _) = column(line, next, 0);
        if !fixture.is_empty() {
            fixtures.push((fixture, Vec::new(), Vec::new()));
        }
        if let Some((_, variants, cases)) = fixtures.last_mut() {
            variants.extend((!variant.is_empty()).then_some(variant));
            cases.extend((!case.is_empty()).then_some(case));
        }
    }
    let mut names = Vec::new();
    for (fixture, variants, cases) in fixtures {
        if variants.is_empty() {
            names.extend(cases.iter().map(|case| format!("{fixture}.{case}")));
        }
        for variant in variants {
            let cases = cases.iter();
            names.extend(cases.map(|case| format!("{fixture}.{variant}.{case}")));
        }
    }
    names
}

impl Stream {
    /// Why the stream is not whole, if it is not.
    pub(crate) fn lack(&self) -> Option<String> {
        match self.plan {
            None => Some("no plan: the program did not get as far as its first case".into()),
            Some(0) => Some("an empty plan".into()),
            Some(plan) if plan != self.lines.len() => Some(format!(
                "{} results where {plan} were planned",
                self.lines.len()
            )),
            Some(_) => None,
        }
    }
}

fn result(line: &str, remarks: &[&str]) -> Option<Line> {
    let (passed, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let (number, rest) = rest.split_once(' ')?;
    number.parse::<usize>().ok()?;
    let (name, directive) = rest.split_once(" # ").unwrap_or((rest, ""));
    let name = name.trim().trim_start_matches("- ").to_owned();
    let result = match directive.split_once(' ').unwrap_or((directive, "")) {
        ("SKIP", cause) => Result::Skip(cause.trim().to_owned()),
        _ if passed => Result::Pass,
        _ => Result::Fail(remarks.join("; ")),
    };
    Some(Line { name, result })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "noise\nTAP version 13\n1..4\n# Starting 4 tests from 1 test cases.\n\
        #  RUN           hmm.private.a ...\n#            OK  hmm.private.a\nok 1 hmm.private.a\n\
        #  RUN           hmm.private.b ...\n# x.c:12:b:Expected 1 (1) == 2 (2)\nnot ok 2 hmm.private.b\n\
        ok 3 hmm.private.c # SKIP no huge pages\nok 4 - hmm.private.d # SKIP\n# FAILED: 3 / 4 tests passed.\n";

    #[test]
    fn results_have_their_names_and_causes() {
        let streams = parse(TEXT);
        assert_eq!(streams.len(), 1);
        assert_eq!(streams[0].lack(), None);
        let results: Vec<_> = streams[0]
            .lines
            .iter()
            .map(|line| (line.name.as_str(), line.result.clone()))
            .collect();
        assert_eq!(
            results,
            [
                ("hmm.private.a", Result::Pass),
                (
                    "hmm.private.b",
                    Result::Fail("x.c:12:b:Expected 1 (1) == 2 (2)".into())
                ),
                ("hmm.private.c", Result::Skip("no huge pages".into())),
                ("hmm.private.d", Result::Skip(String::new())),
            ]
        );
    }

    #[test]
    fn a_short_stream_lacks_something() {
        let short = &parse("TAP version 13\n1..2\nok 1 a\n")[0];
        assert_eq!(
            short.lack().as_deref(),
            Some("1 results where 2 were planned")
        );
        assert!(parse("TAP version 13\n")[0].lack().is_some());
        assert!(parse("TAP version 13\n1..0\n")[0].lack().is_some());
    }

    #[test]
    fn each_version_line_starts_a_stream() {
        let streams = parse("TAP version 13\n1..1\nok 1 a\nTAP version 13\n1..1\nnot ok 1 b\n");
        assert_eq!(streams.len(), 2);
        assert_eq!(streams[1].lines[0].result, Result::Fail(String::new()));
    }

    #[test]
    fn what_only_looks_like_a_result_is_none() {
        assert_eq!(
            parse("TAP version 13\nok then\nok\nnot ok x y\nok 1\n")[0].lines,
            []
        );
    }

    #[test]
    fn suites_of_kunit_are_streams_in_a_stream() {
        let text = "KTAP version 1\n1..2\n    KTAP version 1\n    # Subtest: one\n    # module: m\n\
            \x20   1..2\n    # a.speed: normal\n    ok 1 a\n    # b.rs:7: x is 1, wanted 2\n\
            \x20   # b: ASSERTION FAILED at b.rs:1\n    Expected b()\n    not ok 2 b\n\
            # one: pass:1 fail:1 skip:0 total:2\nnot ok 1 one\n    KTAP version 1\n    # Subtest: two\n\
            \x20   1..1\n    ok 1 c # SKIP no c\nok 2 two\n";
        let streams = parse(text);
        assert!(streams.iter().all(|stream| stream.lack().is_none()));
        let of: Vec<Vec<_>> = streams
            .iter()
            .map(|stream| stream.lines.iter().map(|line| &*line.name).collect())
            .collect();
        assert_eq!(
            of,
            [vec!["one", "two"], vec!["one.a", "one.b"], vec!["two.c"]]
        );
        assert_eq!(
            streams[1].lines[1].result,
            Result::Fail("b.rs:7: x is 1, wanted 2; b: ASSERTION FAILED at b.rs:1".into())
        );
        assert_eq!(streams[2].lines[0].result, Result::Skip("no c".into()));
    }

    #[test]
    fn a_list_has_each_case_with_each_variant() {
        // As `printf("%-20s %-25s %s\n")` writes it.
        let row = |fixture: &str, variant: &str, case: &str| {
            format!("{fixture:<20} {variant:<25} {case}\n")
        };
        let long = "a_fixture_of_more_than_twenty";
        let text = row("# FIXTURE", "VARIANT", "TEST")
            + &row("global", "", "")
            + "--------\n"
            + &row("one", "a", "x")
            + &row("", "a_variant_of_more_than_twenty_five", "y")
            + &row("", "b", "")
            + "--------\n"
            + &row("two", "", "x")
            + &row("", "", "y")
            + "--------\n"
            + &row(long, "a", "x");
        assert_eq!(
            listed(&text),
            [
                "one.a.x",
                "one.a.y",
                "one.a_variant_of_more_than_twenty_five.x",
                "one.a_variant_of_more_than_twenty_five.y",
                "one.b.x",
                "one.b.y",
                "two.x",
                "two.y",
                &format!("{long}.a.x"),
            ]
        );
    }

    #[test]
    fn a_missing_suite_is_lacked() {
        let streams =
            parse("KTAP version 1\n1..2\n    KTAP version 1\n    1..1\n    ok 1 a\nok 1 s\n");
        assert!(streams[0].lack().is_some());
        assert!(streams[1].lack().is_none());
    }
}
