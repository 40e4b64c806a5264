// SPDX-License-Identifier: GPL-2.0

//! What the programs printed.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::modules::Which::{self, Rust, C};

/// What a row was measured at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Point {
    /// Whether huge pages, of 2 MiB, map the memory.
    pub(super) huge: bool,
    /// In what the row has sizes of.
    pub(super) size: u64,
}

/// What each row cost each driver per unit, in whatever the guest's clock counts.
///
/// Of several turns the best counts: what disturbs only ever adds. Rows without a driver are the
/// same for both.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    c: BTreeMap<(String, Point), f64>,
    rust: BTreeMap<(String, Point), f64>,
    /// Where C moved wrong data.
    c_wrong: BTreeSet<(String, Point)>,
}

impl Figures {
    /// Gathers what all turns printed.
    pub(super) fn read(output: &str, turns: &[Which]) -> Result<Self> {
        let mut figures = Self::default();
        let mut turns = turns.iter();
        let mut turn = None;
        for line in output.lines() {
            if line.starts_with("TAP version ") {
                turn = turns.next();
            }
            let Some(words) = line.strip_prefix("figures: ") else {
                continue;
            };
            let which = turn.context("figures before the first turn or after the last one")?;
            figures
                .add(*which, words)
                .with_context(|| format!("cannot make sense of: {line}"))?;
        }
        Ok(figures)
    }

    fn add(&mut self, which: Which, words: &str) -> Result<()> {
        let words: BTreeMap<&str, &str> = words
            .split(' ')
            .filter_map(|word| word.split_once('='))
            .collect();
        let text = |name: &str| {
            let word = words.get(name).copied();
            word.with_context(|| format!("no {name}"))
        };
        let number = |name: &str| -> Result<u64> { Ok(text(name)?.parse()?) };

        let point = Point {
            huge: number("huge")? != 0,
            size: number("size")?,
        };
        let key = (text("row")?.to_owned(), point);
        if which == C && words.get("right") == Some(&"0") {
            self.c_wrong.insert(key.clone());
        }
        let cost = number("cost")? as f64 / number("units")?.max(1) as f64;
        let costs = match (number("driver")?, which) {
            (0, _) => vec![&mut self.c, &mut self.rust],
            (_, C) => vec![&mut self.c],
            (_, Rust) => vec![&mut self.rust],
        };
        for costs in costs {
            let best = costs.entry(key.clone()).or_insert(cost);
            *best = best.min(cost);
        }
        Ok(())
    }

    /// What a row cost a driver per unit, if the driver does that.
    pub(super) fn cost(&self, which: Which, row: &str, point: Point) -> Option<f64> {
        let costs = match which {
            C => &self.c,
            Rust => &self.rust,
        };
        costs.get(&(row.to_owned(), point)).copied()
    }

    /// Whether C moved wrong data in a row.
    pub(super) fn c_is_wrong(&self, row: &str, point: Point) -> bool {
        self.c_wrong.contains(&(row.to_owned(), point))
    }

    /// What the row was measured at: small pages first.
    pub(super) fn points(&self, row: &str) -> BTreeSet<Point> {
        let keys = self.c.keys().chain(self.rust.keys());
        keys.filter(|(of, _)| of == row)
            .map(|(_, point)| *point)
            .collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A turn of rows, each with whether it needs a driver and what it costs a page; at each size.
    pub(in crate::bench) fn turn(rows: &[(&str, bool, u64)]) -> String {
        let mut text = String::from("TAP version 13\n1..1\n");
        for (huge, pages) in [(0, 64), (0, 4096), (1, 4096)] {
            for (row, driver, cost) in rows {
                text += &format!(
                    "figures: row={row} driver={} huge={huge} size={pages} units={pages} reps=2 \
                     cost={}\n",
                    u8::from(*driver),
                    cost * pages
                );
            }
        }
        text
    }

    const SMALL: Point = Point {
        huge: false,
        size: 4096,
    };

    #[test]
    fn the_best_of_each_drivers_turns_counts() {
        let rows = |cost| turn(&[("read", true, cost)]);
        let output = rows(30) + &rows(11) + &rows(10) + &rows(40);
        let figures = Figures::read(&output, &[C, Rust, Rust, C]).unwrap();
        assert_eq!(figures.cost(C, "read", SMALL), Some(30.0));
        assert_eq!(figures.cost(Rust, "read", SMALL), Some(10.0));
        assert_eq!(figures.cost(Rust, "write", SMALL), None);
        assert_eq!(figures.points("read").len(), 3);
        assert!(figures.points("write").is_empty());
    }

    #[test]
    fn wrong_data_is_remembered() {
        let line = "figures: row=write driver=1 huge=0 size=4096 units=1 reps=2 cost=9 right=0\n";
        let figures = Figures::read(&format!("TAP version 13\n{line}"), &[C]).unwrap();
        assert!(figures.c_is_wrong("write", SMALL) && !figures.c_is_wrong("read", SMALL));
        let ours = Figures::read(&format!("TAP version 13\n{line}"), &[Rust]).unwrap();
        assert!(!ours.c_is_wrong("write", SMALL));
    }

    #[test]
    fn what_needs_no_driver_is_shared() {
        let output = turn(&[("copy", false, 5)]) + &turn(&[("copy", false, 4)]);
        let figures = Figures::read(&output, &[C, Rust]).unwrap();
        assert_eq!(figures.cost(C, "copy", SMALL), Some(4.0));
        assert_eq!(figures.cost(Rust, "copy", SMALL), Some(4.0));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let read = |text: &str| Figures::read(text, &[C]);
        assert!(read("figures: row=read\n").is_err());
        assert!(read("TAP version 13\nfigures: row=read huge=0\n").is_err());
        assert!(read(&(turn(&[]) + &turn(&[("read", true, 1)]))).is_err());
    }
}
