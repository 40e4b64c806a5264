// SPDX-License-Identifier: GPL-2.0

//! The suites: what there is, and how one is run and judged.

mod filter;
mod fresh;
mod gpu_selftests;
mod harness;
mod hmm_tests;
mod host;
mod kunit;
mod leaks;
mod matrix;
mod rdma;
mod rdma_selftests;
mod sample;
mod stock;
mod storm;
mod tree;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context as _, Result};

use crate::cli::Test;
use crate::exec::Drivers;
use crate::guest::{Driver, Spec, Turn};
use crate::kernel::{Kernel, Kind};
use crate::klog::Report;
use crate::modules::Which;
use crate::paths::Paths;
use crate::progress::note;
use crate::report::{self, Case, Found, Verdict};
use crate::selftests::Builder;
use crate::toolchain::Toolchain;
use crate::vm::{Boot, Ending, Machine, Sink};
use crate::{exec, kernel, ktap, modules};

pub(crate) use filter::Pattern;
use filter::{Filter, NoCase};

/// One suite.
struct Suite {
    name: &'static str,
    about: &'static str,
    /// The kernels that it runs on, and those that it runs on with `--full`.
    kernels: (&'static [Kind], &'static [Kind]),
    /// What it takes of [`WHOLE`]; with none it runs only with `--full`, or when it is named: it takes
    /// long, or has not been green yet in guests that boot without virtme-ng.
    share: Option<Duration>,
    /// When it is stopped as hung, and when with `--full`.
    limits: (Duration, Duration),
    /// Whether it can run single cases.
    filters: bool,
    run: fn(&mut Context<'_>) -> Result<()>,
}

/// What comes before the suites, and takes its share as well.
struct SetUp {
    about: &'static str,
    /// The kernel that it builds, if it is one.
    kernel: Option<Kind>,
    share: Duration,
}

/// How long the default run may take on two CPUs, with nothing built before it.
const WHOLE: Duration = minutes(60);

const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// What the default run builds and sets up, from nothing.
const SET_UP: &[SetUp] = &[
    SetUp {
        about: "the tools, the runner and the source of the kernel",
        kernel: None,
        share: minutes(4),
    },
    SetUp {
        about: "the kernel that most suites run on, beside those that do not take it",
        kernel: Some(Kind::Debug),
        share: minutes(10),
    },
    SetUp {
        about: "what modules for Debian's own kernel are built against",
        kernel: Some(hmm_tests::UNHURRIED),
        share: minutes(3),
    },
];

/// All of them, in the order in which they run.
const SUITES: &[Suite] = &[
    Suite {
        name: "host",
        about: "every crate builds, and its tests pass, on the host",
        kernels: (&[], &[]),
        share: Some(minutes(4)),
        limits: (minutes(15), minutes(15)),
        filters: true,
        run: host::tests,
    },
    Suite {
        name: "loom",
        about: "the models of the protocol, in every interleaving of their threads",
        kernels: (&[], &[]),
        share: Some(minutes(2)),
        limits: (minutes(15), minutes(30)),
        filters: true,
        run: host::loom,
    },
    Suite {
        name: "sanitizer",
        about: "the host's tests under a checker of unsafe code",
        kernels: (&[], &[]),
        share: Some(minutes(2)),
        limits: (minutes(10), minutes(15)),
        filters: true,
        run: host::sanitizer,
    },
    Suite {
        name: "stock",
        about: "our kselftests of the mirror and clients of RDMA on Debian's own kernel",
        kernels: (&[Kind::Stock], &[Kind::Stock, Kind::StockRt]),
        share: Some(minutes(5)),
        limits: (minutes(25), minutes(40)),
        filters: false,
        run: stock::run,
    },
    Suite {
        name: "kunit",
        about: "the helper crate in the kernel, against the real memory management",
        kernels: (&[Kind::Debug], &[Kind::Debug]),
        share: Some(minutes(4)),
        limits: (minutes(15), minutes(15)),
        filters: true,
        run: kunit::run,
    },
    Suite {
        name: "hmm-tests",
        about: "the kernel tree's own tests of a GPU mirror, unmodified",
        kernels: (
            &[Kind::Debug, hmm_tests::UNHURRIED],
            &[Kind::Debug, hmm_tests::UNHURRIED, Kind::Release],
        ),
        share: None,
        limits: (minutes(20), minutes(90)),
        filters: true,
        run: hmm_tests::suite,
    },
    Suite {
        name: "gpu-selftests",
        about: "our kselftests of the GPU mirror: refused input, data, lifetimes, storms",
        kernels: (&[Kind::Debug], &[Kind::Debug]),
        share: None,
        limits: (minutes(25), minutes(60)),
        filters: true,
        run: gpu_selftests::run,
    },
    Suite {
        name: "sample",
        about: "the sample driver: loaded, used while its memory changes, removed",
        kernels: (&[Kind::Debug], &[Kind::Debug]),
        share: None,
        limits: (minutes(10), minutes(10)),
        filters: true,
        run: sample::run,
    },
    Suite {
        name: "storm",
        about: "device faults while memory changes: data, collisions; with --full C and the cost",
        kernels: (&[Kind::Debug], &[Kind::Debug, Kind::Release]),
        share: None,
        limits: (minutes(20), minutes(40)),
        filters: false,
        run: storm::run,
    },
    Suite {
        name: "rdma",
        about: "clients of RDMA that others wrote, on memory that is paged on demand",
        kernels: (&[Kind::Debug], &[Kind::Debug]),
        share: None,
        limits: (minutes(25), minutes(25)),
        filters: false,
        run: rdma::run,
    },
    Suite {
        name: "rdma-selftests",
        about: "our kselftests of RDMA on-demand paging: data, changes, lifetimes, storms",
        kernels: (&[Kind::Debug], &[Kind::Debug]),
        share: None,
        limits: (minutes(25), minutes(90)),
        filters: true,
        run: rdma_selftests::run,
    },
    Suite {
        name: "tree",
        about: "the crates in a kernel's tree: installer, patches, one kernel built and booted",
        kernels: (&[Kind::Debug], &[Kind::Debug]),
        share: None,
        limits: (minutes(25), minutes(25)),
        filters: false,
        run: tree::run,
    },
    Suite {
        name: "matrix",
        about: "the crates in a kernel's tree in each way that Kconfig allows, and patch by patch",
        kernels: (&[Kind::Release], &[Kind::Release]),
        share: None,
        limits: (minutes(150), minutes(150)),
        filters: false,
        run: matrix::run,
    },
    Suite {
        name: "fresh",
        about: "Debian 12 and 13 from nothing: a user without rights, a clean clone, the demo to its verdict",
        kernels: (&[Kind::Stock], &[Kind::Stock]),
        share: None,
        limits: (minutes(170), minutes(170)),
        filters: false,
        run: fresh::run,
    },
];

/// What a suite runs with, and where it leaves what it finds.
pub(crate) struct Context<'a> {
    paths: &'a Paths,
    tools: &'a Toolchain,
    full: bool,
    /// Which cases are wanted.
    filter: Filter,
    deadline: Instant,
    logs: PathBuf,
    /// What it is called, for messages.
    suite: &'static str,
    pub(crate) cases: Vec<Case>,
    c_remark: Option<String>,
}

/// `ci/run test`.
pub(crate) fn test(paths: &Paths, options: &Test) -> Result<i32> {
    if options.list {
        print!("{}", list());
        return Ok(0);
    }
    let suites = choose(options)?;
    let tools = Toolchain::new(paths)?;
    let top = paths.logs("test")?;
    let beside = build_beside(paths, &tools, &suites, options.full);
    let mut found = Vec::new();
    for suite in suites {
        found.push(run(paths, &tools, suite, options, &top)?);
    }
    beside.into_iter().for_each(|build| drop(build.join()));
    println!("\n{}", report::summary(&found));
    print!("\n{}", report::causes(&found));
    if let Some(file) = &options.junit {
        report::junit(&found, file)?;
    }
    let total = report::total(&found);
    println!("\n{}", total.line());
    Ok(i32::from(total.failed > 0 || total.passed == 0))
}

/// Builds the debug kernel while suites run that take none or Debian's. A suite that takes it waits for
/// it, and tells of what went wrong.
fn build_beside(
    paths: &Paths,
    tools: &Toolchain,
    suites: &[&'static Suite],
    full: bool,
) -> Option<JoinHandle<()>> {
    let takes = |suite: &&Suite| {
        let kernels = if full {
            suite.kernels.1
        } else {
            suite.kernels.0
        };
        kernels.contains(&Kind::Debug)
    };
    // Alone there is nothing to do meanwhile.
    if suites.len() < 2 || !suites.iter().any(takes) || kernel::is_users() {
        return None;
    }
    let (paths, tools) = (paths.clone(), tools.clone());
    Some(thread::spawn(move || {
        let _ = kernel::get(&paths, &tools, Kind::Debug);
    }))
}

/// The suites as a table, with what comes before them.
fn list() -> String {
    let mut table = report::table(&[
        "suite",
        "what it checks",
        "kernel",
        "runs",
        "share",
        "limit",
        "--filter",
    ]);
    for set_up in SET_UP {
        let name = set_up.kernel.map_or("set-up".to_owned(), |kind| {
            format!("{} kernel", kind.name())
        });
        table.add_row([
            name,
            set_up.about.into(),
            String::new(),
            "first, once".into(),
            report::time(set_up.share),
            String::new(),
            String::new(),
        ]);
    }
    for suite in SUITES {
        let when = match suite.share {
            Some(_) => "default",
            None => "--full",
        };
        table.add_row([
            suite.name.to_owned(),
            suite.about.into(),
            kernels(suite.kernels),
            when.into(),
            suite.share.map(report::time).unwrap_or_default(),
            report::time(suite.limits.0),
            if suite.filters { "yes" } else { "no" }.into(),
        ]);
    }
    format!(
        "{table}\nThe shares of the default run, on two CPUs and from nothing: {} of {}. A suite \
         that is not done by its limit has failed.\n",
        report::time(shares()),
        report::time(WHOLE)
    )
}

/// What the default run takes by all its shares.
fn shares() -> Duration {
    let set_up = SET_UP.iter().map(|set_up| set_up.share);
    let suites = SUITES.iter().filter_map(|suite| suite.share);
    set_up.chain(suites).sum()
}

/// The names of a suite's kernels, and of those that `--full` adds.
fn kernels((default, full): (&[Kind], &[Kind])) -> String {
    let mut known: Vec<&str> = Vec::new();
    let mut of = |kinds: &[Kind]| {
        let before = known.len();
        for name in kinds.iter().map(|kind| kind.name()) {
            if !known.contains(&name) {
                known.push(name);
            }
        }
        known[before..].join(", ")
    };
    match (of(default), of(full)) {
        (default, full) if full.is_empty() => default,
        (default, full) => format!("{default}; --full: {full}"),
    }
}

/// The suites that the options ask for.
fn choose(options: &Test) -> Result<Vec<&'static Suite>> {
    for name in &options.suites {
        if !SUITES.iter().any(|suite| suite.name == name) {
            let known: Vec<&str> = SUITES.iter().map(|suite| suite.name).collect();
            bail!("there is no suite {name}; there are {}", known.join(", "));
        }
    }
    let suites: Vec<&Suite> = SUITES
        .iter()
        .filter(|suite| match options.suites.as_slice() {
            [] => options.full || suite.share.is_some(),
            names => names.iter().any(|name| name == suite.name),
        })
        .collect();
    if options.filter.is_some() {
        let able = SUITES.iter().filter(|suite| suite.filters);
        let able: Vec<&str> = able.map(|suite| suite.name).collect();
        let able = able.join(", ");
        ensure!(
            suites.len() == 1 && !options.suites.is_empty(),
            "--filter picks cases of one suite: name it with --suite, one of {able}"
        );
        ensure!(
            suites[0].filters,
            "the suite {} runs as a whole, without --filter; single cases can be had of {able}",
            suites[0].name
        );
    }
    Ok(suites)
}

fn run(
    paths: &Paths,
    tools: &Toolchain,
    suite: &'static Suite,
    options: &Test,
    top: &Path,
) -> Result<Found> {
    let full = options.full;
    let limit = if full { suite.limits.1 } else { suite.limits.0 };
    let logs = top.join(suite.name);
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    note(format!("suite {}: {}", suite.name, suite.about));
    let mut context = Context::new(paths, tools, limit, logs);
    context.suite = suite.name;
    context.full = full;
    context.filter = Filter(options.filter.clone());
    let started = Instant::now();
    let outcome = (suite.run)(&mut context);
    let took = Instant::now().saturating_duration_since(context.deadline - limit);
    match outcome {
        // Nothing was tried, so nothing has failed.
        Err(error) if error.is::<NoCase>() => return Err(error),
        Err(error) => context.fail("set-up", format!("{error:#}")),
        Ok(()) => context.require(context.cases.iter().map(|case| case.name.clone()))?,
    }
    if context.cases.is_empty() {
        context.fail("cases", "the suite ran none".into());
    }
    if took > limit {
        context.fail(
            "time",
            format!("{} s, the limit is {} s", took.as_secs(), limit.as_secs()),
        );
    }
    let Context {
        cases,
        logs,
        c_remark,
        ..
    } = context;
    let found = Found {
        suite: suite.name,
        cases,
        took: took.min(started.elapsed()),
        share: suite.share.filter(|_| !full),
        limit,
        logs,
        c_remark,
    };
    if let Some(table) = report::beside(&found) {
        println!("\n{}\n{table}", found.suite);
    }
    Ok(found)
}

/// Makes failures of what was skipped, but for the causes that `may` be: what a case wants is in the
/// kernel and the guest, which we make, and a skip would hide that nothing was tried.
fn refuse_skips(cases: &mut [Case], may: &[&str]) {
    for case in cases {
        if let Verdict::Skip(cause) = &case.verdict {
            if !may.contains(&&**cause) {
                case.verdict = Verdict::Fail(format!("it was skipped: {cause}"));
            }
        }
    }
}

/// A turn that loads nothing: before it comes, what the turn before it had must unload.
fn unloaded() -> Turn {
    Turn {
        driver: None,
        rdma: None,
        command: vec!["true".into()],
    }
}

/// One boot of a suite: what it printed and how it ended.
pub(crate) struct Boots {
    pub(crate) streams: Vec<ktap::Stream>,
    pub(crate) output: String,
    /// Why it is not a good boot, if it is not.
    pub(crate) fault: Option<String>,
    reports: Vec<Report>,
}

impl<'a> Context<'a> {
    /// To run for `limit`, with the logs in a directory that is there.
    pub(crate) fn new(
        paths: &'a Paths,
        tools: &'a Toolchain,
        limit: Duration,
        logs: PathBuf,
    ) -> Self {
        Self {
            paths,
            tools,
            full: false,
            filter: Filter::default(),
            deadline: Instant::now() + limit,
            logs,
            suite: "",
            cases: Vec::new(),
            c_remark: None,
        }
    }
}

impl Context<'_> {
    /// Fails if the pattern picks none of these names, which are those of all results. What a boot
    /// says of itself, such as its log, is judged where there is one, and picked by none.
    fn require(&self, names: impl IntoIterator<Item = String>) -> Result<()> {
        let names: Vec<String> = names.into_iter().collect();
        Ok(self.filter.require(self.suite, &names)?)
    }

    fn fail(&mut self, name: &str, cause: String) {
        self.cases.push(Case::new(name, Verdict::Fail(cause)));
    }

    /// A kernel, built. The suite's own time does not run meanwhile.
    pub(crate) fn kernel(&mut self, kind: Kind) -> Result<Kernel> {
        let before = Instant::now();
        let kernel = kernel::get(self.paths, self.tools, kind);
        self.deadline += before.elapsed();
        kernel
    }

    pub(crate) fn driver(&self, kernel: &Kernel, which: Which) -> Result<Driver> {
        modules::driver(self.paths, self.tools, kernel, which)
    }

    pub(crate) fn builder<'b>(&'b self, kernel: &'b Kernel) -> Builder<'b> {
        Builder {
            paths: self.paths,
            tools: self.tools,
            kernel,
            logs: &self.logs,
            deadline: self.deadline,
        }
    }

    /// Boots and runs `command`, whose KTAP is kept under `name`.
    fn boot(
        &self,
        name: &str,
        machine: &Machine,
        drivers: impl Into<Drivers>,
        command: Vec<OsString>,
    ) -> Result<Boots> {
        self.boot_for(name, machine, exec::spec(drivers.into(), command)?)
    }

    /// Boots once and runs each program on its driver. Their KTAP is kept under `name`.
    pub(crate) fn boot_in_turn(
        &self,
        name: &str,
        machine: &Machine,
        turns: Vec<Turn>,
    ) -> Result<Boots> {
        let mut turns = turns.into_iter();
        let first = turns.next().context("a boot is for a program")?;
        let drivers = Drivers {
            driver: first.driver,
            rdma: first.rdma,
        };
        let mut spec = exec::spec(drivers, first.command)?;
        spec.then = turns.collect();
        self.boot_for(name, machine, spec)
    }

    /// Boots and runs `command`, which loads modules itself. Its KTAP is kept under `name`.
    fn boot_alone(&self, name: &str, machine: &Machine, command: Vec<OsString>) -> Result<Boots> {
        self.boot_for(name, machine, exec::spec(Drivers::default(), command)?)
    }

    fn boot_for(&self, name: &str, machine: &Machine, mut spec: Spec) -> Result<Boots> {
        note(format!("booting: {name}"));
        let logs = self.logs.join(name);
        fs::create_dir_all(&logs)?;
        let (stdout, kept) = Sink::kept();
        let (stderr, errors) = Sink::kept();
        spec.huge_pages = 16;
        let outcome = Boot {
            paths: self.paths,
            machine,
            spec: &spec,
            limit: Some(self.deadline.saturating_duration_since(Instant::now())),
            stdin: false,
            stdout,
            stderr,
            logs: logs.clone(),
        }
        .run()?;
        let text = |kept: &std::sync::Mutex<Vec<u8>>| {
            kept.lock()
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .unwrap_or_default()
        };
        let output = text(&kept);
        fs::write(logs.with_extension("ktap"), &output)?;
        fs::write(logs.join("stderr.log"), text(&errors))?;
        let fault = match &outcome.ending {
            Ending::Program(126 | 127) => Some("the program could not be run".to_owned()),
            Ending::Program(_) => None,
            Ending::WrongDriver(why) => Some(format!("not the driver that was asked for: {why}")),
            Ending::Failed(why) => Some(why.clone()),
            Ending::Hang(_) => Some("it was not done within the suite's time".to_owned()),
            Ending::NoBoot => Some("the guest did not come up".to_owned()),
            Ending::Died => Some("the guest went down".to_owned()),
        };
        Ok(Boots {
            streams: ktap::parse(&output),
            output,
            fault,
            reports: outcome.reports,
        })
    }

    /// Judges a boot that must be flawless, and gives the names of the cases that had a result.
    fn judge(&mut self, prefix: &str, boots: &Boots) -> Vec<String> {
        let names = self.judge_results(prefix, &boots.streams);
        self.judge_boot(prefix, boots);
        names
    }

    /// Judges a boot that must be flawless and in which each of the `wanted` cases must pass: one that
    /// is skipped, or gives no result, fails.
    fn judge_wanted(&mut self, prefix: &str, boots: &Boots, wanted: &[String]) {
        self.judge_wanted_but(prefix, boots, wanted, &[]);
    }

    /// The same where a case may be skipped for a cause that is named.
    fn judge_wanted_but(&mut self, prefix: &str, boots: &Boots, wanted: &[String], may: &[&str]) {
        self.judge_results_but(prefix, &boots.streams, wanted, may);
        self.judge_boot(prefix, boots);
    }

    /// Judges the results alone, by the same rule.
    fn judge_wanted_results(&mut self, prefix: &str, streams: &[ktap::Stream], wanted: &[String]) {
        self.judge_results_but(prefix, streams, wanted, &[]);
    }

    fn judge_results_but(
        &mut self,
        prefix: &str,
        streams: &[ktap::Stream],
        wanted: &[String],
        may: &[&str],
    ) {
        let before = self.cases.len();
        let results = self.judge_results(prefix, streams);
        refuse_skips(&mut self.cases[before..], may);
        self.fail_missing(prefix, &results, wanted);
    }

    /// Fails each of the `wanted` cases that is not among those that gave a result.
    fn fail_missing(&mut self, prefix: &str, results: &[String], wanted: &[String]) {
        for missing in wanted.iter().filter(|name| !results.contains(name)) {
            self.fail(&format!("{prefix}{missing}"), "it gave no result".into());
        }
    }

    /// Judges the results alone.
    pub(crate) fn judge_results(&mut self, prefix: &str, streams: &[ktap::Stream]) -> Vec<String> {
        let mut names = Vec::new();
        for line in streams.iter().flat_map(|stream| &stream.lines) {
            let verdict = verdict(line.result.clone());
            names.push(line.name.clone());
            self.cases
                .push(Case::new(format!("{prefix}{}", line.name), verdict));
        }
        for lack in streams.iter().filter_map(ktap::Stream::lack) {
            self.fail(&format!("{prefix}plan"), lack);
        }
        if streams.is_empty() {
            self.fail(
                &format!("{prefix}plan"),
                "the program printed no KTAP".into(),
            );
        }
        names
    }

    /// Judges how the boot went, and the kernel's log.
    pub(crate) fn judge_boot(&mut self, prefix: &str, boots: &Boots) {
        if let Some(fault) = &boots.fault {
            self.fail(&format!("{prefix}boot"), fault.clone());
        }
        let log = match boots.reports.first() {
            None => Verdict::Pass,
            Some(first) => Verdict::Fail(format!(
                "{} reports, the first: {}",
                boots.reports.len(),
                first.title
            )),
        };
        self.cases
            .push(Case::new(format!("{prefix}kernel log"), log));
    }

    /// Puts the results of the C driver beside those that are there.
    fn beside(&mut self, prefix: &str, boots: &Boots) {
        self.results_beside(prefix, &boots.streams);
        let mut remarks: Vec<String> = boots.fault.iter().cloned().collect();
        if let Some(first) = boots.reports.first() {
            remarks.push(format!(
                "{} kernel reports: {}",
                boots.reports.len(),
                first.title
            ));
        }
        if !remarks.is_empty() {
            self.c_remark = Some(remarks.join(", "));
        }
    }

    fn results_beside(&mut self, prefix: &str, streams: &[ktap::Stream]) {
        for line in streams.iter().flat_map(|stream| &stream.lines) {
            let name = format!("{prefix}{}", line.name);
            if let Some(case) = self.cases.iter_mut().find(|case| case.name == name) {
                case.c = Some(verdict(line.result.clone()));
            }
        }
    }
}

fn verdict(result: ktap::Result) -> Verdict {
    match result {
        ktap::Result::Pass => Verdict::Pass,
        ktap::Result::Fail(cause) if cause.is_empty() => Verdict::Fail("without a word".into()),
        ktap::Result::Fail(cause) => Verdict::Fail(cause),
        ktap::Result::Skip(cause) if cause.is_empty() => {
            Verdict::Fail("skipped without a cause".into())
        }
        ktap::Result::Skip(cause) => Verdict::Skip(cause),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(suites: &[&str], full: bool) -> Test {
        Test {
            full,
            suites: suites.iter().map(|name| name.to_string()).collect(),
            filter: None,
            list: false,
            junit: None,
        }
    }

    fn names(suites: Vec<&Suite>) -> Vec<&str> {
        suites.iter().map(|suite| suite.name).collect()
    }

    #[test]
    fn long_suites_run_when_asked_for() {
        assert_eq!(
            names(choose(&options(&[], false)).unwrap()),
            ["host", "loom", "sanitizer", "stock", "kunit"]
        );
        assert!(names(choose(&options(&[], true)).unwrap()).contains(&"fresh"));
        assert_eq!(
            names(choose(&options(&["fresh"], false)).unwrap()),
            ["fresh"]
        );
    }

    #[test]
    fn a_pattern_is_for_one_suite_that_can() {
        let refusal = |suites: &[&str]| {
            let options = Test {
                filter: Some("a".parse().unwrap()),
                ..options(suites, false)
            };
            choose(&options).err().map(|error| error.to_string())
        };
        for suites in [&[][..], &["loom", "host"]] {
            let refusal = refusal(suites).unwrap();
            assert!(refusal.contains("name it with --suite"), "{refusal}");
        }
        for suite in ["storm", "tree", "matrix", "fresh"] {
            let refusal = refusal(&[suite]).unwrap();
            assert!(
                refusal.starts_with(&format!("the suite {suite} runs as a whole")),
                "{refusal}"
            );
        }
        for suite in SUITES.iter().filter(|suite| suite.filters) {
            assert_eq!(refusal(&[suite.name]), None);
        }
    }

    #[test]
    fn the_default_run_ends_within_its_time() {
        assert!(shares() <= WHOLE, "{}", report::time(shares()));
        let mut built: Vec<Kind> = SET_UP.iter().filter_map(|set_up| set_up.kernel).collect();
        for suite in SUITES.iter().filter(|suite| suite.share.is_some()) {
            for kind in suite.kernels.0 {
                assert!(
                    built.contains(kind),
                    "{} runs on the {} kernel, whose build has no share",
                    suite.name,
                    kind.name()
                );
            }
        }
        // None is counted that no suite of the default run needs.
        for suite in SUITES.iter().filter(|suite| suite.share.is_some()) {
            built.retain(|kind| !suite.kernels.0.contains(kind));
        }
        assert_eq!(built, []);
    }

    #[test]
    fn a_share_is_less_than_what_stops_a_suite() {
        for suite in SUITES {
            let least = suite.share.unwrap_or_default();
            assert!(least < suite.limits.0, "{}", suite.name);
            assert!(suite.limits.0 <= suite.limits.1, "{}", suite.name);
        }
    }

    #[test]
    fn the_list_has_all_suites_and_what_is_built_for_them() {
        let list = list();
        let rows: Vec<Vec<&str>> = list
            .lines()
            .map(|line| line.split('|').map(str::trim).skip(1).collect())
            .collect();
        let row = |name: &str| -> Vec<&str> {
            let found = rows.iter().find(|row| row.first() == Some(&name));
            let found = found.unwrap_or_else(|| panic!("{name} is not in\n{list}"));
            found[2..7].into()
        };
        assert_eq!(row("set-up"), ["", "first, once", "4:00 min", "", ""]);
        assert_eq!(
            row("debug kernel"),
            ["", "first, once", "10:00 min", "", ""]
        );
        assert_eq!(row("host"), ["", "default", "4:00 min", "15:00 min", "yes"]);
        assert_eq!(
            row("storm"),
            ["debug; --full: release", "--full", "", "20:00 min", "no"]
        );
        assert_eq!(row("matrix"), ["release", "--full", "", "150:00 min", "no"]);
        assert!(SUITES.iter().all(|suite| !row(suite.name).is_empty()));
        assert!(list.contains(" of 60:00 min."), "{list}");
    }

    #[test]
    fn a_kernel_is_named_once() {
        assert_eq!(kernels((&[], &[])), "");
        assert_eq!(kernels((&[Kind::Debug], &[Kind::Debug])), "debug");
        assert_eq!(
            kernels((&[Kind::Debug, Kind::Debug], &[Kind::Release, Kind::Release])),
            "debug; --full: release"
        );
    }

    #[test]
    fn an_unknown_suite_is_refused_with_the_known_ones() {
        let Err(error) = choose(&options(&["host", "no-such"], false)) else {
            panic!("it was taken")
        };
        assert_eq!(
            error.to_string(),
            "there is no suite no-such; there are host, loom, sanitizer, stock, kunit, hmm-tests, gpu-selftests, sample, storm, rdma, rdma-selftests, tree, matrix, fresh"
        );
    }

    #[test]
    fn a_skip_without_a_cause_fails() {
        assert!(matches!(
            verdict(ktap::Result::Skip(String::new())),
            Verdict::Fail(_)
        ));
        assert_eq!(
            verdict(ktap::Result::Skip("x".into())),
            Verdict::Skip("x".into())
        );
    }
}
