// SPDX-License-Identifier: GPL-2.0

//! Device faults while memory changes, on the Rust driver and on C's.
//!
//! Both are measured in one boot, each of them first once, so that neither the machine nor the
//! order makes the difference. What is published are ratios and counts: times would be the host's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use anyhow::{ensure, Context as _, Result};
use comfy_table::Table;

use super::{refuse_skips, Boots, Context};
use crate::exec;
use crate::guest::Turn;
use crate::kernel::Kind;
use crate::ktap::Stream;
use crate::modules::Which::{self, Rust, C};
use crate::report::{self, Case, Verdict};
use crate::vm::Machine;

/// The program, which is built with the selftests and is none of them.
const PROGRAM: &str = "gpu_mirror_storm_bench";
/// Whose turn it is. The pairs are the two orders.
const TURNS: [Which; 4] = [C, Rust, Rust, C];
/// Makes sure that there is swap, then runs the program.
const SCRIPT: &str = r#"if [ "$(wc -l </proc/swaps)" = 1 ]; then
	echo 256M >/sys/block/zram0/disksize && /sbin/mkswap /dev/zram0 && /sbin/swapon /dev/zram0
fi >&2 || exit
exec "$@""#;
/// Milliseconds that each storm is timed, and with `--full` on the release kernel.
const LENGTH: u32 = 1000;
const LONG: u32 = 3000;

/// How often C must read the page tables for a fault for collisions to be what costs it time. Where
/// it reads them once, or waits for a lock, there is nothing to do better.
const COLLIDING: f64 = 1.5;
/// What part of C's time a fault may take then, for the slowest in a hundred.
const P99_GOAL: f64 = 0.5;
/// How much more is let pass on the debug kernel, whose checks take most of the time, measured for a
/// second on a machine that does other things: what is slower than C still fails.
const DEBUG_MARGIN: f64 = 2.0;

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    storm(context, Kind::Debug, 2, LENGTH, DEBUG_MARGIN, "")?;
    if context.full {
        storm(context, Kind::Release, 4, LONG, 1.0, "release: ")?;
    }
    Ok(())
}

/// One boot with all four turns.
fn storm(
    context: &mut Context<'_>,
    kind: Kind,
    cpus: u32,
    length: u32,
    margin: f64,
    prefix: &str,
) -> Result<()> {
    let kernel = context.kernel(kind)?;
    let program = context.builder(&kernel).gpu_mirror_extended(PROGRAM)?;
    let drivers = [context.driver(&kernel, C)?, context.driver(&kernel, Rust)?];
    let turns = TURNS.map(|which| Turn {
        driver: Some(drivers[usize::from(which == Rust)].clone()),
        rdma: None,
        command: command(&program, length),
    });
    let machine = Machine {
        cpus,
        ..exec::plain(&kernel)
    };
    let boots = context.boot_in_turn(&format!("storm-{}", kernel.name), &machine, turns.into())?;
    judge(context, prefix, &boots);
    let storms = compare(&boots.output)?;
    ensure!(!storms.is_empty(), "the program printed no figures");
    println!(
        "\nstorm, {} kernel, {cpus} CPUs: device faults of 16 pages\n{}",
        kernel.name,
        table(&storms)
    );
    if let Some(ratio) = p99(&storms) {
        println!("p99 of the unrelated storms in which C collides, Rust / C: {ratio:.2}");
    }
    let p99 = p99_goal(&storms, margin);
    for (name, goal) in storms.iter().flat_map(goals).chain([p99]) {
        context
            .cases
            .push(Case::new(format!("{prefix}{name}"), goal));
    }
    Ok(())
}

fn command(program: &Path, length: u32) -> Vec<OsString> {
    let mut command: Vec<OsString> = ["sh", "-c", SCRIPT, "sh"].map(Into::into).into();
    command.extend([program.into(), "-t".into(), length.to_string().into()]);
    command
}

/// Judges the data that the devices delivered, C's beside Rust's, and the boot.
fn judge(context: &mut Context<'_>, prefix: &str, boots: &Boots) {
    context.judge_boot(prefix, boots);
    if boots.streams.len() != TURNS.len() {
        context.fail(
            &format!("{prefix}turns"),
            format!("{} of {} printed results", boots.streams.len(), TURNS.len()),
        );
    }
    for (order, pair) in ["C first: ", "Rust first: "]
        .iter()
        .zip(boots.streams.chunks(2).zip(TURNS.chunks(2)))
    {
        let prefix = format!("{prefix}{order}");
        let of = |which| -> Vec<Stream> {
            let turns = pair.0.iter().zip(pair.1);
            turns
                .filter(|(_, turn)| **turn == which)
                .map(|(stream, _)| stream.clone())
                .collect()
        };
        let before = context.cases.len();
        context.judge_results(&prefix, &of(Rust));
        refuse_skips(&mut context.cases[before..], &[]);
        context.results_beside(&prefix, &of(C));
    }
}

/// What one driver did in one storm, over its turns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Figures {
    /// Counts, which add up.
    counts: BTreeMap<String, i64>,
    /// Times in nanoseconds, of the better turn: what disturbs the host only ever adds to them.
    times: BTreeMap<String, i64>,
}

impl Figures {
    fn add(&mut self, name: &str, value: i64) {
        if ["median", "p99", "worst"].contains(&name) {
            let best = self.times.entry(name.into()).or_insert(value);
            *best = value.min(*best);
        } else {
            *self.counts.entry(name.into()).or_default() += value;
        }
    }

    fn count(&self, name: &str) -> i64 {
        self.counts.get(name).copied().unwrap_or_default()
    }

    /// How often the page tables were read for each ioctl that faulted.
    fn reads(&self) -> f64 {
        self.count("calls") as f64 / self.count("counted").max(1) as f64
    }
}

/// One kind of storm, on the pages of the device or on others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Storm {
    name: String,
    c: Figures,
    rust: Figures,
}

impl Storm {
    /// Rust's time in parts of C's.
    fn ratio(&self, time: &str) -> f64 {
        let of = |figures: &Figures| figures.times.get(time).copied().unwrap_or_default() as f64;
        of(&self.rust) / of(&self.c).max(1.0)
    }
}

/// Gathers the figures in the output of all turns.
fn compare(output: &str) -> Result<Vec<Storm>> {
    let mut storms: Vec<Storm> = Vec::new();
    let mut turns = TURNS.iter();
    let mut turn = None;
    for line in output.lines() {
        if line.starts_with("TAP version ") {
            turn = turns.next();
        }
        let Some(figures) = line.strip_prefix("figures: storm=") else {
            continue;
        };
        let which = turn.context("figures before the first turn or after the last one")?;
        let mut words = figures.split(' ');
        let name = words.next().unwrap_or_default();
        let range = words.next().and_then(|word| word.strip_prefix("range="));
        let name = format!("{name}.{}", range.context("a storm has a range")?);
        let at = match storms.iter().position(|storm| storm.name == name) {
            Some(at) => at,
            None => {
                storms.push(Storm {
                    name,
                    ..Storm::default()
                });
                storms.len() - 1
            }
        };
        let of = match which {
            C => &mut storms[at].c,
            Rust => &mut storms[at].rust,
        };
        for word in words {
            let (key, value) = word.split_once('=').context("a figure has a name")?;
            of.add(key, value.parse().with_context(|| line.to_owned())?);
        }
    }
    Ok(storms)
}

fn table(storms: &[Storm]) -> Table {
    let mut table = report::table(&[
        "storm",
        "ioctls that faulted: C",
        "Rust",
        "reads of page tables for each: C",
        "Rust",
        "retries",
        "slow paths",
        "EBUSY: C",
        "Rust",
        "better time of two turns, Rust / C: median",
        "p99",
        "worst",
    ]);
    for storm in storms {
        let both =
            |name| [&storm.c, &storm.rust].map(|figures: &Figures| figures.count(name).to_string());
        let mut row = vec![storm.name.clone()];
        row.extend(both("ioctls"));
        row.extend([&storm.c, &storm.rust].map(|figures| format!("{:.2}", figures.reads())));
        row.extend(["retries", "slow_paths"].map(|name| storm.rust.count(name).to_string()));
        row.extend(both("busy"));
        row.extend(["median", "p99", "worst"].map(|time| format!("{:.2}", storm.ratio(time))));
        table.add_row(row);
    }
    table
}

/// What Rust must do better than C, or as well as can be.
fn goals(storm: &Storm) -> Vec<(String, Verdict)> {
    let Storm { name, rust, .. } = storm;
    let name = name.replace('.', ", ");
    let verdict = |good: bool, cause: String| {
        if good {
            Verdict::Pass
        } else {
            Verdict::Fail(cause)
        }
    };
    let busy = rust.count("busy");
    let mut goals = vec![(
        format!("{name}: no EBUSY"),
        verdict(
            busy == 0,
            format!("{busy} of {} ioctls", rust.count("ioctls")),
        ),
    )];
    if name.ends_with(", same") {
        return goals;
    }
    let (calls, counted) = (rust.count("calls"), rust.count("counted"));
    let collisions = rust.count("retries");
    let once = verdict(
        calls <= counted && collisions == 0,
        format!("{calls} reads of page tables for {counted} ioctls, {collisions} repeated"),
    );
    goals.push((format!("{name}: no fault is repeated"), once));
    goals
}

/// What part of C's time the slowest fault in a hundred takes: the geometric mean over the unrelated
/// storms in which C collides, as one storm alone says more of the host than of the drivers.
fn p99(storms: &[Storm]) -> Option<f64> {
    let ratios: Vec<f64> = storms
        .iter()
        .filter(|storm| storm.name.ends_with(".unrelated") && storm.c.reads() >= COLLIDING)
        .map(|storm| storm.ratio("p99").ln())
        .collect();
    (!ratios.is_empty()).then(|| (ratios.iter().sum::<f64>() / ratios.len() as f64).exp())
}

/// Whether [`p99`] is what it should be.
fn p99_goal(storms: &[Storm], margin: f64) -> (String, Verdict) {
    let verdict = match p99(storms) {
        Some(ratio) if ratio <= P99_GOAL * margin => Verdict::Pass,
        Some(ratio) => Verdict::Fail(format!("it is {ratio:.2} of C's")),
        None => Verdict::Skip(format!(
            "C reads page tables less than {COLLIDING} times per ioctl in every storm"
        )),
    };
    (
        format!("unrelated storms: p99 at most {} of C's", P99_GOAL * margin),
        verdict,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A turn's output: reads of page tables for 10 ioctls, collisions, EBUSY, p99.
    fn turn(reads: i64, collisions: i64, busy: i64, p99: i64) -> String {
        let figures = |range| {
            format!(
                "figures: storm=fork range={range} ioctls=20 faults=20 busy={busy} median=5 p99={p99} \
                 worst={p99} counted=10 calls={reads} retries={collisions} slow_paths=0\n"
            )
        };
        format!(
            "TAP version 13\n1..2\n{}ok 1 fork.same\n{}ok 2 fork.unrelated\n",
            figures("same"),
            figures("unrelated")
        )
    }

    fn verdicts(output: String) -> Vec<(String, Verdict)> {
        compare(&output).unwrap().iter().flat_map(goals).collect()
    }

    fn names_of_failed(output: String) -> Vec<String> {
        verdicts(output)
            .into_iter()
            .filter(|(_, verdict)| matches!(verdict, Verdict::Fail(_)))
            .map(|(name, _)| name)
            .collect()
    }

    #[test]
    fn each_drivers_turns_are_put_together() {
        let output =
            turn(30, 0, 1, 70) + &turn(10, 0, 0, 20) + &turn(12, 3, 0, 30) + &turn(20, 0, 0, 80);
        let storms = compare(&output).unwrap();
        assert_eq!(storms.len(), 2);
        assert_eq!(storms[1].name, "fork.unrelated");
        assert_eq!(storms[1].c.count("ioctls"), 40);
        assert_eq!(storms[1].c.reads(), 2.5);
        assert_eq!(storms[1].rust.reads(), 1.1);
        assert_eq!(storms[1].rust.count("retries"), 3);
        assert_eq!(storms[1].ratio("p99"), 20.0 / 70.0);
    }

    #[test]
    fn a_storm_that_cannot_be_had_fails() {
        let mut cases = [
            Case::new("pageout", Verdict::Skip("no swap".into())),
            Case::new("fork.same", Verdict::Pass),
        ];
        refuse_skips(&mut cases, &[]);
        assert_eq!(
            cases[0].verdict,
            Verdict::Fail("it was skipped: no swap".into())
        );
        assert_eq!(cases[1].verdict, Verdict::Pass);
    }

    #[test]
    fn the_goals_are_met_or_named() {
        let c = || turn(30, 0, 9, 100);
        let with = |rust: String| names_of_failed(c() + &rust + &rust + &c());
        assert_eq!(with(turn(10, 0, 0, 50)), [""; 0]);
        assert_eq!(
            with(turn(10, 0, 1, 50)),
            ["fork, same: no EBUSY", "fork, unrelated: no EBUSY"]
        );
        assert_eq!(
            with(turn(11, 0, 0, 50)),
            ["fork, unrelated: no fault is repeated"]
        );
        assert_eq!(
            with(turn(10, 1, 0, 50)),
            ["fork, unrelated: no fault is repeated"]
        );
    }

    #[test]
    fn the_slowest_are_judged_over_all_storms() {
        let goal = |reads, p99| {
            let (c, rust) = (turn(reads, 0, 0, 100), turn(10, 0, 0, p99));
            p99_goal(&compare(&(c.clone() + &rust + &rust + &c)).unwrap(), 1.0).1
        };
        assert_eq!(goal(30, 50), Verdict::Pass);
        assert_eq!(goal(30, 51), Verdict::Fail("it is 0.51 of C's".into()));
        // Where C does not collide its time is no measure.
        assert!(matches!(goal(11, 50), Verdict::Skip(_)));
    }
}
