// SPDX-License-Identifier: GPL-2.0

//! The crates in a kernel's tree in each way that Kconfig allows, and each patch of the series alone.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context as _, Result};
use duct::cmd;

use super::{kunit, refuse_skips, tree as trees, Boots, Context};
use crate::kernel::{Kernel, Kind};
use crate::ktap::Stream;
use crate::report::{Case, Verdict};
use crate::source::{self, Source};
use crate::step::Step;
use crate::toolchain::set;
use crate::tree::{self, Variants};

/// What `kbuild/install` leaves in a tree that it has been in.
const NOTE: &str = ".mmu_notifier_helpers";
/// Everything built in.
const BUILT_IN: &str = "CONFIG_SECRETMEM=y
CONFIG_MMU_NOTIFIER_HELPERS=y
CONFIG_MMU_NOTIFIER_HELPERS_KUNIT_TEST=m
CONFIG_GPU_MIRROR_RS=y
CONFIG_SAMPLES=y
CONFIG_SAMPLES_RUST=y
CONFIG_SAMPLE_RUST_MMU_MIRROR=y
CONFIG_INFINIBAND=y
CONFIG_INFINIBAND_USER_ACCESS=y
CONFIG_INFINIBAND_ON_DEMAND_PAGING_RUST=y
CONFIG_RDMA_RXE=y
CONFIG_RDMA_RXE_ODP_RUST=y
";
/// Everything a module.
const MODULES: &str = "CONFIG_SECRETMEM=y
CONFIG_MMU_NOTIFIER_HELPERS=m
CONFIG_MMU_NOTIFIER_HELPERS_KUNIT_TEST=m
CONFIG_GPU_MIRROR_RS=m
CONFIG_SAMPLES=y
CONFIG_SAMPLES_RUST=y
CONFIG_SAMPLE_RUST_MMU_MIRROR=m
CONFIG_INFINIBAND_ON_DEMAND_PAGING_RUST=y
CONFIG_RDMA_RXE_ODP_RUST=y
";
/// The other driver of the kernel's that pages on demand, as it is.
const MLX5: &str = "CONFIG_ETHERNET=y
CONFIG_NET_VENDOR_MELLANOX=y
CONFIG_MLX5_CORE=m
CONFIG_MLX5_INFINIBAND=m
";
/// The helpers without device memory, in a kernel that is small.
const LEAN: [&str; 4] = [
    "CONFIG_DEVICE_PRIVATE=n",
    "CONFIG_SAMPLES=y",
    "CONFIG_SAMPLES_RUST=y",
    "CONFIG_SAMPLE_RUST_MMU_MIRROR=y",
];
/// The suites that are about device memory.
const OF_DEVICE_MEMORY: [&str; 3] = ["device_memory", "exclusive", "migrate"];
/// Nothing.
const OFF: &str = "CONFIG_MMU_NOTIFIER_HELPERS=n
";
/// Modules that are checked against the kernel symbol by symbol, the helpers in it, and must be signed.
const STRICT: &str = "CONFIG_MMU_NOTIFIER_HELPERS=y
CONFIG_DEBUG_INFO_DWARF5=y
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
    if !tree::is_ours(context.paths, &base) {
        let verdict = Verdict::Skip(tree::FOREIGN.into());
        context.cases.push(Case::new("the combinations", verdict));
        return Ok(());
    }
    let logs = context.logs.clone();
    let (paths, tools) = (context.paths, context.tools);

    let installed = Variants::of_crates(paths, tools, &base, &logs)?;
    let built_in = combination(context, &installed, &base, "built-in", BUILT_IN)?;
    let modules = combination(
        context,
        &installed,
        &base,
        "modules",
        &(MODULES.to_owned() + MLX5),
    )?;
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
    let wanted = kunit::sources(&sources(context))?;
    let lean: Vec<String> = wanted
        .iter()
        .filter(|name| {
            !OF_DEVICE_MEMORY
                .iter()
                .any(|suite| name.starts_with(&format!("mmu_notifier_helpers_{suite}.")))
        })
        .cloned()
        .collect();
    kunit_tool(context, &base, "kunit.py", &[], &wanted);
    kunit_tool(context, &base, "kunit.py-lean", &LEAN, &lean);
    drop(installed);

    if let Some((kernel, (tests, modules))) = built_in {
        trees::kselftests(context, &kernel, (&tests, &modules), TESTS_BUILT_IN)?;
        let boots = suites(context, &kernel, &modules)?;
        context.judge_wanted("built-in: ", &boots, &wanted);
    }
    if let Some((kernel, (tests, modules))) = modules {
        needs(
            context,
            "modules",
            &modules,
            "ib_core",
            "mmu_notifier_helpers",
        )?;
        needs(context, "modules", &modules, "mlx5_ib", "ib_core")?;
        trees::kselftests(context, &kernel, (&tests, &modules), &TESTS)?;
    }
    if let Some((kernel, (_, modules))) = off {
        let found = cmd!(
            "find",
            modules,
            "(",
            "-name",
            "*mirror*.ko",
            "-o",
            "-name",
            "mmu_notifier_helpers*.ko",
            ")"
        )
        .read()?;
        context.result("off: no module of ours", found.is_empty(), &found);
        let boots = trees::boot(context, &kernel, &[], vec!["true".into()])?;
        context.judge_boot("off: ", &boots);
    }
    if let Some((kernel, (tests, modules))) = strict {
        signed(context, &modules)?;
        trees::kselftests(context, &kernel, (&tests, &modules), &TESTS)?;
    }
    for name in ["dkms", "deb"] {
        let first = context.cases.len();
        trees::script(context, name, &base.build)?;
        // What it takes is there, as ci/run installs it.
        refuse_skips(&mut context.cases[first..], &[]);
    }
    out_of_tree(context, &base)?;
    patches(context, &base)?;
    versions(context)
}

/// Loads a driver that was installed below the root that `$1` names, uses and removes it.
const BY_NAME: &str = r#"mkdir -p /lib/modules
ln -sfn "$1/lib/modules/$(uname -r)" "/lib/modules/$(uname -r)"
modprobe gpu_mirror_rs && [ -c /dev/hmm_dmirror0 ] && modprobe -r -w 1000 gpu_mirror_rs &&
	! grep -q '^mmu_notifier_helpers ' /proc/modules && printf 'KTAP version 1\n1..1\nok 1 modprobe\n'"#;

/// Builds the modules out of tree, installs them for a kernel as it is, and boots that.
fn out_of_tree(context: &mut Context<'_>, base: &Kernel) -> Result<()> {
    let output = context.paths.mo_dir("out-of-tree")?;
    let root = context.paths.own_dir("out-of-tree")?.join("root");
    let step = |context: &Context<'_>, target: &str| {
        let args: Vec<OsString> = vec![
            "-C".into(),
            context.paths.checkout.join("kbuild").into(),
            set("KDIR", &base.build),
            set("MO", &output),
            set("INSTALL_MOD_PATH", &root),
            target.into(),
        ];
        let log = context.logs.join(format!("out-of-tree-{target}.log"));
        Step::new(format!("out of tree: {target}"), log).run(context.tools.make(&args))
    };
    let installed = step(context, "modules").and_then(|()| step(context, "modules_install"));
    if context
        .outcome("out of tree: installs", installed)
        .is_none()
    {
        return Ok(());
    }
    let mut command: Vec<OsString> = ["sh", "-c", BY_NAME, "sh"].map(Into::into).into();
    command.push(root.clone().into());
    let kernel = Kernel {
        name: "out-of-tree".into(),
        ..base.clone()
    };
    let boots = trees::boot(context, &kernel, &[], command)?;
    context.judge("out of tree: ", &boots);
    let removed = step(context, "modules_uninstall").and_then(|()| step(context, "clean"));
    context.outcome("out of tree: uninstalls and cleans", removed);
    Ok(())
}

/// Where the sources of the KUnit suites are.
fn sources(context: &Context<'_>) -> PathBuf {
    context.paths.checkout.join("mmu_notifier_helpers/kunit")
}

/// Boots a kernel and runs the KUnit suites among its modules.
fn suites(context: &Context<'_>, kernel: &Kernel, modules: &Path) -> Result<Boots> {
    let mut command: Vec<OsString> = ["sh", "-c", SUITES, "sh"].map(Into::into).into();
    command.push(modules.into());
    trees::boot(context, kernel, &kunit::APPEND, command)
}

/// A case: whether one module stands on another.
fn needs(
    context: &mut Context<'_>,
    name: &str,
    modules: &Path,
    module: &str,
    needed: &str,
) -> Result<()> {
    let found = cmd!("find", modules, "-name", format!("{module}.ko")).read()?;
    let depends = cmd!("/sbin/modinfo", "-F", "depends", &found)
        .unchecked()
        .read()?;
    context.result(
        &format!("{name}: {module} stands on {needed}"),
        depends.split(',').any(|one| one == needed),
        &format!("it depends on: {depends}"),
    );
    Ok(())
}

type Programs = (PathBuf, PathBuf);

/// Builds a combination, which is a case. What it installed is there if it passed.
fn combination(
    context: &mut Context<'_>,
    installed: &Variants<'_>,
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
fn developers(context: &mut Context<'_>, installed: &Variants<'_>, kernel: &Kernel) {
    let clippy = [
        "CLIPPY=1",
        "rust/mmu_notifier_helpers/",
        "drivers/gpu/gpu_mirror_rs/",
        "drivers/infiniband/core/",
        "drivers/infiniband/sw/rxe/",
        "samples/rust/",
    ];
    for (what, targets) in [
        ("rust-analyzer", &["rust-analyzer"][..]),
        ("rustdoc", &["rustdoc"]),
        ("rustfmtcheck", &["rustfmtcheck"]),
        ("clippy", &clippy),
    ] {
        let outcome = installed
            .make(kernel, what, targets)
            .and_then(|()| silent(&context.logs.join(format!("{}-{what}.log", kernel.name))));
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

/// What came of kunit.py.
struct KunitRun {
    /// How it ended.
    ended: Result<()>,
    /// Where the build warned.
    warnings: String,
    /// What the kernel printed; of what kunit.py makes of it the status is enough.
    results: Vec<Stream>,
}

/// Runs kunit.py, which writes to `log` and puts what the kernel prints into `printed`. There are
/// results also where a case failed or the build has warned: they are cases of their own.
fn kunit_run(log: &Path, printed: &Path, run: impl FnOnce() -> Result<()>) -> KunitRun {
    // The directory is used again; nothing of an earlier kernel may pass for this one's.
    let _ = fs::remove_file(printed);
    let ended = run();
    let text = |path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    KunitRun {
        ended,
        warnings: text(log).map_or_else(|error| error.to_string(), |log| warnings(&log)),
        results: crate::ktap::parse(&text(printed).unwrap_or_default()),
    }
}

/// The kernel's own way to run KUnit suites, without KVM, with some options changed. Each case that is
/// wanted must pass there, and the build must not warn.
fn kunit_tool(
    context: &mut Context<'_>,
    base: &Kernel,
    name: &str,
    options: &[&str],
    wanted: &[String],
) {
    let dir = Path::new("tree")
        .join(&base.slot)
        .join(name.replacen(".py", "", 1));
    let build = match context.paths.dir(dir) {
        Ok(build) => build,
        Err(error) => {
            context.outcome::<()>(name, Err(error));
            return;
        }
    };
    let mut args: Vec<OsString> = ["-c", WITHOUT_KVM, "sh"].map(Into::into).into();
    args.push(context.logs.join("bin").into());
    args.push(base.source.join("tools/testing/kunit/kunit.py").into());
    args.extend(
        [
            "run",
            "--kunitconfig=rust/mmu_notifier_helpers",
            "--arch=x86_64",
            "--make_options=LLVM=1",
            "--timeout=900",
        ]
        .map(OsString::from),
    );
    args.push(format!("--jobs={}", crate::toolchain::Toolchain::jobs()).into());
    args.push("--build_dir".into());
    args.push(build.clone().into());
    for option in options {
        args.push(format!("--kconfig_add={option}").into());
    }
    let command = context.tools.command(cmd("sh", args)).dir(&base.source);
    let log = context.logs.join(format!("{name}.log"));
    let step = Step::new(format!("{name}: building and running"), &log).by(context.deadline);
    let ran = kunit_run(&log, &build.join("test.log"), || step.run(command));
    let ended = context.outcome(name, ran.ended).is_some();
    let no_warning = format!("{name}: no warning");
    context.result(&no_warning, ran.warnings.is_empty(), &ran.warnings);
    if ended || !ran.results.is_empty() {
        context.judge_wanted_results(&format!("{name}: "), &ran.results, wanted);
    }
}

/// Whether each module is signed, and is checked against the versions of what the helpers export.
fn signed(context: &mut Context<'_>, modules: &Path) -> Result<()> {
    for name in ["gpu_mirror_rs", "rust_mmu_mirror", "ib_core"] {
        let found = cmd!("find", modules, "-name", format!("{name}.ko")).read()?;
        let signer = cmd!("/sbin/modinfo", "-F", "signer", &found)
            .unchecked()
            .read()?;
        context.result(
            &format!("strict: {name} is signed"),
            !signer.is_empty(),
            "modinfo names no signer",
        );
        // Names of Rust are longer than the place that modprobe shows versions from has room for.
        let section = "--string-dump=__version_ext_names";
        let command = context.tools.command(cmd!("llvm-readelf", section, &found));
        let versions = command.unchecked().read()?;
        let of_rust = versions
            .lines()
            .filter_map(|line| line.split_whitespace().last())
            .filter(|symbol| symbol.starts_with("_R") && symbol.contains("mmu_notifier_helpers"));
        context.result(
            &format!("strict: {name} has versions of the helpers' symbols"),
            of_rust.count() > 0,
            "the module names none",
        );
    }
    Ok(())
}

/// Applies the patches of the series one by one to the clean source, and builds after each.
fn patches(context: &mut Context<'_>, base: &Kernel) -> Result<()> {
    let logs = context.logs.clone();
    let (paths, tools) = (context.paths, context.tools);
    let series = logs.join("series");
    let command = cmd!(
        paths.checkout.join("kbuild/series"),
        tree::pristine(paths)?,
        &series
    )
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
    let applied = Variants::of_patches(paths, tools, base, &logs)?;
    let last = names.len().saturating_sub(1);
    for (number, patch) in names.iter().enumerate().skip(1) {
        let name = patch.file_stem().context("a patch has a name")?;
        let name = name.to_string_lossy().into_owned();
        applied.apply(patch)?;
        let log = logs.join(format!("{name}.log"));
        let outcome = applied
            .build_known(base, "patches", MODULES, &log)
            .and_then(|kernel| {
                silent(&log)?;
                Ok(kernel)
            });
        let Some(kernel) = context.outcome(&format!("builds with {name}"), outcome) else {
            continue;
        };
        if number == 1 || number == last {
            let log = logs.join(format!("{name}-rustdoc.log"));
            let outcome = applied
                .make_with(&kernel, &log, &["rustdoc"])
                .and_then(|()| silent(&log));
            context.outcome(&format!("is documented with {name}"), outcome);
        }
    }
    Ok(())
}

/// Fails if a build has warned.
fn silent(log: &Path) -> Result<()> {
    let said = warnings(&fs::read_to_string(log)?);
    ensure!(said.is_empty(), "{said}");
    Ok(())
}

/// What `kbuild/README.md` says of kernels that are not supported: those that Debian serves beside.
fn versions(context: &mut Context<'_>) -> Result<()> {
    let mut older = false;
    for suite in source::OTHER_SUITES {
        match source::other(context.paths, suite) {
            Ok(Some(other)) => {
                older |= !is_supported(context, &other.version)?;
                version(context, &other)?;
            }
            Ok(None) => {
                let verdict = Verdict::Skip("it serves no kernel's source".into());
                context
                    .cases
                    .push(Case::new(format!("versions: {suite}"), verdict));
            }
            Err(error) => context.fail(&format!("versions: {suite}"), format!("{error:#}")),
        }
    }
    if !older {
        let verdict = Verdict::Skip("Debian serves no kernel that is not supported".into());
        context
            .cases
            .push(Case::new("versions: one that is refused", verdict));
    }
    Ok(())
}

/// What comes of a kernel: whether it takes the crates, and what their build beside it says.
fn version(context: &mut Context<'_>, other: &Source) -> Result<()> {
    let (paths, tools, logs) = (context.paths, context.tools, context.logs.clone());
    let version = &other.version;
    let log = |what: &str| logs.join(format!("{version}-{what}.log"));
    let install = paths.checkout.join("kbuild/install");
    if is_supported(context, version)? {
        let step = |args: &[&OsStr], what: &str| {
            Step::new(format!("{version}: {what}"), log(what)).run(cmd(&install, args))
        };
        let tree = other.tree.as_os_str();
        let outcome =
            step(&[tree], "install").and_then(|()| step(&[OsStr::new("--remove"), tree], "remove"));
        context.outcome(&format!("versions: {version} takes the crates"), outcome);
    } else {
        let said = cmd!(&install, &other.tree)
            .stderr_to_stdout()
            .unchecked()
            .read()?;
        context.result(
            &format!("versions: {version} is refused"),
            said.contains("; supported: ") && !other.tree.join(NOTE).exists(),
            &said,
        );
    }

    let prepared = prepare(context, other, &log("prepare"));
    let what = format!("versions: {version} is prepared");
    let Some(build) = context.outcome(&what, prepared) else {
        return Ok(());
    };
    let output = paths.mo_dir(Path::new("versions").join("mo").join(version))?;
    let args: Vec<OsString> = vec![
        "-C".into(),
        paths.checkout.join("kbuild").into(),
        set("KDIR", &build),
        set("MO", &output),
        // Nothing is linked there, so nothing is known of its symbols.
        "KBUILD_MODPOST_WARN=1".into(),
    ];
    let log = log("modules");
    let built = Step::new(format!("{version}: building the modules"), &log).run(tools.make(&args));
    if is_supported(context, version)? {
        context.outcome(&format!("versions: {version} builds out of tree"), built);
        return Ok(());
    }
    let said = fs::read_to_string(&log)?;
    context.result(
        &format!("versions: {version} gets a warning"),
        said.contains("is what is supported and tested"),
        "there is none",
    );
    context.result(
        &format!("versions: {version} does not compile, for what the table says"),
        built.is_err() && said.contains("hmm_range_fault_unlocked_timeout"),
        "it does, or for another reason: kbuild/README.md is out of date",
    );
    Ok(())
}

/// Configures a kernel and makes what modules are compiled against.
fn prepare(context: &Context<'_>, other: &Source, log: &Path) -> Result<PathBuf> {
    let fragments = context.paths.checkout.join("ci/config");
    let all = context.logs.join(format!("{}.config", other.version));
    let text =
        ["base.config", "release.config"].map(|name| fs::read_to_string(fragments.join(name)));
    fs::write(&all, text.into_iter().collect::<std::io::Result<String>>()?)?;
    let build = context
        .paths
        .dir(Path::new("versions").join("build").join(&other.version))?;
    for targets in [&["allnoconfig"][..], &["prepare", "modules_prepare"]] {
        let mut args: Vec<OsString> = vec!["-C".into(), other.tree.clone().into(), "LLVM=1".into()];
        args.push(set("O", &build));
        args.extend(targets.iter().map(OsString::from));
        Step::new(format!("{}: {}", other.version, targets.join(" ")), log)
            .run(context.tools.make(&args).env("KCONFIG_ALLCONFIG", &all))?;
    }
    Ok(build)
}

/// Whether a kernel is of a series that is supported.
fn is_supported(context: &Context<'_>, version: &str) -> Result<bool> {
    let series = fs::read_to_string(context.paths.checkout.join(source::SERIES))?;
    Ok(source::is_supported(&series, version))
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

    /// Runs something that leaves these behind.
    fn ran(log: &str, printed: Option<&[u8]>, ended: Result<()>) -> KunitRun {
        let dir = tempfile::tempdir().unwrap();
        let (log_file, printed_file) = (dir.path().join("log"), dir.path().join("test.log"));
        fs::write(&printed_file, "KTAP version 1\n1..1\nok 1 stale\n").unwrap();
        kunit_run(&log_file, &printed_file, || {
            fs::write(&log_file, log)?;
            if let Some(printed) = printed {
                fs::write(&printed_file, printed)?;
            }
            ended
        })
    }

    // A console may print what is no text.
    const PRINTED: &[u8] = b"\xffLinux version 7\nKTAP version 1\n1..1\nok 1 a\n";

    #[test]
    fn a_warning_costs_no_results() {
        let ran = ran("a.o: warning: b\n", Some(PRINTED), Ok(()));
        assert!(ran.ended.is_ok());
        assert_eq!(ran.warnings, "a.o: warning: b");
        assert_eq!(ran.results[0].lines[0].name, "a");
    }

    #[test]
    fn a_failed_case_costs_no_results() {
        let ran = ran("", Some(PRINTED), Err(anyhow::anyhow!("exit status: 1")));
        assert!(ran.ended.is_err());
        assert_eq!(ran.results[0].lines.len(), 1);
    }

    #[test]
    fn what_an_earlier_kernel_printed_is_none() {
        let ran = ran("", None, Ok(()));
        assert_eq!(ran.results, []);
    }
}
