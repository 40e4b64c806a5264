// SPDX-License-Identifier: GPL-2.0

//! Builds our modules for a kernel, and says which modules make a driver.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Result};
use clap::ValueEnum;

use crate::guest::Driver;
use crate::kernel::Kernel;
use crate::paths::Paths;
use crate::step::Step;
use crate::toolchain::Toolchain;

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

/// The arguments of make that build our modules for `kernel`.
pub(crate) fn make_args(
    paths: &Paths,
    kernel: &Kernel,
    output: &Path,
    more: &[&str],
) -> Vec<OsString> {
    let set = |name: &str, value: &Path| {
        let mut arg = OsString::from(name);
        arg.push("=");
        arg.push(value);
        arg
    };
    let mut args = vec!["-C".into(), paths.checkout.join("kbuild").into()];
    args.extend([
        set("KDIR", &kernel.build),
        set("MO", output),
        "LLVM=1".into(),
    ]);
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
            let module = kernel.build.join("lib/test_hmm.ko");
            ensure!(
                module.is_file(),
                "the kernel has no {}: it needs CONFIG_TEST_HMM=m",
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
            let output = build(paths, tools, kernel)?;
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

fn build(paths: &Paths, tools: &Toolchain, kernel: &Kernel) -> Result<PathBuf> {
    let _lock = paths.lock()?;
    let output = paths.mo_dir(Path::new("modules").join(&kernel.slot))?;
    let log = paths.logs("modules")?.join("build.log");
    Step::new("building the modules", log).run(tools.make(&make_args(
        paths,
        kernel,
        &output,
        &["modules"],
    )))?;
    Ok(output)
}
