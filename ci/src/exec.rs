// SPDX-License-Identifier: GPL-2.0

//! Runs any program in a guest with a GPU mirror, and RDMA modules if they are wanted.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::{ensure, Result};

use crate::cli::{Boot as Options, Exec};
use crate::guest::{Driver, Spec};
use crate::kernel::{self, Kernel};
use crate::modules::Which;
use crate::paths::Paths;
use crate::progress::note;
use crate::rdma::Rdma;
use crate::toolchain::Toolchain;
use crate::vm::{Boot, Ending, Machine, Outcome, Sink};
use crate::{coherent, modules, rdma, step};

/// The device nodes belong to another driver.
const WRONG_DRIVER: i32 = 121;
/// The guest did not come up, or went down.
const NO_BOOT: i32 = 122;
/// The kernel's log has a report.
const REPORT: i32 = 123;
/// The program was not done in time.
const HANG: i32 = 124;
/// The runner itself failed.
pub(crate) const RUNNER: i32 = 125;

/// `ci/run exec`.
pub(crate) fn exec(paths: &Paths, options: &Exec) -> Result<i32> {
    let (machine, drivers) = machine(paths, &options.boot)?;
    let limit = (options.timeout > 0).then(|| Duration::from_secs(options.timeout));
    let outcome = Boot {
        paths,
        machine: &machine,
        spec: &spec(drivers, options.command.clone())?,
        limit,
        stdin: true,
        stdout: Sink::Ours,
        stderr: Sink::Ours,
        logs: paths.logs("exec")?,
    }
    .run()?;
    Ok(verdict(&outcome))
}

/// `ci/run shell`.
pub(crate) fn shell(paths: &Paths, options: &Options) -> Result<i32> {
    use std::io::IsTerminal;
    ensure!(
        std::io::stdin().is_terminal(),
        "a shell needs a terminal; `ci/run exec` runs a program without one"
    );
    let (machine, drivers) = machine(paths, options)?;
    let mut spec = spec(drivers, vec!["bash".into(), "-i".into()])?;
    spec.interactive = true;
    note("the shell ends with exit or CTRL-D");
    let outcome = Boot {
        paths,
        machine: &machine,
        spec: &spec,
        limit: None,
        stdin: true,
        stdout: Sink::Ours,
        stderr: Sink::Ours,
        logs: paths.logs("shell")?,
    }
    .run_interactive()?;
    Ok(verdict(&outcome))
}

/// Builds what the options ask for.
fn machine(paths: &Paths, options: &Options) -> Result<(Machine, Drivers)> {
    let tools = Toolchain::new(paths)?;
    let kernel = kernel::get(paths, &tools, options.kernel, false)?;
    let mirror = || modules::driver(paths, &tools, &kernel, options.driver);
    let (rdma, driver) = match options.rdma {
        None => (None, mirror()?),
        Some(Which::C) => (Some(rdma::theirs(&kernel)?), mirror()?),
        Some(Which::Rust) => {
            let (rdma, ours) = rdma::ours(paths, &tools, &kernel, &paths.logs("rdma")?)?;
            let driver = match options.driver {
                Which::Rust => ours,
                Which::C => mirror()?,
            };
            (Some(rdma), driver)
        }
    };
    let machine = Machine {
        cpus: if options.icount { 1 } else { options.smp },
        memory: options.mem,
        append: options
            .append
            .iter()
            .flat_map(|args| args.split_whitespace())
            .map(str::to_owned)
            .collect(),
        icount: options.icount,
        ..self::plain(&kernel)
    };
    let (machine, driver) = if options.coherent {
        (coherent::machine(machine), coherent::driver(driver))
    } else {
        (machine, driver)
    };
    let driver = Some(driver);
    Ok((machine, Drivers { driver, rdma }))
}

/// What a guest is to load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drivers {
    /// The GPU mirror.
    pub(crate) driver: Option<Driver>,
    /// The RDMA modules.
    pub(crate) rdma: Option<Rdma>,
}

impl From<Driver> for Drivers {
    fn from(driver: Driver) -> Self {
        Self {
            driver: Some(driver),
            rdma: None,
        }
    }
}

impl From<Rdma> for Drivers {
    fn from(rdma: Rdma) -> Self {
        Self {
            driver: None,
            rdma: Some(rdma),
        }
    }
}

/// The machine that suites run on.
pub(crate) fn plain(kernel: &Kernel) -> Machine {
    Machine {
        kernel: kernel.build.clone(),
        cpus: 2,
        memory: 2048,
        append: Vec::new(),
        icount: false,
    }
}

/// Orders to run a program here and with what is in the environment.
pub(crate) fn spec(drivers: Drivers, command: Vec<OsString>) -> Result<Spec> {
    let Drivers { driver, rdma } = drivers;
    Ok(Spec {
        driver,
        rdma,
        huge_pages: 0,
        command,
        directory: std::env::current_dir()?.into(),
        environment: std::env::vars_os().collect(),
        interactive: false,
        then: Vec::new(),
    })
}

/// Says on standard error what went wrong, and gives the status for it.
pub(crate) fn verdict(outcome: &Outcome) -> i32 {
    let log = outcome.log.display();
    let status = match &outcome.ending {
        Ending::Program(status) => *status,
        Ending::WrongDriver(why) => {
            note(format!("not the driver that was asked for: {why}"));
            WRONG_DRIVER
        }
        Ending::Failed(why) => {
            note(format!(
                "the guest cannot be used: {why}; the kernel's log is {log}"
            ));
            NO_BOOT
        }
        Ending::Hang(limit) => {
            note(format!(
                "the program was not done after {} s; the kernel's log is {log}",
                limit.as_secs()
            ));
            HANG
        }
        Ending::NoBoot => {
            note(format!(
                "the guest did not reach user space; the kernel's log is {log}, it ends with\n{}",
                step::tail(&outcome.log)
            ));
            NO_BOOT
        }
        Ending::Died => {
            note(format!(
                "the guest went down before the program ended; the kernel's log is {log}"
            ));
            NO_BOOT
        }
    };
    if outcome.reports.is_empty() {
        return status;
    }
    for report in &outcome.reports {
        note(format!("the kernel reports: {}", report.title));
        report.text.iter().for_each(|line| eprintln!("    {line}"));
    }
    note(format!(
        "reports in the kernel's log: {}; all of it is {log}",
        outcome.reports.len()
    ));
    REPORT
}
