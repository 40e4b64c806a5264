// SPDX-License-Identifier: GPL-2.0

//! Gives the disk back.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{ensure, Context, Result};
use indicatif::HumanBytes;

use crate::disk;
use crate::paths::Paths;
use crate::progress::Progress;

/// What of the cache was downloaded, beside the source.
const DOWNLOADED: [&str; 3] = ["src", "downloads", "apt"];

/// `ci/run clean`.
pub(crate) fn clean(paths: &Paths, yes: bool, keep_source: bool) -> Result<i32> {
    if !paths.cache.exists() {
        println!("there is no {}", paths.cache.display());
        return Ok(0);
    }
    let _lock = paths.lock()?;
    let doomed = doomed(paths, keep_source)?;
    let used: u64 = {
        let _progress = Progress::spinner("measuring the cache");
        doomed.iter().map(|path| disk::used(path)).sum()
    };
    if !yes {
        ensure!(
            io::stdin().is_terminal(),
            "there is no terminal to ask on: say --yes"
        );
        print!(
            "remove {} of {}? [y/N] ",
            HumanBytes(used),
            paths.cache.display()
        );
        io::stdout().flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        if !answer.trim().eq_ignore_ascii_case("y") {
            println!("nothing was removed");
            return Ok(1);
        }
    }
    let _progress = Progress::spinner("removing");
    for path in &doomed {
        let removed = if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(path)
        } else {
            fs::remove_file(path)
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    // Empty unless something was kept.
    let _ = fs::remove_dir(&paths.cache);
    println!("gave back {}", HumanBytes(used));
    Ok(0)
}

/// What is to go.
fn doomed(paths: &Paths, keep_source: bool) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(&paths.cache)
        .with_context(|| format!("cannot read {}", paths.cache.display()))?;
    Ok(entries
        .flatten()
        .filter(|entry| !keep_source || !DOWNLOADED.iter().any(|kept| entry.file_name() == *kept))
        .map(|entry| entry.path())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Paths) {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        for below in ["src/7.3", "build/7.3"] {
            fs::create_dir_all(cache.join(below)).unwrap();
            fs::write(cache.join(below).join("file"), "x").unwrap();
        }
        let paths = Paths {
            checkout: dir.path().into(),
            cache,
        };
        (dir, paths)
    }

    #[test]
    fn everything_goes() {
        let (_dir, paths) = cache();
        clean(&paths, true, false).unwrap();
        assert!(!paths.cache.exists());
    }

    #[test]
    fn what_was_downloaded_can_stay() {
        let (_dir, paths) = cache();
        clean(&paths, true, true).unwrap();
        assert!(paths.cache.join("src/7.3/file").exists());
        assert!(!paths.cache.join("build").exists());
    }
}
