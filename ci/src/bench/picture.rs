// SPDX-License-Identifier: GPL-2.0

//! The comparison as a picture: for each operation, how many times C's instructions Rust's go into,
//! and how far both are from the floor.

use std::collections::BTreeSet;
use std::ops::Range;

use anyhow::{Error, Result};
use plotters::coord::combinators::LogCoord;
use plotters::coord::types::RangedCoordf64;
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::compare::{Comparison, Line};
use super::subject::{Operation, Picture, Subject};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Panel<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<LogCoord<f64>, RangedCoordf64>>;

const WIDTH: u32 = 1040;
/// What an operation takes of the height.
const LANE: u32 = 40;
/// Where titles and legend go, and the labels of the axes.
const TOP: u32 = 74;
const BOTTOM: u32 = 36;
/// Where the names of the operations go.
const NAMES: u32 = 240;
/// Where the left panel ends.
const MIDDLE: u32 = 640;

const FONT: (&str, u32) = ("sans-serif", 13);
/// Memory that is mapped by small pages, and by huge ones.
const COLORS: [RGBColor; 2] = [RGBColor(31, 119, 180), RGBColor(217, 95, 2)];
const GREY: RGBColor = RGBColor(110, 110, 110);

/// The picture, as SVG.
pub(super) fn draw(subject: &Subject, comparison: &Comparison) -> Result<String> {
    let operations: Vec<&[Line]> = comparison.operations().collect();
    let height = TOP + LANE * operations.len() as u32 + BOTTOM;
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        draw_on(&area, subject, &operations).map_err(|error| Error::msg(error.to_string()))?;
        area.present()?;
    }
    Ok(text)
}

type Drawn<T = ()> = Result<T, DrawingAreaErrorKind<std::io::Error>>;

fn draw_on(area: &Area<'_>, subject: &Subject, operations: &[&[Line]]) -> Drawn {
    area.fill(&WHITE)?;
    let ratios = |line: &Line| vec![line.cost.ratio];
    let (left, right) = area.split_horizontally(MIDDLE);
    let mut panel = panel(&left, operations, NAMES, range(operations, ratios, 0.5))?;
    draw_ratios(&mut panel, operations)?;
    for (lane, lines) in operations.iter().enumerate() {
        let (_, y) = panel
            .plotting_area()
            .map_coordinate(&(1.0, lane as f64 + 0.5));
        let style = TextStyle::from(FONT).pos(Pos::new(HPos::Right, VPos::Center));
        area.draw(&Text::new(lines[0].operation, (NAMES as i32 - 8, y), style))?;
    }

    let over = |line: &Line| vec![line.over_floor.c, line.over_floor.rust];
    let mut panel = self::panel(&right, operations, 20, range(operations, over, 1.0))?;
    draw_distances(&mut panel, subject.operations, operations)?;
    titles(area, &subject.picture)
}

/// An empty panel with a lane for each operation.
fn panel<'a, 'b>(
    area: &'a Area<'b>,
    operations: &[&[Line]],
    left: u32,
    range: Range<f64>,
) -> Drawn<Panel<'a, 'b>> {
    let lanes = operations.len() as f64;
    let mut panel = ChartBuilder::on(area)
        .margin_top(TOP)
        .margin_right(16)
        .x_label_area_size(BOTTOM)
        .y_label_area_size(left)
        // The first operation is at the top.
        .build_cartesian_2d(range.log_scale(), lanes..0.0)?;
    panel
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .light_line_style(GREY.mix(0.08))
        .bold_line_style(GREY.mix(0.25))
        .axis_style(GREY)
        .label_style(FONT)
        .x_label_formatter(&|x| format!("{x}"))
        .draw()?;
    let Range { start, end } = panel.x_range();
    panel.draw_series((0..=operations.len()).map(|lane| {
        PathElement::new([(start, lane as f64), (end, lane as f64)], GREY.mix(0.25))
    }))?;
    Ok(panel)
}

/// Where in its lane an operation's figures for one kind of mapping are drawn.
fn height(lane: usize, lines: &[Line], line: &Line) -> f64 {
    let is_alone = lines
        .iter()
        .all(|other| other.point.huge == line.point.huge);
    lane as f64
        + match (is_alone, line.point.huge) {
            (true, _) => 0.5,
            (false, false) => 0.32,
            (false, true) => 0.68,
        }
}

fn color(line: &Line) -> RGBColor {
    COLORS[usize::from(line.point.huge)]
}

/// A dot for each size, larger for larger ones.
fn draw_ratios(panel: &mut Panel<'_, '_>, operations: &[&[Line]]) -> Drawn {
    let lanes = operations.len() as f64;
    panel.draw_series([PathElement::new(
        [(1.0, 0.0), (1.0, lanes)],
        BLACK.stroke_width(1),
    )])?;
    for (lane, lines) in operations.iter().enumerate() {
        let dots = lines.iter().filter_map(|line| {
            let at = (line.cost.ratio?, height(lane, lines, line));
            Some(Circle::new(
                at,
                radius(lines, line),
                color(line).mix(0.75).filled(),
            ))
        });
        panel.draw_series(dots)?;
    }
    Ok(())
}

fn radius(lines: &[Line], line: &Line) -> u32 {
    let sizes: BTreeSet<u64> = lines.iter().map(|line| line.point.size).collect();
    let smaller = sizes.range(..line.point.size).count();
    match (sizes.len(), smaller) {
        (1, _) => 5,
        (_, smaller) => 3 + 2 * smaller.min(2) as u32,
    }
}

/// From C, a ring, to Rust, a dot.
fn draw_distances(panel: &mut Panel<'_, '_>, all: &[Operation], operations: &[&[Line]]) -> Drawn {
    let least = panel.x_range().start;
    for (lane, lines) in operations.iter().enumerate() {
        for line in lines.iter().filter(|line| is_main(all, line)) {
            let at = |figure: f64| (figure.max(least), height(lane, lines, line));
            let color = color(line);
            let (c, rust) = (line.over_floor.c.map(at), line.over_floor.rust.map(at));
            if let Some((c, rust)) = c.zip(rust) {
                panel.draw_series([PathElement::new([c, rust], color.stroke_width(2))])?;
            }
            panel.draw_series(c.map(|c| Circle::new(c, 5, WHITE.filled())))?;
            panel.draw_series(c.map(|c| Circle::new(c, 5, color.stroke_width(2))))?;
            panel.draw_series(rust.map(|rust| Circle::new(rust, 5, color.filled())))?;
        }
    }
    Ok(())
}

/// Whether it stands for all sizes of its operation.
fn is_main(all: &[Operation], line: &Line) -> bool {
    let mut all = all.iter().filter(|of| of.name == line.operation);
    all.any(|of| of.main == line.point.size)
}

fn titles(area: &Area<'_>, words: &Picture) -> Drawn {
    let right = MIDDLE as i32 + 20;
    for (x, y, text, size) in [
        (
            NAMES as i32,
            14,
            "Instructions, C ÷ Rust: right is better",
            16,
        ),
        (right, 14, words.distances, 16),
        (NAMES as i32, 56, words.sizes, 13),
        (right, 56, words.main, 13),
    ] {
        area.draw(&Text::new(text, (x, y), ("sans-serif", size)))?;
    }
    for (x, name, color) in [
        (NAMES as i32, "mapped by 4 KiB", COLORS[0]),
        (NAMES as i32 + 160, "mapped by 2 MiB", COLORS[1]),
    ] {
        area.draw(&Circle::new((x + 5, 43), 5, color.filled()))?;
        area.draw(&Text::new(name, (x + 16, 36), FONT))?;
    }
    area.draw(&Circle::new((right + 5, 43), 5, GREY.stroke_width(2)))?;
    area.draw(&Text::new("C", (right + 16, 36), FONT))?;
    area.draw(&Circle::new((right + 55, 43), 5, GREY.filled()))?;
    area.draw(&Text::new("Rust", (right + 66, 36), FONT))
}

/// Powers of ten around the figures.
fn range(
    operations: &[&[Line]],
    figures: impl Fn(&Line) -> Vec<Option<f64>>,
    least: f64,
) -> Range<f64> {
    let all = operations.iter().copied().flatten();
    let all = all
        .flat_map(figures)
        .flatten()
        .filter(|figure| *figure > 0.0);
    let (low, high) = all.fold((least, 10.0), |(low, high): (f64, f64), figure| {
        (low.min(figure), high.max(figure))
    });
    low..10f64.powf(high.log10().ceil())
}

#[cfg(test)]
mod tests {
    use super::super::compare::tests::comparison;
    use super::super::gpu;
    use super::*;

    #[test]
    fn every_operation_is_drawn() {
        let comparison = comparison();
        let picture = draw(&gpu::SUBJECT, &comparison).unwrap();
        assert!(picture.starts_with("<svg") && picture.trim_end().ends_with("</svg>"));
        for lines in comparison.operations() {
            assert!(picture.contains(lines[0].operation));
        }
    }

    #[test]
    fn every_figure_is_drawn() {
        let comparison = comparison();
        let lines = comparison.lines.iter();
        let dots = lines.map(|line| {
            let over = line.over_floor;
            // C's is a ring that hides what is under it.
            let distance = 2 * usize::from(over.c.is_some()) + usize::from(over.rust.is_some());
            let is_shown = is_main(gpu::SUBJECT.operations, line);
            usize::from(line.cost.ratio.is_some()) + if is_shown { distance } else { 0 }
        });
        let legend = 4;
        let picture = draw(&gpu::SUBJECT, &comparison).unwrap();
        assert_eq!(
            picture.matches("<circle").count(),
            dots.sum::<usize>() + legend
        );
    }
}
