// SPDX-License-Identifier: GPL-2.0

//! The crates in a kernel's tree: the installer, the patches, and one kernel built and booted.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Result};
use duct::{cmd, Expression};

use super::{Boots, Context};
use crate::exec;
use crate::kernel::{Kernel, Kind};
use crate::progress::note;
use crate::report::{Case, Verdict};
use crate::step::Step;
use crate::tree::{self, Variants};
use crate::vm::Machine;

/// The helpers built in and the drivers modules: the combination with a border that Rust symbols cross.
const OPTIONS: &str = "CONFIG_MMU_NOTIFIER_HELPERS=y
CONFIG_GPU_MIRROR_RS=m
CONFIG_SAMPLES=y
CONFIG_SAMPLES_RUST=y
CONFIG_SAMPLE_RUST_MMU_MIRROR=m
CONFIG_INFINIBAND_ON_DEMAND_PAGING_RUST=y
CONFIG_RDMA_RXE_ODP_RUST=y
";

/// Finds the installed modules and runs installed kselftests, each a program of its own.
const SCRIPT: &str = r#"tests=$1 modules=$2
shift 2
mkdir -p /lib/modules
ln -sfn "$modules/lib/modules/$(uname -r)" "/lib/modules/$(uname -r)"
if [ -d "/lib/modules/$(uname -r)/kernel/drivers/gpu/gpu_mirror_rs" ]; then
	modprobe gpu_mirror_rs || exit
fi
case $* in
*rdma_odp_rs:*)
	modprobe -a ib_uverbs rdma_rxe || exit
	ip link add rxe-veth0 type veth peer name rxe-veth1
	ip link set rxe-veth1 up
	ip link set rxe-veth0 up
	ip address add 192.0.2.1/24 dev rxe-veth0
	rdma link add rxe0 type rxe netdev rxe-veth0 || exit
	;;
esac
set -- $(printf -- '-t %s ' "$@")
exec "$tests/run_kselftest.sh" "$@""#;

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    let base = context.kernel(Kind::Debug)?;
    for path in ["ci/workshop/tests/kernel.sh", "kbuild/tests/metadata.sh"] {
        let path = context.paths.checkout.join(path);
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        results_of(context, &name, cmd!(path))?;
    }
    let pristine = match tree::is_ours(context.paths, &base) {
        true => tree::pristine(context.paths)?,
        false => base.source.clone(),
    };
    for name in ["install", "series"] {
        script(context, name, &pristine)?;
    }
    for name in [
        "check_kernel",
        "modules",
        "modules_uninstall",
        "rust_analyzer",
    ] {
        script(context, name, &base.build)?;
    }

    if !tree::is_ours(context.paths, &base) {
        let verdict = Verdict::Skip(tree::FOREIGN.into());
        let name = "a kernel with the crates in its tree";
        context.cases.push(Case::new(name, verdict));
        return Ok(());
    }
    as_it_was(context, &pristine)?;
    let logs = context.logs.clone();
    let variants = Variants::of_crates(context.paths, context.tools, &base, &logs)?;
    let kernel = variants.build(&base, "tree", OPTIONS)?;
    let programs = variants.install(&kernel)?;
    drop(variants);

    let tests = [
        "gpu_mirror_rs:gpu_mirror",
        "gpu_mirror_rs:gpu_mirror_counters",
        "gpu_mirror_rs:gpu_mirror_exclusive",
        "mmu_notifier_helpers:rust_mmu_mirror",
        "rdma_odp_rs:rdma_odp_lifetime",
    ];
    kselftests(context, &kernel, (&programs.0, &programs.1), &tests)
}

/// Installs the crates into a copy of the source and removes them: it must be as it was, and so must the
/// source, which the copy has links to.
fn as_it_was(context: &mut Context<'_>, pristine: &Path) -> Result<()> {
    let listing = |tree: &Path, name: &str| {
        let to = context.logs.join(name);
        tree::listing(tree, &to)?;
        Ok::<_, anyhow::Error>(to)
    };
    let before = listing(pristine, "before")?;
    let copy = context.paths.own_dir("as-it-was")?;
    fs::remove_dir_all(&copy)?;
    let install = context.paths.checkout.join("kbuild/install");
    for (what, command) in [
        ("copying the source", cmd!("cp", "-al", pristine, &copy)),
        ("installing the crates", cmd!(&install, &copy)),
        ("removing them", cmd!(&install, "--remove", &copy)),
    ] {
        let log = context.logs.join(format!("{}.log", what.replace(' ', "-")));
        Step::new(what, log).run(command)?;
    }
    let removed = listing(&copy, "removed")?;
    let after = listing(pristine, "after")?;
    fs::remove_dir_all(&copy)?;
    for (name, path) in [
        ("the kernel's source is as it was", &after),
        ("a tree that the crates were in is as it was", &removed),
    ] {
        let verdict = match fs::read(&before)? == fs::read(path)? {
            true => Verdict::Pass,
            false => Verdict::Fail(format!(
                "compare {} and {}",
                before.display(),
                path.display()
            )),
        };
        context.cases.push(Case::new(name, verdict));
    }
    Ok(())
}

/// Runs a shell test of `kbuild/` on a kernel's source or build tree.
pub(super) fn script(context: &mut Context<'_>, name: &str, tree: &Path) -> Result<()> {
    let program = test(context, name);
    results_of(context, name, cmd!(program, tree))
}

fn test(context: &Context<'_>, name: &str) -> PathBuf {
    let tests = context.paths.checkout.join("kbuild/tests");
    tests.join(name).with_extension("sh")
}

fn results_of(context: &mut Context<'_>, name: &str, command: Expression) -> Result<()> {
    note(format!("testing {name}"));
    let output = context
        .tools
        .command(command)
        .stderr_to_stdout()
        .unchecked()
        .read()?;
    fs::write(
        context.logs.join(name).with_extension("ktap"),
        output.as_bytes(),
    )?;
    context.judge_results(&format!("{name}: "), &crate::ktap::parse(&output));
    Ok(())
}

/// Boots a kernel for a program that loads modules itself.
pub(super) fn boot(
    context: &Context<'_>,
    kernel: &Kernel,
    append: &[&str],
    command: Vec<OsString>,
) -> Result<Boots> {
    let machine = Machine {
        memory: 4096,
        append: append.iter().copied().map(str::to_owned).collect(),
        ..exec::plain(kernel)
    };
    context.boot_alone(&kernel.name, &machine, command)
}

/// Boots a kernel and runs kselftests as its tree installed them. Each is one case.
pub(super) fn kselftests(
    context: &mut Context<'_>,
    kernel: &Kernel,
    (programs, modules): (&Path, &Path),
    tests: &[&str],
) -> Result<()> {
    let mut command: Vec<OsString> = ["sh", "-c", SCRIPT, "sh"].map(Into::into).into();
    command.extend([programs.into(), modules.into()]);
    command.extend(tests.iter().map(OsString::from));
    let boots = boot(context, kernel, &[], command)?;
    let prefix = format!("{}: ", kernel.name);
    let results = context.judge(&prefix, &boots);
    ensure!(
        results.len() == tests.len(),
        "{} kselftests were to run, {} did",
        tests.len(),
        results.len()
    );
    Ok(())
}
