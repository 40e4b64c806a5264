// SPDX-License-Identifier: GPL-2.0

//! The kernel tree's own `hmm-tests`, on the Rust driver and, beside it, on C's.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;

use super::{leaks, verdict, Boots, Context};
use crate::kernel::{Kernel, Kind};
use crate::ktap::Stream;
use crate::modules::Which;
use crate::report::{Case, Verdict};
use crate::vm::Machine;
use crate::{coherent, exec};

/// How often `--full` repeats the cases on the release kernel.
const REPETITIONS: usize = 20;
/// How many CPUs they have then.
const MANY_CPUS: u32 = 4;
/// What the lines of the program's own list are marked with.
const LIST: &str = "# list: ";

/// The kinds of device that each case runs on.
const PRIVATE: &str = "private";
const COHERENT: &str = "coherent";

/// Every case of the program, with its fixture, so that none is lost and none is new without a word.
const CASES: &[(&str, &str)] = &[
    ("hmm", "open_close"),
    ("hmm", "anon_read"),
    ("hmm", "anon_read_prot"),
    ("hmm", "anon_write"),
    ("hmm", "anon_write_prot"),
    ("hmm", "anon_write_child"),
    ("hmm", "anon_write_child_shared"),
    ("hmm", "anon_write_huge"),
    ("hmm", "anon_write_hugetlbfs"),
    ("hmm", "file_read"),
    ("hmm", "file_write"),
    ("hmm", "migrate"),
    ("hmm", "migrate_file_private"),
    ("hmm", "migrate_fault"),
    ("hmm", "migrate_release"),
    ("hmm", "migrate_shared"),
    ("hmm2", "migrate_mixed"),
    ("hmm", "migrate_multiple"),
    ("hmm", "anon_read_multiple"),
    ("hmm", "anon_teardown"),
    ("hmm", "mixedmap"),
    ("hmm2", "snapshot"),
    ("hmm", "compound"),
    ("hmm2", "double_map"),
    ("hmm", "exclusive"),
    ("hmm", "exclusive_mprotect"),
    ("hmm", "exclusive_cow"),
    ("hmm", "hmm_gup_test"),
    ("hmm", "hmm_cow_in_device"),
    ("hmm", "migrate_anon_huge_empty"),
    ("hmm", "migrate_anon_huge_zero"),
    ("hmm", "migrate_anon_huge_free"),
    ("hmm", "migrate_anon_huge_fault"),
    ("hmm", "migrate_partial_unmap_fault"),
    ("hmm", "migrate_remap_fault"),
    ("hmm", "migrate_anon_huge_err"),
    ("hmm", "migrate_anon_huge_zero_err"),
    ("hmm", "benchmark_thp_migration"),
    ("hmm", "userfaultfd_read"),
];
/// Cases with a limit of time of their own that the checks of the debug kernel overrun: they run on
/// the release kernel.
const RELEASE: &[&str] = &["benchmark_thp_migration"];

/// The kernel that a case runs on.
fn kernel_of(case: &str) -> Kind {
    if RELEASE.contains(&case) {
        Kind::Release
    } else {
        Kind::Debug
    }
}

/// A case's name on a kind of device, as the harness has it.
fn name(fixture: &str, device: &str, case: &str) -> String {
    format!("{fixture}.{fixture}_device_{device}.{case}")
}

/// The names of the cases on these kinds of device that run on the kernel.
fn cases(devices: &[&str], kernel: Kind) -> Vec<String> {
    let of = |device: &&str| -> Vec<String> {
        let cases = CASES.iter().filter(|(_, case)| kernel_of(case) == kernel);
        cases
            .map(|(fixture, case)| name(fixture, device, case))
            .collect()
    };
    devices.iter().flat_map(of).collect()
}

/// The names of all cases.
fn all() -> Vec<String> {
    [Kind::Debug, Kind::Release]
        .map(|kernel| cases(&[PRIVATE, COHERENT], kernel))
        .concat()
}

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    let debug = context.kernel(Kind::Debug)?;
    let release = context.kernel(Kind::Release)?;
    let program = context.builder(&debug).hmm_tests()?;

    for (kernel, kind, prefix) in [
        (&debug, Kind::Debug, ""),
        (&release, Kind::Release, "release: "),
    ] {
        let wanted = cases(&[PRIVATE, COHERENT], kind);
        let boots = boot(
            context,
            kernel,
            kind,
            Which::Rust,
            command(&program, 1, &wanted),
        )?;
        context.judge_wanted(prefix, &boots, &wanted);
        if kind == Kind::Debug {
            match differs(&listed(&boots.output)) {
                None => context
                    .cases
                    .push(Case::new("list of cases", Verdict::Pass)),
                Some(difference) => context.fail("list of cases", difference),
            }
        }
        // On coherent devices C's driver may take the kernel down.
        let of_c = cases(&[PRIVATE], kind);
        let boots = boot(context, kernel, kind, Which::C, command(&program, 1, &of_c))?;
        context.beside(prefix, &boots);
    }

    if context.full {
        let wanted = cases(&[PRIVATE, COHERENT], Kind::Debug);
        let driver = coherent::driver(context.driver(&debug, Which::Rust)?);
        let machine = coherent::machine(exec::plain(&debug));
        leaks::run(
            context,
            machine,
            driver,
            command(&program, 1, &wanted),
            &wanted,
        )?;
        repeat(context, &release, &program)?;
    }
    Ok(())
}

/// Boots with all four devices.
fn boot(
    context: &Context<'_>,
    kernel: &Kernel,
    kind: Kind,
    which: Which,
    command: Vec<OsString>,
) -> Result<Boots> {
    let driver = coherent::driver(context.driver(kernel, which)?);
    let machine = coherent::machine(exec::plain(kernel));
    let name = format!("{}-{}", which.name(), kind.name());
    context.boot(&name, &machine, driver, command)
}

/// Runs all cases many times.
fn repeat(context: &mut Context<'_>, kernel: &Kernel, program: &Path) -> Result<()> {
    let wanted = all();
    let driver = coherent::driver(context.driver(kernel, Which::Rust)?);
    let machine = coherent::machine(Machine {
        cpus: MANY_CPUS,
        ..exec::plain(kernel)
    });
    let boots = context.boot(
        "rust-release-repeated",
        &machine,
        driver,
        command(program, REPETITIONS, &wanted),
    )?;
    let prefix = format!("{REPETITIONS} times on {MANY_CPUS} CPUs, release: ");
    let cases = wanted.iter().map(|name| {
        let verdict = every_time(&boots.streams, name, REPETITIONS);
        Case::new(format!("{prefix}{name}"), verdict)
    });
    context.cases.extend(cases);
    context.judge_boot(&prefix, &boots);
    Ok(())
}

/// One verdict on all the times that a case ran.
fn every_time(streams: &[Stream], name: &str, times: usize) -> Verdict {
    let lines = streams.iter().flat_map(|stream| &stream.lines);
    let results: Vec<Verdict> = lines
        .filter(|line| line.name == name)
        .map(|line| verdict(line.result.clone()))
        .collect();
    let bad: Vec<&Verdict> = results
        .iter()
        .filter(|result| **result != Verdict::Pass)
        .collect();
    match bad.first() {
        Some(Verdict::Fail(cause) | Verdict::Skip(cause)) => Verdict::Fail(format!(
            "{} of {times} times, the first: {cause}",
            bad.len()
        )),
        _ if results.len() != times => {
            Verdict::Fail(format!("it gave {} results of {times}", results.len()))
        }
        _ => Verdict::Pass,
    }
}

/// Lists what the program has, then runs the cases. It does both in the guest: even to list, the
/// program changes the settings of huge pages.
fn command(program: &Path, times: usize, cases: &[String]) -> Vec<OsString> {
    let script = format!(
        r#"program=$1; shift
"$program" -l 2>&1 | sed 's/^/{LIST}/'
for time in $(seq {times}); do "$program" "$@"; status=$?; done
exit $status"#
    );
    let mut command: Vec<OsString> = ["sh", "-c", &script, "sh"].map(Into::into).into();
    command.push(program.into());
    for case in cases {
        command.extend(["-r".into(), case.into()]);
    }
    command
}

/// The names in the program's own list, which has columns for fixtures, variants and cases: each
/// fixture's variants go with each of its cases.
fn listed(output: &str) -> Vec<String> {
    let mut fixtures: Vec<(String, Vec<String>, Vec<String>)> = Vec::new();
    for line in output.lines().filter_map(|line| line.strip_prefix(LIST)) {
        if line.starts_with(['#', '-']) {
            continue;
        }
        let column = |from: usize, to: usize| {
            line.get(from..to.min(line.len()))
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let (fixture, variant, case) = (column(0, 20), column(21, 46), column(47, usize::MAX));
        if !fixture.is_empty() {
            fixtures.push((fixture, Vec::new(), Vec::new()));
        }
        if let Some((_, variants, cases)) = fixtures.last_mut() {
            variants.extend((!variant.is_empty()).then_some(variant));
            cases.extend((!case.is_empty()).then_some(case));
        }
    }
    let mut names = Vec::new();
    for (fixture, variants, cases) in &fixtures {
        for variant in variants {
            names.extend(
                cases
                    .iter()
                    .map(|case| format!("{fixture}.{variant}.{case}")),
            );
        }
    }
    names
}

/// How the program's cases differ from the table, if they do.
fn differs(listed: &[String]) -> Option<String> {
    if listed.is_empty() {
        return Some("the program listed none".into());
    }
    let known = all();
    let new: Vec<&str> = listed
        .iter()
        .filter(|name| !known.contains(name))
        .map(String::as_str)
        .collect();
    let gone: Vec<&str> = known
        .iter()
        .filter(|name| !listed.contains(name))
        .map(String::as_str)
        .collect();
    let part = |what: &str, names: &[&str]| {
        (!names.is_empty()).then(|| format!("{what}: {}", names.join(" ")))
    };
    let parts: Vec<String> = [
        part("not in the table", &new),
        part("not in the program", &gone),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!parts.is_empty()).then(|| parts.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ktap;

    fn list() -> String {
        let mut text = format!("{LIST}{:<20} {:<25} TEST\n", "# FIXTURE", "VARIANT");
        for fixture in ["hmm", "hmm2"] {
            let mut variants = [
                format!("{fixture}_device_private"),
                format!("{fixture}_device_coherent"),
            ]
            .into_iter();
            let cases = CASES.iter().filter(|(of, _)| *of == fixture);
            for (row, (_, case)) in cases.enumerate() {
                let fixture = if row == 0 { fixture } else { "" };
                let variant = variants.next().unwrap_or_default();
                text += &format!("{LIST}{fixture:<20} {variant:<25} {case}\n");
            }
            text += &format!("{LIST}{}\n", "-".repeat(80));
        }
        text
    }

    #[test]
    fn all_cases_must_pass_and_each_on_one_kernel() {
        assert_eq!(all().len(), 78);
        assert_eq!(cases(&[PRIVATE, COHERENT], Kind::Debug).len(), 76);
        assert_eq!(
            cases(&[PRIVATE, COHERENT], Kind::Release),
            [
                "hmm.hmm_device_private.benchmark_thp_migration",
                "hmm.hmm_device_coherent.benchmark_thp_migration"
            ]
        );
    }

    #[test]
    fn a_case_that_is_to_run_on_release_exists() {
        for case in RELEASE {
            assert!(CASES.iter().any(|(_, known)| known == case), "{case}");
        }
    }

    #[test]
    fn a_repeated_case_must_pass_every_time() {
        let run = |results: &str| format!("TAP version 13\n1..2\n{results}");
        let good = run("ok 1 a\nok 2 b\n");
        let of = |text: &str, name| every_time(&ktap::parse(text), name, 2);
        assert_eq!(of(&(good.clone() + &good), "a"), Verdict::Pass);
        assert_eq!(
            of(&good, "a"),
            Verdict::Fail("it gave 1 results of 2".into())
        );
        let bad = run("ok 1 a # SKIP no memory\n# x.c:1: no\nnot ok 2 b\n");
        assert_eq!(
            of(&(good.clone() + &bad), "a"),
            Verdict::Fail("1 of 2 times, the first: no memory".into())
        );
        assert_eq!(
            of(&(bad.clone() + &bad), "b"),
            Verdict::Fail("2 of 2 times, the first: x.c:1: no".into())
        );
    }

    #[test]
    fn the_programs_list_matches_the_table() {
        assert_eq!(listed(&list()).len(), 2 * CASES.len());
        assert_eq!(differs(&listed(&list())), None);
    }

    #[test]
    fn a_case_that_is_new_or_gone_is_named() {
        let text = list().replace("double_map", "triple_map");
        let difference = differs(&listed(&text)).unwrap();
        assert!(
            difference.contains("not in the table: hmm2.hmm2_device_private.triple_map"),
            "{difference}"
        );
        assert!(
            difference.contains("not in the program: hmm2.hmm2_device_private.double_map"),
            "{difference}"
        );
    }
}
