// SPDX-License-Identifier: GPL-2.0

//! Our kselftests of RDMA on-demand paging, and the KUnit suite of what drivers call. Every case must
//! pass; with `--full` C's modules are beside.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{ensure, Context as _, Result};
use regex::Regex;

use super::{leaks, rdma, Context};
use crate::exec;
use crate::kernel::Kind;
use crate::modules::Which;
use crate::rdma::Rdma;
use crate::vm::Machine;

/// Where the KUnit suite is, and its name.
const KUNIT: &str = "kbuild/odp/odp_kunit.c";
const SUITE: &str = "ib_umem_odp";
/// KUnit is off unless it is asked for, and the kernel has suites of its own.
const APPEND: [&str; 3] = [
    "kunit.enable=1",
    "kunit.autorun=1",
    "kunit.filter_glob=ib_umem_odp",
];
/// Loading and unloading the suite are cases too.
const LOADED: [&str; 2] = ["load the KUnit suite", "unload the KUnit suite"];
/// How many streams that is: of loading, and of KUnit and its one suite.
const STREAMS: usize = 3;

/// Loads the KUnit suite, which runs it, and prints what it wrote to the kernel's log. Then makes
/// sure that there is swap, and runs the programs; the status is that of the worst.
const SCRIPT: &str = r#"number=0
report() {
	number=$((number + 1))
	[ "$1" -eq 0 ] && echo "ok $number $2" || echo "not ok $number $2"
}
kunit=$1 load=$2 unload=$3
shift 3
dmesg --clear
insmod "$kunit"; loaded=$?
dmesg --notime
echo TAP version 13
echo 1..2
report $loaded "$load"
rmmod "$(basename "$kunit" .ko)"
report $? "$unload"
if [ "$(wc -l </proc/swaps)" = 1 ]; then
	echo 256M >/sys/block/zram0/disksize && /sbin/mkswap /dev/zram0 && /sbin/swapon /dev/zram0
fi >&2 || exit
worst=0
for program; do "$program" || worst=$?; done
exit $worst"#;
/// What a guest needs for the regions, in MiB.
const MEMORY: u64 = 3072;

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    let source = context.paths.checkout.join(KUNIT);
    let source =
        fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let wanted = cases(&source);
    ensure!(!wanted.is_empty(), "{KUNIT} has no cases");
    let kernel = context.kernel(Kind::Debug)?;
    let programs = context.builder(&kernel).rdma_odp()?;
    let machine = Machine {
        memory: MEMORY,
        append: APPEND.map(str::to_owned).into(),
        ..exec::plain(&kernel)
    };
    // The suite knows no difference between the sets, and the one file is for both.
    let kunit = OnceCell::new();
    let (rdma, streams) = rdma::in_turn(context, &kernel, &machine, |which, rdma| {
        let file = kunit.get_or_init(|| rdma.kunit());
        command(which, rdma, file, &programs)
    })?;
    ensure!(
        streams.len() == programs.len() + STREAMS,
        "{} programs were to run, and a KUnit suite; {} streams of results were printed",
        programs.len(),
        streams.len()
    );
    let lines = streams.iter().flat_map(|stream| &stream.lines);
    let results: Vec<String> = lines.map(|line| line.name.clone()).collect();
    context.fail_missing("", &results, &wanted);
    if context.full {
        let program = command(Which::Rust, &rdma, &rdma.kunit(), &programs);
        leaks::run(context, machine, rdma, program, &wanted, &[])?;
    }
    Ok(())
}

fn command(which: Which, rdma: &Rdma, kunit: &Path, programs: &[PathBuf]) -> Vec<OsString> {
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
    command.push(kunit.into());
    command.extend(LOADED.map(OsString::from));
    command.extend(programs.iter().map(OsString::from));
    command
}

/// The cases in the source of the KUnit suite, with its name.
fn cases(source: &str) -> Vec<String> {
    static CASE: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"\bKUNIT_CASE\((\w+)\)").expect("the expression is constant"));
    CASE.captures_iter(source)
        .map(|found| format!("{SUITE}.{}", &found[1]))
        .collect()
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
            command(which, &rdma, Path::new("/m/k.ko"), &["/p".into()])
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect()
        };
        let survive = "RDMA_ODP_SURVIVE=1".to_owned();
        assert!(words(Which::C).contains(&survive));
        assert!(!words(Which::Rust).contains(&survive));
        assert_eq!(words(Which::Rust)[1], "RDMA_RXE_KO=/m/rdma_rxe.ko");
        assert_eq!(words(Which::Rust).last().unwrap(), "/p");
    }

    #[test]
    fn the_suite_has_cases() {
        assert_eq!(
            cases("\tKUNIT_CASE(a),\n\tKUNIT_CASE(b_c),\n"),
            ["ib_umem_odp.a", "ib_umem_odp.b_c"]
        );
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(KUNIT);
        let source = fs::read_to_string(source).unwrap();
        assert!(source.contains(&format!(".name = \"{SUITE}\"")));
        assert!(cases(&source).len() > 30);
    }
}
