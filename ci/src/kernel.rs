// SPDX-License-Identifier: GPL-2.0

//! Takes Debian's kernel as it is, configures and builds one, or takes the user's own from `KDIR`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use clap::ValueEnum;
use duct::cmd;

use crate::paths::{self, Paths};
use crate::progress::{note, Progress};
use crate::source::Chosen;
use crate::step::Step;
use crate::toolchain::{set, Toolchain};
use crate::tree::Tree;
use crate::{config, disk};

/// The file in a build tree with all that it was built from.
const BUILT: &str = ".ci-built";
/// The file in a build tree with the fragments that it was configured with.
const CONFIGURED: &str = ".ci-config";
/// The file in a build tree with the number of objects of a whole build.
const OBJECTS: &str = ".ci-objects";
/// Where the workshop has the images of Debian's kernels and their modules.
const IMAGES: &str = "/usr/lib/modules";
/// Modules of Debian's kernel that a guest needs: what the programs write goes to an overlay, and their
/// RDMA device is on a pair of network devices.
const MODPROBE: [&str; 4] = ["overlay", "veth", "configfs", "zram"];

/// The kernels that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Debian's own, as it is
    Stock,
    /// Debian's own with PREEMPT_RT, as it is
    StockRt,
    /// Built here with lockdep, KASAN, DEBUG_VM: what most suites run on
    Debug,
    /// Built here without debugging: what benchmarks run on
    Release,
}

impl Kind {
    /// Its name, in the cache and in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::StockRt => "stock-rt",
            Self::Debug => "debug",
            Self::Release => "release",
        }
    }

    /// Whether it is built here.
    pub(crate) fn is_built(self) -> bool {
        matches!(self, Self::Debug | Self::Release)
    }

    /// How many objects a build makes, until one has been counted.
    fn objects(self) -> u64 {
        match self {
            Self::Debug => 1740,
            _ => 1720,
        }
    }

    /// What a build takes on disk.
    fn bytes(self) -> u64 {
        match self {
            Self::Debug => 1200 << 20,
            _ => 800 << 20,
        }
    }
}

/// Who built a kernel, and so has to build modules for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    Gcc,
    Llvm,
}

impl Compiler {
    /// The arguments of make that ask for it.
    pub(crate) fn make_args(self) -> &'static [&'static str] {
        match self {
            // Nobody debugs these modules by source, and it is half of what there is to compile.
            Self::Gcc => &["CC=gcc-14", "HOSTCC=gcc-14", "KCFLAGS=-g0"],
            Self::Llvm => &["LLVM=1"],
        }
    }
}

/// A kernel that can be booted and that modules can be built for.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// The build tree, or what stands for it to those who build modules.
    pub(crate) build: PathBuf,
    /// The source that it was built from.
    pub(crate) source: PathBuf,
    /// The image.
    pub(crate) image: PathBuf,
    /// The directory of its modules, where it is a package's.
    pub(crate) packaged: Option<PathBuf>,
    /// The files of its modules without which a guest has no 9p.
    pub(crate) early: Vec<PathBuf>,
    /// Who built it.
    pub(crate) compiler: Compiler,
    /// Where in the cache what belongs to this build goes, below `modules`.
    pub(crate) slot: PathBuf,
    /// Where in the cache what belongs to this source goes, below `selftests`.
    pub(crate) programs: PathBuf,
    /// What it is called.
    pub(crate) name: String,
    /// All that it was built from, where that is known.
    pub(crate) state: String,
}

impl Kernel {
    /// The file of a module of its own, which is built from `path` without its suffix.
    pub(crate) fn module(&self, path: &str) -> PathBuf {
        match &self.packaged {
            Some(dir) => dir.join(path).with_extension("ko.xz"),
            None => self.build.join(path).with_extension("ko"),
        }
    }

    /// The modules that a guest loads before anything else.
    pub(crate) fn modprobe(&self) -> Vec<String> {
        match self.packaged {
            Some(_) => MODPROBE.map(str::to_owned).into(),
            None => Vec::new(),
        }
    }
}

/// The tree that the user named, if any.
fn kdir() -> Option<PathBuf> {
    std::env::var_os("KDIR")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
}

/// Whether the user named a kernel.
pub(crate) fn is_users() -> bool {
    kdir().is_some()
}

/// The user's kernel or ours of the kind, built.
pub(crate) fn get(paths: &Paths, tools: &Toolchain, kind: Kind) -> Result<Kernel> {
    match (kdir(), kind) {
        (Some(dir), _) => users(&dir, tools),
        (None, Kind::Stock | Kind::StockRt) => stock(paths, kind),
        (None, Kind::Debug | Kind::Release) => ours(paths, tools, kind),
    }
}

fn users(dir: &Path, tools: &Toolchain) -> Result<Kernel> {
    let build = paths::seen(dir)
        .canonicalize()
        .with_context(|| format!("KDIR={} is not there", dir.display()))?;
    let config = fs::read_to_string(build.join(".config")).with_context(|| {
        format!(
            "KDIR={} is not configured: run make there, with O= if the tree is built elsewhere",
            dir.display()
        )
    })?;
    let is_set = |option: &str| config::option(&config, option) == Some("y");
    ensure!(
        is_set("CONFIG_RUST"),
        "KDIR={} has no Rust support (CONFIG_RUST=y is not in its .config): `make LLVM=1 rustavailable` there says why",
        dir.display()
    );
    for (option, use_) in [
        (
            "CONFIG_MODULE_UNLOAD",
            "the runner needs it to tell drivers apart",
        ),
        ("CONFIG_9P_FS", "the guest's root is on 9p"),
        ("CONFIG_NET_9P_VIRTIO", "the guest's root is on 9p"),
        ("CONFIG_VIRTIO_PCI", "the guest's devices are virtio's"),
        ("CONFIG_VIRTIO_CONSOLE", "the guest talks by its ports"),
        ("CONFIG_OVERLAY_FS", "what the guest writes goes there"),
    ] {
        ensure!(
            is_set(option),
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
    let image = build.join(IMAGE);
    ensure!(
        image.is_file() && build.join("Module.symvers").is_file(),
        "KDIR={} is not built: run make LLVM=1 there",
        dir.display()
    );
    let source = build
        .join("source")
        .canonicalize()
        .unwrap_or_else(|_| build.clone());
    note(format!("the kernel is KDIR={}", dir.display()));
    let slot = Path::new("kdir").join(paths::tag(&build));
    let compiler = match is_set("CONFIG_CC_IS_CLANG") {
        true => Compiler::Llvm,
        false => Compiler::Gcc,
    };
    Ok(Kernel {
        build,
        source,
        image,
        packaged: None,
        early: Vec::new(),
        compiler,
        programs: slot.clone(),
        slot,
        name: "KDIR".into(),
        state: String::new(),
    })
}

/// The kernel image of a build tree.
pub(crate) const IMAGE: &str = "arch/x86/boot/bzImage";

/// Debian's kernel, with what modules for it are built against.
fn stock(paths: &Paths, kind: Kind) -> Result<Kernel> {
    let chosen = Chosen::read(paths)?;
    let release = match kind {
        Kind::StockRt => chosen.rt(),
        _ => chosen.release.clone(),
    };
    let packaged = Path::new(IMAGES).join(&release);
    let image = packaged.join("vmlinuz");
    ensure!(
        image.is_file(),
        "the workshop has no {}: its packages are not whole, `ci/run clean` removes them",
        image.display()
    );
    let tree = Tree::get(paths)?;
    let log = paths.logs(kind.name())?.join("metadata.log");
    let script = paths.checkout.join("ci/kernel/stock");
    Step::new("making the metadata of Debian's kernel", &log).run(cmd!(
        "/bin/sh",
        script,
        &paths.checkout,
        &paths.cache,
        &release
    ))?;
    let said = fs::read_to_string(&log)?;
    let build = PathBuf::from(said.lines().last().unwrap_or_default());
    ensure!(
        build.join("Module.symvers").is_file(),
        "the metadata is not where it should be; the log is {}",
        log.display()
    );
    let programs = PathBuf::from(chosen.directory());
    Ok(Kernel {
        build,
        source: tree.path.clone(),
        image,
        packaged: Some(packaged.join("kernel")),
        early: early(&release)?,
        compiler: Compiler::Gcc,
        slot: programs.join(kind.name()),
        programs,
        name: kind.name().into(),
        state: format!("{release} {}", tree.own),
    })
}

/// The modules of Debian's kernel that 9p takes, in the order to load them in.
fn early(release: &str) -> Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = Vec::new();
    for name in ["9pnet_virtio", "9p"] {
        let said = cmd!("modprobe", "-S", release, "--show-depends", name).read()?;
        let named = said.lines().filter_map(|line| line.strip_prefix("insmod "));
        for file in named.map(|file| PathBuf::from(file.trim())) {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

fn ours(paths: &Paths, tools: &Toolchain, kind: Kind) -> Result<Kernel> {
    let chosen = Chosen::read(paths)?;
    let programs = PathBuf::from(chosen.directory());
    let slot = programs.join(kind.name());
    let build = paths.dir(Path::new("build").join(&slot))?;
    let _lock = paths.lock(&slot)?;
    let tree = Tree::get(paths)?;
    let mut fragments = String::new();
    for name in ["base", kind.name()] {
        let path = paths
            .checkout
            .join("ci/config")
            .join(name)
            .with_extension("config");
        fragments += &fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}", path.display()))?;
    }
    let kernel = Kernel {
        image: build.join(IMAGE),
        source: tree.path.clone(),
        packaged: None,
        early: Vec::new(),
        compiler: Compiler::Llvm,
        slot,
        programs,
        name: kind.name().into(),
        state: format!("{}\n{}\n{fragments}", tree.own, tools.version()),
        build,
    };
    if is_built(&kernel) {
        return Ok(kernel);
    }
    let logs = paths.logs(&format!("kernel-{}", kind.name()))?;
    configure(tools, kind, &kernel, &fragments, &logs)?;
    build_it(tools, kind, &kernel, &logs)?;
    fs::write(kernel.build.join(BUILT), &kernel.state)?;
    Ok(kernel)
}

/// Whether a build of all that the kernel is made of has ended well.
fn is_built(kernel: &Kernel) -> bool {
    let built = fs::read_to_string(kernel.build.join(BUILT));
    built.is_ok_and(|built| built == kernel.state) && kernel.image.is_file()
}

/// The arguments that every make in this build tree has.
pub(crate) fn make_args(kernel: &Kernel, targets: &[&str]) -> Vec<OsString> {
    let mut args = vec![
        "-C".into(),
        kernel.source.clone().into(),
        "LLVM=1".into(),
        set("O", &kernel.build),
    ];
    args.extend(targets.iter().map(OsString::from));
    args
}

fn configure(
    tools: &Toolchain,
    kind: Kind,
    kernel: &Kernel,
    wanted: &str,
    logs: &Path,
) -> Result<()> {
    let dot_config = kernel.build.join(".config");
    let stamp = kernel.build.join(CONFIGURED);
    let current = fs::read_to_string(&dot_config).unwrap_or_default();
    if fs::read_to_string(&stamp).is_ok_and(|stamp| stamp == wanted) && !current.is_empty() {
        return config::check(wanted, &current);
    }
    let all = logs.join("all.config");
    fs::write(&all, wanted)?;
    Step::new(
        format!("configuring the {} kernel", kind.name()),
        logs.join("config.log"),
    )
    .run(
        tools
            .make(&make_args(kernel, &["allnoconfig"]))
            .env("KCONFIG_ALLCONFIG", &all),
    )?;
    config::check(wanted, &fs::read_to_string(&dot_config)?)?;
    fs::write(&stamp, wanted)?;
    Ok(())
}

fn build_it(tools: &Toolchain, kind: Kind, kernel: &Kernel, logs: &Path) -> Result<()> {
    let what = format!("building the {} kernel", kind.name());
    let counted = kernel.build.join(OBJECTS);
    let stored = fs::read_to_string(&counted)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let is_whole = stored.is_some() && kernel.image.is_file();
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
    if !kernel.image.is_file() {
        bail!(
            "the build ended well, but left no {}",
            kernel.image.display()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_where_its_kernel_came_from() {
        let kernel = |packaged: Option<&str>| Kernel {
            build: "/b".into(),
            source: PathBuf::new(),
            image: PathBuf::new(),
            packaged: packaged.map(PathBuf::from),
            early: Vec::new(),
            compiler: Compiler::Gcc,
            slot: PathBuf::new(),
            programs: PathBuf::new(),
            name: String::new(),
            state: String::new(),
        };
        let path = "lib/test_hmm";
        assert_eq!(kernel(None).module(path), Path::new("/b/lib/test_hmm.ko"));
        assert_eq!(
            kernel(Some("/m")).module(path),
            Path::new("/m/lib/test_hmm.ko.xz")
        );
    }
}
