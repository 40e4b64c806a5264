// SPDX-License-Identifier: GPL-2.0

//! Reads KTAP as `kselftest_harness.h` writes it.

/// What one program printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stream {
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
        if line.starts_with("TAP version ") || line.starts_with("KTAP version ") {
            streams.push(Stream::default());
            remarks.clear();
            continue;
        }
        let Some(stream) = streams.last_mut() else {
            continue;
        };
        if let Some(plan) = line.strip_prefix("1..") {
            stream.plan = plan
                .split(' ')
                .next()
                .and_then(|number| number.parse().ok());
        } else if let Some(line) = result(line, &remarks) {
            stream.lines.push(line);
            remarks.clear();
        } else if let Some(remark) = line.strip_prefix("# ") {
            // The harness frames each case; what is between says why it failed.
            if !remark.trim_start().starts_with("RUN ") {
                remarks.push(remark);
            }
        }
    }
    streams
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
}
