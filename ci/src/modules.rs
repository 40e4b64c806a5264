// SPDX-License-Identifier: GPL-2.0

//! Builds our modules for a kernel, and says which modules make a driver.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context, Result};
use clap::ValueEnum;

use crate::guest::Driver;
use crate::kernel::{self, Kernel};
use crate::paths::{self, Paths};
use crate::step::Step;
use crate::toolchain::{set, Toolchain};
use crate::tree::{self, Tree};
use crate::{cli, rdma};

/// Whose drivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Which {
    /// Ours.
    Rust,
    /// The kernel tree's own.
    C,
}

impl Which {
    /// Its name in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::C => "c",
        }
    }
}

/// Our module.
const RUST: &str = "gpu_mirror_rs";
/// The kernel tree's.
const C: &str = "test_hmm";
/// How many devices either makes of its own accord.
const DEVICES: usize = 2;

/// The file beside modules with all that they were built from.
const BUILT: &str = ".ci-built";

/// The arguments of make that build our modules for `kernel`.
pub(crate) fn make_args(
    paths: &Paths,
    kernel: &Kernel,
    output: &Path,
    more: &[&str],
) -> Vec<OsString> {
    let mut args = vec!["-C".into(), paths.checkout.join("kbuild").into()];
    args.extend([set("KDIR", &kernel.build), set("MO", output)]);
    args.extend(kernel.compiler.make_args().iter().map(OsString::from));
    args.extend(more.iter().map(OsString::from));
    args
}

/// The modules that make the driver, built and in the order to load them in.
pub(crate) fn driver(
    paths: &Paths,
    tools: &Toolchain,
    kernel: &Kernel,
    which: Which,
) -> Result<Driver> {
    match which {
        Which::C => {
            let module = kernel.module("lib/test_hmm");
            ensure!(
                module.is_file(),
                "the kernel {} has no {}: it needs CONFIG_TEST_HMM=m, which Debian's lacks",
                kernel.name,
                module.display()
            );
            Ok(Driver {
                modules: vec![module],
                parameters: Vec::new(),
                owner: C.into(),
                other: RUST.into(),
                devices: DEVICES,
            })
        }
        Which::Rust => {
            let output = build(paths, tools, kernel, "modules")?;
            let modules =
                ["mmu_notifier_helpers.ko", "gpu_mirror_rs.ko"].map(|name| output.join(name));
            for module in &modules {
                ensure!(
                    module.is_file(),
                    "the build of the modules left no {}",
                    module.display()
                );
            }
            Ok(rust(modules.into()))
        }
    }
}

/// Our mirror, made of these modules.
pub(crate) fn rust(modules: Vec<PathBuf>) -> Driver {
    Driver {
        modules,
        parameters: Vec::new(),
        owner: RUST.into(),
        other: C.into(),
        devices: DEVICES,
    }
}

/// Builds a target of `kbuild/Makefile` for a kernel, unless it is built of the same already. Returns
/// where what it builds is.
pub(crate) fn build(
    paths: &Paths,
    tools: &Toolchain,
    kernel: &Kernel,
    target: &str,
) -> Result<PathBuf> {
    let slot = Path::new("modules").join(&kernel.slot);
    let output = paths.mo_dir(&slot)?;
    let _lock = paths.lock(&output)?;
    // The source has the crates of the one who asks until the build is done.
    let content = match tree::is_ours(paths, kernel) {
        true => Some(Tree::get(paths)?),
        false => None,
    };
    let stamp = output.join(format!("{BUILT}-{target}"));
    let state = content.as_ref().map(|tree| {
        let content = &tree.content;
        format!("{content}\n{}", kernel.state)
    });
    let built = fs::read_to_string(&stamp).ok();
    if state.is_some() && built == state {
        return Ok(output);
    }
    let log = paths.logs("modules")?.join("build.log");
    let what = match target {
        "rdma" => "building the RDMA modules",
        _ => "building the modules",
    };
    Step::new(what, log).run(tools.make(&make_args(paths, kernel, &output, &[target])))?;
    if let Some(state) = state {
        fs::write(&stamp, state)?;
    }
    Ok(output)
}

/// `ci/run module`: builds a module of the user's against the guest's kernel.
pub(crate) fn module(paths: &Paths, options: &cli::Module) -> Result<i32> {
    let tools = Toolchain::new(paths)?;
    let dir = paths::seen(&options.dir);
    let dir = dir
        .canonicalize()
        .with_context(|| format!("there is no directory {}", options.dir.display()))?;
    ensure!(
        dir.join("Kbuild").is_file() || dir.join("Makefile").is_file(),
        "{} has neither a Kbuild nor a Makefile that says obj-m",
        options.dir.display()
    );
    let kernel = kernel::get(paths, &tools, options.kernel)?;
    let helpers = build(paths, &tools, &kernel, "modules")?;
    let output = paths.own_dir(
        Path::new("module")
            .join(&kernel.slot)
            .join(paths::tag(&dir)),
    )?;
    let _lock = paths.lock(&output)?;
    let mut symbols = vec![helpers.join("Module.symvers")];
    if options.rdma.is_some() {
        // Its symbols stand for those of Debian's, and come first.
        symbols.insert(0, rdma::symbols(paths, &tools, &kernel)?);
    }
    let symbols: Vec<String> = symbols
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let mut args: Vec<OsString> = vec!["-C".into(), kernel.build.clone().into()];
    args.extend([set("M", &dir), set("MO", &output)]);
    args.push(format!("KBUILD_EXTRA_SYMBOLS={}", symbols.join(" ")).into());
    // The metadata of the helpers, for `use mmu_notifier_helpers::…`.
    args.push(
        format!(
            "KRUSTFLAGS=-L{0} --extern=mmu_notifier_helpers={0}/libmmu_notifier_helpers.rmeta",
            helpers.display()
        )
        .into(),
    );
    args.extend(kernel.compiler.make_args().iter().map(OsString::from));
    args.push("modules".into());
    let log = paths.logs("module")?.join("build.log");
    Step::new(format!("building {}", options.dir.display()), &log).run(tools.make(&args))?;
    let mut built: Vec<PathBuf> = Vec::new();
    find_modules(&output, &mut built)?;
    ensure!(
        !built.is_empty(),
        "the build left no module; the log is {}",
        log.display()
    );
    for file in built {
        println!("{}", paths::of_host(&file).display());
    }
    Ok(0)
}

/// The modules in a directory and below.
fn find_modules(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            find_modules(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}
