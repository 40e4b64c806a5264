// SPDX-License-Identifier: GPL-2.0

//! Every crate builds, and its tests pass, on the host.

use anyhow::Result;

use super::Context;
use crate::libtest;
use crate::progress::Progress;
use crate::report::{Case, Verdict};
use crate::step::Step;

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    let checkout = &context.paths.checkout;
    Step::new(
        "building the crates for the host",
        context.logs.join("build.log"),
    )
    .by(context.deadline)
    .run(
        context
            .tools
            .cargo(&["build", "--workspace", "--locked"])
            .dir(checkout),
    )?;
    context.cases.push(Case::new("build", Verdict::Pass));

    let log = context.logs.join("host.log");
    let what = "testing the crates on the host";
    // A failure is told by the cases; one that none of them shows is added.
    let outcome = Step::new(what, &log).by(context.deadline).run_with(
        context
            .tools
            .cargo(&["test", "--workspace", "--locked", "--no-fail-fast"])
            .dir(checkout),
        Progress::spinner(what),
        |_, _| (),
    );
    let cases = libtest::parse(&String::from_utf8_lossy(&std::fs::read(&log)?));
    let is_told = cases
        .iter()
        .any(|case| matches!(case.verdict, Verdict::Fail(_)));
    context.cases.extend(cases);
    match outcome {
        Err(error) if !is_told => Err(error),
        _ => Ok(()),
    }
}
