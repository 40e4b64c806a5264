// SPDX-License-Identifier: GPL-2.0

//! The kernel tree's own `hmm-tests`, on the Rust driver and, beside it, on C's.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;

use super::Context;
use crate::exec;
use crate::kernel::Kind;
use crate::modules::Which;
use crate::report::{Case, Verdict};
use crate::vm::Machine;

/// How often `--full` repeats the cases on the release kernel.
const REPETITIONS: usize = 5;
/// What the lines of the program's own list are marked with.
const LIST: &str = "# list: ";

/// What a case needs of the driver beyond system memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    DeviceMemory,
    ExclusiveAccess,
}

impl Needs {
    /// Why a case is skipped.
    fn cause(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::DeviceMemory => Some("needs device memory, which the driver does not have yet"),
            Self::ExclusiveAccess => {
                Some("needs exclusive access, which the driver does not have yet")
            }
        }
    }
}

/// Why the second variant is skipped.
const COHERENT: &str = "needs coherent devices, which the driver does not have yet";

use Needs::{DeviceMemory, ExclusiveAccess, Nothing};

/// Every case of the program, so that none is lost and none is new without a word.
const CASES: &[(&str, &str, Needs)] = &[
    ("hmm", "open_close", Nothing),
    ("hmm", "anon_read", Nothing),
    ("hmm", "anon_read_prot", Nothing),
    ("hmm", "anon_write", Nothing),
    ("hmm", "anon_write_prot", Nothing),
    ("hmm", "anon_write_child", DeviceMemory),
    ("hmm", "anon_write_child_shared", Nothing),
    ("hmm", "anon_write_huge", Nothing),
    ("hmm", "anon_write_hugetlbfs", Nothing),
    ("hmm", "file_read", Nothing),
    ("hmm", "file_write", Nothing),
    ("hmm", "migrate", DeviceMemory),
    ("hmm", "migrate_file_private", DeviceMemory),
    ("hmm", "migrate_fault", DeviceMemory),
    ("hmm", "migrate_release", DeviceMemory),
    ("hmm", "migrate_shared", DeviceMemory),
    ("hmm2", "migrate_mixed", DeviceMemory),
    ("hmm", "migrate_multiple", DeviceMemory),
    ("hmm", "anon_read_multiple", Nothing),
    ("hmm", "anon_teardown", Nothing),
    ("hmm", "mixedmap", Nothing),
    ("hmm2", "snapshot", DeviceMemory),
    ("hmm", "compound", Nothing),
    ("hmm2", "double_map", DeviceMemory),
    ("hmm", "exclusive", ExclusiveAccess),
    ("hmm", "exclusive_mprotect", ExclusiveAccess),
    ("hmm", "exclusive_cow", ExclusiveAccess),
    ("hmm", "hmm_gup_test", DeviceMemory),
    ("hmm", "hmm_cow_in_device", DeviceMemory),
    ("hmm", "migrate_anon_huge_empty", DeviceMemory),
    ("hmm", "migrate_anon_huge_zero", DeviceMemory),
    ("hmm", "migrate_anon_huge_free", DeviceMemory),
    ("hmm", "migrate_anon_huge_fault", DeviceMemory),
    ("hmm", "migrate_partial_unmap_fault", DeviceMemory),
    ("hmm", "migrate_remap_fault", DeviceMemory),
    ("hmm", "migrate_anon_huge_err", DeviceMemory),
    ("hmm", "migrate_anon_huge_zero_err", DeviceMemory),
    ("hmm", "benchmark_thp_migration", DeviceMemory),
    ("hmm", "userfaultfd_read", Nothing),
];

/// The two variants of each case, as the harness names them.
fn name(fixture: &str, kind: &str, case: &str) -> String {
    format!("{fixture}.{fixture}_device_{kind}.{case}")
}

/// The names of the cases that must pass.
fn wanted() -> Vec<String> {
    let wanted = CASES.iter().filter(|(_, _, needs)| *needs == Nothing);
    wanted
        .map(|(fixture, case, _)| name(fixture, "private", case))
        .collect()
}

/// The names of the cases that are skipped, each with its cause.
fn skipped() -> Vec<(String, &'static str)> {
    let private = CASES.iter().filter_map(|(fixture, case, needs)| {
        Some((name(fixture, "private", case), needs.cause()?))
    });
    let coherent = CASES
        .iter()
        .map(|(fixture, case, _)| (name(fixture, "coherent", case), COHERENT));
    private.chain(coherent).collect()
}

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    let kernel = context.kernel(Kind::Debug)?;
    let program = context.builder(&kernel).hmm_tests()?;
    let rust = context.driver(&kernel, Which::Rust)?;
    let machine = exec::plain(&kernel);

    let boots = context.boot(
        &format!("rust-{}", kernel.name),
        &machine,
        rust,
        command(&program, 1, &wanted()),
    )?;
    let results = context.judge("", &boots);
    for missing in wanted().iter().filter(|name| !results.contains(name)) {
        context.fail(missing, "it gave no result".into());
    }
    for (name, cause) in skipped() {
        context
            .cases
            .push(Case::new(name, Verdict::Skip(cause.into())));
    }
    match differs(&listed(&boots.output)) {
        None => context
            .cases
            .push(Case::new("list of cases", Verdict::Pass)),
        Some(difference) => context.fail("list of cases", difference),
    }

    let c = context.driver(&kernel, Which::C)?;
    let of_c = if context.full { private() } else { wanted() };
    let boots = context.boot(
        &format!("c-{}", kernel.name),
        &machine,
        c,
        command(&program, 1, &of_c),
    )?;
    context.beside("", &boots);

    if context.full {
        let kernel = context.kernel(Kind::Release)?;
        let rust = context.driver(&kernel, Which::Rust)?;
        let machine = Machine {
            cpus: 4,
            ..exec::plain(&kernel)
        };
        let boots = context.boot(
            "rust-release",
            &machine,
            rust,
            command(&program, REPETITIONS, &wanted()),
        )?;
        let results = context.judge("release: ", &boots);
        for name in wanted() {
            let times = results.iter().filter(|result| **result == name).count();
            if times != REPETITIONS {
                context.fail(
                    &format!("release: {name}"),
                    format!("{times} results of {REPETITIONS}"),
                );
            }
        }
    }
    Ok(())
}

/// All cases of the private variant.
fn private() -> Vec<String> {
    CASES
        .iter()
        .map(|(fixture, case, _)| name(fixture, "private", case))
        .collect()
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
    let mut known = wanted();
    known.extend(skipped().into_iter().map(|(name, _)| name));
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

    fn list() -> String {
        let mut text = format!("{LIST}{:<20} {:<25} TEST\n", "# FIXTURE", "VARIANT");
        for fixture in ["hmm", "hmm2"] {
            let mut variants = [
                format!("{fixture}_device_private"),
                format!("{fixture}_device_coherent"),
            ]
            .into_iter();
            let cases = CASES.iter().filter(|(of, _, _)| *of == fixture);
            for (row, (_, case, _)) in cases.enumerate() {
                let fixture = if row == 0 { fixture } else { "" };
                let variant = variants.next().unwrap_or_default();
                text += &format!("{LIST}{fixture:<20} {variant:<25} {case}\n");
            }
            text += &format!("{LIST}{}\n", "-".repeat(80));
        }
        text
    }

    #[test]
    fn fifteen_cases_must_pass() {
        assert_eq!(wanted().len(), 15);
        assert!(wanted().contains(&"hmm.hmm_device_private.userfaultfd_read".to_owned()));
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
