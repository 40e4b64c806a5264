// SPDX-License-Identifier: GPL-2.0

//! Says which versions the tools have.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::source::Chosen;

/// Where the workshop notes what was unpacked into it.
const STATUS: &str = "/var/lib/dpkg/status";
/// What is worth a line; the others are counted.
const NAMED: [&str; 18] = [
    "rustc",
    "bindgen",
    "gcc-14",
    "clang-19",
    "make",
    "pahole",
    "qemu-system-x86",
    "virtiofsd",
    "libibverbs1",
    "rdma-core",
    "perftest",
    "git",
    "perl",
    "python3",
    "shellcheck",
    "valgrind",
    "dkms",
    "gdb",
];

/// `ci/run --version`.
pub(crate) fn say(paths: &Paths) -> Result<i32> {
    let chosen = Chosen::read(paths)?;
    println!("mmu-notifier-helpers {}", env!("CARGO_PKG_VERSION"));
    println!("kernel {} ({})", chosen.release, chosen.version);
    let status = fs::read_to_string(STATUS).with_context(|| format!("cannot read {STATUS}"))?;
    let packages = packages(&status);
    for name in NAMED {
        if let Some((_, version)) = packages.iter().find(|(found, _)| found == name) {
            println!("{name} {version}");
        }
    }
    println!(
        "{} packages in {}, of which {} has each version",
        packages.len(),
        paths.cache.join("workshop").display(),
        Path::new(STATUS).display()
    );
    Ok(0)
}

/// The packages in dpkg's list and their versions.
fn packages(status: &str) -> Vec<(String, String)> {
    let paragraphs = status.split("\n\n").map(|paragraph| {
        let field = |name: &str| {
            let mut lines = paragraph.lines();
            lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
        };
        Some((field("Package")?, field("Version")?))
    });
    paragraphs.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_the_list() {
        let status =
            "Package: a\nStatus: install ok installed\nVersion: 1:2-3\nDepends: Version: 9\n\n\
                      Package: b\nVersion: 4\n";
        let found = packages(status);
        assert_eq!(
            found,
            [("a".into(), "1:2-3".into()), ("b".into(), "4".into())]
        );
    }
}
