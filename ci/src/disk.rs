// SPDX-License-Identifier: GPL-2.0

//! How much room there is, and how much the cache takes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{ensure, Context, Result};
use indicatif::HumanBytes;
use nix::sys::statvfs::statvfs;

/// Fails when less than `needed` bytes are free where `dir` is.
pub(crate) fn require(dir: &Path, needed: u64, what: &str) -> Result<()> {
    let stat = statvfs(dir).with_context(|| format!("cannot look at {}", dir.display()))?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    ensure!(
        free >= needed,
        "too little disk: {what} needs {} at {}, {} are free; make room (ci/run clean gives the cache back) \
         or point XDG_CACHE_HOME elsewhere",
        HumanBytes(needed),
        dir.display(),
        HumanBytes(free)
    );
    Ok(())
}

/// What a tree takes on disk.
pub(crate) fn used(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => metadata.blocks() * 512 + used(&entry.path()),
            Ok(metadata) => metadata.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_disk_says_how_much_is_needed() {
        let error = require(Path::new("/"), u64::MAX, "a kernel")
            .unwrap_err()
            .to_string();
        assert!(error.contains("a kernel needs 16.00 EiB"), "{error}");
        require(Path::new("/"), 0, "nothing").unwrap();
    }

    #[test]
    fn used_counts_what_is_below() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("below/file"), vec![1; 100_000]).unwrap();
        assert!(used(dir.path()) >= 100_000);
    }
}
