// SPDX-License-Identifier: GPL-2.0

//! Format, lints and style. No warning passes.

use std::path::PathBuf;

use anyhow::{ensure, Result};
use duct::cmd;

use crate::kernel::{self, Kind};
use crate::modules;
use crate::paths::Paths;
use crate::progress::note;
use crate::step::Step;
use crate::toolchain::Toolchain;

/// `ci/run lint`.
pub(crate) fn lint(paths: &Paths) -> Result<i32> {
    let tools = Toolchain::new(paths)?;
    let kernel = kernel::get(paths, &tools, Kind::Debug)?;
    let logs = paths.logs("lint")?;
    // What is built already is not linted again.
    let lint = PathBuf::from("lint").join(&kernel.slot);
    std::fs::remove_dir_all(paths.own_dir(&lint)?)?;
    let output = paths.mo_dir(&lint)?;
    let rust = tracked(paths, &["*.rs"])?;
    let c = tracked(paths, &["*.c", "*.h"])?;
    let shell = tracked(
        paths,
        &[
            "*.sh",
            "ci/run",
            ".ci/run",
            "ci/kernel/*",
            "ci/workshop/clean",
            "ci/workshop/enter",
            "ci/workshop/fetch",
            "ci/workshop/kernel",
            "ci/workshop/settle",
            "kbuild/install",
            "kbuild/metadata",
            "kbuild/series",
        ],
    )?;

    let mut format = vec![
        "--color=never".to_owned(),
        "--check".into(),
        "--edition".into(),
        "2021".into(),
    ];
    format.extend(rust);
    let checkpatch = kernel.source.join("scripts/checkpatch.pl");
    let mut style = vec![checkpatch.to_string_lossy().into_owned()];
    style.extend(["--strict", "--no-tree", "--terse", "--no-summary", "-f"].map(str::to_owned));
    style.extend(c);
    let in_kernel = |more: &[&str]| tools.make(&modules::make_args(paths, &kernel, &output, more));

    let checks = [
        ("rustfmt", cmd("/usr/bin/rustfmt", format)),
        (
            "clippy on the host",
            tools.cargo(&[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ]),
        ),
        (
            "clippy in the kernel",
            // The kernel's makefile allows what is newer than the oldest compiler that it takes.
            in_kernel(&[
                "CLIPPY=1",
                "KRUSTFLAGS=-Wclippy::incompatible_msrv",
                "modules",
            ]),
        ),
        ("rustdoc", in_kernel(&["rustdoc"])),
        ("checkpatch", cmd("perl", style)),
        ("shellcheck", cmd("shellcheck", shell)),
    ];
    let mut failed = Vec::new();
    for (name, check) in checks {
        let log = logs.join(format!("{}.log", name.replace(' ', "-")));
        let outcome = Step::new(name, &log)
            .run(check.dir(&paths.checkout))
            .and_then(|()| silent(name, &log));
        match outcome {
            Ok(()) => println!("{name}: ok"),
            Err(error) => {
                println!("{name}: FAILED");
                eprintln!("ci: {error:#}");
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        note(format!("failed: {}", failed.join(", ")));
    }
    Ok(i32::from(!failed.is_empty()))
}

/// A tool may warn and still end well.
fn silent(name: &str, log: &std::path::Path) -> Result<()> {
    let text = std::fs::read_to_string(log)?;
    let warning = text
        .lines()
        .find(|line| line.contains("warning:") || line.contains("WARNING:"));
    ensure!(
        warning.is_none(),
        "{name} warns: {}; the log is {}",
        warning.unwrap_or_default(),
        log.display()
    );
    Ok(())
}

/// The files of the checkout that match, as git knows them, new ones too.
fn tracked(paths: &Paths, patterns: &[&str]) -> Result<Vec<String>> {
    let mut args = vec![
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "--deduplicate",
        "--",
    ];
    args.extend(patterns);
    let files = cmd("git", args).dir(&paths.checkout).read()?;
    let files: Vec<String> = files
        .lines()
        .filter(|file| paths.checkout.join(file).is_file())
        .map(str::to_owned)
        .collect();
    ensure!(
        !files.is_empty(),
        "the checkout has no {}",
        patterns.join(", ")
    );
    Ok(files)
}
