// SPDX-License-Identifier: GPL-2.0

//! The KUnit suites of the helper crate. Every case in their sources must run and pass. And what a
//! driver must not be able to compile on it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use anyhow::{ensure, Context as _, Result};
use regex::Regex;

use super::{leaks, Context, Filter};
use crate::exec;
use crate::kernel::{Kernel, Kind};
use crate::modules::Which;
use crate::progress::note;
use crate::report::{Case, Verdict};
use crate::toolchain::set;
use crate::vm::Machine;

/// KUnit is off unless it is asked for, and the kernel has suites of its own.
pub(super) const APPEND: [&str; 3] = [
    "kunit.enable=1",
    "kunit.autorun=1",
    "kunit.filter_glob=mmu_notifier_helpers_*",
];

/// A function for scripts that loads a module with KUnit suites, `$module`: once for the glob that
/// the kernel has on its command line, and for each that is given. `$loaded` is the worst status.
const LOAD_EACH: &str = r#"load_each() {
    insmod "$module"; loaded=$?
    for glob; do
        rmmod "$(basename "$module" .ko)" &&
            echo "$glob" >/sys/module/kunit/parameters/filter_glob && insmod "$module" || loaded=1
    done
}
"#;

/// Loads the module, which runs the suites, prints what these wrote to the kernel's log, and unloads
/// it and what it stands on. The first and the last are cases too.
const SCRIPT: &str = r#"number=0
report() {
    number=$((number + 1))
    [ "$1" -eq 0 ] && echo "ok $number $2" || echo "not ok $number $2"
}
tracing=/sys/kernel/tracing
[ -e $tracing/trace ] || mount -t tracefs tracefs $tracing
# A PerMm refuses nothing, so no selftest of the mirror can read this one back.
echo mmu_notifier_helpers:mnh_refuse >$tracing/set_event
module=$1 whole=$2
shift 2
dmesg --clear
load_each "$@"
dmesg --notime
echo >$tracing/set_event
refusal='mnh_refuse: mm=[0-9a-f]* start=0x[0-9a-f]* end=0x[0-9a-f]* event=[a-z]*$'
echo KTAP version 1
report $loaded "load the suites"
if [ "$whole" = true ]; then
    grep -q "$refusal" $tracing/trace
    report $? "refusals are traced"
fi
for name in mmu_notifier_helpers_kunit gpu_mirror_rs mmu_notifier_helpers; do
    rmmod "$name"
    report $? "unload $name"
done
echo 1..$number"#;

/// Loads the module and removes it again, for those who look at what that left behind.
const LOAD: &str = r#"module=$1
shift
dmesg --clear
load_each "$@"
dmesg --notime
rmmod mmu_notifier_helpers_kunit && exit $loaded"#;

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    let all = sources(&context.paths.checkout.join("mmu_notifier_helpers/kunit"))?;
    let refusals = refusals(&context.paths.checkout.join(MISUSE))?;
    let mut known = all.clone();
    known.extend(refusals.iter().map(Refusal::case));
    if context.full {
        known.extend(all.iter().map(|name| format!("{}{name}", leaks::PREFIX)));
    }
    context.require(known)?;

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
    let refusals: Vec<Refusal> = refusals
        .into_iter()
        .filter(|refusal| context.filter.picks(&refusal.case()))
        .collect();
    if !refusals.is_empty() {
        misuse(context, &kernel, &suites.with_file_name(METADATA), refusals)?;
    }

    let wanted = context.filter.pick("", &all);
    if !wanted.is_empty() {
        let (append, globs) = globs(&context.filter, APPEND, &wanted, &all);
        let machine = Machine {
            append,
            ..exec::plain(&kernel)
        };
        let mut command = shell(SCRIPT);
        command.push(suites.clone().into());
        command.push(context.filter.is_all().to_string().into());
        command.extend(globs);
        let boots = context.boot(&kernel.name, &machine, driver.clone(), command)?;
        context.judge_wanted("", &boots, &wanted);
    }

    let wanted = context.filter.pick(leaks::PREFIX, &all);
    if context.full && !wanted.is_empty() {
        let (append, globs) = globs(&context.filter, APPEND, &wanted, &all);
        let machine = Machine {
            append,
            ..exec::plain(&kernel)
        };
        // What is looked for last are objects that nobody refers to when all modules are gone.
        let mut command = shell(LOAD);
        command.push(suites.into());
        command.extend(globs);
        leaks::run(context, machine, driver, command, &wanted, &[])?;
    }
    Ok(())
}

/// The words that run a script, which may call `load_each`.
pub(super) fn shell(script: &str) -> Vec<OsString> {
    let script = format!("{LOAD_EACH}{script}");
    ["sh".into(), "-c".into(), script.into(), "sh".into()].into()
}

/// By which of KUnit's globs the wanted cases run, of all that the suites in a module have: what
/// the kernel is told as it boots, and what for each time more that the module is loaded. KUnit
/// takes one glob at a time, for one suite and one case in it. The last of `append` is the glob for
/// all of them.
pub(super) fn globs(
    filter: &Filter,
    append: [&str; 3],
    wanted: &[String],
    all: &[String],
) -> (Vec<String>, Vec<OsString>) {
    let mut append = append.map(str::to_owned);
    if filter.is_all() {
        return (append.into(), Vec::new());
    }
    let suite = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let mut globs: Vec<String> = Vec::new();
    for name in wanted {
        let of = |names: &[String]| {
            let names = names.iter().filter(|other| suite(other) == suite(name));
            names.count()
        };
        let glob = match of(wanted) == of(all) {
            true => suite(name),
            false => name.clone(),
        };
        if !globs.contains(&glob) {
            globs.push(glob);
        }
    }
    append[2] = format!("kunit.filter_glob={}", globs.remove(0));
    (append.into(), globs.into_iter().map(Into::into).collect())
}

/// What a build of the helper crate leaves for those who build on it.
const METADATA: &str = "libmmu_notifier_helpers.rmeta";
/// Where the cases are, and those that must compile: else the others might fail for what they have
/// in common.
const MISUSE: &str = "mmu_notifier_helpers/tests/kernel_compile_fail";
const RIGHT: [&str; 2] = ["maps_for_dma", "uses_it_right"];

/// A use of the crate, and how the one error starts that it must have; one that has none compiles.
struct Refusal {
    name: String,
    reason: Option<String>,
}

impl Refusal {
    /// Its name in the results.
    fn case(&self) -> String {
        match self.reason {
            Some(_) => format!("does not compile: {}", self.name),
            None => format!("compiles: {}", self.name),
        }
    }
}

/// Lets the compiler refuse what must not compile, with the kernel's own build of it.
fn misuse(
    context: &mut Context<'_>,
    kernel: &Kernel,
    metadata: &Path,
    wanted: Vec<Refusal>,
) -> Result<()> {
    let dir = context.paths.checkout.join(MISUSE);
    note(format!("compiling {} uses of the crate", wanted.len()));
    let output = context
        .paths
        .mo_dir(Path::new("misuse").join(&kernel.slot))?;
    // Nothing is taken from a build before this one.
    fs::remove_dir_all(&output)?;
    fs::create_dir(&output)?;
    let args = [
        "-k".into(),
        "-Otarget".into(),
        "-C".into(),
        kernel.build.clone().into(),
        set("M", &dir),
        set("MO", &output),
        set("RMETA", metadata),
        "LLVM=1".into(),
    ];
    let said = context
        .tools
        .make(&args)
        .stderr_to_stdout()
        .unchecked()
        .read()?;
    fs::write(context.logs.join("misuse.log"), &said)?;
    for refusal in wanted {
        let Refusal { name, reason } = &refusal;
        let is_built = output.join(name).with_extension("o").is_file();
        let verdict = refused(&errors(&said, name), reason.as_deref(), is_built);
        context.cases.push(Case::new(refusal.case(), verdict));
    }
    Ok(())
}

/// The cases in `dir`.
fn refusals(dir: &Path) -> Result<Vec<Refusal>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::io::Result<_>>()?;
    for path in paths
        .iter()
        .filter(|path| path.extension().is_some_and(|is| is == "rs"))
    {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let source = fs::read_to_string(path)?;
        let reason = source
            .lines()
            .find_map(|line| line.strip_prefix("// error"));
        ensure!(
            reason.is_some() != RIGHT.contains(&&*name),
            "{} does not say with which error",
            path.display()
        );
        found.push(Refusal {
            name: name.into_owned(),
            reason: reason.map(|rest| format!("error{rest}")),
        });
    }
    found.sort_by(|one, other| one.name.cmp(&other.name));
    ensure!(
        found
            .iter()
            .filter(|refusal| refusal.reason.is_none())
            .count()
            == RIGHT.len()
            && found.len() > RIGHT.len(),
        "{} lacks cases",
        dir.display()
    );
    Ok(found)
}

/// The errors in what make said that are in the source of the case.
fn errors<'a>(said: &'a str, name: &str) -> Vec<&'a str> {
    let file = format!("/{name}.rs:");
    let mut found = Vec::new();
    let mut error = None;
    for line in said.lines() {
        if line.starts_with("error") {
            error = Some(line);
        } else if line.trim_start().starts_with("--> ") {
            found.extend(error.take().filter(|_| line.contains(&file)));
        }
    }
    found
}

/// Whether the compiler said what it should, and that alone.
fn refused(errors: &[&str], reason: Option<&str>, is_built: bool) -> Verdict {
    let right = match reason {
        Some(reason) => {
            !is_built && !errors.is_empty() && errors.iter().all(|e| e.starts_with(reason))
        }
        None => is_built && errors.is_empty(),
    };
    if right {
        return Verdict::Pass;
    }
    let found = match errors {
        [] if is_built => "it compiles".into(),
        [] => "it has no error of its own".into(),
        errors => errors.join("; "),
    };
    Verdict::Fail(match reason {
        Some(reason) => format!("{found}, and not {reason}"),
        None => found,
    })
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
pub(super) fn cases(source: &str) -> Vec<String> {
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
    fn a_pattern_becomes_globs_of_kunit() {
        let all = ["a.x", "a.y", "b.x", "b.xx"].map(str::to_owned);
        let of = |pattern: &str| {
            let filter = Filter(Some(pattern.parse().unwrap()));
            globs(&filter, APPEND, &filter.pick("", &all), &all)
        };
        let (append, rest) = of("b.x");
        assert_eq!(
            append,
            ["kunit.enable=1", "kunit.autorun=1", "kunit.filter_glob=b"]
        );
        assert!(rest.is_empty());
        // A glob that fits more than was picked must not be used.
        let (append, rest) = of("?.x");
        assert_eq!(append[2], "kunit.filter_glob=a.x");
        assert_eq!(rest, ["b.x"]);
        let (append, rest) = of("*y");
        assert_eq!(append[2], "kunit.filter_glob=a.y");
        assert!(rest.is_empty());
        let (append, rest) = of("*");
        assert_eq!(append[2], "kunit.filter_glob=a");
        assert_eq!(rest, ["b"]);
        let (append, rest) = globs(&Filter::default(), APPEND, &all, &all);
        assert_eq!(append, APPEND);
        assert!(rest.is_empty());
    }

    /// What a script prints where loading, unloading and the kernel's log are stood in for.
    fn printed(script: &str, args: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let glob = dir.path().join("glob");
        std::fs::write(&glob, "first\n").unwrap();
        let stand_in = format!(
            "insmod() {{ echo \"load $1 $(cat {glob})\"; }}; rmmod() {{ echo \"unload $1\"; }}\n\
             dmesg() {{ :; }}; mount() {{ :; }}; grep() {{ :; }}\n",
            glob = glob.display()
        );
        let mut command = shell(script);
        let text = command[2].to_string_lossy().into_owned();
        let text = text
            .replace(
                "/sys/module/kunit/parameters/filter_glob",
                glob.to_str().unwrap(),
            )
            .replace("/sys/kernel/tracing", dir.path().to_str().unwrap());
        command[2] = (stand_in + &text).into();
        let output = std::process::Command::new("sh")
            .args(&command[1..])
            .args(args)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_module_is_loaded_for_each_glob() {
        let loads = |script, args: &[&str]| -> Vec<String> {
            let said = printed(script, args);
            let said = said.lines().filter(|line| line.contains("load "));
            let said = said.filter(|line| !line.contains("ok "));
            said.map(str::to_owned).collect()
        };
        let both = [
            "load /m/mmu_notifier_helpers_kunit.ko first",
            "unload mmu_notifier_helpers_kunit",
            "load /m/mmu_notifier_helpers_kunit.ko b.x",
            "unload mmu_notifier_helpers_kunit",
        ];
        let module = "/m/mmu_notifier_helpers_kunit.ko";
        assert_eq!(loads(LOAD, &[module, "b.x"]), both);
        assert_eq!(loads(LOAD, &[module]), [both[0], both[1]]);
        assert_eq!(loads(SCRIPT, &[module, "false", "b.x"])[..4], both);
        assert_eq!(loads(SCRIPT, &[module, "true"])[..2], both[..2]);
    }

    #[test]
    fn refusals_are_looked_for_where_all_cases_ran() {
        let names = |whole| -> Vec<String> {
            let text = printed(SCRIPT, &["/m/k.ko", whole]);
            let streams = crate::ktap::parse(&text);
            assert_eq!(streams[0].lack(), None, "{text}");
            let lines = streams[0].lines.iter();
            lines.map(|line| line.name.clone()).collect()
        };
        assert_eq!(
            names("true")[..2],
            ["load the suites", "refusals are traced"]
        );
        assert_eq!(names("true").len(), 5);
        assert_eq!(names("false").len(), 4);
    }

    #[test]
    fn each_error_belongs_to_the_file_that_it_is_in() {
        let said = "  RUSTC [M] a.o\nerror[E0507]: cannot move\n --> /d/a.rs:1:2\n |\n  ::: x\n\
                    error: aborting due to 1 previous error\n\nerror[E0001]: other\n  --> /d/b.rs:1\n";
        assert_eq!(errors(said, "a"), ["error[E0507]: cannot move"]);
        assert_eq!(errors(said, "b"), ["error[E0001]: other"]);
        assert_eq!(errors(said, "c"), [""; 0]);
    }

    #[test]
    fn misuse_must_fail_for_its_reason() {
        let why = |errors: &[&str], is_built| refused(errors, Some("error[E1]"), is_built);
        assert_eq!(why(&["error[E1]: x"], false), Verdict::Pass);
        let fail = |cause: &str| Verdict::Fail(format!("{cause}, and not error[E1]"));
        assert_eq!(why(&[], true), fail("it compiles"));
        assert_eq!(why(&[], false), fail("it has no error of its own"));
        let both = ["error[E1]: x", "error[E2]: y"];
        assert_eq!(why(&both, false), fail("error[E1]: x; error[E2]: y"));
        assert_eq!(refused(&[], None, true), Verdict::Pass);
        assert!(matches!(refused(&[], None, false), Verdict::Fail(_)));
    }

    #[test]
    fn the_example_of_the_dma_module_is_what_compiles() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let module = fs::read_to_string(crates.join("mmu_notifier_helpers/src/dma.rs")).unwrap();
        let example: String = module
            .lines()
            .skip_while(|line| *line != "//! ```")
            .skip(1)
            .take_while(|line| *line != "//! ```")
            .flat_map(|line| [line.strip_prefix("//! ").unwrap_or_default(), "\n"])
            .collect();
        assert!(example.contains("DmaMap::new"));
        let case = fs::read_to_string(crates.join(MISUSE).join("maps_for_dma.rs")).unwrap();
        assert!(case.ends_with(&example));
    }

    #[test]
    fn each_case_of_misuse_has_a_reason() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .join(MISUSE);
        assert!(refusals(&dir).unwrap().len() > 10);
    }

    #[test]
    fn the_sources_have_cases() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../mmu_notifier_helpers/kunit");
        assert!(sources(&dir).unwrap().len() > 10);
    }
}
