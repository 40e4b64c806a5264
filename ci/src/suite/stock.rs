// SPDX-License-Identifier: GPL-2.0

//! Debian's own kernel, as it is: our kselftests of the mirror and the clients of RDMA that others wrote,
//! with what its configuration lacks listed as skipped. With `--full` the kernel with `PREEMPT_RT` too.

use anyhow::Result;

use super::{gpu_selftests, harness, rdma, refuse_skips, Context};
use crate::exec;
use crate::kernel::Kind;
use crate::modules::Which;

/// What a case may say of why it is none there, beside what it may say anywhere: the kernel has neither
/// memory for device-coherent devices nor a way to make allocations fail.
const LACKS: [&str; 2] = [
    "no coherent devices: loaded without spm_addr_dev0 and spm_addr_dev1",
    "the kernel has no failslab (CONFIG_FAILSLAB, CONFIG_FAULT_INJECTION_DEBUG_FS)",
];

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    mirror(context)?;
    clients(context, Kind::Stock)?;
    if context.full {
        clients(context, Kind::StockRt)?;
    }
    Ok(())
}

/// Our programs for the mirror, on devices with private memory.
fn mirror(context: &mut Context<'_>) -> Result<()> {
    let kernel = context.kernel(Kind::Stock)?;
    let mut paths = context.builder(&kernel).gpu_mirror()?;
    paths.retain(|path| !gpu_selftests::is_long(path));
    let programs = harness::programs(&context.filter, paths)?;
    let driver = context.driver(&kernel, Which::Rust)?;
    let command = gpu_selftests::command_on(&driver, &programs);
    let boots = context.boot("mirror", &exec::plain(&kernel), driver, command)?;
    let before = context.cases.len();
    context.judge("", &boots);
    let may: Vec<&str> = [&gpu_selftests::MAY_SKIP[..], &LACKS].concat();
    refuse_skips(&mut context.cases[before..], &may);
    gpu_selftests::whole(&boots, programs.len())
}

/// The clients of RDMA, on our modules in place of the kernel's.
fn clients(context: &mut Context<'_>, kind: Kind) -> Result<()> {
    let kernel = context.kernel(kind)?;
    let command = rdma::clients(context, &kernel)?;
    let (ours, _) = crate::rdma::ours(context.paths, context.tools, &kernel)?;
    let prefix = match kind {
        Kind::Stock => String::new(),
        other => format!("{}: ", other.name()),
    };
    let name = format!("rdma-{}", kernel.name);
    let boots = context.boot(&name, &exec::plain(&kernel), ours, command)?;
    context.judge(&prefix, &boots);
    Ok(())
}
