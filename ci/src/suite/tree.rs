// SPDX-License-Identifier: GPL-2.0

//! The crates in a kernel's tree: the installer, the patches, and one kernel built and booted.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Result};
use duct::{cmd, Expression};
use nix::unistd::geteuid;

use super::{Boots, Context};
use crate::exec;
use crate::kernel::{Kernel, Kind};
use crate::progress::note;
use crate::report::{Case, Verdict};
use crate::tree::{self, Installed};
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
    for name in ["install", "series"] {
        script(context, name, &base.source)?;
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
    let (before, after) = (context.logs.join("before"), context.logs.join("after"));
    let lock = context.paths.lock()?;
    tree::clean(context.paths, &base.source)?;
    tree::listing(&base.source, &before)?;
    drop(lock);
    let logs = context.logs.clone();
    let installed = Installed::new(context.paths, context.tools, &base, &logs)?;
    let kernel = installed.build(&base, "tree", OPTIONS)?;
    let programs = installed.install(&kernel)?;
    drop(installed);

    tree::listing(&base.source, &after)?;
    let verdict = match fs::read(&before)? == fs::read(&after)? {
        true => Verdict::Pass,
        false => Verdict::Fail(format!(
            "compare {} and {}",
            before.display(),
            after.display()
        )),
    };
    context
        .cases
        .push(Case::new("the kernel's source is as it was", verdict));

    let tests = [
        "gpu_mirror_rs:gpu_mirror",
        "gpu_mirror_rs:gpu_mirror_counters",
        "gpu_mirror_rs:gpu_mirror_exclusive",
        "mmu_notifier_helpers:rust_mmu_mirror",
        "rdma_odp_rs:rdma_odp_lifetime",
    ];
    kselftests(context, &kernel, (&programs.0, &programs.1), &tests)
}

/// Runs a shell test of `kbuild/` on a kernel's source or build tree.
pub(super) fn script(context: &mut Context<'_>, name: &str, tree: &Path) -> Result<()> {
    let program = test(context, name);
    results_of(context, name, cmd!(program, tree))
}

/// The same as root.
pub(super) fn script_as_root(context: &mut Context<'_>, name: &str, tree: &Path) -> Result<()> {
    if geteuid().is_root() {
        return script(context, name, tree);
    }
    let program = test(context, name);
    // sudo keeps neither.
    let keep = r#"sudo env "PATH=$PATH" "LIBCLANG_PATH=$LIBCLANG_PATH" "$@""#;
    results_of(context, name, cmd!("sh", "-c", keep, "sh", program, tree))
}

fn test(context: &Context<'_>, name: &str) -> PathBuf {
    let tests = context.paths.checkout.join("kbuild/tests");
    tests.join(name).with_extension("sh")
}

fn results_of(context: &mut Context<'_>, name: &str, command: Expression) -> Result<()> {
    note(format!("kbuild/tests/{name}.sh"));
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
