// SPDX-License-Identifier: GPL-2.0

//! Says what a command takes beside the tools that the demo takes, for `ci/run` to fetch.

use std::ffi::OsString;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::kernel::Kind;

/// The set with what builds kernels, lints and tests.
const SUITES: &str = "suites";
/// The set with the kernel with `PREEMPT_RT`.
const RT: &str = "rt";

/// Prints the sets, a line each. A command line that is wrong takes none: it is refused later.
pub(crate) fn say(command: &[OsString]) -> i32 {
    let words = [OsString::from("ci/run")];
    if let Ok(cli) = Cli::try_parse_from(words.iter().chain(command)) {
        of(&cli).iter().for_each(|set| println!("{set}"));
    }
    0
}

fn of(cli: &Cli) -> Vec<&'static str> {
    let of_kernel = |kind: Kind| match kind {
        Kind::Stock => vec![],
        Kind::StockRt => vec![RT],
        Kind::Debug | Kind::Release => vec![SUITES],
    };
    let users = crate::kernel::is_users();
    match &cli.command {
        None | Some(Command::Clean { .. } | Command::Needs { .. } | Command::Guest { .. }) => {
            vec![]
        }
        // A kernel of the user's may be of any compiler.
        Some(Command::Demo) => vec![],
        Some(Command::Exec(_) | Command::Shell(_) | Command::Module(_)) if users => vec![SUITES],
        Some(Command::Exec(exec)) => of_kernel(exec.boot.kernel),
        Some(Command::Shell(boot)) => of_kernel(boot.kernel),
        Some(Command::Module(module)) => of_kernel(module.kernel),
        Some(Command::Kernel { kernel, .. }) => of_kernel(*kernel),
        Some(Command::Test(test)) if test.list => vec![],
        Some(Command::Test(test)) if test.full => vec![SUITES, RT],
        Some(Command::Test(_) | Command::Bench(_) | Command::Lint | Command::Doc) => vec![SUITES],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_by_llvm_takes_the_second_set() {
        let of = |words: &[&str]| of(&Cli::try_parse_from([&["ci/run"], words].concat()).unwrap());
        assert_eq!(of(&["demo"]), [""; 0]);
        assert_eq!(of(&["exec", "--", "true"]), [""; 0]);
        assert_eq!(of(&["exec", "--kernel", "debug", "--", "true"]), [SUITES]);
        assert_eq!(of(&["shell", "--kernel", "stock-rt"]), [RT]);
        assert_eq!(of(&["test"]), [SUITES]);
        assert_eq!(of(&["test", "--full"]), [SUITES, RT]);
        assert_eq!(of(&["test", "--list"]), [""; 0]);
    }
}
