// SPDX-License-Identifier: GPL-2.0

//! RDMA on-demand paging: one program on the kernel's modules and on those with the crates in them.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Result;

use crate::exec;
use crate::guest::Turn;
use crate::kernel::Kernel;
use crate::modules::Which::{self, Rust, C};
use crate::paths::Paths;
use crate::rdma;
use crate::suite::Context;
use crate::toolchain::Toolchain;
use crate::vm::Machine;

use super::compare::Comparison;
use super::report::Setting;
use super::subject::{Aim, Limit, Operation, Picture, Subject};

/// What ten thousand regions and their memory fit into.
const MEMORY: u64 = 2048;

const WRITE: &str = "warm write";
const REGISTER_PAGES: &str = "register, a page";
const MPROTECT: &str = "mprotect, a page";
const REGISTER: &str = "register, a region";
const DEREGISTER: &str = "deregister, a region";
const DONTNEED: &str = "drop a page of one region";
const BESIDE: &str = "drop a page of none";

/// How many times more may be paid where there are many regions for one: as a tree grows deeper, of
/// which registration is a small part and finding what overlaps a large one.
const GROWTH: f64 = 1.25;
const GROWTH_OVER_FLOOR: f64 = 1.5;

fn bytes(size: u64) -> String {
    match size {
        1024.. => format!("{} KiB", size >> 10),
        _ => format!("{size} B"),
    }
}

fn regions(count: u64) -> String {
    match count {
        1 => "1 region".into(),
        _ => format!("{count} regions"),
    }
}

fn pages(count: u64) -> String {
    format!("{count} pages")
}

/// A message of bytes.
const fn message(
    name: &'static str,
    row: &'static str,
    floor: &'static str,
    about: &'static str,
) -> Operation {
    Operation {
        name,
        row,
        floor: Some(floor),
        about: Some(about),
        size: bytes,
        main: 8,
    }
}

/// A page of a region.
const fn page(
    name: &'static str,
    row: &'static str,
    floor: Option<&'static str>,
    about: &'static str,
) -> Operation {
    Operation {
        name,
        row,
        floor,
        about: Some(about),
        size: pages,
        main: 1024,
    }
}

/// A call where there are as many regions.
const fn call(
    name: &'static str,
    row: &'static str,
    floor: Option<&'static str>,
    about: &'static str,
) -> Operation {
    Operation {
        name,
        row,
        floor,
        about: Some(about),
        size: regions,
        main: 10_000,
    }
}

const OPERATIONS: &[Operation] = &[
    message(
        WRITE,
        "write",
        "write_pinned",
        "a message between regions whose pages are known; the floor is the same between pinned \
         ones",
    ),
    message(
        "warm write, source's part",
        "write_near",
        "write_pinned",
        "only the requester's side pages on demand, and reads",
    ),
    message(
        "warm write, target's part",
        "write_far",
        "write_pinned",
        "only the responder's side pages on demand, and writes",
    ),
    message(
        "ping-pong",
        "pingpong",
        "pingpong_pinned",
        "a message sent there and one back, one after the other; the floor is the same between \
         pinned regions",
    ),
    message(
        "cold write, pages far apart",
        "touch",
        "touch_pinned",
        "a message to a page that the process has, and the device does not know, nor any within \
         64 pages; the floor is the same to a pinned region",
    ),
    message(
        "cold write, page after page",
        "touch_next",
        "touch_pinned",
        "a message to each page of a row that the process has and the device does not know; the \
         floor as before",
    ),
    page(
        "warm page",
        "pages_known",
        Some("pages_pinned"),
        "a page of 64 messages of 64 KiB to known pages; the floor is the same to a pinned region",
    ),
    page(
        "cold page",
        "pages_mapped",
        Some("pages_pinned"),
        "the same to pages that the process has and the device does not know; the floor as before",
    ),
    page(
        "cold page, untouched",
        "pages_untouched",
        Some("pages_pinned"),
        "the same to pages that nobody has touched: to clear them is part of it; the floor as \
         before",
    ),
    page(
        "prefetch, a page",
        "prefetch",
        None,
        "`ibv_advise_mr()` on pages that the process has and the device does not know",
    ),
    page(
        REGISTER_PAGES,
        "register_pages",
        None,
        "`ibv_reg_mr()` on 4 MiB that the process has",
    ),
    page(
        "deregister, a page",
        "deregister_pages",
        None,
        "`ibv_dereg_mr()` of that region",
    ),
    page(
        MPROTECT,
        "mprotect",
        Some("mprotect_bare"),
        "`mprotect()` to read-only of a region whose pages are known; the floor is the same \
         without a region",
    ),
    call(
        REGISTER,
        "register",
        None,
        "`ibv_reg_mr()` of a page beside as many regions",
    ),
    call(
        DEREGISTER,
        "deregister",
        None,
        "`ibv_dereg_mr()` of a page's region beside as many others",
    ),
    call(
        DONTNEED,
        "dontneed",
        Some("dontneed_bare"),
        "`MADV_DONTNEED` of a page that one of as many regions is on, and the device knows; the \
         floor is the same without a region",
    ),
    call(
        BESIDE,
        "dontneed_beside",
        Some("dontneed_bare"),
        "the same between the pages of as many regions; the floor as before",
    ),
];

const fn warm(size: u64) -> Aim {
    Aim {
        operation: WRITE,
        over_floor: true,
        size,
        limits: [Some(Limit::PartOfC(0.5)), None],
    }
}

const fn per_page(operation: &'static str, over_floor: bool, most: f64) -> Aim {
    Aim {
        operation,
        over_floor,
        size: 1024,
        limits: [Some(Limit::Cost(most)); 2],
    }
}

const fn growth(operation: &'static str, over_floor: bool) -> Aim {
    let times = match over_floor {
        true => GROWTH_OVER_FLOOR,
        false => GROWTH,
    };
    Aim {
        operation,
        over_floor,
        size: 10_000,
        limits: [Some(Limit::Times(times, 1)), None],
    }
}

const AIMS: &[Aim] = &[
    warm(8),
    warm(1024),
    warm(65536),
    per_page(MPROTECT, true, 60.0),
    per_page(REGISTER_PAGES, false, 20.0),
    growth(REGISTER, false),
    growth(DEREGISTER, false),
    growth(DONTNEED, true),
    growth(BESIDE, true),
];

pub(super) const SUBJECT: Subject = Subject {
    operations: OPERATIONS,
    aims: AIMS,
    no_worse: true,
    command: "ci/run bench --rdma --output rdma_odp_rs/bench",
    title: "What RDMA on-demand paging costs",
    method,
    goals: "What paging adds to a warm message is to be half of C's at most. From 1 region to \
            10000 costs are to grow with the depth of a tree: registration by a quarter of what it \
            is at most, what an invalidation adds by a half.",
    floor: "A figure is for one message, there and back for ping-pong, one page or one call. \
            Pages are of 4 KiB, however they are mapped:",
    sizes: "at",
    picture: Picture {
        distances: "Over the floor: left is better",
        sizes: "small to large: 8 B, 1 KiB, 64 KiB; 1, 100, 10000 regions",
        main: "8 B, 1024 pages, 10000 regions",
    },
};

fn method(_: &Setting) -> String {
    "The kernel's own modules and those with the crates in them, `ib_core` and `rdma_rxe` with all \
     that they need, are measured by the same program in the same boot, on a soft-RoCE device. \
     Both ends of a transfer are in one process: what a message costs is the work of both, in \
     packets of 1 KiB. Figures are instructions, in user and kernel: the guest has one CPU, and its \
     clock advances by 1 ns for each (`-icount shift=0`). Each row is in a process of its own, \
     after two rounds to warm up, the median of 15 rounds; messages are measured by turns in seven \
     rounds, of which it is the median, since what others leave in the allocator makes as much of \
     a difference as paging does. A string instruction counts once for \
     each time it repeats."
        .into()
}

/// Measures both sets of modules in one boot.
pub(super) fn measure(
    context: &mut Context<'_>,
    paths: &Paths,
    tools: &Toolchain,
    kernel: &Kernel,
    logs: &Path,
) -> Result<(Setting, Comparison)> {
    let program = context.builder(kernel).rdma_odp_bench()?;
    let (ours, _) = rdma::ours(paths, tools, kernel)?;
    let turns = [(C, rdma::theirs(paths, tools, kernel, logs)?), (Rust, ours)];
    let turns = turns.map(|(which, rdma)| {
        let turn = Turn {
            driver: None,
            rdma: Some(rdma),
            command: command(&program, which),
        };
        (which, turn)
    });
    let machine = Machine {
        cpus: 1,
        memory: MEMORY,
        icount: true,
        ..exec::plain(kernel)
    };
    let counted = super::boot(context, &machine, "counted", turns.into())?;
    let comparison = Comparison::new(&SUBJECT, &counted, None);
    Ok((Setting::new(kernel, "TCG")?, comparison))
}

/// The program on one of the sets. C is known to move wrong data: that is no failure of ours.
fn command(program: &Path, which: Which) -> Vec<OsString> {
    let mut command = vec![program.into()];
    if which == C {
        command.push("-w".into());
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_goal_is_of_an_operation() {
        for aim in AIMS {
            let operation = OPERATIONS.iter().find(|of| of.name == aim.operation);
            assert!(operation.is_some(), "{}", aim.operation);
        }
    }

    #[test]
    fn sizes_are_written_as_what_they_are() {
        assert_eq!([bytes(8), bytes(65536)], ["8 B", "64 KiB"]);
        assert_eq!([regions(1), regions(100)], ["1 region", "100 regions"]);
    }
}
