// SPDX-License-Identifier: GPL-2.0

//! The comparison as tables, as a page and as JSON.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};
use comfy_table::Table;
use serde::Serialize;

use crate::kernel::Kernel;
use crate::report::table;

use super::compare::{Comparison, Goal, Line};
use super::subject::Subject;

/// Where there is no figure.
const NONE: &str = "–";

/// What was measured on.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Setting {
    /// Which Linux.
    pub(super) kernel: String,
    /// What ran the guest when time was measured.
    pub(super) clock: &'static str,
}

impl Setting {
    pub(super) fn new(kernel: &Kernel, clock: &'static str) -> Result<Self> {
        let path = kernel.build.join("include/config/kernel.release");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self {
            kernel: text.trim().to_owned(),
            clock,
        })
    }
}

/// The goals, and everything.
pub(super) fn tables(subject: &Subject, comparison: &Comparison) -> String {
    format!(
        "Instructions\n{}\n{}\n{}",
        goals(subject, comparison),
        remarks(subject, comparison),
        everything(subject, comparison)
    )
}

/// The goals, and what became of each.
fn goals(subject: &Subject, comparison: &Comparison) -> Table {
    let elsewhere = |goal: &Goal| -> Vec<String> {
        let figures = goal.elsewhere.iter();
        figures
            .map(|(size, rust)| {
                let size = written(subject, goal.operation, *size);
                format!("{size}: {}", number(*rust))
            })
            .collect()
    };
    let mut table = table(&[
        "goal",
        "mapped by",
        subject.sizes,
        "C",
        "Rust",
        "at most",
        "met",
        "Rust elsewhere",
    ]);
    for goal in &comparison.goals {
        table.add_row([
            named(goal.operation, goal.over_floor),
            mapping(goal.point.huge).into(),
            written(subject, goal.operation, goal.point.size),
            number(goal.figure.c),
            number(goal.figure.rust),
            number(goal.at_most),
            match goal.met {
                Some(true) => "yes",
                Some(false) => "NO",
                None => NONE,
            }
            .into(),
            elsewhere(goal).join(", "),
        ]);
    }
    table
}

/// What a figure is of.
fn named(operation: &str, over_floor: bool) -> String {
    match over_floor {
        true => format!("{operation}, over its floor"),
        false => operation.to_owned(),
    }
}

/// How the operations grow, and which are worse than C's.
fn remarks(subject: &Subject, comparison: &Comparison) -> String {
    let mut text = String::new();
    if !comparison.growth.is_empty() {
        text += "\nHow many times the cost grows:\n\n";
    }
    for growth in &comparison.growth {
        let [from, to] = growth
            .sizes
            .map(|size| written(subject, growth.operation, size));
        let _ = writeln!(
            text,
            "- {}, {from} to {to}: C {}, Rust {}",
            named(growth.operation, growth.over_floor),
            ratio(growth.c),
            ratio(growth.rust)
        );
    }
    if subject.no_worse {
        let worse: Vec<String> = comparison
            .worse()
            .map(|line| {
                let ratio = ratio(line.cost.ratio);
                format!("{}, C ÷ Rust is {ratio}", place(subject, line))
            })
            .collect();
        let worse = worse.join("; ");
        let _ = match worse.as_str() {
            "" => writeln!(text, "\nNo operation is worse than C's."),
            worse => writeln!(text, "\nWorse than C's: {worse}."),
        };
    }
    let wrong: Vec<String> = comparison
        .wrong()
        .map(|line| place(subject, line))
        .collect();
    if !wrong.is_empty() {
        let _ = writeln!(
            text,
            "\nC moves wrong data, and its figure is for that: {}.",
            wrong.join("; ")
        );
    }
    text
}

/// An operation at a size.
fn place(subject: &Subject, line: &Line) -> String {
    let size = written(subject, line.operation, line.point.size);
    let by = mapping(line.point.huge);
    format!("{} ({size}, {by})", line.operation)
}

fn everything(subject: &Subject, comparison: &Comparison) -> Table {
    let has_times = comparison
        .lines
        .iter()
        .any(|line| line.time_ratio.is_some());
    let mut headings = vec![
        "operation",
        "mapped by",
        subject.sizes,
        "C",
        "Rust",
        "C ÷ Rust",
        "over the floor: C",
        "Rust",
        "C ÷ Rust",
    ];
    if has_times {
        headings.push("time: C ÷ Rust");
    }
    let mut table = table(&headings);
    for line in &comparison.lines {
        let (cost, over) = (line.cost, line.over_floor);
        let mut row = vec![
            line.operation.to_owned(),
            mapping(line.point.huge).into(),
            written(subject, line.operation, line.point.size),
            number(cost.c),
            number(cost.rust),
            ratio(cost.ratio),
            number(over.c),
            number(over.rust),
            ratio(over.ratio),
        ];
        if has_times {
            row.push(ratio(line.time_ratio));
        }
        table.add_row(row);
    }
    table
}

/// A size, as those of the operation are written.
fn written(subject: &Subject, operation: &str, size: u64) -> String {
    let mut operations = subject.operations.iter();
    let operation = operations.find(|of| of.name == operation);
    operation.map_or_else(|| size.to_string(), |operation| (operation.size)(size))
}

fn mapping(huge: bool) -> &'static str {
    if huge {
        "2 MiB"
    } else {
        "4 KiB"
    }
}

/// Instructions: as many digits as two runs agree on.
fn number(figure: Option<f64>) -> String {
    match figure {
        None => NONE.into(),
        Some(figure) if figure.abs() < 0.05 => "0".into(),
        Some(figure) if figure.abs() < 100.0 => format!("{figure:.1}"),
        Some(figure) => format!("{figure:.0}"),
    }
}

fn ratio(figure: Option<f64>) -> String {
    figure.map_or_else(|| NONE.into(), |figure| format!("{figure:.2}"))
}

/// The page that is kept in the driver's directory.
pub(super) fn markdown(subject: &Subject, setting: &Setting, comparison: &Comparison) -> String {
    let mut list = String::new();
    for operation in subject.operations {
        if let Some(about) = operation.about {
            let _ = writeln!(list, "- {}: {about}", operation.name);
        }
    }
    format!(
        "# {}\n\n\
         Made by `{}` on Linux {}, release configuration, x86_64.\n\n\
         ![C ÷ Rust, and the distance to the floor](report.svg)\n\n\
         {}\n\n\
         ## Goals\n\n{}\n\n{}\n{}\n\
         ## Everything\n\n{}\n\n{list}\n{}\n",
        subject.title,
        subject.command,
        setting.kernel,
        (subject.method)(setting),
        subject.goals,
        goals(subject, comparison),
        remarks(subject, comparison),
        subject.floor,
        everything(subject, comparison)
    )
}

/// Everything, for programs.
pub(super) fn json(
    subject: &Subject,
    setting: &Setting,
    comparison: &Comparison,
) -> Result<String> {
    #[derive(Serialize)]
    struct Whole<'a> {
        command: &'static str,
        #[serde(flatten)]
        setting: &'a Setting,
        #[serde(flatten)]
        comparison: &'a Comparison,
    }
    let whole = Whole {
        command: subject.command,
        setting,
        comparison,
    };
    Ok(serde_json::to_string_pretty(&whole)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::super::compare::tests::comparison;
    use super::super::{gpu, rdma};
    use super::*;

    fn setting() -> Setting {
        Setting {
            kernel: "7.3.4".into(),
            clock: "TCG",
        }
    }

    /// The cells of the first row of a table that begins so.
    fn row(table: &Table, first: &str) -> Vec<String> {
        let rows = table.row_iter().map(|row| {
            row.cell_iter()
                .map(|cell| cell.content())
                .collect::<Vec<_>>()
        });
        let mut rows = rows.filter(|row| row[0].starts_with(first));
        rows.next().unwrap()
    }

    #[test]
    fn figures_stand_beside_each_other() {
        let table = everything(&gpu::SUBJECT, &comparison());
        let cells = row(&table, "mprotect");
        assert_eq!(cells[1..5], ["4 KiB", "64", "990", "230"]);
        assert_eq!(cells[5..], ["4.30", "800", "40.0", "20.00", "3.00"]);
        let cells = row(&table, "migrate to the device");
        assert_eq!(cells[3..], ["10000", NONE, NONE, NONE, NONE, NONE, NONE]);
    }

    #[test]
    fn without_times_there_is_no_column_of_them() {
        let mut comparison = comparison();
        for line in &mut comparison.lines {
            line.time_ratio = None;
        }
        let table = everything(&gpu::SUBJECT, &comparison);
        assert_eq!(row(&table, "mprotect").len(), 9);
    }

    #[test]
    fn a_missed_goal_stands_out() {
        let table = goals(&gpu::SUBJECT, &comparison());
        assert_eq!(row(&table, "mprotect")[5..], ["40.0", "yes", "64: 40.0"]);
        assert_eq!(row(&table, "snapshot")[5..], ["180", "NO", "64: 181"]);
        assert_eq!(row(&table, "cold fault")[6], NONE);
    }

    #[test]
    fn what_may_not_be_worse_than_in_c_is_named() {
        assert_eq!(remarks(&gpu::SUBJECT, &comparison()), "");
        let text = remarks(&rdma::SUBJECT, &comparison());
        assert!(
            text.contains("snapshot (64, 4 KiB), C ÷ Rust is 0.99"),
            "{text}"
        );
    }

    #[test]
    fn the_page_names_its_command_and_shows_the_picture() {
        let page = markdown(&gpu::SUBJECT, &setting(), &comparison());
        assert!(page.contains(gpu::SUBJECT.command) && page.contains("(report.svg)"));
        assert!(page.contains("Linux 7.3.4"));
    }

    #[test]
    fn programs_can_read_it() {
        let text = json(&gpu::SUBJECT, &setting(), &comparison()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["command"], gpu::SUBJECT.command);
        let lines = value["lines"].as_array().unwrap();
        let line = lines.iter().find(|line| line["operation"] == "mprotect");
        assert_eq!(line.unwrap()["over_floor"]["ratio"], 20.0);
        assert_eq!(line.unwrap()["size"], 64);
    }
}
