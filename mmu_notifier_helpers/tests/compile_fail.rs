// SPDX-License-Identifier: GPL-2.0

//! What must not compile, each with the reason that the compiler gives.
//!
//! `TRYBUILD=overwrite cargo test -p mmu_notifier_helpers --test compile_fail` writes the reasons
//! anew, to be read again.

#![cfg(not(loom))]

#[test]
fn misuse_does_not_compile() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/compile_fail/*.rs");
    // Else they might fail for what they have in common.
    cases.pass("tests/compile_fail/driver/uses_it_right.rs");
}
