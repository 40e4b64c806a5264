// SPDX-License-Identifier: GPL-2.0

//! How much room there is, and how much the cache takes.

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
}
