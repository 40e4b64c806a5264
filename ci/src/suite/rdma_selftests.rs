// SPDX-License-Identifier: GPL-2.0

//! Our kselftests of RDMA on-demand paging, and the KUnit suite of what drivers call. Every case must
//! pass; with `--full` C's modules are beside.

use std::cell::OnceCell;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{ensure, Context as _, Result};
use regex::Regex;

use super::harness::{self, Program};
use super::{kunit, leaks, rdma, Context, Filter};
use crate::exec;
use crate::kernel::Kind;
use crate::modules::Which;
use crate::rdma::{self as set, Rdma};
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

/// Loads the KUnit suite if there is one, which runs it, and prints what it wrote to the kernel's
/// log. Then makes sure that there is swap, for the programs.
const SCRIPT: &str = r#"number=0
report() {
	number=$((number + 1))
	[ "$1" -eq 0 ] && echo "ok $number $2" || echo "not ok $number $2"
}
module=$1 globs=$2 load=$3 unload=$4
shift 4
if [ -n "$module" ]; then
	dmesg --clear
	load_each $globs
	dmesg --notime
	echo TAP version 13
	echo 1..2
	report $loaded "$load"
	rmmod "$(basename "$module" .ko)"
	report $? "$unload"
fi
if [ "$(wc -l </proc/swaps)" = 1 ]; then
	echo 256M >/sys/block/zram0/disksize && /sbin/mkswap /dev/zram0 && /sbin/swapon /dev/zram0
fi >&2 || exit
"#;
/// What a guest needs for the regions, in MiB.
const MEMORY: u64 = 3072;

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    let source = context.paths.checkout.join(KUNIT);
    let source =
        fs::read_to_string(&source).with_context(|| format!("cannot read {}", source.display()))?;
    let all = cases(&source);
    ensure!(!all.is_empty(), "{KUNIT} has no cases");
    let kernel = context.kernel(Kind::Debug)?;
    let paths = context.builder(&kernel).rdma_odp()?;
    let programs = harness::programs(&context.filter, paths)?;
    let names = |prefix: &str| -> Vec<String> {
        let kunit = all.iter().map(|name| format!("{prefix}{name}"));
        kunit.chain(harness::names(prefix, &programs)).collect()
    };
    let mut known = names("");
    if context.full {
        known.extend(names(leaks::PREFIX));
    }
    context.require(known)?;

    let machine = |append| Machine {
        memory: MEMORY,
        append,
        ..exec::plain(&kernel)
    };
    let mut ours = None;
    let chosen = Chosen::new(&context.filter, "", &all, &programs);
    if !chosen.is_empty() {
        // The suite knows no difference between the sets, and the one file is for both.
        let kunit = OnceCell::new();
        let machine = machine(chosen.append.clone());
        let (rdma, streams) = rdma::in_turn(context, &kernel, &machine, |which, rdma| {
            let file = kunit.get_or_init(|| rdma.kunit());
            command(which, rdma, file, &chosen)
        })?;
        ensure!(
            streams.len() == chosen.streams(),
            "{} programs were to run, and {} cases of KUnit; {} streams of results were printed",
            chosen.programs.len(),
            chosen.kunit.len(),
            streams.len()
        );
        let lines = streams.iter().flat_map(|stream| &stream.lines);
        let results: Vec<String> = lines.map(|line| line.name.clone()).collect();
        context.fail_missing("", &results, &chosen.names());
        ours = Some(rdma);
    }

    let chosen = Chosen::new(&context.filter, leaks::PREFIX, &all, &programs);
    if context.full && !chosen.is_empty() {
        let rdma = match ours {
            Some(rdma) => rdma,
            None => set::ours(context.paths, context.tools, &kernel)?.0,
        };
        let program = command(Which::Rust, &rdma, &rdma.kunit(), &chosen);
        let machine = machine(chosen.append.clone());
        leaks::run(context, machine, rdma, program, &chosen.names(), &[])?;
    }
    Ok(())
}

/// What runs in one boot.
struct Chosen {
    /// The cases of the KUnit suite.
    kunit: Vec<String>,
    /// What the kernel is told of KUnit as it boots, and what later.
    append: Vec<String>,
    globs: Vec<OsString>,
    programs: Vec<Program>,
}

impl Chosen {
    /// What is wanted of the cases of the KUnit suite and the programs', whose results start with
    /// `prefix`.
    fn new(filter: &Filter, prefix: &str, all: &[String], programs: &[Program]) -> Self {
        let kunit = filter.pick(prefix, all);
        let (append, globs) = match kunit.is_empty() {
            true => (Vec::new(), Vec::new()),
            false => kunit::globs(filter, APPEND, &kunit, all),
        };
        Self {
            kunit,
            append,
            globs,
            programs: harness::pick(filter, prefix, programs),
        }
    }

    fn is_empty(&self) -> bool {
        self.kunit.is_empty() && self.programs.is_empty()
    }

    /// The names of all cases that are known before they run.
    fn names(&self) -> Vec<String> {
        let mut names = self.kunit.clone();
        names.extend(harness::names("", &self.programs));
        names
    }

    /// How many streams of results there are: one of loading, for each time that the suite is
    /// loaded one of KUnit and one of the suite, and one of each program.
    fn streams(&self) -> usize {
        let of_kunit = match self.kunit.is_empty() {
            true => 0,
            false => 1 + 2 * (1 + self.globs.len()),
        };
        of_kunit + self.programs.len()
    }
}

fn command(which: Which, rdma: &Rdma, kunit: &Path, chosen: &Chosen) -> Vec<OsString> {
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
    command.extend(kunit::shell(&format!("{SCRIPT}{}", harness::SCRIPT)));
    command.push(match chosen.kunit.is_empty() {
        true => OsString::new(),
        false => kunit.into(),
    });
    command.push(chosen.globs.join(OsStr::new(" ")));
    command.extend(LOADED.map(OsString::from));
    command.extend(harness::words(&chosen.programs));
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
        let all = Filter::default();
        let programs = harness::programs(&all, vec!["/p".into()]).unwrap();
        let chosen = Chosen::new(&all, "", &["ib_umem_odp.a".into()], &programs);
        let words = |which| -> Vec<String> {
            command(which, &rdma, Path::new("/m/k.ko"), &chosen)
                .iter()
                .map(|word| word.to_string_lossy().into_owned())
                .collect()
        };
        let survive = "RDMA_ODP_SURVIVE=1".to_owned();
        assert!(words(Which::C).contains(&survive));
        assert!(!words(Which::Rust).contains(&survive));
        assert_eq!(words(Which::Rust)[1], "RDMA_RXE_KO=/m/rdma_rxe.ko");
        assert!(words(Which::Rust).ends_with(&["/p".into(), String::new()]));
    }

    #[test]
    fn a_pattern_picks_of_the_suite_and_of_the_programs() {
        let all = ["ib_umem_odp.a", "ib_umem_odp.b", "ib_umem_odp.ab"].map(str::to_owned);
        let of = |pattern: &str| {
            let filter = Filter(Some(pattern.parse().unwrap()));
            Chosen::new(&filter, "", &all, &[])
        };
        let some = of("b");
        assert_eq!(some.kunit.len(), 3);
        assert_eq!((some.globs.len(), some.streams()), (0, 3));
        let some = of("*p.?");
        assert_eq!(some.append[2], "kunit.filter_glob=ib_umem_odp.a");
        assert_eq!(some.globs, ["ib_umem_odp.b"]);
        assert_eq!(some.streams(), 5);
        assert_eq!(some.names(), ["ib_umem_odp.a", "ib_umem_odp.b"]);
        assert!(of("c").is_empty() && of("c").streams() == 0);
    }

    #[test]
    fn without_cases_of_the_suite_it_is_not_loaded() {
        let chosen = |kunit: &[&str]| Chosen {
            kunit: kunit.iter().map(|name| name.to_string()).collect(),
            append: Vec::new(),
            globs: ["g1", "g2"].map(OsString::from).into(),
            programs: harness::programs(&Filter::default(), vec!["/bin/echo".into()]).unwrap(),
        };
        let said = |chosen: &Chosen| {
            let rdma = Rdma {
                modules: Vec::new(),
                is_ours: true,
            };
            let mut words = command(Which::Rust, &rdma, Path::new("/m/k.ko"), chosen);
            let at = words.iter().position(|word| word == "-c").unwrap() + 1;
            let script = words[at].to_string_lossy().into_owned();
            words[at] =
                ("insmod() { echo \"load $1\"; }; rmmod() { :; }; dmesg() { :; }; wc() { :; }\n"
                    .to_owned()
                    + &script.replace("/sys/module", "/nowhere"))
                    .into();
            let ran = std::process::Command::new(&words[0])
                .args(&words[1..])
                .output();
            String::from_utf8(ran.unwrap().stdout).unwrap()
        };
        assert_eq!(said(&chosen(&[])), "\n");
        let with = said(&chosen(&["ib_umem_odp.a"]));
        assert_eq!(with.matches("load /m/k.ko").count(), 1, "{with}");
        // Where KUnit cannot be told the glob, that is a failure.
        assert!(with.contains("not ok 1 load the KUnit suite"), "{with}");
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
