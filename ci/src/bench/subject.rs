// SPDX-License-Identifier: GPL-2.0

//! What a benchmark is about: its operations, its goals, and the words of its report.

use super::report::Setting;

/// Which of C's and of ours are measured, how, and what there is to reach.
pub(super) struct Subject {
    /// The operations, in the order of the report.
    pub(super) operations: &'static [Operation],
    /// What there is to reach.
    pub(super) aims: &'static [Aim],
    /// Whether no operation may be worse than C's, at any size.
    pub(super) no_worse: bool,
    /// What made the report.
    pub(super) command: &'static str,
    pub(super) title: &'static str,
    /// How it was measured.
    pub(super) method: fn(&Setting) -> String,
    /// What the goals are for.
    pub(super) goals: &'static str,
    /// What the floor is.
    pub(super) floor: &'static str,
    /// What the column of sizes is called.
    pub(super) sizes: &'static str,
    pub(super) picture: Picture,
}

/// The words of the picture.
pub(super) struct Picture {
    /// Above the distances.
    pub(super) distances: &'static str,
    /// Which sizes are small and which large.
    pub(super) sizes: &'static str,
    /// At which sizes the distances are.
    pub(super) main: &'static str,
}

/// An operation, and what it cannot do without.
pub(super) struct Operation {
    pub(super) name: &'static str,
    pub(super) row: &'static str,
    /// The row of its floor.
    pub(super) floor: Option<&'static str>,
    /// What its floor is, or it is.
    pub(super) about: Option<&'static str>,
    /// How its size is written.
    pub(super) size: fn(u64) -> String,
    /// The size that stands for all in the picture.
    pub(super) main: u64,
}

/// What there is to reach, in instructions per unit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    Cost(f64),
    PartOfC(f64),
    /// So many times what it costs us at another size.
    Times(f64, u64),
}

/// A goal, for an operation at a size.
#[derive(Clone, Copy, Debug)]
pub(super) struct Aim {
    pub(super) operation: &'static str,
    pub(super) over_floor: bool,
    pub(super) size: u64,
    /// For small pages, and for huge ones.
    pub(super) limits: [Option<Limit>; 2],
}
