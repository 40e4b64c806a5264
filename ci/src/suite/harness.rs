// SPDX-License-Identifier: GPL-2.0

//! Programs on `kselftest_harness.h`, and which of their cases run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context as _, Result};
use duct::cmd;

use super::filter::Filter;
use crate::ktap;

/// Runs programs one after the other, of which each comes with its options in one word; the status
/// is that of the worst. No name of a case has anything in it that a shell would change.
pub(super) const SCRIPT: &str = r#"worst=0
while [ $# -gt 0 ]; do
	"$1" $2 || worst=$?
	shift 2
done
exit $worst"#;

/// A program, and those of its cases that are to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    /// Their names; all cases, which nobody has listed, if there are none.
    cases: Option<Vec<String>>,
}

impl Program {
    /// The options by which the program runs its cases.
    pub(super) fn options(&self) -> Vec<String> {
        let cases = self.cases.iter().flatten();
        cases
            .flat_map(|case| ["-r".to_owned(), case.clone()])
            .collect()
    }
}

/// The programs with their cases, which take a look at each of them and are needed for a pattern
/// only.
pub(super) fn programs(filter: &Filter, paths: Vec<PathBuf>) -> Result<Vec<Program>> {
    let of = |path: PathBuf| {
        let cases = match filter.is_all() {
            true => None,
            false => Some(list(&path)?),
        };
        Ok(Program { path, cases })
    };
    paths.into_iter().map(of).collect()
}

/// The names of the cases that a program says it has.
fn list(path: &Path) -> Result<Vec<String>> {
    // It goes to standard error, with the status of a test that was skipped.
    let text = cmd!(path, "-l")
        .stderr_to_stdout()
        .unchecked()
        .read()
        .with_context(|| format!("cannot run {}", path.display()))?;
    let cases = ktap::listed(&text);
    ensure!(
        !cases.is_empty(),
        "{} -l lists no case, but says: {text}",
        path.display()
    );
    Ok(cases)
}

/// The names that the cases have in the results, where they start with `prefix`.
pub(super) fn names(prefix: &str, programs: &[Program]) -> Vec<String> {
    let cases = programs.iter().flat_map(|program| &program.cases).flatten();
    cases.map(|case| format!("{prefix}{case}")).collect()
}

/// The programs with wanted cases, and these only.
pub(super) fn pick(filter: &Filter, prefix: &str, programs: &[Program]) -> Vec<Program> {
    let of = |program: &Program| {
        let cases = program.cases.as_ref();
        Program {
            path: program.path.clone(),
            cases: cases.map(|cases| filter.pick(prefix, cases)),
        }
    };
    let picked = programs.iter().map(of);
    picked
        .filter(|program| program.cases.as_ref().is_none_or(|cases| !cases.is_empty()))
        .collect()
}

/// The words for [`SCRIPT`].
pub(super) fn words(programs: &[Program]) -> Vec<OsString> {
    let words = programs.iter().flat_map(|program| {
        [
            program.path.clone().into(),
            program.options().join(" ").into(),
        ]
    });
    words.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A program that lists what those on the harness would, and else prints what it is told.
    fn program(dir: &Path, name: &str, cases: &[&str]) -> PathBuf {
        let path = dir.join(name);
        let mut list = String::new();
        for (at, case) in cases.iter().enumerate() {
            let fixture = if at == 0 { "f" } else { "" };
            list += &format!("{fixture:<20} {:<25} {case}\n", "");
        }
        let script = format!(
            "#!/bin/sh\nname={name}\nif [ \"$1\" = -l ]; then\ncat <<'END' >&2\n{list}END\n\
             exit 4\nfi\necho \"$name:$#:$*\"\n[ $name != bad ] || exit 3\n"
        );
        // A file that this process writes may be open in a child of another thread, and cannot be
        // run.
        let source = path.with_extension("sh");
        fs::write(&source, script).unwrap();
        let installed = std::process::Command::new("install")
            .args(["-m", "755"])
            .args([&source, &path])
            .status()
            .unwrap();
        assert!(installed.success());
        path
    }

    fn filter(pattern: &str) -> Filter {
        Filter(Some(pattern.parse().unwrap()))
    }

    #[test]
    fn programs_without_a_wanted_case_do_not_run() {
        let dir = tempfile::tempdir().unwrap();
        let paths = vec![
            program(dir.path(), "one", &["a", "b", "ab"]),
            program(dir.path(), "two", &["c"]),
        ];
        let listed = programs(&filter("b"), paths).unwrap();
        assert_eq!(
            names("kmemleak: ", &listed),
            [
                "kmemleak: f.a",
                "kmemleak: f.b",
                "kmemleak: f.ab",
                "kmemleak: f.c"
            ]
        );
        let picked = pick(&filter("b"), "", &listed);
        assert_eq!(picked.len(), 1);
        assert_eq!(picked[0].options(), ["-r", "f.b", "-r", "f.ab"]);
        assert_eq!(names("", &picked), ["f.b", "f.ab"]);
        assert_eq!(pick(&filter("f.*"), "kmemleak: ", &listed), []);
    }

    #[test]
    fn without_a_pattern_all_run_and_none_is_asked() {
        let paths = vec![PathBuf::from("/no/such/program")];
        let all = Filter::default();
        let programs = programs(&all, paths).unwrap();
        assert_eq!(pick(&all, "", &programs), programs);
        assert_eq!(words(&programs), ["/no/such/program", ""]);
    }

    #[test]
    fn a_program_that_lists_nothing_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = program(dir.path(), "none", &[]);
        let error = programs(&filter("b"), vec![path]).unwrap_err().to_string();
        assert!(error.contains("lists no case"), "{error}");
    }

    #[test]
    fn the_script_gives_each_program_its_options() {
        let dir = tempfile::tempdir().unwrap();
        let one = |name: &str, cases: Option<&[&str]>| Program {
            path: program(dir.path(), name, &["a"]),
            cases: cases.map(|cases| cases.iter().map(|case| case.to_string()).collect()),
        };
        let space = dir.path().join("a b");
        fs::create_dir(&space).unwrap();
        let programs = [
            one("bad", Some(&["f.a", "f.b"])),
            Program {
                path: program(&space, "good", &["a"]),
                cases: None,
            },
        ];
        let ran = std::process::Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .args(words(&programs))
            .output()
            .unwrap();
        let said = String::from_utf8(ran.stdout).unwrap();
        assert_eq!(said, "bad:4:-r f.a -r f.b\ngood:0:\n");
        assert_eq!(ran.status.code(), Some(3));
    }
}
