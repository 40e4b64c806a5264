// SPDX-License-Identifier: GPL-2.0

//! The sample driver of the helper crate, which its test loads and removes.

use std::ffi::OsString;

use anyhow::{ensure, Context as _, Result};

use super::{harness, Context};
use crate::exec;
use crate::kernel::Kind;
use crate::modules::Which;

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    let kernel = context.kernel(Kind::Debug)?;
    let programs = harness::programs(&context.filter, context.builder(&kernel).helpers()?)?;
    context.require(harness::names("", &programs))?;
    // It needs the helpers' module alone; the mirror on top is what the guest verifies.
    let driver = context.driver(&kernel, Which::Rust)?;
    let sample = driver
        .modules
        .first()
        .context("a driver has modules")?
        .with_file_name("rust_mmu_mirror.ko");
    ensure!(
        sample.is_file(),
        "the build of the modules left no {}",
        sample.display()
    );
    let machine = exec::plain(&kernel);
    for program in harness::pick(&context.filter, "", &programs) {
        let mut module = OsString::from("RUST_MMU_MIRROR_KO=");
        module.push(&sample);
        let mut command = vec!["env".into(), module, program.path.clone().into()];
        command.extend(program.options().into_iter().map(OsString::from));
        let boots = context.boot(&kernel.name, &machine, driver.clone(), command)?;
        let results = context.judge("", &boots);
        context.fail_missing("", &results, &harness::names("", &[program]));
    }
    Ok(())
}
