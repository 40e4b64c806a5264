// SPDX-License-Identifier: GPL-2.0

//! The drivers beside each other, beside the floor, and beside the goals.

use serde::Serialize;

use crate::modules::Which::{Rust, C};

use super::figures::{Figures, Size};

/// The pages at which the goals are judged.
pub(super) const GOAL_PAGES: u64 = 4096;

/// An operation of the mirror, and what it cannot do without.
struct Operation {
    name: &'static str,
    row: &'static str,
    /// The row of its floor, and what that is.
    floor: Option<(&'static str, &'static str)>,
}

const COLD: &str = "cold fault";
const WARM_READ: &str = "warm read";
const SNAPSHOT: &str = "snapshot";
const MPROTECT: &str = "mprotect";
const UNRELATED: &str = "mprotect elsewhere";
const MUNMAP: &str = "munmap";
const TO_DEVICE: &str = "migrate to the device";
const TO_SYSTEM: &str = "migrate back";
const FAULT_BACK: &str = "migrate back by CPU fault";

const OPERATIONS: &[Operation] = &[
    Operation {
        name: COLD,
        row: "read_cold",
        floor: Some((
            "read_warm",
            "the driver's own warm read, that is, over the copy",
        )),
    },
    Operation {
        name: WARM_READ,
        row: "read_warm",
        floor: Some(("copy", "one copy by the processor's string instruction")),
    },
    Operation {
        name: "warm write",
        row: "write_warm",
        floor: Some(("copy", "one copy by the processor's string instruction")),
    },
    Operation {
        name: "device fault on untouched memory",
        row: "fault",
        floor: Some((
            "write_warm",
            "the driver's own warm write, that is, over the copy; to clear a page is 4096",
        )),
    },
    Operation {
        name: SNAPSHOT,
        row: "snapshot",
        floor: Some(("mincore", "`mincore()`, which tells less")),
    },
    Operation {
        name: MPROTECT,
        row: "mprotect",
        floor: Some(("mprotect_bare", "the same without a mirror")),
    },
    Operation {
        name: UNRELATED,
        row: "mprotect_unrelated",
        floor: Some((
            "mprotect_bare",
            "the same without a mirror; the device has other memory of the process, never this",
        )),
    },
    Operation {
        name: MUNMAP,
        row: "munmap",
        floor: Some(("munmap_bare", "the same without a mirror")),
    },
    Operation {
        name: TO_DEVICE,
        row: "to_device",
        floor: None,
    },
    Operation {
        name: TO_SYSTEM,
        row: "to_system",
        floor: None,
    },
    Operation {
        name: FAULT_BACK,
        row: "fault_back",
        floor: None,
    },
];

/// The names of the operations that have a floor, with what it is.
pub(super) fn floors() -> impl Iterator<Item = (&'static str, &'static str)> {
    OPERATIONS
        .iter()
        .filter_map(|operation| Some((operation.name, operation.floor?.1)))
}

/// Both drivers' figures, where they have them.
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
    pub(super) size: Size,
    /// Instructions per 4 KiB.
    pub(super) cost: Pair,
    /// The same over the floor, where there is one.
    pub(super) over_floor: Pair,
    /// The time that C takes in parts of Rust's.
    pub(super) time_ratio: Option<f64>,
}

/// What there is to reach, in instructions per 4 KiB.
#[derive(Clone, Copy, Debug)]
enum Limit {
    Cost(f64),
    PartOfC(f64),
}

struct Aim {
    operation: &'static str,
    over_floor: bool,
    /// For small pages, and for huge ones.
    limits: [Limit; 2],
}

const fn aim(operation: &'static str, over_floor: bool, limits: [Limit; 2]) -> Aim {
    Aim {
        operation,
        over_floor,
        limits,
    }
}

const AIMS: &[Aim] = &[
    aim(COLD, true, [Limit::Cost(200.0), Limit::Cost(120.0)]),
    aim(MPROTECT, true, [Limit::Cost(40.0), Limit::Cost(2.0)]),
    aim(MUNMAP, true, [Limit::Cost(40.0), Limit::Cost(2.0)]),
    aim(WARM_READ, false, [Limit::Cost(4500.0); 2]),
    aim(SNAPSHOT, false, [Limit::PartOfC(1.0); 2]),
    aim(TO_DEVICE, false, [Limit::PartOfC(0.8); 2]),
    aim(TO_SYSTEM, false, [Limit::PartOfC(0.9); 2]),
    aim(FAULT_BACK, false, [Limit::PartOfC(0.9); 2]),
    aim(UNRELATED, true, [Limit::PartOfC(1.0); 2]),
];

/// A goal and what became of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Goal {
    pub(super) operation: &'static str,
    pub(super) huge: bool,
    /// Whether it is about what comes on top of the floor.
    pub(super) over_floor: bool,
    pub(super) at_most: Option<f64>,
    pub(super) figure: Pair,
    /// Rust's figures at the other sizes, which no goal is about.
    pub(super) elsewhere: Vec<(u64, Option<f64>)>,
    /// `None` without a figure.
    pub(super) met: Option<bool>,
}

/// All there is to say.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Comparison {
    pub(super) goals: Vec<Goal>,
    pub(super) lines: Vec<Line>,
}

impl Comparison {
    /// Of instructions, and of time.
    pub(super) fn new(counted: &Figures, timed: &Figures) -> Self {
        let sizes = counted.sizes();
        let lines: Vec<Line> = OPERATIONS
            .iter()
            .flat_map(|operation| sizes.iter().map(move |size| (operation, *size)))
            .map(|(operation, size)| line(operation, size, counted, timed))
            .collect();
        Self {
            goals: goals(&lines),
            lines,
        }
    }

    /// The lines of each operation.
    pub(super) fn operations(&self) -> impl Iterator<Item = &[Line]> {
        self.lines.chunk_by(|a, b| a.operation == b.operation)
    }
}

fn line(operation: &Operation, size: Size, counted: &Figures, timed: &Figures) -> Line {
    let pair = |figures: &Figures, row| {
        Pair::new(figures.cost(C, row, size), figures.cost(Rust, row, size))
    };
    let cost = pair(counted, operation.row);
    Line {
        operation: operation.name,
        size,
        cost,
        over_floor: operation.floor.map_or(Pair::default(), |(floor, _)| {
            cost.over(pair(counted, floor))
        }),
        time_ratio: pair(timed, operation.row).ratio,
    }
}

fn goals(lines: &[Line]) -> Vec<Goal> {
    let goal = |aim: &Aim, huge: bool| {
        let of_aim = |line: &&Line| line.operation == aim.operation && line.size.huge == huge;
        let figure = |line: &Line| match aim.over_floor {
            true => line.over_floor,
            false => line.cost,
        };
        let at_goal = |line: &&Line| line.size.pages == GOAL_PAGES;
        let (judged, others): (Vec<&Line>, Vec<&Line>) =
            lines.iter().filter(of_aim).partition(at_goal);
        let judged = judged.first().map_or(Pair::default(), |line| figure(line));
        let at_most = match aim.limits[usize::from(huge)] {
            Limit::Cost(cost) => Some(cost),
            Limit::PartOfC(part) => judged.c.map(|c| part * c),
        };
        Goal {
            operation: aim.operation,
            huge,
            over_floor: aim.over_floor,
            at_most,
            figure: judged,
            elsewhere: others
                .iter()
                .map(|line| (line.size.pages, figure(line).rust))
                .collect(),
            met: judged.rust.zip(at_most).map(|(rust, most)| rust <= most),
        }
    };
    AIMS.iter()
        .flat_map(|aim| [false, true].map(|huge| goal(aim, huge)))
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::figures::tests::turn;
    use super::*;

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
        Comparison::new(&figures(230), &figures(330))
    }

    fn at(comparison: &Comparison, operation: &str) -> Line {
        let mut lines = comparison.lines.iter();
        let line = lines.find(|line| line.operation == operation && line.size.pages == GOAL_PAGES);
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
            let of = |goal: &&Goal| goal.operation == operation && goal.huge == huge;
            goals.iter().find(of).unwrap().met
        };
        assert_eq!(met(MPROTECT, false), Some(true));
        assert_eq!(met(MPROTECT, true), Some(false));
        assert_eq!(met(SNAPSHOT, false), Some(false));
        assert_eq!(met(TO_DEVICE, false), None);
        assert_eq!(met(COLD, false), None);
    }

    #[test]
    fn other_sizes_are_shown() {
        let goals = comparison().goals;
        let small = goals.iter().find(|goal| goal.operation == MPROTECT);
        assert_eq!(small.unwrap().elsewhere, [(64, Some(40.0))]);
    }
}
