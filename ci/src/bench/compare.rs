// SPDX-License-Identifier: GPL-2.0

//! C and Rust beside each other, beside the floor, and beside the goals.

use serde::Serialize;

use crate::modules::Which::{Rust, C};

use super::figures::{Figures, Point};
use super::subject::{Aim, Limit, Operation, Subject};

/// From here on two figures are not the same: two runs agree better than that.
const SAME: f64 = 0.005;

/// Both figures, where there are any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Pair {
    pub(super) c: Option<f64>,
    pub(super) rust: Option<f64>,
    /// C's in parts of Rust's.
    pub(super) ratio: Option<f64>,
}

impl Pair {
    fn new(c: Option<f64>, rust: Option<f64>) -> Self {
        let ratio = c.zip(rust).filter(|(_, rust)| *rust > 0.0);
        Self {
            c,
            rust,
            ratio: ratio.map(|(c, rust)| c / rust),
        }
    }

    /// What is left of `self` without `floor`.
    fn over(self, floor: Self) -> Self {
        let over = |all: Option<f64>, floor: Option<f64>| Some(all? - floor?);
        Self::new(over(self.c, floor.c), over(self.rust, floor.rust))
    }
}

/// One operation at one size.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    pub(super) operation: &'static str,
    #[serde(flatten)]
    pub(super) point: Point,
    /// Instructions per unit.
    pub(super) cost: Pair,
    /// Whether C moves wrong data.
    #[serde(skip_serializing_if = "is_right")]
    pub(super) c_is_wrong: bool,
    /// The same over the floor, where there is one.
    pub(super) over_floor: Pair,
    /// The time that C takes in parts of Rust's.
    pub(super) time_ratio: Option<f64>,
}

fn is_right(c_is_wrong: &bool) -> bool {
    !c_is_wrong
}

impl Line {
    fn is_worse(&self) -> bool {
        let both = self.cost.c.zip(self.cost.rust);
        both.is_some_and(|(c, rust)| rust > c * (1.0 + SAME))
    }
}

/// A goal and what became of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Goal {
    pub(super) operation: &'static str,
    #[serde(flatten)]
    pub(super) point: Point,
    /// Whether it is about what comes on top of the floor.
    pub(super) over_floor: bool,
    pub(super) at_most: Option<f64>,
    pub(super) figure: Pair,
    /// Rust's figures at the other sizes, which no goal is about.
    pub(super) elsewhere: Vec<(u64, Option<f64>)>,
    /// `None` without a figure.
    pub(super) met: Option<bool>,
}

/// What an operation costs at its largest size in parts of what it costs at its smallest.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Growth {
    pub(super) operation: &'static str,
    /// Whether it is about what comes on top of the floor.
    pub(super) over_floor: bool,
    pub(super) sizes: [u64; 2],
    pub(super) c: Option<f64>,
    pub(super) rust: Option<f64>,
}

/// All there is to say.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) goals: Vec<Goal>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) growth: Vec<Growth>,
    pub(super) lines: Vec<Line>,
}

impl Comparison {
    /// Of instructions, and of time.
    pub(super) fn new(subject: &Subject, counted: &Figures, timed: Option<&Figures>) -> Self {
        let lines = subject.operations.iter().flat_map(|operation| {
            let points = counted.points(operation.row).into_iter();
            points.map(|point| line(operation, point, counted, timed))
        });
        let lines: Vec<Line> = lines.collect();
        Self {
            goals: goals(subject.aims, &lines),
            growth: growth(subject.aims, &lines),
            lines,
        }
    }

    /// The lines of each operation.
    pub(super) fn operations(&self) -> impl Iterator<Item = &[Line]> {
        self.lines.chunk_by(|a, b| a.operation == b.operation)
    }

    /// Where C moves wrong data.
    pub(super) fn wrong(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.c_is_wrong)
    }

    /// What costs more than in C.
    pub(super) fn worse(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.is_worse())
    }
}

fn line(operation: &Operation, point: Point, counted: &Figures, timed: Option<&Figures>) -> Line {
    let pair = |figures: &Figures, row| {
        Pair::new(figures.cost(C, row, point), figures.cost(Rust, row, point))
    };
    let cost = pair(counted, operation.row);
    Line {
        operation: operation.name,
        point,
        cost,
        c_is_wrong: counted.c_is_wrong(operation.row, point),
        over_floor: operation
            .floor
            .map_or(Pair::default(), |floor| cost.over(pair(counted, floor))),
        time_ratio: timed.and_then(|timed| pair(timed, operation.row).ratio),
    }
}

fn goals(aims: &[Aim], lines: &[Line]) -> Vec<Goal> {
    let goal = |aim: &Aim, huge: bool| {
        let limit = aim.limits[usize::from(huge)]?;
        let figure = |line: &Line| match aim.over_floor {
            true => line.over_floor,
            false => line.cost,
        };
        let of_aim = |line: &&Line| line.operation == aim.operation && line.point.huge == huge;
        let at = |size: u64| {
            let mut lines = lines.iter().filter(of_aim);
            let line = lines.find(|line| line.point.size == size);
            line.map_or(Pair::default(), figure)
        };
        let judged = at(aim.size);
        let at_most = match limit {
            Limit::Cost(cost) => Some(cost),
            Limit::PartOfC(part) => judged.c.map(|c| part * c),
            Limit::Times(times, size) => at(size).rust.map(|rust| times * rust),
        };
        let is_judged = |size| {
            let mut of = aims.iter().filter(|other| other.operation == aim.operation);
            of.any(|other| other.size == size)
        };
        let others = lines
            .iter()
            .filter(of_aim)
            .filter(|line| !is_judged(line.point.size));
        Some(Goal {
            operation: aim.operation,
            point: Point {
                huge,
                size: aim.size,
            },
            over_floor: aim.over_floor,
            at_most,
            figure: judged,
            elsewhere: others
                .map(|line| (line.point.size, figure(line).rust))
                .collect(),
            met: judged.rust.zip(at_most).map(|(rust, most)| rust <= most),
        })
    };
    let goals = aims
        .iter()
        .flat_map(|aim| [false, true].map(|huge| goal(aim, huge)));
    goals.flatten().collect()
}

fn growth(aims: &[Aim], lines: &[Line]) -> Vec<Growth> {
    let of_aim = |aim: &Aim| {
        let Limit::Times(_, from) = aim.limits[0]? else {
            return None;
        };
        let at = |size: u64| {
            let mut lines = lines.iter();
            let line = lines.find(|line| {
                line.operation == aim.operation && line.point == Point { huge: false, size }
            });
            line.map(|line| match aim.over_floor {
                true => line.over_floor,
                false => line.cost,
            })
        };
        let (few, many) = (at(from)?, at(aim.size)?);
        let ratio = |few: Option<f64>, many: Option<f64>| Pair::new(many, few).ratio;
        Some(Growth {
            operation: aim.operation,
            over_floor: aim.over_floor,
            sizes: [from, aim.size],
            c: ratio(few.c, many.c),
            rust: ratio(few.rust, many.rust),
        })
    };
    aims.iter().filter_map(of_aim).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::figures::tests::turn;
    use super::super::gpu;
    use super::*;

    const MPROTECT: &str = "mprotect";
    const SNAPSHOT: &str = "snapshot";
    const TO_DEVICE: &str = "migrate to the device";

    /// C and Rust on some rows; Rust cannot migrate.
    pub(in crate::bench) fn comparison() -> Comparison {
        let figures = |rust_protects| {
            let c = turn(&[
                ("mprotect_bare", false, 190),
                ("mprotect", true, 990),
                ("snapshot", true, 180),
                ("to_device", true, 10_000),
            ]);
            let rust = turn(&[
                ("mprotect_bare", false, 191),
                ("mprotect", true, rust_protects),
                ("snapshot", true, 181),
            ]);
            Figures::read(&(c + &rust), &[C, Rust]).unwrap()
        };
        Comparison::new(&gpu::SUBJECT, &figures(230), Some(&figures(330)))
    }

    fn at(comparison: &Comparison, operation: &str) -> Line {
        let mut lines = comparison.lines.iter();
        let line = lines.find(|line| line.operation == operation && line.point.size == 4096);
        line.unwrap().clone()
    }

    #[test]
    fn the_floor_is_taken_away() {
        let line = at(&comparison(), MPROTECT);
        assert_eq!(line.cost.ratio, Some(990.0 / 230.0));
        assert_eq!(line.over_floor.c, Some(800.0));
        assert_eq!(line.over_floor.rust, Some(40.0));
        assert_eq!(line.over_floor.ratio, Some(20.0));
        assert_eq!(line.time_ratio, Some(3.0));
    }

    #[test]
    fn what_a_driver_lacks_has_no_figure() {
        let line = at(&comparison(), TO_DEVICE);
        assert_eq!(line.cost.c, Some(10_000.0));
        assert_eq!(line.cost.rust, None);
        assert_eq!(line.cost.ratio, None);
        assert_eq!(line.over_floor, Pair::default());
    }

    #[test]
    fn goals_are_met_or_missed_or_open() {
        let goals = comparison().goals;
        let met = |operation, huge| {
            let of = |goal: &&Goal| goal.operation == operation && goal.point.huge == huge;
            goals.iter().find(of).unwrap().met
        };
        assert_eq!(met(MPROTECT, false), Some(true));
        assert_eq!(met(MPROTECT, true), Some(false));
        assert_eq!(met(SNAPSHOT, false), Some(false));
        assert_eq!(met(TO_DEVICE, false), None);
        assert_eq!(met("cold fault", false), None);
    }

    #[test]
    fn other_sizes_are_shown() {
        let goals = comparison().goals;
        let small = goals.iter().find(|goal| goal.operation == MPROTECT);
        assert_eq!(small.unwrap().elsewhere, [(64, Some(40.0))]);
    }

    #[test]
    fn what_costs_more_than_in_c_stands_out() {
        let comparison = comparison();
        let worse: Vec<&str> = comparison.worse().map(|line| line.operation).collect();
        assert_eq!(worse, [SNAPSHOT; 3]);
    }

    #[test]
    fn growth_is_judged_by_what_it_grows_from() {
        let line = |size, c, rust| Line {
            operation: "register",
            point: Point { huge: false, size },
            cost: Pair::new(Some(c), Some(rust)),
            c_is_wrong: false,
            over_floor: Pair::default(),
            time_ratio: None,
        };
        let aim = Aim {
            operation: "register",
            over_floor: false,
            size: 100,
            limits: [Some(Limit::Times(1.5, 1)), None],
        };
        let lines = [line(1, 10.0, 10.0), line(100, 20.0, 14.0)];
        let goals = goals(&[aim], &lines);
        assert_eq!(goals.len(), 1);
        assert_eq!((goals[0].at_most, goals[0].met), (Some(15.0), Some(true)));
        let growth = growth(&[aim], &lines);
        assert_eq!((growth[0].c, growth[0].rust), (Some(2.0), Some(1.4)));
    }
}
