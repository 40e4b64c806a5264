// SPDX-License-Identifier: GPL-2.0

//! The comparison as tables, as a page and as JSON.

use std::fmt::Write as _;

use anyhow::Result;
use comfy_table::Table;
use serde::Serialize;

use crate::report::table;

use super::compare::{floors, Comparison, Goal, GOAL_PAGES};

/// What made the report.
const COMMAND: &str = "ci/run bench --output gpu_mirror_rs/bench";
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

/// The goals, and everything.
pub(super) fn tables(comparison: &Comparison) -> String {
    format!(
        "Instructions per 4 KiB\n{}\n\n{}",
        goals(comparison),
        everything(comparison)
    )
}

/// The goals, and what became of each.
fn goals(comparison: &Comparison) -> Table {
    let elsewhere = |goal: &Goal| -> Vec<String> {
        let figures = goal.elsewhere.iter();
        figures
            .map(|(pages, rust)| format!("{pages}: {}", number(*rust)))
            .collect()
    };
    let mut table = table(&[
        "goal, for 4096 pages",
        "mapped by",
        "C",
        "Rust",
        "at most",
        "met",
        "Rust at other sizes",
    ]);
    for goal in &comparison.goals {
        table.add_row([
            match goal.over_floor {
                true => format!("{}, over its floor", goal.operation),
                false => goal.operation.to_owned(),
            },
            mapping(goal.huge).into(),
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

fn everything(comparison: &Comparison) -> Table {
    let mut table = table(&[
        "operation",
        "mapped by",
        "pages",
        "C",
        "Rust",
        "C ÷ Rust",
        "over the floor: C",
        "Rust",
        "C ÷ Rust",
        "time: C ÷ Rust",
    ]);
    for line in &comparison.lines {
        let (cost, over) = (line.cost, line.over_floor);
        table.add_row([
            line.operation.to_owned(),
            mapping(line.size.huge).into(),
            line.size.pages.to_string(),
            number(cost.c),
            number(cost.rust),
            ratio(cost.ratio),
            number(over.c),
            number(over.rust),
            ratio(over.ratio),
            ratio(line.time_ratio),
        ]);
    }
    table
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
pub(super) fn markdown(setting: &Setting, comparison: &Comparison) -> String {
    let mut floors_list = String::new();
    for (name, over) in floors() {
        let _ = writeln!(floors_list, "- {name}: {over}");
    }
    let Setting { kernel, clock } = setting;
    format!(
        "# What the operations of the GPU mirror cost\n\n\
         Made by `{COMMAND}` on Linux {kernel}, release configuration, x86_64.\n\n\
         ![C ÷ Rust, and the distance to the floor](report.svg)\n\n\
         Both drivers, C's `test_hmm` and `gpu_mirror_rs`, are measured by the same program in the \
         same boot. Figures are instructions per 4 KiB, in user and kernel: the guest has one CPU, \
         and its clock advances by 1 ns for each (`-icount shift=0`). Each is of fresh memory in a \
         process of its own, after a round to warm up, the median of the rounds. A string \
         instruction counts once for each time it repeats, so to copy a page is 4096. Times are of \
         a second boot with two CPUs under {clock}, and only their ratios say something.\n\n\
         ## Goals\n\nThey are for {GOAL_PAGES} pages.\n\n{}\n\n\
         ## Everything\n\nThe floor is what the kernel or the processor takes for what the mirror \
         cannot avoid:\n\n{floors_list}\n{}\n",
        goals(comparison),
        everything(comparison)
    )
}

/// Everything, for programs.
pub(super) fn json(setting: &Setting, comparison: &Comparison) -> Result<String> {
    #[derive(Serialize)]
    struct Whole<'a> {
        command: &'static str,
        #[serde(flatten)]
        setting: &'a Setting,
        #[serde(flatten)]
        comparison: &'a Comparison,
    }
    let whole = Whole {
        command: COMMAND,
        setting,
        comparison,
    };
    Ok(serde_json::to_string_pretty(&whole)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::super::compare::tests::comparison;
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
        let table = everything(&comparison());
        let cells = row(&table, "mprotect");
        assert_eq!(cells[1..5], ["4 KiB", "64", "990", "230"]);
        assert_eq!(cells[5..], ["4.30", "800", "40.0", "20.00", "3.00"]);
        let cells = row(&table, "migrate to the device");
        assert_eq!(cells[3..], ["10000", NONE, NONE, NONE, NONE, NONE, NONE]);
    }

    #[test]
    fn a_missed_goal_stands_out() {
        let table = goals(&comparison());
        assert_eq!(row(&table, "mprotect")[4..], ["40.0", "yes", "64: 40.0"]);
        assert_eq!(row(&table, "snapshot")[4..], ["180", "NO", "64: 181"]);
        assert_eq!(row(&table, "cold fault")[5], NONE);
    }

    #[test]
    fn the_page_names_its_command_and_shows_the_picture() {
        let page = markdown(&setting(), &comparison());
        assert!(page.contains(COMMAND) && page.contains("(report.svg)"));
        assert!(page.contains("Linux 7.3.4"));
    }

    #[test]
    fn programs_can_read_it() {
        let text = json(&setting(), &comparison()).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["command"], COMMAND);
        let lines = value["lines"].as_array().unwrap();
        let line = lines.iter().find(|line| line["operation"] == "mprotect");
        assert_eq!(line.unwrap()["over_floor"]["ratio"], 20.0);
        assert_eq!(line.unwrap()["pages"], 64);
    }
}
