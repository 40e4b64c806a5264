// SPDX-License-Identifier: GPL-2.0

//! Our kselftests of RDMA on-demand paging. Every case must pass; C's modules are beside.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{ensure, Result};

use super::{leaks, rdma, Context};
use crate::exec;
use crate::kernel::Kind;
use crate::modules::Which;
use crate::rdma::Rdma;
use crate::vm::Machine;

/// Makes sure that there is swap, then runs the programs; the status is that of the worst.
const SCRIPT: &str = r#"if [ "$(wc -l </proc/swaps)" = 1 ]; then
	echo 256M >/sys/block/zram0/disksize && /sbin/mkswap /dev/zram0 && /sbin/swapon /dev/zram0
fi >&2 || exit
worst=0
for program; do "$program" || worst=$?; done
exit $worst"#;
/// What a guest needs for the regions, in MiB.
const MEMORY: u64 = 3072;

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    let kernel = context.kernel(Kind::Debug)?;
    let programs = context.builder(&kernel).rdma_odp()?;
    let machine = Machine {
        memory: MEMORY,
        ..exec::plain(&kernel)
    };
    let (rdma, streams) = rdma::in_turn(context, &kernel, &machine, |which, rdma| {
        command(which, rdma, &programs)
    })?;
    ensure!(
        streams == programs.len(),
        "{} programs were to run, {streams} printed results",
        programs.len()
    );
    if context.full {
        let program = command(Which::Rust, &rdma, &programs);
        leaks::run(context, machine, rdma, program, &[])?;
    }
    Ok(())
}

fn command(which: Which, rdma: &Rdma, programs: &[PathBuf]) -> Vec<OsString> {
    let mut command = vec!["env".into()];
    // One of the cases removes the driver and loads it again.
    let mut module = OsString::from("RDMA_RXE_KO=");
    module.extend(
        rdma.modules
            .last()
            .map(|path: &PathBuf| Path::as_os_str(path)),
    );
    command.push(module);
    if which == Which::C {
        command.push("RDMA_ODP_SURVIVE=1".into());
    }
    command.extend(["sh", "-c", SCRIPT, "sh"].map(OsString::from));
    command.extend(programs.iter().map(OsString::from));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_c_leaves_out_what_it_does_not_survive() {
        let rdma = Rdma {
            modules: vec!["/m/ib_core.ko".into(), "/m/rdma_rxe.ko".into()],
            is_ours: true,
        };
        let words = |which| -> Vec<String> {
            command(which, &rdma, &["/p".into()])
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect()
        };
        let survive = "RDMA_ODP_SURVIVE=1".to_owned();
        assert!(words(Which::C).contains(&survive));
        assert!(!words(Which::Rust).contains(&survive));
        assert_eq!(words(Which::Rust)[1], "RDMA_RXE_KO=/m/rdma_rxe.ko");
    }
}
