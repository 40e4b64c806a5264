// SPDX-License-Identifier: GPL-2.0

//! Our kselftests of the GPU mirror. Every case must pass.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{ensure, Result};

use super::harness::{self, Program};
use super::{leaks, refuse_skips, Boots, Context};
use crate::coherent;
use crate::exec;
use crate::guest::Driver;
use crate::kernel::Kind;
use crate::modules::Which;

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    let kernel = context.kernel(Kind::Debug)?;
    let mut paths = context.builder(&kernel).gpu_mirror()?;
    if !context.full {
        paths.retain(|path| !is_long(path));
    }
    let programs = harness::programs(&context.filter, paths)?;
    let mut known = harness::names("", &programs);
    if context.full {
        known.extend(harness::names(leaks::PREFIX, &programs));
    }
    context.require(known)?;
    let rust = coherent::driver(context.driver(&kernel, Which::Rust)?);
    let machine = coherent::machine(exec::plain(&kernel));
    let rust_command = |programs: &[Program]| command_on(&rust, programs);
    let picked = harness::pick(&context.filter, "", &programs);
    if !picked.is_empty() {
        let name = format!("rust-{}", kernel.name);
        let boots = context.boot(&name, &machine, rust.clone(), rust_command(&picked))?;
        judge(context, &boots, &harness::names("", &picked));
        whole(&boots, picked.len())?;
    }
    if !context.full {
        return Ok(());
    }

    let mut survivable = picked;
    survivable.retain(|program| !is_deadly(&program.path));
    if !survivable.is_empty() {
        let c = context.driver(&kernel, Which::C)?;
        let boots = context.boot(
            &format!("c-{}", kernel.name),
            &exec::plain(&kernel),
            c,
            command(&survivable),
        )?;
        context.beside("", &boots);
    }

    let picked = harness::pick(&context.filter, leaks::PREFIX, &programs);
    if !picked.is_empty() {
        let wanted = harness::names("", &picked);
        let command = rust_command(&picked);
        let boots = leaks::run(context, machine, rust, command, &wanted, &MAY_SKIP)?;
        // What kmemleak found is a program's results more.
        whole(&boots, picked.len() + 1)?;
    }
    Ok(())
}

/// What a case may say of why it is none: that what it tries does not depend on what it is tried
/// with, or cannot be.
pub(super) const MAY_SKIP: [&str; 4] = [
    "the same as with small pages",
    "it takes long with small pages",
    "only private memory is handed out in huge pages",
    "a pinned huge page stays as a whole",
];

fn judge(context: &mut Context<'_>, boots: &Boots, wanted: &[String]) {
    let before = context.cases.len();
    let results = context.judge("", boots);
    refuse_skips(&mut context.cases[before..], &MAY_SKIP);
    context.fail_missing("", &results, wanted);
}

/// Whether the program takes long: it fills devices and cgroups, or storms while memory moves.
pub(super) fn is_long(program: &Path) -> bool {
    ["gpu_mirror_accounting", "gpu_mirror_migrate_storm"]
        .iter()
        .any(|name| program.ends_with(name))
}

/// Whether C does not survive the program: it oopses when a device reads what was migrated.
fn is_deadly(program: &Path) -> bool {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    ["accounting", "exclusive", "migrate", "lifetime", "module"]
        .iter()
        .any(|theme| name.contains(theme))
}

/// Returns what runs the programs on our driver: one of them removes its modules and loads them again.
pub(super) fn command_on(rust: &Driver, programs: &[Program]) -> Vec<OsString> {
    let mut modules = OsString::from("GPU_MIRROR_MODULES=");
    modules.extend(
        rust.modules
            .iter()
            .find_map(|module| module.parent())
            .map(Path::as_os_str),
    );
    let mut words = vec!["env".into(), modules];
    words.extend(command(programs));
    words
}

fn command(programs: &[Program]) -> Vec<OsString> {
    let mut command: Vec<OsString> = ["sh", "-c", harness::SCRIPT, "sh"].map(Into::into).into();
    command.extend(harness::words(programs));
    command
}

/// Fails when a program left no results.
pub(super) fn whole(boots: &Boots, programs: usize) -> Result<()> {
    ensure!(
        boots.streams.len() == programs,
        "{programs} programs were to run, {} printed results",
        boots.streams.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Case, Verdict};

    #[test]
    fn what_is_missing_is_no_reason_to_skip() {
        let case = |cause: &str| Case::new("a", Verdict::Skip(cause.into()));
        let mut cases = [case(MAY_SKIP[0]), case("no tracefs"), case("no counters")];
        refuse_skips(&mut cases, &MAY_SKIP);
        let failed = |case: &Case| matches!(case.verdict, Verdict::Fail(_));
        assert_eq!(cases.each_ref().map(failed), [false, true, true]);
    }
}
