// SPDX-License-Identifier: GPL-2.0

//! What the operations of the GPU mirror cost, in Rust and in C.
//!
//! Both drivers are measured in one boot. Where the guest's clock counts instructions, two runs
//! agree; what the clock of the host says beside that is published as ratios only.

mod compare;
mod figures;
mod picture;
mod report;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{ensure, Context as _, Result};

use crate::cli::Bench;
use crate::exec;
use crate::guest::Turn;
use crate::kernel::{Kernel, Kind};
use crate::modules::Which::{self, Rust, C};
use crate::paths::Paths;
use crate::report::{causes, total, Found};
use crate::suite::Context;
use crate::toolchain::Toolchain;
use crate::vm::{self, Machine};

use compare::Comparison;
use figures::Figures;

/// The program, which is built with the selftests and is none of them.
const PROGRAM: &str = "gpu_mirror_bench";
/// How long it may take, kernel not counted.
const LIMIT: Duration = Duration::from_secs(90 * 60);
/// What the memory, its data in the device and in the caller, and what C buffers, fit into.
const MEMORY: u64 = 4096;

/// Whose turn it is where instructions are counted, which does not go by turns.
const COUNTED: [Which; 2] = [C, Rust];
/// Whose turn it is where time is measured: the two orders.
const TIMED: [Which; 4] = [C, Rust, Rust, C];

/// `ci/run bench`. The status says whether the figures are to be trusted.
pub(crate) fn bench(paths: &Paths, options: &Bench) -> Result<i32> {
    let tools = Toolchain::new(paths)?;
    let logs = paths.logs("bench")?;
    let mut context = Context::new(paths, &tools, LIMIT, logs.clone());
    let kernel = context.kernel(Kind::Release)?;
    let started = Instant::now();

    let program = program(&context, &kernel, options)?;
    let counted = boot(&mut context, &kernel, &program, "counted", &COUNTED)?;
    let timed = boot(&mut context, &kernel, &program, "timed", &TIMED)?;

    let comparison = Comparison::new(&counted, &timed);
    let setting = report::Setting {
        kernel: release(&kernel)?,
        clock: match vm::kvm_works(paths, &kernel.build) {
            true => "KVM",
            false => "TCG",
        },
    };
    let page = write(
        options.output.as_ref().unwrap_or(&logs),
        &setting,
        &comparison,
    )?;
    println!("\n{}", report::tables(&comparison));
    println!("\nthe report is {}", page.display());

    let found = [Found {
        suite: "bench",
        cases: context.cases,
        took: started.elapsed(),
        limit: LIMIT,
        logs,
        c_remark: None,
    }];
    print!("\n{}", causes(&found));
    Ok(i32::from(total(&found).failed > 0))
}

/// The program, built, and its arguments.
fn program(context: &Context<'_>, kernel: &Kernel, options: &Bench) -> Result<Vec<OsString>> {
    let program = context.builder(kernel).gpu_mirror_extended(PROGRAM)?;
    let mut command = vec![program.into()];
    if let Some(pages) = options.pages {
        command.extend(["-n".into(), pages.to_string().into()]);
    }
    Ok(command)
}

/// Runs the program on the drivers in turn, in one boot.
fn boot(
    context: &mut Context<'_>,
    kernel: &Kernel,
    program: &[OsString],
    name: &str,
    turns: &[Which],
) -> Result<Figures> {
    let drivers = [context.driver(kernel, C)?, context.driver(kernel, Rust)?];
    let icount = name == "counted";
    let machine = Machine {
        cpus: if icount { 1 } else { 2 },
        memory: MEMORY,
        icount,
        ..exec::plain(kernel)
    };
    let orders = turns.iter().map(|which| Turn {
        driver: Some(drivers[usize::from(*which == Rust)].clone()),
        rdma: None,
        command: program.to_owned(),
    });
    let boots = context.boot_in_turn(name, &machine, orders.collect())?;
    context.judge_boot(&format!("{name}: "), &boots);
    context.judge_results(&format!("{name}: "), &boots.streams);
    ensure!(
        boots.streams.len() == turns.len(),
        "{} of {} turns printed results: {}",
        boots.streams.len(),
        turns.len(),
        boots.fault.unwrap_or_default()
    );
    Figures::read(&boots.output, turns)
}

/// Which Linux it is.
fn release(kernel: &Kernel) -> Result<String> {
    let path = kernel.build.join("include/config/kernel.release");
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// Writes everything, and says where the report is.
fn write(directory: &Path, setting: &report::Setting, comparison: &Comparison) -> Result<PathBuf> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let put = |name: &str, text: String| {
        let path = directory.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok::<_, anyhow::Error>(path)
    };
    put("report.json", report::json(setting, comparison)?)?;
    put("report.svg", picture::draw(comparison)?)?;
    put("report.md", report::markdown(setting, comparison))
}
