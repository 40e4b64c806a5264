// SPDX-License-Identifier: GPL-2.0

//! Builds the documentation of the helper crate as a kernel sees it.

use std::path::Path;

use anyhow::{ensure, Result};

use crate::kernel::{self, Kind};
use crate::modules;
use crate::paths::Paths;
use crate::step::Step;
use crate::toolchain::Toolchain;

/// `ci/run doc`.
pub(crate) fn doc(paths: &Paths) -> Result<i32> {
    let tools = Toolchain::new(paths)?;
    let kernel = kernel::get(paths, &tools, Kind::Debug)?;
    let output = paths.mo_dir(Path::new("doc").join(&kernel.slot))?;
    let _lock = paths.lock(&output)?;
    let log = paths.logs("doc")?.join("build.log");
    Step::new("building the documentation", log).run(tools.make(&modules::make_args(
        paths,
        &kernel,
        &output,
        &["rustdoc"],
    )))?;
    let index = output.join("rustdoc/mmu_notifier_helpers/index.html");
    ensure!(index.is_file(), "the build left no {}", index.display());
    println!("{}", index.display());
    Ok(0)
}
