// SPDX-License-Identifier: GPL-2.0

//! What the operations of the drivers cost, in Rust and in C.
//!
//! Both are measured in one boot. Where the guest's clock counts instructions, two runs agree; what
//! the clock of the host says beside that is published as ratios only.

mod compare;
mod figures;
mod gpu;
mod picture;
mod rdma;
mod report;
mod subject;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};

use crate::cli::Bench;
use crate::guest::Turn;
use crate::kernel::Kind;
use crate::modules::Which;
use crate::paths::Paths;
use crate::report::{causes, total, Found};
use crate::suite::Context;
use crate::toolchain::Toolchain;
use crate::vm::Machine;

use compare::Comparison;
use figures::Figures;
use subject::Subject;

/// How long it may take, kernel not counted.
const LIMIT: Duration = Duration::from_secs(90 * 60);

/// `ci/run bench`. The status says whether the figures are to be trusted.
pub(crate) fn bench(paths: &Paths, options: &Bench) -> Result<i32> {
    let tools = Toolchain::new(paths)?;
    let logs = paths.logs("bench")?;
    let mut context = Context::new(paths, &tools, LIMIT, logs.clone());
    let kernel = context.kernel(Kind::Release)?;
    let started = Instant::now();

    let (subject, (setting, comparison)) = match options.rdma {
        false => (
            &gpu::SUBJECT,
            gpu::measure(&mut context, paths, &kernel, options)?,
        ),
        true => (
            &rdma::SUBJECT,
            rdma::measure(&mut context, paths, &tools, &kernel, &logs)?,
        ),
    };
    let directory = options.output.as_ref().unwrap_or(&logs);
    let page = write(directory, subject, &setting, &comparison)?;
    println!("\n{}", report::tables(subject, &comparison));
    println!("\nthe report is {}", page.display());

    let found = [Found {
        suite: "bench",
        cases: context.cases,
        took: started.elapsed(),
        share: None,
        limit: LIMIT,
        logs,
        c_remark: None,
    }];
    print!("\n{}", causes(&found));
    Ok(i32::from(total(&found).failed > 0))
}

/// Runs a program in turn, in one boot, and gathers what it measured.
fn boot(
    context: &mut Context<'_>,
    machine: &Machine,
    name: &str,
    turns: Vec<(Which, Turn)>,
) -> Result<Figures> {
    let (whose, turns): (Vec<Which>, Vec<Turn>) = turns.into_iter().unzip();
    let boots = context.boot_in_turn(name, machine, turns)?;
    context.judge_boot(&format!("{name}: "), &boots);
    context.judge_results(&format!("{name}: "), &boots.streams);
    ensure!(
        boots.streams.len() == whose.len(),
        "{} of {} turns printed results: {}",
        boots.streams.len(),
        whose.len(),
        boots.fault.unwrap_or_default()
    );
    Figures::read(&boots.output, &whose)
}

/// Writes everything, and says where the report is.
fn write(
    directory: &Path,
    subject: &Subject,
    setting: &report::Setting,
    comparison: &Comparison,
) -> Result<PathBuf> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let put = |name: &str, text: String| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok::<_, anyhow::Error>(path)
    };
    put("report.json", report::json(subject, setting, comparison)?)?;
    put("report.svg", picture::draw(subject, comparison)?)?;
    put("report.md", report::markdown(subject, setting, comparison))
}
