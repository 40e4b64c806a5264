// SPDX-License-Identifier: GPL-2.0

//! Shows what the project does: the guest's program `demo` says it, the
//! kernel's log confirms it.

use std::time::Duration;

use anyhow::Result;

use crate::exec;
use crate::kernel::{self, Kind};
use crate::modules::{self, Which};
use crate::paths::Paths;
use crate::progress::note;
use crate::step::Step;
use crate::toolchain::Toolchain;
use crate::vm::{Boot, Sink};

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(300);

/// `ci/run demo`. It takes the kernel that the suites take, so that one build serves both.
pub(crate) fn demo(paths: &Paths) -> Result<i32> {
    let tools = Toolchain::new(paths)?;
    let kernel = kernel::get(paths, &tools, Kind::Debug, false)?;
    let driver = modules::driver(paths, &tools, &kernel, Which::Rust)?;
    let logs = paths.logs("demo")?;
    Step::new("building the demo", logs.join("build.log")).run(
        tools
            .cargo(&["build", "--release", "--locked", "--bin", "demo"])
            .dir(&paths.checkout),
    )?;
    let program = tools.target().join("release/demo");
    note("booting the guest");
    let outcome = Boot {
        paths,
        machine: &exec::plain(&kernel),
        spec: &exec::spec(driver.into(), vec![program.into()])?,
        limit: Some(LIMIT),
        stdin: false,
        stdout: Sink::Ours,
        stderr: Sink::Ours,
        logs,
    }
    .run()?;
    let status = exec::verdict(&outcome);
    if status == 0 {
        println!("the kernel's log confirms it: no report");
    } else {
        println!("the demo FAILED with status {status}");
    }
    Ok(status)
}
