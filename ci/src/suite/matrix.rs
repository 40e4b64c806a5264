// SPDX-License-Identifier: GPL-2.0

//! The crates in a kernel's tree in each way that Kconfig allows, and each patch of the series alone.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context as _, Result};
use duct::cmd;

use super::{kunit, tree as trees, Context};
use crate::kernel::{Kernel, Kind};
use crate::report::{Case, Verdict};
use crate::step::Step;
use crate::tree::{Applied, Installed};

/// Everything built in, but for the KUnit suites: they have processes, so they run when there is user space.
const BUILT_IN: &str = "CONFIG_SECRETMEM=y
CONFIG_MMU_NOTIFIER_HELPERS=y
CONFIG_MMU_NOTIFIER_HELPERS_KUNIT_TEST=m
CONFIG_GPU_MIRROR_RS=y
CONFIG_SAMPLES=y
CONFIG_SAMPLES_RUST=y
CONFIG_SAMPLE_RUST_MMU_MIRROR=y
";
/// Everything a module.
const MODULES: &str = "CONFIG_SECRETMEM=y
CONFIG_MMU_NOTIFIER_HELPERS=m
CONFIG_MMU_NOTIFIER_HELPERS_KUNIT_TEST=m
CONFIG_GPU_MIRROR_RS=m
CONFIG_SAMPLES=y
CONFIG_SAMPLES_RUST=y
CONFIG_SAMPLE_RUST_MMU_MIRROR=m
";
/// Nothing.
const OFF: &str = "CONFIG_MMU_NOTIFIER_HELPERS=n
";
/// Modules that are checked against the kernel symbol by symbol, and must be signed.
const STRICT: &str = "CONFIG_DEBUG_INFO_DWARF5=y
CONFIG_GENDWARFKSYMS=y
CONFIG_MODVERSIONS=y
CONFIG_MODULE_SIG=y
CONFIG_MODULE_SIG_FORCE=y
CONFIG_MODULE_SIG_ALL=y
";

/// Loads the KUnit suites and prints what they wrote.
const SUITES: &str = r#"mkdir -p /lib/modules
ln -sfn "$1/lib/modules/$(uname -r)" "/lib/modules/$(uname -r)"
dmesg --clear
modprobe mmu_notifier_helpers_kunit
dmesg --notime"#;

const TESTS: [&str; 4] = [
    "gpu_mirror_rs:gpu_mirror",
    "gpu_mirror_rs:gpu_mirror_exclusive",
    "gpu_mirror_rs:gpu_mirror_migrate",
    "mmu_notifier_helpers:rust_mmu_mirror",
];
/// Those that do not load modules.
const TESTS_BUILT_IN: &[&str] = TESTS.first_chunk::<3>().unwrap();

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    let base = context.kernel(Kind::Release)?;
    let logs = context.logs.clone();
    let (paths, tools) = (context.paths, context.tools);

    let installed = Installed::new(paths, tools, &base, &logs)?;
    let built_in = combination(context, &installed, &base, "built-in", BUILT_IN)?;
    let modules = combination(context, &installed, &base, "modules", MODULES)?;
    let off = combination(context, &installed, &base, "off", OFF)?;
    let strict = combination(
        context,
        &installed,
        &base,
        "strict",
        &(MODULES.to_owned() + STRICT),
    )?;
    if let Some((kernel, _)) = &modules {
        developers(context, &installed, kernel);
    }
    kunit_tool(context, &base);
    drop(installed);

    if let Some((kernel, (tests, modules))) = built_in {
        trees::kselftests(context, &kernel, (&tests, &modules), TESTS_BUILT_IN)?;
        let boots = trees::boot(
            context,
            &kernel,
            &kunit::APPEND,
            vec![
                "sh".into(),
                "-c".into(),
                SUITES.into(),
                "sh".into(),
                modules.into(),
            ],
        )?;
        let wanted = kunit::sources(&context.paths.checkout.join("mmu_notifier_helpers/kunit"))?;
        context.judge_wanted("built-in: ", &boots, &wanted);
    }
    if let Some((kernel, (tests, modules))) = modules {
        trees::kselftests(context, &kernel, (&tests, &modules), &TESTS)?;
    }
    if let Some((kernel, (_, modules))) = off {
        let found = cmd!("find", modules, "-name", "*mirror*").read()?;
        context.result("off: no module of ours", found.is_empty(), &found);
        let boots = trees::boot(context, &kernel, &[], vec!["true".into()])?;
        context.judge_boot("off: ", &boots);
    }
    if let Some((kernel, (tests, modules))) = strict {
        signed(context, &modules)?;
        trees::kselftests(context, &kernel, (&tests, &modules), &TESTS)?;
    }
    for name in ["dkms", "deb"] {
        trees::script(context, name, &base.build)?;
    }
    patches(context, &base)
}

type Programs = (PathBuf, PathBuf);

/// Builds a combination, which is a case. What it installed is there if it passed.
fn combination(
    context: &mut Context<'_>,
    installed: &Installed<'_>,
    base: &Kernel,
    name: &str,
    options: &str,
) -> Result<Option<(Kernel, Programs)>> {
    let built = installed
        .build(base, name, options)
        .and_then(|kernel| Ok((kernel.clone(), installed.install(&kernel)?)));
    let built = context.outcome(&format!("{name}: builds"), built);
    if built.is_some() {
        let log = context.logs.join(format!("{name}-kernel.log"));
        let said = warnings(&fs::read_to_string(&log)?);
        context.result(&format!("{name}: no warning"), said.is_empty(), &said);
    }
    Ok(built)
}

/// The lines of a build's log that warn.
fn warnings(log: &str) -> String {
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.to_lowercase().contains("warning"))
        .collect();
    lines.join("; ")
}

/// What developers run in a tree.
fn developers(context: &mut Context<'_>, installed: &Installed<'_>, kernel: &Kernel) {
    let clippy = [
        "CLIPPY=1",
        "rust/mmu_notifier_helpers/",
        "drivers/gpu/gpu_mirror_rs/",
        "samples/rust/",
    ];
    for (what, targets) in [
        ("rust-analyzer", &["rust-analyzer"][..]),
        ("rustdoc", &["rustdoc"]),
        ("rustfmtcheck", &["rustfmtcheck"]),
        ("clippy", &clippy),
    ] {
        let outcome = installed.make(kernel, what, targets).and_then(|()| {
            let log = context.logs.join(format!("{}-{what}.log", kernel.name));
            let said = warnings(&fs::read_to_string(log)?);
            ensure!(said.is_empty(), "{said}");
            Ok(())
        });
        context.outcome(&format!("make {what}"), outcome);
    }
    let project = kernel.build.join("rust-project.json");
    let text = fs::read_to_string(project).unwrap_or_default();
    for name in [
        "mmu_notifier_helpers",
        "mmu_notifier_helpers_kunit",
        "gpu_mirror_rs",
        "rust_mmu_mirror",
    ] {
        let entry = format!("\"display_name\": \"{name}\"");
        context.result(
            &format!("rust-analyzer knows {name}"),
            text.contains(&entry),
            "it does not",
        );
    }
}

/// Runs a program with another QEMU: where KVM is there but does not work, kunit.py waits for it.
const WITHOUT_KVM: &str = r#"bin=$1
shift
mkdir -p "$bin"
cat >"$bin/qemu-system-x86_64" <<-'EOF'
	#!/bin/sh
	for arg; do
		shift
		case $arg in
		kvm | hvf) arg=tcg ;;
		esac
		set -- "$@" "$arg"
	done
	exec /usr/bin/qemu-system-x86_64 "$@"
EOF
chmod +x "$bin/qemu-system-x86_64"
PATH=$bin:$PATH exec "$@""#;

/// The kernel's own way to run KUnit suites, without KVM.
fn kunit_tool(context: &mut Context<'_>, base: &Kernel) {
    let log = context.logs.join("kunit.py.log");
    let outcome = context
        .paths
        .dir(Path::new("tree").join(&base.slot).join("kunit"))
        .and_then(|build| {
            let mut args: Vec<OsString> = ["-c", WITHOUT_KVM, "sh"].map(Into::into).into();
            args.push(context.logs.join("bin").into());
            args.push(base.source.join("tools/testing/kunit/kunit.py").into());
            args.extend(
                [
                    "run",
                    "--kunitconfig=rust/mmu_notifier_helpers",
                    "--arch=x86_64",
                    "--make_options=LLVM=1",
                    "--timeout=600",
                    "--raw_output=all",
                ]
                .map(OsString::from),
            );
            args.push(format!("--jobs={}", crate::toolchain::Toolchain::jobs()).into());
            args.push("--build_dir".into());
            args.push(build.into());
            let command = context.tools.command(cmd("sh", args)).dir(&base.source);
            Step::new("kunit.py: building and running", &log)
                .by(context.deadline)
                .run(command)
        });
    context.outcome("kunit.py", outcome);
    let output = fs::read_to_string(&log).unwrap_or_default();
    let first = context.cases.len();
    let results = context.judge_results("kunit.py: ", &crate::ktap::parse(&output));
    for case in &mut context.cases[first..] {
        if matches!(&case.verdict, Verdict::Fail(cause) if cause.contains("ENOENT")) {
            case.verdict =
                Verdict::Skip("needs a process, and its kernel has no user space".into());
        }
    }
    // A suite fails with any of its cases, and those are judged already.
    let mut at = 0;
    context.cases.retain(|case| {
        at += 1;
        let name = case.name.strip_prefix("kunit.py: ");
        at <= first || name.is_none_or(|name| name.contains('.') || name == "plan")
    });
    let wanted = kunit::sources(&context.paths.checkout.join("mmu_notifier_helpers/kunit"));
    for name in wanted.unwrap_or_default() {
        if !results.contains(&name) {
            context.fail(&format!("kunit.py: {name}"), "it gave no result".into());
        }
    }
}

/// Whether each module is signed and has versions for the symbols of Rust.
fn signed(context: &mut Context<'_>, modules: &Path) -> Result<()> {
    for name in ["mmu_notifier_helpers", "gpu_mirror_rs", "rust_mmu_mirror"] {
        let found = cmd!("find", modules, "-name", format!("{name}.ko")).read()?;
        let signer = cmd!("/sbin/modinfo", "-F", "signer", &found)
            .unchecked()
            .read()?;
        context.result(
            &format!("strict: {name} is signed"),
            !signer.is_empty(),
            "modinfo names no signer",
        );
        let sections = cmd!("readelf", "-SW", &found).read()?;
        context.result(
            &format!("strict: {name} has versions"),
            sections.contains("__version"),
            "it has no section of them",
        );
    }
    Ok(())
}

/// Applies the patches of the series one by one to the clean source, and builds after each.
fn patches(context: &mut Context<'_>, base: &Kernel) -> Result<()> {
    let logs = context.logs.clone();
    let (paths, tools) = (context.paths, context.tools);
    let series = logs.join("series");
    let command = cmd!(paths.checkout.join("kbuild/series"), &base.source, &series)
        .env("GIT_AUTHOR_NAME", "ci")
        .env("GIT_CONFIG_COUNT", "2")
        .env("GIT_CONFIG_KEY_0", "user.name")
        .env("GIT_CONFIG_VALUE_0", "A Maintainer")
        .env("GIT_CONFIG_KEY_1", "user.email")
        .env("GIT_CONFIG_VALUE_1", "maintainer@example.org");
    Step::new("writing the series", logs.join("series.log")).run(command)?;
    let mut names: Vec<PathBuf> = fs::read_dir(&series)?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    names.sort();
    let mut applied = Applied::new(paths, tools, base, &logs)?;
    for patch in names.iter().skip(1) {
        let name = patch.file_stem().context("a patch has a name")?;
        let name = name.to_string_lossy().into_owned();
        applied.apply(patch)?;
        let log = logs.join(format!("{name}.log"));
        let outcome = applied
            .build(base, "patches", MODULES, &log)
            .and_then(|()| {
                let said = warnings(&fs::read_to_string(&log)?);
                ensure!(said.is_empty(), "{said}");
                Ok(())
            });
        context.outcome(&format!("builds with {name}"), outcome);
    }
    Ok(())
}

impl Context<'_> {
    /// A case that passes if `passed`.
    fn result(&mut self, name: &str, passed: bool, cause: &str) {
        let verdict = match passed {
            true => Verdict::Pass,
            false => Verdict::Fail(cause.into()),
        };
        self.cases.push(Case::new(name, verdict));
    }

    /// A case that passes if there was no error, and what came of it then.
    fn outcome<T>(&mut self, name: &str, outcome: Result<T>) -> Option<T> {
        let cause = outcome.as_ref().err().map(|error| format!("{error:#}"));
        self.result(name, cause.is_none(), &cause.unwrap_or_default());
        outcome.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_found() {
        assert_eq!(warnings("CC a.o\nb.c:1: warning: c\n"), "b.c:1: warning: c");
        assert_eq!(warnings("CC a.o\n"), "");
    }
}
