// SPDX-License-Identifier: GPL-2.0

//! What runs on the host: every crate's tests, the models in all their interleavings, and the tests
//! again under a checker of unsafe code.

use std::path::Path;

use anyhow::{ensure, Context as _, Result};
use duct::Expression;

use super::{kunit, Context};
use crate::libtest::{self, Listed};
use crate::progress::{note, Progress};
use crate::report::{Case, Verdict};
use crate::step::Step;
use crate::tree;

/// What is compared with the kernel's headers, which are not at hand on every machine.
const HEADERS: &str = "gpu_mirror_rs/tests/uapi_layout.rs";
/// The case that says whether everything builds.
const BUILD: &str = "build";

pub(super) fn tests(context: &mut Context<'_>) -> Result<()> {
    let (paths, tools) = (context.paths, context.tools);
    let workspace = Run {
        name: "host",
        what: "testing the crates on the host".into(),
        without_docs: &["--tests"],
        known: None,
        command: Box::new(move |options, args| {
            let test = ["test", "--workspace", "--locked", "--no-fail-fast"];
            Ok(tools.cargo(&words(&[&test, options], args)))
        }),
    };
    let headers = Run {
        name: "headers",
        what: "comparing with the kernel's headers".into(),
        without_docs: &[],
        known: Some(of_source(&paths.checkout.join(HEADERS))?),
        command: Box::new(move |options, args| {
            let source = tree::pristine(paths)?;
            let test = [
                "test",
                "--locked",
                "--package=gpu_mirror_rs",
                "--features=kernel-headers",
                "--test=uapi_layout",
            ];
            let tests = tools.cargo(&words(&[&test, options], args));
            Ok(tests.env("KERNEL_SOURCE", &source))
        }),
    };
    let picked = pick(context, vec![workspace, headers], &[BUILD])?;
    if context.filter.picks(BUILD) {
        Step::new(
            "building the crates for the host",
            context.logs.join("build.log"),
        )
        .by(context.deadline)
        .run(
            tools
                .cargo(&["build", "--workspace", "--locked"])
                .dir(&paths.checkout),
        )?;
        context.cases.push(Case::new(BUILD, Verdict::Pass));
    }
    run(context, picked)
}

/// Every interleaving of each model.
pub(super) fn loom(context: &mut Context<'_>) -> Result<()> {
    let tools = context.tools;
    let command = |package: &'static [&'static str], shown: &'static [&'static str]| {
        let target = tools.target().join("loom");
        let command: Command<'_> = Box::new(move |options, args| {
            let test = ["test", "--release", "--locked"];
            let args = [shown, args].concat();
            let tests = tools.cargo_in(&target, &words(&[&test, package, options], &args));
            Ok(tests.env("RUSTFLAGS", "--cfg loom"))
        });
        command
    };
    let models = Run {
        name: "loom",
        what: "exploring the models".into(),
        without_docs: &[],
        known: None,
        command: command(
            &[
                "--package=mmu_notifier_helpers",
                "--test=loom",
                "--no-fail-fast",
            ],
            &["--show-output"],
        ),
    };
    // What the models stand on is tried in every interleaving as well.
    let stand_in = Run {
        name: "loom-kernel",
        what: "exploring the stand-in for the kernel crate".into(),
        without_docs: &[],
        known: None,
        command: command(&["--package=kernel", "--lib"], &[]),
    };
    let picked = pick(context, vec![models, stand_in], &[])?;
    run(context, picked)?;
    // What each of them explored is a figure.
    let log = std::fs::read_to_string(context.logs.join("loom.log"));
    // A pattern may have picked none of them.
    for line in log.unwrap_or_default().lines() {
        if let Some((model, result)) = line.split_once(": ") {
            if result.contains(" execution") {
                println!("{model}: {result}");
            }
        }
    }
    Ok(())
}

/// What finds wrong uses of memory that a test does not notice.
#[derive(Clone, Copy)]
enum Checker {
    Miri,
    AddressSanitizer,
    Valgrind,
}

/// The tests of the crates with unsafe code, under the best checker that there is.
pub(super) fn sanitizer(context: &mut Context<'_>) -> Result<()> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let checker = checker(context)?;
    let (name, program, target_option) = match checker {
        Checker::Miri => ("Miri", &["miri"][..], &[][..]),
        Checker::AddressSanitizer => ("AddressSanitizer", &[][..], &["--target", TARGET][..]),
        Checker::Valgrind => ("valgrind", &[][..], &["--target", TARGET][..]),
    };
    note(format!("the checker of unsafe code is {name}"));
    let tools = context.tools;
    let target = tools.target().join("sanitizer");
    let tests = Run {
        name: "sanitizer",
        what: format!("running the host's tests under {name}"),
        without_docs: &[],
        known: None,
        command: Box::new(move |options, args| {
            let test = [
                "test",
                "--locked",
                "--package=mmu_notifier_helpers",
                "--package=gpu_mirror_rs",
                "--package=rdma_odp_rs",
                "--package=kernel",
                "--lib",
                "--test=bookkeeping",
                "--test=rxe",
                "--test=umem",
            ];
            let words = words(&[program, &test, target_option, options], args);
            let tests = tools
                .cargo_in(&target, &words)
                // Each input costs much more than on the bare machine.
                .env("PROPTEST_CASES", "32");
            Ok(match checker {
                Checker::Miri => tests,
                Checker::AddressSanitizer => tests
                    .env("RUSTC_BOOTSTRAP", "1")
                    .env("RUSTFLAGS", "-Zsanitizer=address"),
                Checker::Valgrind => {
                    tests.env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", VALGRIND)
                }
            })
        }),
    };
    let picked = pick(context, vec![tests], &[])?;
    run(context, picked)
}

/// The test harness keeps memory that may be reached from inside of a block only.
const VALGRIND: &str = "valgrind --quiet --error-exitcode=99 --leak-check=full \
    --show-leak-kinds=definite --errors-for-leak-kinds=definite";

fn checker(context: &Context<'_>) -> Result<Checker> {
    let works = |command: Expression| {
        let output = command.stdout_capture().stderr_null().unchecked().run();
        output.ok().filter(|output| output.status.success())
    };
    if works(context.tools.cargo(&["miri", "--version"])).is_some() {
        return Ok(Checker::Miri);
    }
    let libdir = works(duct::cmd!("/usr/bin/rustc", "--print", "target-libdir"));
    let libdir = libdir.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    let has_runtime = libdir.is_some_and(|dir| {
        std::fs::read_dir(dir).is_ok_and(|mut files| {
            files.any(|file| {
                file.is_ok_and(|file| file.file_name().to_string_lossy().ends_with("_rt.asan.a"))
            })
        })
    });
    if has_runtime {
        return Ok(Checker::AddressSanitizer);
    }
    ensure!(
        works(duct::cmd!("valgrind", "--version")).is_some(),
        "there is neither Miri, nor the runtime of AddressSanitizer for rustc, nor valgrind"
    );
    Ok(Checker::Valgrind)
}

/// Makes a command of cargo's of more options for it, and of arguments for the tests.
type Command<'a> = Box<dyn Fn(&[&str], &[&str]) -> Result<Expression> + 'a>;

/// Tests that cargo runs.
struct Run<'a> {
    /// What the log is called.
    name: &'static str,
    what: String,
    /// The options that leave out the examples in the documentation, where these would run too.
    without_docs: &'static [&'static str],
    /// The tests, where cargo need not be asked for them.
    known: Option<Vec<Listed>>,
    command: Command<'a>,
}

/// The words of a command of cargo's.
fn words<'a>(options: &[&[&'a str]], args: &[&'a str]) -> Vec<&'a str> {
    let mut words = options.concat();
    if !args.is_empty() {
        words.push("--");
        words.extend(args);
    }
    words
}

/// The tests in a source.
fn of_source(path: &Path) -> Result<Vec<Listed>> {
    let source =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let binary = path.file_stem().unwrap_or_default().to_string_lossy();
    let names = kunit::cases(&source).into_iter();
    let names = names.map(|name| Listed::new(&binary, name.trim_start_matches('.')));
    Ok(names.collect())
}

/// The runs that have wanted tests, with these; with none where all are wanted. There are `more`
/// cases in the suite, by these names.
fn pick<'a>(
    context: &Context<'_>,
    runs: Vec<Run<'a>>,
    more: &[&str],
) -> Result<Vec<(Run<'a>, Vec<Listed>)>> {
    if context.filter.is_all() {
        return Ok(runs.into_iter().map(|run| (run, Vec::new())).collect());
    }
    let mut names: Vec<String> = more.iter().map(|name| name.to_string()).collect();
    let mut picked = Vec::new();
    for run in runs {
        let listed = match &run.known {
            Some(known) => known.clone(),
            None => list(context, &run)?,
        };
        names.extend(listed.iter().map(Listed::case));
        let mut wanted = listed;
        wanted.retain(|test| context.filter.picks(&test.case()));
        if !wanted.is_empty() {
            picked.push((run, wanted));
        }
    }
    context.require(names)?;
    Ok(picked)
}

/// The tests of a run, by what cargo says.
fn list(context: &Context<'_>, run: &Run<'_>) -> Result<Vec<Listed>> {
    let log = context.logs.join(format!("{}-list.log", run.name));
    Step::new(format!("{}: building, to list them", run.what), &log)
        .by(context.deadline)
        .run((run.command)(&[], &["--list"])?.dir(&context.paths.checkout))?;
    let listed = libtest::listed(&String::from_utf8_lossy(&std::fs::read(&log)?));
    ensure!(!listed.is_empty(), "{}: there is no test", run.what);
    Ok(listed)
}

/// By which options for cargo and arguments for the harness the wanted tests run, and how the log
/// is called then: each of these is a command. Of the examples rustdoc takes no more than a part of
/// a name, and none with a space in it; it is given the names of the files.
fn commands<'a>(
    run: &'a Run<'_>,
    wanted: &'a [Listed],
) -> Vec<(String, &'static [&'static str], Vec<&'a str>)> {
    if wanted.is_empty() {
        return vec![(run.name.to_owned(), &[], Vec::new())];
    }
    let (docs, tests): (Vec<&Listed>, Vec<&Listed>) = wanted.iter().partition(|test| test.is_doc());
    let mut commands = Vec::new();
    if !tests.is_empty() {
        let mut args = vec!["--exact"];
        args.extend(tests.iter().map(|test| &*test.name));
        commands.push((run.name.to_owned(), run.without_docs, args));
    }
    if !docs.is_empty() {
        let files = docs.iter().filter_map(|test| test.name.split(' ').next());
        commands.push((format!("{}-docs", run.name), &[][..], files.collect()));
    }
    commands
}

/// Runs what was picked.
fn run(context: &mut Context<'_>, picked: Vec<(Run<'_>, Vec<Listed>)>) -> Result<()> {
    for (run, wanted) in &picked {
        for (log, options, args) in commands(run, wanted) {
            let tests = (run.command)(options, &args)?;
            cargo_test(context, &log, &run.what, tests)?;
        }
    }
    Ok(())
}

/// Runs tests and takes their cases; `name` is that of the log.
fn cargo_test(context: &mut Context<'_>, name: &str, what: &str, tests: Expression) -> Result<()> {
    let log = context.logs.join(format!("{name}.log"));
    let outcome = Step::new(what, &log).by(context.deadline).run_with(
        tests.dir(&context.paths.checkout),
        Progress::spinner(what),
        |_, _| (),
    );
    let cases = libtest::parse(&String::from_utf8_lossy(&std::fs::read(&log)?));
    // A failure is told by the cases; one that none of them shows is added.
    let is_told = cases
        .iter()
        .any(|case| matches!(case.verdict, Verdict::Fail(_)));
    ensure!(!cases.is_empty() || outcome.is_err(), "{what}: no test ran");
    // A name may be that of tests in several binaries, and what is no test is told of its summary.
    let picked = cases
        .into_iter()
        .filter(|case| libtest::is_summary(case) || context.filter.picks(&case.name));
    context.cases.extend(picked.collect::<Vec<Case>>());
    match outcome {
        Err(error) if !is_told => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_run(without_docs: &'static [&'static str]) -> Run<'static> {
        Run {
            name: "host",
            what: "testing".into(),
            without_docs,
            known: None,
            command: Box::new(|_, _| Ok(duct::cmd!("true"))),
        }
    }

    #[test]
    fn all_tests_run_by_one_command_without_names() {
        let run = a_run(&["--tests"]);
        assert_eq!(commands(&run, &[]), [("host".to_owned(), &[][..], vec![])]);
        assert_eq!(words(&[&["test"], &["--lib"]], &[]), ["test", "--lib"]);
    }

    #[test]
    fn wanted_tests_run_by_their_names_and_examples_by_their_files() {
        let run = a_run(&["--tests"]);
        let wanted = [
            Listed::new("range", "a::b"),
            Listed::new("range (doc)", "src/range.rs - f (line 3)"),
            Listed::new("other", "c"),
        ];
        assert_eq!(
            commands(&run, &wanted),
            [
                (
                    "host".to_owned(),
                    &["--tests"][..],
                    vec!["--exact", "a::b", "c"]
                ),
                ("host-docs".to_owned(), &[][..], vec!["src/range.rs"]),
            ]
        );
        assert_eq!(commands(&run, &wanted[1..2]).len(), 1);
        assert_eq!(
            words(&[&["test"], &["--tests"]], &["--exact", "c"]),
            ["test", "--tests", "--", "--exact", "c"]
        );
    }

    #[test]
    fn the_tests_of_the_headers_are_known_without_a_kernel() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(HEADERS);
        let names: Vec<String> = of_source(&path).unwrap().iter().map(Listed::case).collect();
        assert!(
            names.contains(&"uapi_layout the_command_has_no_padding".to_owned()),
            "{names:?}"
        );
    }
}
