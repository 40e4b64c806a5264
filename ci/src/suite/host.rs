// SPDX-License-Identifier: GPL-2.0

//! What runs on the host: every crate's tests, the models in all their interleavings, and the tests
//! again under a checker of unsafe code.

use anyhow::{ensure, Result};
use duct::Expression;

use super::Context;
use crate::libtest;
use crate::progress::{note, Progress};
use crate::report::{Case, Verdict};
use crate::step::Step;
use crate::tree;

pub(super) fn tests(context: &mut Context<'_>) -> Result<()> {
    Step::new(
        "building the crates for the host",
        context.logs.join("build.log"),
    )
    .by(context.deadline)
    .run(
        context
            .tools
            .cargo(&["build", "--workspace", "--locked"])
            .dir(&context.paths.checkout),
    )?;
    context.cases.push(Case::new("build", Verdict::Pass));

    let tests = context
        .tools
        .cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
    cargo_test(context, "host", "testing the crates on the host", tests)?;

    let source = tree::pristine(context.paths)?;
    let headers = context
        .tools
        .cargo(&[
            "test",
            "--locked",
            "--package=gpu_mirror_rs",
            "--features=kernel-headers",
            "--test=uapi_layout",
        ])
        .env("KERNEL_SOURCE", &source);
    cargo_test(
        context,
        "headers",
        "comparing with the kernel's headers",
        headers,
    )
}

/// Every interleaving of each model.
pub(super) fn loom(context: &mut Context<'_>) -> Result<()> {
    let target = context.tools.target().join("loom");
    let test = ["test", "--release", "--locked"];
    let models = [
        "--package=mmu_notifier_helpers",
        "--test=loom",
        "--no-fail-fast",
        "--",
        "--show-output",
    ];
    let models = context
        .tools
        .cargo_in(&target, &[&test[..], &models].concat())
        .env("RUSTFLAGS", "--cfg loom");
    cargo_test(context, "loom", "exploring the models", models)?;
    // What the models stand on is tried in every interleaving as well.
    let stand_in = context
        .tools
        .cargo_in(
            &target,
            &[&test[..], &["--package=kernel", "--lib"]].concat(),
        )
        .env("RUSTFLAGS", "--cfg loom");
    cargo_test(
        context,
        "loom-kernel",
        "exploring the stand-in for the kernel crate",
        stand_in,
    )?;
    // What each of them explored is a figure.
    for line in std::fs::read_to_string(context.logs.join("loom.log"))?.lines() {
        if let Some((model, result)) = line.split_once(": ") {
            if result.contains(" execution") {
                println!("{model}: {result}");
            }
        }
    }
    Ok(())
}

/// What finds wrong uses of memory that a test does not notice.
enum Checker {
    Miri,
    AddressSanitizer,
    Valgrind,
}

/// The tests of the crates with unsafe code, under the best checker that there is.
pub(super) fn sanitizer(context: &mut Context<'_>) -> Result<()> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let checker = checker(context)?;
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
    let target = context.tools.target().join("sanitizer");
    let (name, tests) = match checker {
        Checker::Miri => (
            "Miri",
            context
                .tools
                .cargo_in(&target, &[&["miri"], &test[..]].concat()),
        ),
        Checker::AddressSanitizer => (
            "AddressSanitizer",
            context
                .tools
                .cargo_in(&target, &[&test[..], &["--target", TARGET]].concat())
                .env("RUSTC_BOOTSTRAP", "1")
                .env("RUSTFLAGS", "-Zsanitizer=address"),
        ),
        Checker::Valgrind => (
            "valgrind",
            context
                .tools
                .cargo_in(&target, &[&test[..], &["--target", TARGET]].concat())
                .env(
                    "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER",
                    // The test harness keeps memory that may be reached from inside of a block only.
                    "valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite \
                     --errors-for-leak-kinds=definite",
                ),
        ),
    };
    note(format!("the checker of unsafe code is {name}"));
    let what = format!("running the host's tests under {name}");
    let tests = tests
        // Each input costs much more than on the bare machine.
        .env("PROPTEST_CASES", "32");
    cargo_test(context, "sanitizer", &what, tests)
}

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
    context.cases.extend(cases);
    match outcome {
        Err(error) if !is_told => Err(error),
        _ => Ok(()),
    }
}
