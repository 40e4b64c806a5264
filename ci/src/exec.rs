// SPDX-License-Identifier: GPL-2.0

//! Runs any program in a guest with a GPU mirror, and RDMA modules if they are wanted.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{ensure, Context, Result};

use crate::cli::{Boot as Options, Exec};
use crate::guest::{Driver, Root, Spec};
use crate::kernel::{self, Kernel, Kind};
use crate::modules::Which;
use crate::paths::{self, Paths};
use crate::progress::note;
use crate::rdma::Rdma;
use crate::toolchain::Toolchain;
use crate::vm::{Boot, Ending, Machine, Outcome, Sink};
use crate::{coherent, gdb, modules, rdma, step, vm};

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

/// The file that `ci/run` leaves open with the environment of its caller.
const ENVIRONMENT: &str = "/proc/self/fd/9";

/// `ci/run exec`.
pub(crate) fn exec(paths: &Paths, options: &Exec) -> Result<i32> {
    let more = more(&options.module)?;
    let environment = environment()?;
    let (machine, drivers) = machine(paths, &options.boot)?;
    let limit = (options.timeout > 0).then(|| Duration::from_secs(options.timeout));
    let outcome = Boot {
        paths,
        machine: &machine,
        spec: &Spec {
            more,
            environment,
            ..of_user(drivers, options.command.clone(), options.workshop)?
        },
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
    let environment = environment()?;
    let (machine, drivers) = machine(paths, options)?;
    let spec = Spec {
        environment,
        terminal: Some(vm::terminal_size().unwrap_or_else(|| "24 80".into())),
        ..of_user(drivers, vec!["bash".into(), "-i".into()], false)?
    };
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

/// The environment of whoever called `ci/run`: that of this program is another.
fn environment() -> Result<Vec<(OsString, OsString)>> {
    let bytes = std::fs::read(ENVIRONMENT)
        .context("the environment of the caller is missing: start with ci/run")?;
    let words = bytes.split(|byte| *byte == 0).filter_map(|word| {
        let at = word.iter().position(|byte| *byte == b'=')?;
        let part = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((part(&word[..at]), part(&word[at + 1..])))
    });
    Ok(words.collect())
}

/// The files of modules that the user names.
fn more(files: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let found = files.iter().map(|file| {
        let path = paths::seen(file)
            .canonicalize()
            .with_context(|| format!("there is no module {}", file.display()))?;
        ensure!(path.is_file(), "{} is no file", file.display());
        Ok(path)
    });
    found.collect()
}

/// Orders to run a program of the host's, or of the workshop's, where the user is.
fn of_user(drivers: Drivers, command: Vec<OsString>, workshop: bool) -> Result<Spec> {
    let spec = spec(drivers, command)?;
    if workshop {
        return Ok(spec);
    }
    let directory = PathBuf::from(&spec.directory);
    Ok(Spec {
        root: Root::Host,
        directory: paths::of_host(&directory).into(),
        ..spec
    })
}

/// Builds what the options ask for.
fn machine(paths: &Paths, options: &Options) -> Result<(Machine, Drivers)> {
    ensure!(
        !options.icount || options.smp.unwrap_or(1) == 1,
        "--icount counts on one CPU: leave out --smp, or say --smp 1"
    );
    let tools = Toolchain::new(paths)?;
    let kernel = match options.gdb {
        None => kernel::get(paths, &tools, options.kernel)?,
        Some(_) => gdb::kernel(paths, &tools, options.kernel)?,
    };
    ensure!(
        !options.coherent || kernel.packaged.is_none(),
        "Debian's kernel keeps no memory for device-coherent devices: --coherent takes --kernel debug or release"
    );
    let mirror = || modules::driver(paths, &tools, &kernel, options.driver);
    let (rdma, driver) = match options.rdma {
        None if options.kernel == Kind::StockRt => {
            note("Debian's kernel with PREEMPT_RT has no huge pages, which the mirror takes: it is left out");
            (None, None)
        }
        None => (None, Some(mirror()?)),
        Some(Which::C) => {
            let logs = paths.logs("rdma")?;
            let theirs = rdma::theirs(paths, &tools, &kernel, &logs)?;
            (Some(theirs), Some(mirror()?))
        }
        Some(Which::Rust) => {
            let (rdma, ours) = rdma::ours(paths, &tools, &kernel)?;
            let driver = match options.driver {
                Which::Rust => ours,
                Which::C => mirror()?,
            };
            (Some(rdma), Some(driver))
        }
    };
    let machine = Machine {
        cpus: if options.icount {
            1
        } else {
            options.smp.unwrap_or(2)
        },
        memory: options.mem,
        append: options
            .append
            .iter()
            .flat_map(|args| args.split_whitespace())
            .map(str::to_owned)
            .collect(),
        icount: options.icount,
        gdb: options.gdb,
        ..self::plain(&kernel)
    };
    if let Some(port) = options.gdb {
        gdb::say_how(paths, &kernel, port)?;
    }
    // Its helpers come with the RDMA modules; there is no mirror for that kernel.
    let driver = driver.filter(|_| options.kernel != Kind::StockRt);
    let (machine, driver) = match (options.coherent, driver) {
        (true, Some(driver)) => (coherent::machine(machine), Some(coherent::driver(driver))),
        (_, driver) => (machine, driver),
    };
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
        image: kernel.image.clone(),
        early: kernel.early.clone(),
        modprobe: kernel.modprobe(),
        cpus: 2,
        memory: 2048,
        append: Vec::new(),
        icount: false,
        gdb: None,
    }
}

/// Orders to run a program of the workshop's here and with what is in the environment.
pub(crate) fn spec(drivers: Drivers, command: Vec<OsString>) -> Result<Spec> {
    let Drivers { driver, rdma } = drivers;
    Ok(Spec {
        early: Vec::new(),
        modprobe: Vec::new(),
        more: Vec::new(),
        root: Root::Workshop,
        driver,
        rdma,
        huge_pages: 0,
        command,
        directory: std::env::current_dir()?.into(),
        environment: std::env::vars_os().collect(),
        terminal: None,
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
