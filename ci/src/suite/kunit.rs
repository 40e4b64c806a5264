// SPDX-License-Identifier: GPL-2.0

//! The KUnit suites of the helper crate. Every case in their sources must run and pass.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use anyhow::{ensure, Context as _, Result};
use regex::Regex;

use super::Context;
use crate::exec;
use crate::kernel::Kind;
use crate::modules::Which;
use crate::vm::Machine;

/// KUnit is off unless it is asked for, and the kernel has suites of its own.
pub(super) const APPEND: [&str; 3] = [
    "kunit.enable=1",
    "kunit.autorun=1",
    "kunit.filter_glob=mmu_notifier_helpers_*",
];

/// Loads the module, which runs the suites, prints what these wrote to the kernel's log, and unloads
/// it and what it stands on. The first and the last are cases too.
const SCRIPT: &str = r#"number=0
report() {
    number=$((number + 1))
    [ "$1" -eq 0 ] && echo "ok $number $2" || echo "not ok $number $2"
}
dmesg --clear
insmod "$1"; loaded=$?
dmesg --notime
echo KTAP version 1
echo 1..4
report $loaded "load the suites"
for name in mmu_notifier_helpers_kunit gpu_mirror_rs mmu_notifier_helpers; do
    rmmod "$name"
    report $? "unload $name"
done"#;

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    let wanted = sources(&context.paths.checkout.join("mmu_notifier_helpers/kunit"))?;
    let kernel = context.kernel(Kind::Debug)?;
    // The suites need the helpers' module alone; the mirror on top is what the guest verifies.
    let driver = context.driver(&kernel, Which::Rust)?;
    let suites = driver
        .modules
        .first()
        .context("a driver has modules")?
        .with_file_name("mmu_notifier_helpers_kunit.ko");
    ensure!(
        suites.is_file(),
        "the build of the modules left no {}",
        suites.display()
    );
    let machine = Machine {
        append: APPEND.map(str::to_owned).into(),
        ..exec::plain(&kernel)
    };
    let mut command: Vec<OsString> = ["sh", "-c", SCRIPT, "sh"].map(Into::into).into();
    command.push(suites.into());

    let boots = context.boot(&kernel.name, &machine, driver, command)?;
    context.judge_wanted("", &boots, &wanted);
    Ok(())
}

/// Every case that there is in the sources in `dir`, with the name of its suite.
pub(super) fn sources(dir: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            found.extend(cases(&fs::read_to_string(&path)?));
        }
    }
    ensure!(!found.is_empty(), "{} has no cases", dir.display());
    Ok(found)
}

/// The cases in one source.
fn cases(source: &str) -> Vec<String> {
    static MARK: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"#\[kunit_tests\((?<suite>\w+)\)\]|#\[test\]\s+fn (?<case>\w+)")
            .expect("the expression is constant")
    });
    let mut suite = "";
    let mut found = Vec::new();
    for mark in MARK.captures_iter(source) {
        match (mark.name("suite"), mark.name("case")) {
            (Some(name), _) => suite = name.as_str(),
            (_, Some(case)) => found.push(format!("{suite}.{}", case.as_str())),
            _ => (),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_found_in_their_sources() {
        let source =
            "#[kunit_tests(one)]\nmod a {\n    #[test]\n    fn b() -> Outcome {\n    fn c() {}\n\
                      #[kunit_tests(two)]\nmod d {\n#[test]\nfn e() {}";
        assert_eq!(cases(source), ["one.b", "two.e"]);
    }

    #[test]
    fn the_sources_have_cases() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mmu_notifier_helpers/kunit");
        assert!(sources(&dir).unwrap().len() > 10);
    }
}
