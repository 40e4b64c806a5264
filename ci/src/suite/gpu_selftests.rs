// SPDX-License-Identifier: GPL-2.0

//! Our kselftests of the GPU mirror. Every case must pass.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Result};

use super::{leaks, refuse_skips, Boots, Context};
use crate::coherent;
use crate::exec;
use crate::kernel::Kind;
use crate::modules::Which;

/// Runs the programs one after the other; the status is that of the worst.
const SCRIPT: &str = r#"worst=0
for program; do "$program" || worst=$?; done
exit $worst"#;

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    let kernel = context.kernel(Kind::Debug)?;
    let mut programs = context.builder(&kernel).gpu_mirror()?;
    if !context.full {
        programs.retain(|program| !is_long(program));
    }
    let rust = coherent::driver(context.driver(&kernel, Which::Rust)?);
    let machine = coherent::machine(exec::plain(&kernel));
    // One of the programs removes the modules and loads them again.
    let mut modules = OsString::from("GPU_MIRROR_MODULES=");
    modules.extend(
        rust.modules
            .iter()
            .find_map(|module| module.parent())
            .map(Path::as_os_str),
    );
    let mut rust_command = vec!["env".into(), modules];
    rust_command.extend(command(&programs));
    let boots = context.boot(
        &format!("rust-{}", kernel.name),
        &machine,
        rust.clone(),
        rust_command.clone(),
    )?;
    judge(context, "", &boots);
    whole(&boots, programs.len())?;

    if context.full {
        let c = context.driver(&kernel, Which::C)?;
        let survivable: Vec<PathBuf> = programs.iter().filter(|p| !is_deadly(p)).cloned().collect();
        let boots = context.boot(
            &format!("c-{}", kernel.name),
            &exec::plain(&kernel),
            c,
            command(&survivable),
        )?;
        context.beside("", &boots);

        let before = context.cases.len();
        let boots = leaks::run(context, machine, rust, rust_command, &[])?;
        refuse_skips(&mut context.cases[before..], &MAY_SKIP);
        // What kmemleak found is a program's results more.
        whole(&boots, programs.len() + 1)?;
    }
    Ok(())
}

/// What a case may say of why it is none: that what it tries does not depend on what it is tried
/// with, or cannot be.
const MAY_SKIP: [&str; 4] = [
    "the same as with small pages",
    "it takes long with small pages",
    "only private memory is handed out in huge pages",
    "a pinned huge page stays as a whole",
];

fn judge(context: &mut Context<'_>, prefix: &str, boots: &Boots) {
    let before = context.cases.len();
    context.judge(prefix, boots);
    refuse_skips(&mut context.cases[before..], &MAY_SKIP);
}

/// Whether the program takes long: it fills devices and cgroups, or storms while memory moves.
fn is_long(program: &Path) -> bool {
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

fn command(programs: &[PathBuf]) -> Vec<OsString> {
    let mut command: Vec<OsString> = ["sh", "-c", SCRIPT, "sh"].map(Into::into).into();
    command.extend(programs.iter().map(Into::into));
    command
}

/// Fails when a program left no results.
fn whole(boots: &Boots, programs: usize) -> Result<()> {
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
