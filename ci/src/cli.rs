// SPDX-License-Identifier: GPL-2.0

//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::gdb;
use crate::kernel::Kind;
use crate::modules::Which;
use crate::suite::Pattern;

/// What the environment may say, for the end of the help.
const ENVIRONMENT: &str = "\
Environment:
  KDIR            a kernel tree of yours, configured with Rust and built, used in place of ours
  XDG_CACHE_HOME  where the cache goes, as mmu-notifier-helpers; ~/.cache if not set";

/// What `exec` returns.
const STATUSES: &str = "\
The program is one of the host's. The guest sees the host's files, in the same places, and starts in the same \
directory with the same environment. It can write anywhere; what it writes is gone when it ends. Results leave through standard output, which is the \
program's alone; standard input and standard error are passed as well.

Exit status:
  121  the device nodes are not those of the driver that was asked for; the program did not run
  122  the guest did not come up, or went down before the program ended
  123  the kernel's log has a report (WARNING, BUG, oops, lockdep, KASAN, ...), which is printed;
       this wins over the program's own status
  124  the program was not done within --timeout
  125  the runner failed before that: bad arguments, no kernel, no disk, ...
  126  the program cannot be run
  127  there is no such program
  any other is the program's own, or 128 and the number of the signal that ended it";

/// Builds a kernel and boots it, to run the project's drivers and what checks them.
#[derive(Debug, Parser)]
#[command(
    name = "ci/run",
    bin_name = "ci/run",
    after_help = ENVIRONMENT,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// The checkout to work on.
    #[arg(long, hide = true, default_value = ".")]
    pub(crate) checkout: PathBuf,
    /// Print the versions of all that was fetched
    #[arg(long, short = 'V')]
    pub(crate) version: bool,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show a process and the mirrored device at work on the same pointers
    Demo,
    /// Run what checks the project
    Test(Test),
    /// Measure what the operations of the GPU mirror or of RDMA cost, in Rust and in C
    Bench(Bench),
    /// Boot, load a GPU mirror and run a program in the guest
    #[command(after_help = STATUSES)]
    Exec(Exec),
    /// Boot, load a GPU mirror and give a shell in the guest
    Shell(Boot),
    /// Build a module of yours against the guest's kernel and print where it is
    #[command(after_help = MODULE)]
    Module(Module),
    /// Build the kernel only, and print where its image is
    Kernel {
        /// Which kernel
        #[arg(long, value_enum, default_value = "debug")]
        kernel: Kind,
        /// Look for newer packages at Debian's first, and take them for all that follows
        #[arg(long)]
        update: bool,
    },
    /// Check format, lints and style; no warning passes
    Lint,
    /// Build the documentation of the helper crate, and say where it is
    Doc,
    /// Give the disk back: remove the cache
    Clean {
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// Keep what was downloaded
        #[arg(long)]
        keep_source: bool,
    },
    /// Prints which sets of packages a command takes beside the first.
    #[command(hide = true)]
    Needs {
        /// The command.
        #[arg(last = true)]
        command: Vec<OsString>,
    },
    /// Runs inside the guest.
    #[command(hide = true)]
    Guest {
        /// The orders.
        spec: PathBuf,
    },
}

/// What `module` takes and gives.
const MODULE: &str = "\
The directory has a Kbuild or a Makefile that says obj-m, as for any module. One in Rust may use the crates of \
the project: `use mmu_notifier_helpers::…`. Nothing is written into the directory. The file's path is the last \
line of standard output; `ci/run exec --module FILE` loads it.";

/// `module`.
#[derive(Debug, Args)]
pub(crate) struct Module {
    /// Where the module's sources are
    pub(crate) dir: PathBuf,
    /// Which kernel
    #[arg(long, value_enum, default_value = "stock")]
    pub(crate) kernel: Kind,
    /// Against the symbols of these RDMA modules: those with the crates
    #[arg(long, value_name = "WHOSE", value_parser = ["rust"])]
    pub(crate) rdma: Option<String>,
}

/// What to boot.
#[derive(Clone, Debug, Args)]
pub(crate) struct Boot {
    /// Which kernel
    #[arg(long, value_enum, default_value = "stock")]
    pub(crate) kernel: Kind,
    /// Whose GPU mirror to load
    #[arg(long, value_enum, default_value = "rust")]
    pub(crate) driver: Which,
    /// Whose RDMA modules to load as well, with a soft-RoCE device: rxe0, port 1, GID index 1
    #[arg(long, value_enum, value_name = "WHOSE")]
    pub(crate) rdma: Option<Which>,
    /// Count instructions: the guest's clock advances by 1 ns for each; one CPU, no KVM
    #[arg(long)]
    pub(crate) icount: bool,
    /// How many CPUs the guest has; 2 if not said
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) smp: Option<u32>,
    /// How much memory the guest has, with M or G
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = memory)]
    pub(crate) mem: u64,
    /// Add the device-coherent devices, /dev/hmm_dmirror2 and 3; the guest has 4G of memory at least
    #[arg(long)]
    pub(crate) coherent: bool,
    /// More for the kernel's command line
    #[arg(long, value_name = "ARGS", allow_hyphen_values = true)]
    pub(crate) append: Vec<String>,
    /// Wait for a debugger before the kernel starts, and say how to connect one
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true, default_missing_value = gdb::PORT)]
    pub(crate) gdb: Option<u16>,
}

/// `exec`.
#[derive(Debug, Args)]
pub(crate) struct Exec {
    #[command(flatten)]
    pub(crate) boot: Boot,
    /// Seconds that the program may take; 0 is for ever
    #[arg(long, value_name = "SECONDS", default_value = "600")]
    pub(crate) timeout: u64,
    /// Load this module before the program starts; may be given more than once
    #[arg(long, value_name = "FILE")]
    pub(crate) module: Vec<PathBuf>,
    /// Run a program of the workshop's, in its Debian 13, and not of the host's
    #[arg(long)]
    pub(crate) workshop: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// `bench`.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// Where to leave the report, its figures as JSON and the picture; among the logs if not given
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Only for so many pages: 64, 4096 or 65536
    #[arg(long, value_name = "N")]
    pub(crate) pages: Option<u64>,
    /// Of RDMA on-demand paging, not of the GPU mirror
    #[arg(long, conflicts_with = "pages")]
    pub(crate) rdma: bool,
}

/// `test`.
#[derive(Debug, Args)]
pub(crate) struct Test {
    /// The release kernel, C beside, repetitions and the long suites as well
    #[arg(long)]
    pub(crate) full: bool,
    /// Only this suite; may be given more than once
    #[arg(long = "suite", value_name = "NAME")]
    pub(crate) suites: Vec<String>,
    /// Only the cases of the one suite whose full names, as the results show them, match: a glob
    /// with * and ?, or without either a part of the name
    #[arg(long, value_name = "PATTERN")]
    pub(crate) filter: Option<Pattern>,
    /// Name the suites, with their kernels and shares of the time
    #[arg(long)]
    pub(crate) list: bool,
    /// Write the results as JUnit XML as well
    #[arg(long, value_name = "FILE")]
    pub(crate) junit: Option<PathBuf>,
}

/// A size that is at least enough to boot with, in MiB.
fn memory(text: &str) -> Result<u64, String> {
    let upper = text.to_uppercase();
    let megabytes = match upper.strip_suffix('G') {
        Some(number) => number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1024)),
        None => upper
            .strip_suffix('M')
            .and_then(|number| number.parse().ok()),
    };
    match megabytes {
        Some(enough @ 256..) => Ok(enough),
        Some(_) => Err("a guest needs 256M at least".into()),
        None => Err("a size is a number and M or G, like 2G".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_size_of_memory_has_a_unit() {
        assert_eq!(memory("2g"), Ok(2048));
        assert_eq!(memory("512M"), Ok(512));
        for bad in [
            "",
            "2",
            "G",
            "-1G",
            "12M",
            "18446744073709551615G",
            "2G,foo",
        ] {
            assert!(memory(bad).is_err(), "{bad}");
        }
    }
}
