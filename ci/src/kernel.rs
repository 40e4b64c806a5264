// SPDX-License-Identifier: GPL-2.0

//! Configures and builds a kernel, or takes the user's own from `KDIR`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use clap::ValueEnum;

use crate::paths::{self, Paths};
use crate::progress::{note, Progress};
use crate::step::Step;
use crate::toolchain::Toolchain;
use crate::{config, disk, source, tree, vm};

/// The file in a build tree with the fragments that it was configured with.
const CONFIGURED: &str = ".ci-config";
/// The file in a build tree with the number of objects of a whole build.
const OBJECTS: &str = ".ci-objects";

/// The two configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Lockdep, KASAN, DEBUG_VM: what the suites run on.
    Debug,
    /// No debugging: what benchmarks run on.
    Release,
}

impl Kind {
    /// Its name, in the cache and in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }

    /// How many objects a build makes, until one has been counted.
    fn objects(self) -> u64 {
        match self {
            Self::Debug => 1690,
            Self::Release => 1670,
        }
    }

    /// What a build takes on disk.
    fn bytes(self) -> u64 {
        match self {
            Self::Debug => 1200 << 20,
            Self::Release => 800 << 20,
        }
    }
}

/// A kernel that can be booted and that modules can be built for.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// The build tree.
    pub(crate) build: PathBuf,
    /// The source tree.
    pub(crate) source: PathBuf,
    /// Where in the cache what belongs to this build goes, below `modules`.
    pub(crate) slot: PathBuf,
    /// Where in the cache what belongs to this source goes, below `selftests`.
    pub(crate) programs: PathBuf,
    /// What it is called.
    pub(crate) name: String,
}

/// The tree that the user named, if any.
fn kdir() -> Option<PathBuf> {
    std::env::var_os("KDIR")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
}

/// The user's kernel or ours of the kind, built.
pub(crate) fn get(paths: &Paths, tools: &Toolchain, kind: Kind, update: bool) -> Result<Kernel> {
    match kdir() {
        Some(dir) => users(&dir, tools),
        None => ours(paths, tools, kind, update),
    }
}

fn users(dir: &Path, tools: &Toolchain) -> Result<Kernel> {
    let build = dir
        .canonicalize()
        .with_context(|| format!("KDIR={} is not there", dir.display()))?;
    let config = fs::read_to_string(build.join(".config")).with_context(|| {
        format!(
            "KDIR={} is not configured: run make there, with O= if the tree is built elsewhere",
            dir.display()
        )
    })?;
    ensure!(
        config::option(&config, "CONFIG_RUST") == Some("y"),
        "KDIR={} has no Rust support (CONFIG_RUST=y is not in its .config): `make LLVM=1 rustavailable` there says why",
        dir.display()
    );
    for (option, use_) in [
        ("CONFIG_CC_IS_CLANG", "it must be built with LLVM=1"),
        (
            "CONFIG_MODULE_UNLOAD",
            "the runner needs it to tell drivers apart",
        ),
    ] {
        ensure!(
            config::option(&config, option) == Some("y"),
            "KDIR={} lacks {option}=y: {use_}",
            dir.display()
        );
    }
    if let Some(theirs) = config::option(&config, "CONFIG_RUSTC_VERSION_TEXT") {
        let ours = format!("rustc {} ", tools.version());
        ensure!(
            theirs.trim_matches('"').starts_with(&ours),
            "KDIR={} was built with {theirs}, modules would be with {ours}: build it with Debian's rustc",
            dir.display()
        );
    }
    ensure!(
        vm::image(&build).is_file() && build.join("Module.symvers").is_file(),
        "KDIR={} is not built: run make LLVM=1 there",
        dir.display()
    );
    let source = build
        .join("source")
        .canonicalize()
        .unwrap_or_else(|_| build.clone());
    note(format!("the kernel is KDIR={}", dir.display()));
    let slot = Path::new("kdir").join(paths::tag(&build));
    Ok(Kernel {
        build,
        source,
        programs: slot.clone(),
        slot,
        name: "KDIR".into(),
    })
}

fn ours(paths: &Paths, tools: &Toolchain, kind: Kind, update: bool) -> Result<Kernel> {
    let _lock = paths.lock()?;
    let source = source::get(paths, update)?;
    tree::clean(paths, &source.tree)?;
    let programs = PathBuf::from(&source.version);
    let slot = programs.join(kind.name());
    let build = paths.dir(Path::new("build").join(&slot))?;
    let kernel = Kernel {
        build,
        source: source.tree,
        slot,
        programs,
        name: kind.name().into(),
    };
    let logs = paths.logs(&format!("kernel-{}", kind.name()))?;
    configure(paths, tools, kind, &kernel, &logs)?;
    build_it(tools, kind, &kernel, &logs)?;
    Ok(kernel)
}

/// The arguments that every make in this build tree has.
pub(crate) fn make_args(kernel: &Kernel, targets: &[&str]) -> Vec<OsString> {
    let mut output = OsString::from("O=");
    output.push(&kernel.build);
    let mut args = vec![
        "-C".into(),
        kernel.source.clone().into(),
        "LLVM=1".into(),
        output,
    ];
    args.extend(targets.iter().map(OsString::from));
    args
}

fn configure(
    paths: &Paths,
    tools: &Toolchain,
    kind: Kind,
    kernel: &Kernel,
    logs: &Path,
) -> Result<()> {
    let fragments = paths.checkout.join("ci/config");
    let mut wanted = String::new();
    for name in ["base", kind.name()] {
        let path = fragments.join(name).with_extension("config");
        wanted += &fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
    }
    let dot_config = kernel.build.join(".config");
    let stamp = kernel.build.join(CONFIGURED);
    let current = fs::read_to_string(&dot_config).unwrap_or_default();
    if fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == wanted) && !current.is_empty() {
        return config::check(&wanted, &current);
    }
    let all = logs.join("all.config");
    fs::write(&all, &wanted)?;
    Step::new(
        format!("configuring the {} kernel", kind.name()),
        logs.join("config.log"),
    )
    .run(
        tools
            .make(&make_args(kernel, &["allnoconfig"]))
            .env("KCONFIG_ALLCONFIG", &all),
    )?;
    config::check(&wanted, &fs::read_to_string(&dot_config)?)?;
    fs::write(&stamp, &wanted)?;
    Ok(())
}

fn build_it(tools: &Toolchain, kind: Kind, kernel: &Kernel, logs: &Path) -> Result<()> {
    let what = format!("building the {} kernel", kind.name());
    let counted = kernel.build.join(OBJECTS);
    let stored = fs::read_to_string(&counted)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let is_whole = stored.is_some() && vm::image(&kernel.build).is_file();
    let progress = if is_whole {
        Progress::spinner(&what)
    } else {
        let done = objects(&kernel.build);
        let total = stored.unwrap_or(kind.objects());
        disk::require(
            &kernel.build,
            kind.bytes() * total.saturating_sub(done) / total.max(1),
            &what,
        )?;
        Progress::bar(&what, done, total)
    };
    Step::new(&what, logs.join("build.log")).run_with(
        tools.make(&make_args(kernel, &["bzImage", "modules"])),
        progress,
        |progress, line| {
            if line.ends_with(".o") {
                progress.one_more();
            }
        },
    )?;
    if !is_whole {
        fs::write(&counted, objects(&kernel.build).to_string())?;
    }
    if !vm::image(&kernel.build).is_file() {
        bail!(
            "the build ended well, but left no {}",
            vm::image(&kernel.build).display()
        );
    }
    Ok(())
}

/// How many objects a tree holds.
fn objects(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => objects(&entry.path()),
            Ok(kind) if kind.is_file() => {
                u64::from(entry.path().extension().is_some_and(|kind| kind == "o"))
            }
            _ => 0,
        })
        .sum()
}
