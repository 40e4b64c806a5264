// SPDX-License-Identifier: GPL-2.0

//! Which cases of a suite are wanted.

use std::fmt;

use regex::Regex;

/// How many names a message shows.
const SHOWN: usize = 3;

/// A pattern on the whole name of a case, as the results show it: with `*` for anything and `?` for
/// one character; without either it may be anywhere in the name.
#[derive(Clone, Debug)]
pub(crate) struct Pattern {
    text: String,
    regex: Regex,
}

impl std::str::FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(
                "an empty pattern would take every case: leave --filter out for that".into(),
            );
        }
        let escaped = regex::escape(text);
        let expression = match text.contains(['*', '?']) {
            true => format!("(?s)^{}$", escaped.replace(r"\*", ".*").replace(r"\?", ".")),
            false => escaped,
        };
        Ok(Self {
            text: text.to_owned(),
            regex: Regex::new(&expression).map_err(|error| error.to_string())?,
        })
    }
}

/// The cases that are wanted: all of them, or those that a pattern picks.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter(pub(super) Option<Pattern>);

impl Filter {
    /// Whether every case is wanted.
    pub(super) fn is_all(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the case with this name is wanted.
    pub(super) fn picks(&self, name: &str) -> bool {
        let Self(pattern) = self;
        pattern
            .as_ref()
            .is_none_or(|pattern| pattern.regex.is_match(name))
    }

    /// The cases that are wanted of those with these names, before which the results have `prefix`.
    pub(super) fn pick(&self, prefix: &str, names: &[String]) -> Vec<String> {
        let names = names.iter();
        names
            .filter(|name| self.picks(&format!("{prefix}{name}")))
            .cloned()
            .collect()
    }

    /// Fails if none is wanted of the cases that a suite has, by their names in the results.
    pub(super) fn require(&self, suite: &str, known: &[String]) -> Result<(), NoCase> {
        match &self.0 {
            Some(pattern) if !known.iter().any(|name| self.picks(name)) => Err(NoCase {
                suite: suite.to_owned(),
                pattern: pattern.text.clone(),
                known: known.to_vec(),
            }),
            _ => Ok(()),
        }
    }
}

/// A pattern that picks none of the cases.
#[derive(Debug)]
pub(super) struct NoCase {
    suite: String,
    pattern: String,
    known: Vec<String>,
}

impl fmt::Display for NoCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            suite,
            pattern,
            known,
        } = self;
        write!(f, "--filter {pattern} matches no case of the suite {suite}")?;
        if !known.is_empty() {
            let some: Vec<&str> = known.iter().take(SHOWN).map(String::as_str).collect();
            write!(
                f,
                "; of its {}, the first are: {}",
                known.len(),
                some.join(", ")
            )?;
        }
        write!(f, "; some suites have more with --full")
    }
}

impl std::error::Error for NoCase {}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(pattern: &str) -> Filter {
        Filter(Some(pattern.parse().unwrap()))
    }

    #[test]
    fn a_glob_is_for_the_whole_name() {
        let picks = |pattern: &str, name: &str| filter(pattern).picks(name);
        assert!(picks(
            "memory.*.moves_?n_part",
            "memory.private_huge.moves_in_part"
        ));
        assert!(picks("*", "a b"));
        assert!(picks("a*c", "a.b c"));
        assert!(!picks("memory.*", "release: memory.a"));
        assert!(!picks("*.moves", "memory.a.moves_in_part"));
        assert!(!picks("?", "ab"));
        // Nothing else is special.
        assert!(picks("a.b*", "a.bc") && !picks("a.b*", "axbc"));
        assert!(picks("*(line [1])", "f (line [1])") && !picks("*[1]", "1"));
    }

    #[test]
    fn a_pattern_without_a_wildcard_is_a_part_of_the_name() {
        let picks = |pattern: &str, name: &str| filter(pattern).picks(name);
        assert!(picks("moves", "memory.a.moves_in_part"));
        assert!(picks("y.a.m", "memory.a.moves_in_part"));
        assert!(!picks("y.a.m", "memory_a_moves_in_part"));
        assert!(!picks("Moves", "memory.a.moves_in_part"));
        assert!("".parse::<Pattern>().is_err());
    }

    #[test]
    fn without_a_pattern_every_case_is_wanted() {
        let all = Filter::default();
        assert!(all.is_all() && all.picks("a") && all.picks(""));
        assert!(all.require("s", &[]).is_ok());
        assert!(!filter("*").is_all());
    }

    #[test]
    fn what_the_results_have_before_the_names_counts() {
        let names = ["a.one".to_owned(), "a.two".to_owned()];
        assert_eq!(filter("release: *").pick("release: ", &names), names);
        assert_eq!(filter("release: *").pick("", &names), [""; 0]);
        assert_eq!(filter("one").pick("release: ", &names), ["a.one"]);
    }

    #[test]
    fn a_pattern_that_picks_nothing_is_told_what_there_is() {
        let names = ["a.one", "a.two", "a.three", "a.four"].map(str::to_owned);
        assert!(filter("two").require("s", &names).is_ok());
        let error = filter("five").require("s", &names).unwrap_err().to_string();
        assert_eq!(
            error,
            "--filter five matches no case of the suite s; of its 4, the first are: \
             a.one, a.two, a.three; some suites have more with --full"
        );
    }
}
