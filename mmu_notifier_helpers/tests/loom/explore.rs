// SPDX-License-Identifier: GPL-2.0

//! Runs a model in every interleaving that loom distinguishes, and says how many there were.

use std::{
    panic::{catch_unwind, AssertUnwindSafe},
    sync::{
        atomic::{AtomicUsize, Ordering},
        Arc,
    },
};

use loom::model::Builder;

/// Explores `model`, all of it, and returns what it panicked with, if it did.
fn explore(name: &str, model: impl Fn() + Send + Sync + 'static) -> Result<(), String> {
    let executions = Arc::new(AtomicUsize::new(0));
    let count = executions.clone();
    let mut builder = Builder::new();
    // Whatever the environment says: a bound would have to stand in the name of the test.
    builder.preemption_bound = None;
    builder.max_permutations = None;
    builder.max_duration = None;
    builder.max_branches = 10_000;
    let result = catch_unwind(AssertUnwindSafe(|| {
        builder.check(move || {
            count.fetch_add(1, Ordering::Relaxed);
            model();
        })
    }));
    let executions = executions.load(Ordering::Relaxed);
    match result {
        Ok(()) => {
            println!("{name}: holds in all {executions} executions");
            Ok(())
        }
        Err(panic) => {
            let message = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("a panic without a message");
            println!("{name}: fails in execution {executions}: {message}");
            Err(message.to_owned())
        }
    }
}

/// Says that `model` holds in every execution.
#[track_caller]
pub(crate) fn holds(name: &str, model: impl Fn() + Send + Sync + 'static) {
    if let Err(message) = explore(name, model) {
        panic!("{name}: {message}");
    }
}

/// Says that `model` fails in some execution, with `message` in what it panics with.
#[track_caller]
pub(crate) fn fails(name: &str, message: &str, model: impl Fn() + Send + Sync + 'static) {
    match explore(name, model) {
        Ok(()) => panic!("{name}: no execution fails"),
        Err(got) => assert!(got.contains(message), "{name}: fails in another way: {got}"),
    }
}
