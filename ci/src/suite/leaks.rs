// SPDX-License-Identifier: GPL-2.0

//! What the kernel has lost: a boot with kmemleak, which looks for memory that nothing points to.

use std::ffi::OsString;

use anyhow::Result;

use super::{refuse_skips, Boots, Context};
use crate::exec::Drivers;
use crate::vm::Machine;

/// Kmemleak is compiled into the debug kernel, and off unless it is asked for.
const APPEND: &str = "kmemleak=on";
/// What the names of the cases of such a boot start with.
pub(super) const PREFIX: &str = "kmemleak: ";
/// What is looked at after the programs: while the module is there its functions have names in the
/// report, and when it is gone nothing of its own may point to what it forgot.
const LOADED: &str = "nothing is lost while the driver is loaded";
const GONE: &str = "nothing is lost when the driver is gone";

/// Runs the program, then scans, and again when the modules are unloaded. Kmemleak takes nothing for
/// lost that is younger than 5 s, or that has changed since the scan before: hence the pause, and two
/// scans. That it scans only when it is told to makes the log the same every time.
const SCRIPT: &str = r#"file=/sys/kernel/debug/kmemleak modules=$1 loaded=$2 gone=$3
shift 3
number=0
report() {
	number=$((number + 1))
	[ "$1" -eq 0 ] && echo "ok $number $2" || echo "not ok $number $2"
}
look() {
	sleep 6
	if ! echo scan >$file || ! echo scan >$file || ! lost=$(cat $file); then
		echo '# kmemleak does not run'
		report 1 "$1"
	elif [ -n "$lost" ]; then
		printf '%s\n' "$lost" | sed 's/^/# /'
		report 1 "$1"
	else
		report 0 "$1"
	fi
}
echo scan=off >$file
"$@"
status=$?
echo TAP version 13
echo 1..$(($(echo $modules | wc -w) + 2))
look "$loaded"
for module in $modules; do
	rmmod "$module"
	report $? "unload $module"
done
look "$gone"
exit $status"#;

/// Boots with kmemleak, runs the program and judges what it printed and what was lost after it. The
/// `wanted` cases of the program must be among them; only for a cause that `may` be is one skipped.
pub(super) fn run(
    context: &mut Context<'_>,
    mut machine: Machine,
    drivers: impl Into<Drivers>,
    program: Vec<OsString>,
    wanted: &[String],
    may: &[&str],
) -> Result<Boots> {
    machine.append.push(APPEND.into());
    let drivers = drivers.into();
    let modules = modules(&drivers);
    let mut wanted = wanted.to_vec();
    wanted.extend([LOADED, GONE].map(str::to_owned));
    wanted.extend(modules.iter().map(|module| format!("unload {module}")));
    let boots = context.boot(
        "rust-kmemleak",
        &machine,
        drivers,
        command(&modules, program),
    )?;
    let before = context.cases.len();
    let results = context.judge(PREFIX, &boots);
    refuse_skips(&mut context.cases[before..], may);
    context.fail_missing(PREFIX, &results, &wanted);
    Ok(boots)
}

/// The names of the modules, in the order to unload them in.
fn modules(drivers: &Drivers) -> Vec<String> {
    let rdma = drivers.rdma.iter().flat_map(|rdma| &rdma.modules);
    let driver = drivers.driver.iter().flat_map(|driver| &driver.modules);
    // The mirror may be linked against helpers that came with the others.
    let names = rdma.chain(driver).rev().filter_map(|module| {
        let name = module.file_stem()?;
        Some(name.to_string_lossy().into_owned())
    });
    names.collect()
}

fn command(modules: &[String], program: Vec<OsString>) -> Vec<OsString> {
    let mut command: Vec<OsString> = ["sh", "-c", SCRIPT, "sh"].map(Into::into).into();
    command.push(modules.join(" ").into());
    command.extend([LOADED, GONE].map(Into::into));
    command.extend(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Driver;
    use crate::ktap::{self, Line, Result};

    /// What the script prints for a kmemleak that holds `text`, with two modules to unload.
    fn looked_at(text: Option<&str>) -> Vec<Line> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kmemleak");
        let tools = "sleep() { :; }; rmmod() { :; }; cat() { command cat \"$file.found\"; }; ";
        if let Some(text) = text {
            std::fs::write(&path, "").unwrap();
            std::fs::write(path.with_extension("found"), text).unwrap();
        }
        let script = SCRIPT
            .replace("/sys/kernel/debug/kmemleak", path.to_str().unwrap())
            .replace("report() {", &format!("{tools}\nreport() {{"));
        let output = std::process::Command::new("sh")
            .args(["-c", &script, "sh", "b a", LOADED, GONE, "true"])
            .output()
            .unwrap();
        let streams = ktap::parse(&String::from_utf8(output.stdout).unwrap());
        assert_eq!(streams.len(), 1);
        assert_eq!(streams[0].lack(), None);
        streams[0].lines.clone()
    }

    #[test]
    fn an_empty_report_passes() {
        let lines = looked_at(Some(""));
        let names: Vec<&str> = lines.iter().map(|line| &*line.name).collect();
        assert_eq!(names, [LOADED, "unload b", "unload a", GONE]);
        assert!(lines.iter().all(|line| line.result == Result::Pass));
    }

    #[test]
    fn what_was_lost_is_the_cause() {
        let lines = looked_at(Some(
            "unreferenced object 0x1 (size 64):\n  comm \"prog\", pid 7\n",
        ));
        assert_eq!(
            lines[0].result,
            Result::Fail("unreferenced object 0x1 (size 64):;   comm \"prog\", pid 7".into())
        );
        assert!(matches!(lines[3].result, Result::Fail(_)));
    }

    #[test]
    fn a_kmemleak_that_does_not_run_fails() {
        let lines = looked_at(None);
        assert_eq!(
            lines[0].result,
            Result::Fail("kmemleak does not run".into())
        );
    }

    #[test]
    fn modules_are_unloaded_in_reverse() {
        let driver = Driver {
            modules: vec!["/m/helpers.ko".into(), "/m/mirror.ko".into()],
            parameters: Vec::new(),
            owner: "mirror".into(),
            other: "theirs".into(),
            devices: 2,
        };
        assert_eq!(modules(&driver.into()), ["mirror", "helpers"]);
    }
}
