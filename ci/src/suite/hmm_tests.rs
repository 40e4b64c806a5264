// SPDX-License-Identifier: GPL-2.0

//! The kernel tree's own `hmm-tests`, on the Rust driver and, with `--full`, beside it on C's.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;

use super::{leaks, verdict, Boots, Context, Filter};
use crate::kernel::{Kernel, Kind};
use crate::ktap::{self, Stream};
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
/// Cases with a limit of time of their own that the checks of the debug kernel overrun.
const TIMED: &[&str] = &["benchmark_thp_migration"];
/// The kernel of the default run that leaves them their time: Debian's own, on which all the others run
/// as well. It has no coherent memory to give.
pub(super) const UNHURRIED: Kind = Kind::Stock;
/// The kernel that leaves it to them with coherent memory.
const COHERENT_UNHURRIED: Kind = Kind::Release;

/// Cases that run in one boot, on one kernel, with their results named alike.
struct Part {
    kind: Kind,
    /// The kinds of device that are there.
    devices: &'static [&'static str],
    /// Which of the program's cases.
    takes: fn(&str) -> bool,
    /// What the names of their results start with.
    prefix: String,
    /// Whether what the program lists is compared with the table.
    lists: bool,
    /// What a case may say of why it is none.
    may_skip: &'static [&'static str],
}

/// What Debian's kernel lacks.
const STOCK_LACKS: &[&str] = &["Skipping test, could not find gup_test driver"];

fn is_timed(case: &str) -> bool {
    TIMED.contains(&case)
}

impl Part {
    fn timed(kind: Kind, devices: &'static [&'static str]) -> Self {
        Self {
            kind,
            devices,
            takes: is_timed,
            prefix: format!("{}: ", kind.name()),
            lists: false,
            may_skip: &[],
        }
    }

    /// The names of its cases.
    fn cases(&self) -> Vec<String> {
        cases(self.devices, self.takes)
    }

    /// The names of those that are wanted.
    fn wanted(&self, filter: &Filter) -> Vec<String> {
        filter.pick(&self.prefix, &self.cases())
    }

    /// What its boot on somebody's driver is called.
    fn name(&self, which: Which) -> String {
        let mut name = format!("{}-{}", which.name(), self.kind.name());
        if self.devices == [COHERENT] {
            name += "-coherent";
        }
        name
    }
}

/// What runs on a kernel. Each case is in one part of one kernel.
fn parts(kind: Kind, full: bool) -> Vec<Part> {
    let mut parts = Vec::new();
    if kind == Kind::Debug {
        parts.push(Part {
            kind,
            devices: &[PRIVATE, COHERENT],
            takes: |case| !is_timed(case),
            prefix: String::new(),
            lists: true,
            may_skip: &[],
        });
    }
    if kind == UNHURRIED {
        parts.push(Part {
            takes: |_| true,
            may_skip: STOCK_LACKS,
            ..Part::timed(kind, &[PRIVATE])
        });
    }
    if kind == COHERENT_UNHURRIED && full {
        parts.push(Part::timed(kind, &[COHERENT]));
    }
    parts
}

/// The kernels of a run.
fn kinds(full: bool) -> Vec<Kind> {
    let mut kinds = vec![Kind::Debug, UNHURRIED];
    if full && !kinds.contains(&COHERENT_UNHURRIED) {
        kinds.push(COHERENT_UNHURRIED);
    }
    kinds
}

/// A case's name on a kind of device, as the harness has it.
fn name(fixture: &str, device: &str, case: &str) -> String {
    format!("{fixture}.{fixture}_device_{device}.{case}")
}

/// The names of the cases on these kinds of device.
fn cases(devices: &[&str], takes: impl Fn(&str) -> bool) -> Vec<String> {
    let of = |device: &&str| -> Vec<String> {
        let cases = CASES.iter().filter(|(_, case)| takes(case));
        cases
            .map(|(fixture, case)| name(fixture, device, case))
            .collect()
    };
    devices.iter().flat_map(of).collect()
}

/// The names of the cases for the debug kernel.
fn untimed() -> Vec<String> {
    cases(&[PRIVATE, COHERENT], |case| !is_timed(case))
}

/// The names of all cases.
fn all() -> Vec<String> {
    cases(&[PRIVATE, COHERENT], |_| true)
}

pub(super) fn suite(context: &mut Context<'_>) -> Result<()> {
    context.require(names(context.full))?;
    for kind in kinds(context.full) {
        run(context, kind)?;
    }
    if context.full {
        leaks(context)?;
        repeat(context)?;
    }
    Ok(())
}

/// The names of all results.
fn names(full: bool) -> Vec<String> {
    let named = |prefix: &str, cases: Vec<String>| -> Vec<String> {
        let names = cases.iter().map(|case| format!("{prefix}{case}"));
        names.collect()
    };
    let parts = kinds(full).into_iter().flat_map(|kind| parts(kind, full));
    let mut names: Vec<String> = parts
        .flat_map(|part| named(&part.prefix, part.cases()))
        .collect();
    if full {
        names.extend(named(leaks::PREFIX, untimed()));
        names.extend(named(&repeated(), all()));
    }
    names
}

/// What there is to run on a kernel; with `--full` on C's driver beside.
pub(super) fn run(context: &mut Context<'_>, kind: Kind) -> Result<()> {
    let mut parts = parts(kind, context.full);
    parts.retain(|part| !part.wanted(&context.filter).is_empty());
    if parts.is_empty() {
        return Ok(());
    }
    let kernel = context.kernel(kind)?;
    let program = context.builder(&kernel).hmm_tests()?;
    for part in &parts {
        let wanted = part.wanted(&context.filter);
        let boots = boot(context, &kernel, part, Which::Rust, &program, &wanted)?;
        context.judge_wanted_but(&part.prefix, &boots, &wanted, part.may_skip);
        if part.lists {
            match differs(&context.filter, &listed(&boots.output)) {
                None => context
                    .cases
                    .push(Case::new("list of cases", Verdict::Pass)),
                Some(difference) => context.fail("list of cases", difference),
            }
        }
        // On coherent devices C's driver may take the kernel down.
        let mut of_c = cases(&[PRIVATE], part.takes);
        of_c.retain(|name| wanted.contains(name));
        if context.full && !of_c.is_empty() {
            let boots = boot(context, &kernel, part, Which::C, &program, &of_c)?;
            context.beside(&part.prefix, &boots);
        }
    }
    Ok(())
}

/// Boots with the devices of a part, and runs cases.
fn boot(
    context: &Context<'_>,
    kernel: &Kernel,
    part: &Part,
    which: Which,
    program: &Path,
    cases: &[String],
) -> Result<Boots> {
    let mut driver = context.driver(kernel, which)?;
    let mut machine = exec::plain(kernel);
    if part.devices.contains(&COHERENT) {
        driver = coherent::driver(driver);
        machine = coherent::machine(machine);
    }
    context.boot(
        &part.name(which),
        &machine,
        driver,
        command(program, 1, cases),
    )
}

/// Looks for what is lost, on the debug kernel.
fn leaks(context: &mut Context<'_>) -> Result<()> {
    let wanted = context.filter.pick(leaks::PREFIX, &untimed());
    if wanted.is_empty() {
        return Ok(());
    }
    let kernel = context.kernel(Kind::Debug)?;
    let program = context.builder(&kernel).hmm_tests()?;
    let driver = coherent::driver(context.driver(&kernel, Which::Rust)?);
    let machine = coherent::machine(exec::plain(&kernel));
    let command = command(&program, 1, &wanted);
    leaks::run(context, machine, driver, command, &wanted, &[])?;
    Ok(())
}

/// What the names of the cases that are repeated start with.
fn repeated() -> String {
    format!("{REPETITIONS} times on {MANY_CPUS} CPUs, release: ")
}

/// Runs all cases many times.
fn repeat(context: &mut Context<'_>) -> Result<()> {
    let prefix = repeated();
    let wanted = context.filter.pick(&prefix, &all());
    if wanted.is_empty() {
        return Ok(());
    }
    let kernel = context.kernel(Kind::Release)?;
    let program = context.builder(&kernel).hmm_tests()?;
    let driver = coherent::driver(context.driver(&kernel, Which::Rust)?);
    let machine = coherent::machine(Machine {
        cpus: MANY_CPUS,
        ..exec::plain(&kernel)
    });
    let boots = context.boot(
        "rust-release-repeated",
        &machine,
        driver,
        command(&program, REPETITIONS, &wanted),
    )?;
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

/// The names in the program's own list.
fn listed(output: &str) -> Vec<String> {
    let lines = output.lines().filter_map(|line| line.strip_prefix(LIST));
    ktap::listed(&lines.collect::<Vec<&str>>().join("\n"))
}

/// How the program's cases differ from the table, if they do, of those that are wanted.
fn differs(filter: &Filter, listed: &[String]) -> Option<String> {
    if listed.is_empty() {
        return Some("the program listed none".into());
    }
    let known = all();
    let new: Vec<&str> = listed
        .iter()
        .filter(|name| filter.picks(name) && !known.contains(name))
        .map(String::as_str)
        .collect();
    let gone: Vec<&str> = known
        .iter()
        .filter(|name| filter.picks(name) && !listed.contains(name))
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

    /// The names of the cases that a run tries on a kernel.
    fn on(kind: Kind, full: bool) -> Vec<String> {
        parts(kind, full).iter().flat_map(Part::cases).collect()
    }

    #[test]
    fn each_case_runs_and_all_with_full() {
        let tried = |full| -> Vec<String> {
            let mut names: Vec<String> = kinds(full)
                .into_iter()
                .flat_map(|kind| on(kind, full))
                .collect();
            names.sort();
            // Debian's kernel has those of the debug kernel once more.
            names.dedup();
            names
        };
        assert_eq!(all().len(), 78);
        let mut wanted = all();
        wanted.sort();
        assert_eq!(tried(true), wanted);
        // The default run lacks what takes coherent memory on a kernel of its own.
        wanted.retain(|name| name != "hmm.hmm_device_coherent.benchmark_thp_migration");
        assert_eq!(tried(false), wanted);
        assert_eq!(on(Kind::Debug, false).len(), 76);
    }

    #[test]
    fn each_kernel_has_its_part_of_the_cases() {
        assert!(on(Kind::Debug, true)
            .iter()
            .all(|name| !name.ends_with("benchmark_thp_migration")));
        assert_eq!(on(UNHURRIED, false), cases(&[PRIVATE], |_| true));
        assert_eq!(
            on(COHERENT_UNHURRIED, true),
            ["hmm.hmm_device_coherent.benchmark_thp_migration"]
        );
    }

    #[test]
    fn no_two_boots_have_one_name() {
        let mut names: Vec<String> = kinds(true)
            .into_iter()
            .flat_map(|kind| parts(kind, true))
            .flat_map(|part| [Which::Rust, Which::C].map(|which| part.name(which)))
            .collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_pattern_picks_parts_and_what_they_run() {
        let filter = |pattern: &str| Filter(Some(pattern.parse().unwrap()));
        let wanted = |pattern: &str, full| -> Vec<(String, usize)> {
            kinds(full)
                .into_iter()
                .flat_map(|kind| parts(kind, full))
                .map(|part| (part.name(Which::Rust), part.wanted(&filter(pattern)).len()))
                .filter(|(_, count)| *count > 0)
                .collect()
        };
        let on = |name: &str, count| (format!("rust-{name}"), count);
        let (debug, stock) = (Kind::Debug.name(), UNHURRIED.name());
        assert_eq!(
            wanted("hmm.hmm_device_private.migrate", false),
            [on(debug, 14), on(stock, 14)]
        );
        // A glob is held against the whole name.
        assert_eq!(wanted("hmm.*_private.migrate", false), [on(debug, 1)]);
        assert_eq!(wanted(&format!("{stock}: *"), false), [on(stock, 39)]);
        assert_eq!(wanted("benchmark", true).len(), 2);
    }

    #[test]
    fn the_names_are_those_of_the_results() {
        let default = names(false);
        assert_eq!(default.len(), 76 + 39);
        assert!(default.contains(&"hmm.hmm_device_coherent.migrate".to_owned()));
        let full = names(true);
        assert_eq!(full.len(), 76 + 39 + 1 + 76 + 78);
        for name in [
            "release: hmm.hmm_device_coherent.benchmark_thp_migration",
            "kmemleak: hmm.hmm_device_coherent.migrate",
            "20 times on 4 CPUs, release: hmm.hmm_device_private.migrate",
        ] {
            assert!(full.contains(&name.to_owned()), "{name}");
        }
    }

    #[test]
    fn with_a_pattern_the_list_is_compared_for_what_it_picks() {
        let text = list().replace("double_map", "triple_map");
        let of = |pattern: &str| differs(&Filter(Some(pattern.parse().unwrap())), &listed(&text));
        assert_eq!(of("migrate"), None);
        let difference = of("triple").unwrap();
        assert!(!difference.contains("double"), "{difference}");
        assert!(of("double").unwrap().contains("not in the program"));
    }

    #[test]
    fn a_timed_case_exists() {
        for case in TIMED {
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
        assert_eq!(differs(&Filter::default(), &listed(&list())), None);
    }

    #[test]
    fn a_case_that_is_new_or_gone_is_named() {
        let text = list().replace("double_map", "triple_map");
        let difference = differs(&Filter::default(), &listed(&text)).unwrap();
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
