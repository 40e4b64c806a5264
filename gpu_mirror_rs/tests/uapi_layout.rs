// SPDX-License-Identifier: GPL-2.0

//! What user space says to the device is what the kernel's header says.
//!
//! Run with `KERNEL_SOURCE=/path/to/linux cargo test -p gpu_mirror_rs --features kernel-headers`.

use core::ops::Range;

use gpu_mirror_rs::uapi::{prot, Command, Request, Words};
use memoffset::span_of;

/// What bindgen makes of the header.
#[allow(
    clippy::all,
    dead_code,
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub
)]
mod c {
    include!(concat!(env!("OUT_DIR"), "/uapi.rs"));
}

/// The bytes of each field.
macro_rules! spans {
    ($type:ty) => {
        [
            span_of!($type, addr),
            span_of!($type, ptr),
            span_of!($type, npages),
            span_of!($type, cpages),
            span_of!($type, faults),
        ]
    };
}

const SIZE: usize = size_of::<c::hmm_dmirror_cmd>();

fn c_spans() -> [Range<usize>; 5] {
    spans!(c::hmm_dmirror_cmd)
}

#[test]
fn the_command_has_no_padding() {
    let mut next = 0;
    for span in c_spans() {
        assert_eq!(span.start, next);
        next = span.end;
    }
    assert_eq!(next, SIZE);
}

#[test]
fn the_command_is_laid_out_as_in_c() {
    assert_eq!(spans!(Command), c_spans());
    assert_eq!(size_of::<Command>(), SIZE);
    assert_eq!(align_of::<Command>(), align_of::<c::hmm_dmirror_cmd>());
}

#[test]
fn the_command_crosses_the_border_as_in_c() {
    assert_eq!(size_of::<Words>(), SIZE);
    let word = |span: Range<usize>| span.start / size_of::<u64>();
    let [addr, ptr, npages, cpages, faults] = c_spans().map(word);

    let mut words = [0; 5];
    (words[addr], words[ptr], words[npages]) = (1, 2, 3);
    (words[cpages], words[faults]) = (4, 5);
    let mut command = Command::from_words(words);
    assert_eq!((command.addr, command.ptr, command.npages), (1, 2, 3));
    assert_eq!((command.cpages, command.faults), (0, 0), "outputs");
    (command.cpages, command.faults) = (4, 5);
    assert_eq!(command.to_words(), words);
}

#[test]
fn requests_have_the_numbers_of_c() {
    for (number, request) in [
        (c::REQUEST_READ, Request::Read),
        (c::REQUEST_WRITE, Request::Write),
        (c::REQUEST_MIGRATE_TO_DEV, Request::MigrateToDevice),
        (c::REQUEST_MIGRATE_TO_SYS, Request::MigrateToSystem),
        (c::REQUEST_SNAPSHOT, Request::Snapshot),
        (c::REQUEST_EXCLUSIVE, Request::Exclusive),
        (c::REQUEST_CHECK_EXCLUSIVE, Request::CheckExclusive),
        (c::REQUEST_RELEASE, Request::Release),
        (c::REQUEST_FLAGS, Request::Flags),
        (c::REQUEST_READ_UNLOCKED, Request::ReadUnlocked),
    ] {
        assert_eq!(Request::from_ioctl(number), Some(request), "{number:#x}");
    }
    let no_request = c::REQUEST_READ_UNLOCKED + 1;
    assert_eq!(Request::from_ioctl(no_request), None);
}

#[test]
fn protections_are_those_of_c() {
    for (ours, theirs) in [
        (prot::ERROR, c::HMM_DMIRROR_PROT_ERROR),
        (prot::NONE, c::HMM_DMIRROR_PROT_NONE),
        (prot::READ, c::HMM_DMIRROR_PROT_READ),
        (prot::WRITE, c::HMM_DMIRROR_PROT_WRITE),
        (prot::PMD, c::HMM_DMIRROR_PROT_PMD),
        (prot::PUD, c::HMM_DMIRROR_PROT_PUD),
        (prot::ZERO, c::HMM_DMIRROR_PROT_ZERO),
        (
            prot::DEV_PRIVATE_LOCAL,
            c::HMM_DMIRROR_PROT_DEV_PRIVATE_LOCAL,
        ),
        (
            prot::DEV_COHERENT_LOCAL,
            c::HMM_DMIRROR_PROT_DEV_COHERENT_LOCAL,
        ),
        (
            prot::DEV_COHERENT_REMOTE,
            c::HMM_DMIRROR_PROT_DEV_COHERENT_REMOTE,
        ),
    ] {
        assert_eq!(u32::from(ours), theirs);
    }
}
