// SPDX-License-Identifier: GPL-2.0

//! Shows what the project does: programs in the guest say it, the kernel's log confirms it.

use std::ffi::OsString;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::exec::{self, Drivers};
use crate::kernel::{self, Kind};
use crate::paths::Paths;
use crate::progress::note;
use crate::rdma;
use crate::selftests::Builder;
use crate::toolchain::Toolchain;
use crate::vm::{Boot, Sink};

/// Shows the GPU mirror, then on-demand paging.
const SCRIPT: &str = r#""$1" && echo && "$2""#;
/// How long its program in C may take to build.
const BUILD_LIMIT: Duration = Duration::from_secs(900);
/// How long it may take.
const LIMIT: Duration = Duration::from_secs(300);

/// The program that shows the mirror, which is built with this one.
const DEMO: &str = "demo";

/// `ci/run demo`, on Debian's kernel as it is.
pub(crate) fn demo(paths: &Paths) -> Result<i32> {
    let tools = Toolchain::new(paths)?;
    let kernel = kernel::get(paths, &tools, Kind::Stock)?;
    let logs = paths.logs("demo")?;
    let (rdma, driver) = rdma::ours(paths, &tools, &kernel)?;
    let selftests = Builder {
        paths,
        tools: &tools,
        kernel: &kernel,
        logs: &logs,
        deadline: Instant::now() + BUILD_LIMIT,
    };
    let programs = [
        std::env::current_exe()?.with_file_name(DEMO),
        selftests.rdma_odp_demo()?,
    ];
    let mut command: Vec<OsString> = ["sh", "-c", SCRIPT, "sh"].map(Into::into).into();
    command.extend(programs.map(Into::into));
    let drivers = Drivers {
        driver: Some(driver),
        rdma: Some(rdma),
    };
    note("booting the guest");
    let outcome = Boot {
        paths,
        machine: &exec::plain(&kernel),
        spec: &exec::spec(drivers, command)?,
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
