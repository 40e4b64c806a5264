// SPDX-License-Identifier: GPL-2.0

//! Gets a kernel, builds it, boots it in QEMU and runs programs and suites in
//! it. `ci/run` starts it.

#![forbid(unsafe_code)]

mod bench;
mod cli;
mod coherent;
mod config;
mod demo;
mod disk;
mod doc;
mod exec;
mod gdb;
mod guest;
mod interrupt;
mod kernel;
mod klog;
mod ktap;
mod libtest;
mod lint;
mod modules;
mod needs;
mod paths;
mod progress;
mod rdma;
mod report;
mod selftests;
mod source;
mod step;
mod suite;
mod toolchain;
mod tree;
mod versions;
mod vm;

use std::process::ExitCode;

use anyhow::{bail, Context, Result};
use clap::Parser;

use cli::{Cli, Command};
use paths::Paths;
use toolchain::Toolchain;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        return match guest::init() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nowhere to complain to when the terminal is gone.
            let _ = error.print();
            return if error.use_stderr() {
                ExitCode::from(exec::RUNNER as u8)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    match run(cli) {
        Ok(status) => ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)),
        Err(error) => {
            eprintln!("ci: {error:#}");
            ExitCode::from(exec::RUNNER as u8)
        }
    }
}

fn run(cli: Cli) -> Result<i32> {
    match &cli.command {
        Some(Command::Guest { spec }) => return guest::main(spec).map(|()| 0),
        Some(Command::Needs { command }) => return Ok(needs::say(command)),
        _ => {}
    }
    interrupt::watch()?;
    let checkout = cli
        .checkout
        .canonicalize()
        .with_context(|| format!("there is no checkout at {}", cli.checkout.display()))?;
    let paths = Paths::new(checkout)?;
    if cli.version {
        return versions::say(&paths);
    }
    let command = cli
        .command
        .context("say what to do; `ci/run --help` has the commands")?;
    match command {
        Command::Exec(options) => exec::exec(&paths, &options),
        Command::Shell(options) => exec::shell(&paths, &options),
        Command::Module(options) => modules::module(&paths, &options),
        Command::Kernel { kernel, .. } => {
            let tools = Toolchain::new(&paths)?;
            let kernel = kernel::get(&paths, &tools, kernel)?;
            println!("{}", paths::of_host(&kernel.image).display());
            Ok(0)
        }
        Command::Test(options) => suite::test(&paths, &options),
        Command::Bench(options) => bench::bench(&paths, &options),
        Command::Demo => demo::demo(&paths),
        Command::Lint => lint::lint(&paths),
        Command::Doc => doc::doc(&paths),
        Command::Clean { .. } | Command::Needs { .. } | Command::Guest { .. } => {
            bail!("start with ci/run, which does that itself")
        }
    }
}
