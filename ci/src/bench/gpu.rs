// SPDX-License-Identifier: GPL-2.0

//! The GPU mirror: one program on both drivers, at several sizes of memory.

use std::ffi::OsString;

use anyhow::Result;

use crate::cli::Bench;
use crate::exec;
use crate::guest::Turn;
use crate::kernel::Kernel;
use crate::modules::Which::{self, Rust, C};
use crate::paths::Paths;
use crate::suite::Context;
use crate::vm::{self, Machine};

use super::compare::Comparison;
use super::report::Setting;
use super::subject::{Aim, Limit, Operation, Picture, Subject};

/// The program, which is built with the selftests and is none of them.
const PROGRAM: &str = "gpu_mirror_bench";
/// What the memory, its data in the device and in the caller, and what C buffers, fit into.
const MEMORY: u64 = 4096;

/// Whose turn it is where instructions are counted, which does not go by turns.
const COUNTED: [Which; 2] = [C, Rust];
/// Whose turn it is where time is measured: the two orders.
const TIMED: [Which; 4] = [C, Rust, Rust, C];

/// The pages at which the goals are judged.
const GOAL_PAGES: u64 = 4096;

const COLD: &str = "cold fault";
const WARM_READ: &str = "warm read";
const SNAPSHOT: &str = "snapshot";
const MPROTECT: &str = "mprotect";
const UNRELATED: &str = "mprotect elsewhere";
const MUNMAP: &str = "munmap";
const TO_DEVICE: &str = "migrate to the device";
const TO_SYSTEM: &str = "migrate back";
const FAULT_BACK: &str = "migrate back by CPU fault";

const fn operation(
    name: &'static str,
    row: &'static str,
    floor: Option<(&'static str, &'static str)>,
) -> Operation {
    let (floor, about) = match floor {
        Some((row, about)) => (Some(row), Some(about)),
        None => (None, None),
    };
    Operation {
        name,
        row,
        floor,
        about,
        size: |pages| pages.to_string(),
        main: GOAL_PAGES,
    }
}

const OPERATIONS: &[Operation] = &[
    operation(
        COLD,
        "read_cold",
        Some((
            "read_warm",
            "the driver's own warm read, that is, over the copy",
        )),
    ),
    operation(
        WARM_READ,
        "read_warm",
        Some(("copy", "one copy by the processor's string instruction")),
    ),
    operation(
        "warm write",
        "write_warm",
        Some(("copy", "one copy by the processor's string instruction")),
    ),
    operation(
        "device fault on untouched memory",
        "fault",
        Some((
            "write_warm",
            "the driver's own warm write, that is, over the copy; to clear a page is 4096",
        )),
    ),
    operation(
        SNAPSHOT,
        "snapshot",
        Some(("mincore", "`mincore()`, which tells less")),
    ),
    operation(
        MPROTECT,
        "mprotect",
        Some(("mprotect_bare", "the same without a mirror")),
    ),
    operation(
        UNRELATED,
        "mprotect_unrelated",
        Some((
            "mprotect_bare",
            "the same without a mirror; the device has other memory of the process, never this",
        )),
    ),
    operation(
        MUNMAP,
        "munmap",
        Some(("munmap_bare", "the same without a mirror")),
    ),
    operation(TO_DEVICE, "to_device", None),
    operation(TO_SYSTEM, "to_system", None),
    operation(FAULT_BACK, "fault_back", None),
];

const fn aim(operation: &'static str, over_floor: bool, limits: [Limit; 2]) -> Aim {
    Aim {
        operation,
        over_floor,
        size: GOAL_PAGES,
        limits: [Some(limits[0]), Some(limits[1])],
    }
}

const AIMS: &[Aim] = &[
    aim(COLD, true, [Limit::Cost(200.0), Limit::Cost(120.0)]),
    aim(MPROTECT, true, [Limit::Cost(40.0), Limit::Cost(2.0)]),
    aim(MUNMAP, true, [Limit::Cost(40.0), Limit::Cost(2.0)]),
    aim(WARM_READ, false, [Limit::Cost(4500.0); 2]),
    aim(SNAPSHOT, false, [Limit::PartOfC(1.0); 2]),
    aim(TO_DEVICE, false, [Limit::PartOfC(0.8); 2]),
    aim(TO_SYSTEM, false, [Limit::PartOfC(0.9); 2]),
    aim(FAULT_BACK, false, [Limit::PartOfC(0.9); 2]),
    aim(UNRELATED, true, [Limit::PartOfC(1.0); 2]),
];

pub(super) const SUBJECT: Subject = Subject {
    operations: OPERATIONS,
    aims: AIMS,
    no_worse: false,
    command: "ci/run bench --output gpu_mirror_rs/bench",
    title: "What the operations of the GPU mirror cost",
    method,
    goals: "They are for 4096 pages.",
    floor: "The floor is what the kernel or the processor takes for what the mirror cannot avoid:",
    sizes: "pages",
    picture: Picture {
        distances: "Over the floor, per 4 KiB: left is better",
        sizes: "small to large: 64, 4096, 65536 pages",
        main: "4096 pages",
    },
};

fn method(setting: &Setting) -> String {
    format!(
        "Both drivers, C's `test_hmm` and `gpu_mirror_rs`, are measured by the same program in the \
         same boot. Figures are instructions per 4 KiB, in user and kernel: the guest has one CPU, \
         and its clock advances by 1 ns for each (`-icount shift=0`). Each is of fresh memory in a \
         process of its own, after a round to warm up, the median of the rounds. A string \
         instruction counts once for each time it repeats, so to copy a page is 4096. Times are of \
         a second boot with two CPUs under {}, and only their ratios say something.",
        setting.clock
    )
}

/// Measures both drivers, in a boot that counts and in one that takes the time.
pub(super) fn measure(
    context: &mut Context<'_>,
    paths: &Paths,
    kernel: &Kernel,
    options: &Bench,
) -> Result<(Setting, Comparison)> {
    let mut program = vec![context.builder(kernel).gpu_mirror_extended(PROGRAM)?.into()];
    if let Some(pages) = options.pages {
        program.extend(["-n".into(), pages.to_string().into()]);
    }
    let counted = boot(context, kernel, &program, "counted", &COUNTED)?;
    let timed = boot(context, kernel, &program, "timed", &TIMED)?;
    let clock = match vm::kvm_works(paths, &kernel.image) {
        true => "KVM",
        false => "TCG",
    };
    let comparison = Comparison::new(&SUBJECT, &counted, Some(&timed));
    Ok((Setting::new(kernel, clock)?, comparison))
}

/// Runs the program on the drivers in turn, in one boot.
fn boot(
    context: &mut Context<'_>,
    kernel: &Kernel,
    program: &[OsString],
    name: &str,
    turns: &[Which],
) -> Result<super::figures::Figures> {
    let drivers = [context.driver(kernel, C)?, context.driver(kernel, Rust)?];
    let icount = name == "counted";
    let machine = Machine {
        cpus: if icount { 1 } else { 2 },
        memory: MEMORY,
        icount,
        ..exec::plain(kernel)
    };
    let turn = |which: &Which| {
        let turn = Turn {
            driver: Some(drivers[usize::from(*which == Rust)].clone()),
            rdma: None,
            command: program.to_owned(),
        };
        (*which, turn)
    };
    super::boot(context, &machine, name, turns.iter().map(turn).collect())
}
