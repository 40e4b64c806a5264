// SPDX-License-Identifier: GPL-2.0

//! Device faults while memory changes, on the Rust driver and, with `--full`, on C's.
//!
//! Both are measured in one boot, each of them first once, so that neither the machine nor the
//! order makes the difference. What is published are ratios and counts: times would be the host's.
//! What Rust must do whatever C does is judged without C as well.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use anyhow::{ensure, Context as _, Result};
use comfy_table::Table;

use super::{refuse_skips, unloaded, Boots, Context};
use crate::exec;
use crate::guest::Turn;
use crate::kernel::Kind;
use crate::ktap::Stream;
use crate::modules::Which::{self, Rust, C};
use crate::report::{self, Case, Verdict};
use crate::vm::Machine;

/// The program, which is built with the selftests and is none of them.
const PROGRAM: &str = "gpu_mirror_storm_bench";
/// Whose turn it is, without C and to compare. The pairs are the two orders.
const ALONE: &[Which] = &[Rust];
const TURNS: &[Which] = &[C, Rust, Rust, C];
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
    if !context.full {
        return storm(context, Kind::Debug, 2, LENGTH, ALONE, DEBUG_MARGIN, "");
    }
    storm(context, Kind::Debug, 2, LENGTH, TURNS, DEBUG_MARGIN, "")?;
    storm(context, Kind::Release, 4, LONG, TURNS, 1.0, "release: ")
}

/// One boot with all turns.
fn storm(
    context: &mut Context<'_>,
    kind: Kind,
    cpus: u32,
    length: u32,
    turns: &[Which],
    margin: f64,
    prefix: &str,
) -> Result<()> {
    let kernel = context.kernel(kind)?;
    let program = context.builder(&kernel).gpu_mirror_extended(PROGRAM)?;
    let programs = turns.iter().map(|which| {
        Ok(Turn {
            driver: Some(context.driver(&kernel, *which)?),
            rdma: None,
            command: command(&program, length),
        })
    });
    let mut programs = programs.collect::<Result<Vec<Turn>>>()?;
    programs.push(unloaded());
    let machine = Machine {
        cpus,
        ..exec::plain(&kernel)
    };
    let boots = context.boot_in_turn(&format!("storm-{}", kernel.name), &machine, programs)?;
    judge(context, prefix, &boots, turns);
    let storms = gather(&boots.output, turns)?;
    ensure!(!storms.is_empty(), "the program printed no figures");
    let is_compared = turns.contains(&C);
    println!(
        "\nstorm, {} kernel, {cpus} CPUs: device faults of 16 pages\n{}",
        kernel.name,
        match is_compared {
            true => table(&storms),
            false => table_alone(&storms),
        }
    );
    if let Some(ratio) = p99(&storms) {
        println!("p99 of the unrelated storms in which C collides, Rust / C: {ratio:.2}");
    }
    let mut goals: Vec<(String, Verdict)> = storms.iter().flat_map(goals).collect();
    if is_compared {
        goals.push(p99_goal(&storms, margin));
    }
    for (name, goal) in goals {
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
fn judge(context: &mut Context<'_>, prefix: &str, boots: &Boots, turns: &[Which]) {
    context.judge_boot(prefix, boots);
    if boots.streams.len() != turns.len() {
        context.fail(
            &format!("{prefix}turns"),
            format!("{} of {} printed results", boots.streams.len(), turns.len()),
        );
    }
    for (order, streams, turns) in orders(&boots.streams, turns) {
        let prefix = format!("{prefix}{order}");
        let of = |which| -> Vec<Stream> {
            let turns = streams.iter().zip(turns);
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

/// What was printed, by the order of the drivers: what the names of the cases start with, the
/// streams and whose they are. A turn that did not come has no stream.
fn orders<'a>(
    streams: &'a [Stream],
    turns: &'a [Which],
) -> Vec<(&'static str, &'a [Stream], &'a [Which])> {
    let of = |from: usize, to: usize| &streams[from.min(streams.len())..to.min(streams.len())];
    match turns {
        [_] => vec![("", of(0, 1), turns)],
        _ => vec![
            ("C first: ", of(0, 2), &turns[..2]),
            ("Rust first: ", of(2, 4), &turns[2..]),
        ],
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
fn gather(output: &str, turns: &[Which]) -> Result<Vec<Storm>> {
    let mut storms: Vec<Storm> = Vec::new();
    let mut turns = turns.iter();
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

/// The same of Rust alone. Its times say nothing by themselves.
fn table_alone(storms: &[Storm]) -> Table {
    let mut table = report::table(&[
        "storm",
        "ioctls that faulted",
        "reads of page tables for each",
        "retries",
        "slow paths",
        "EBUSY",
    ]);
    for Storm { name, rust, .. } in storms {
        let mut row = vec![
            name.clone(),
            rust.count("ioctls").to_string(),
            format!("{:.2}", rust.reads()),
        ];
        row.extend(["retries", "slow_paths", "busy"].map(|name| rust.count(name).to_string()));
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
        let storms = gather(&output, TURNS).unwrap();
        storms.iter().flat_map(goals).collect()
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
        let storms = gather(&output, TURNS).unwrap();
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
    fn without_c_one_turn_is_rusts() {
        let of = |output: &str| {
            let storms = gather(output, ALONE).unwrap();
            assert_eq!(storms[1].c, Figures::default());
            let verdicts: Vec<_> = storms.iter().flat_map(goals).collect();
            verdicts
        };
        let good = of(&turn(10, 0, 0, 50));
        assert_eq!(
            good,
            [
                ("fork, same: no EBUSY".to_owned(), Verdict::Pass),
                ("fork, unrelated: no EBUSY".to_owned(), Verdict::Pass),
                (
                    "fork, unrelated: no fault is repeated".to_owned(),
                    Verdict::Pass
                ),
            ]
        );
        let bad = of(&turn(11, 0, 1, 50));
        assert!(bad
            .iter()
            .all(|(_, verdict)| matches!(verdict, Verdict::Fail(_))));
        assert!(gather(&(turn(10, 0, 0, 50) + &turn(10, 0, 0, 50)), ALONE).is_err());
    }

    #[test]
    fn a_turn_that_did_not_come_has_no_results() {
        let streams =
            crate::ktap::parse(&(turn(1, 0, 0, 1) + &turn(2, 0, 0, 1) + &turn(3, 0, 0, 1)));
        let prefixes = |streams, turns| -> Vec<(&str, usize)> {
            let orders = orders(streams, turns).into_iter();
            orders.map(|(prefix, of, _)| (prefix, of.len())).collect()
        };
        assert_eq!(prefixes(&streams[..1], ALONE), [("", 1)]);
        assert_eq!(prefixes(&[], ALONE), [("", 0)]);
        assert_eq!(
            prefixes(&streams, TURNS),
            [("C first: ", 2), ("Rust first: ", 1)]
        );
        assert_eq!(
            prefixes(&streams[..1], TURNS),
            [("C first: ", 1), ("Rust first: ", 0)]
        );
    }

    #[test]
    fn the_slowest_are_judged_over_all_storms() {
        let goal = |reads, p99| {
            let (c, rust) = (turn(reads, 0, 0, 100), turn(10, 0, 0, p99));
            let output = c.clone() + &rust + &rust + &c;
            p99_goal(&gather(&output, TURNS).unwrap(), 1.0).1
        };
        assert_eq!(goal(30, 50), Verdict::Pass);
        assert_eq!(goal(30, 51), Verdict::Fail("it is 0.51 of C's".into()));
        // Where C does not collide its time is no measure.
        assert!(matches!(goal(11, 50), Verdict::Skip(_)));
    }
}
