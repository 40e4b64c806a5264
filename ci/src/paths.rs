// SPDX-License-Identifier: GPL-2.0

//! Where everything lives: the checkout, and the cache outside of it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::progress;

/// Where the workshop has the host's files.
pub(crate) const HOST: &str = "/host";
/// What of the host's the workshop has its own of.
const OWN: [&str; 4] = ["/usr", "/etc", "/var", "/boot"];

/// How many runs keep their logs.
const KEPT_LOGS: usize = 40;

/// The checkout that is worked on and the cache that it uses.
#[derive(Clone, Debug)]
pub(crate) struct Paths {
    /// The top of the checkout.
    pub(crate) checkout: PathBuf,
    /// The top of the cache.
    pub(crate) cache: PathBuf,
}

impl Paths {
    /// Finds the cache of the user who calls; `ci/run` names the same place.
    pub(crate) fn new(checkout: PathBuf) -> Result<Self> {
        let base = match std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(std::env::var_os("HOME").context(
                "neither XDG_CACHE_HOME nor HOME is set: set one, the cache lives below it",
            )?)
            .join(".cache"),
        };
        Ok(Self {
            checkout,
            cache: base.join("mmu-notifier-helpers"),
        })
    }

    /// A directory of the cache, made if it is not there.
    pub(crate) fn dir(&self, below: impl AsRef<Path>) -> Result<PathBuf> {
        let dir = self.cache.join(below);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(dir)
    }

    /// A directory of the cache for this checkout alone. Cargo and make go by time stamps, so what
    /// one checkout built may pass for what another would build.
    pub(crate) fn own_dir(&self, below: impl AsRef<Path>) -> Result<PathBuf> {
        self.dir(below.as_ref().join(tag(&self.checkout)))
    }

    /// A directory for Kbuild's `MO=`, in one of this checkout alone. The crates lie beside `kbuild/`
    /// in the sources, so their objects land beside this one.
    pub(crate) fn mo_dir(&self, below: impl AsRef<Path>) -> Result<PathBuf> {
        let own = self.own_dir(below)?;
        self.dir(own.join("kbuild"))
    }

    /// A directory of its own for the logs of one step. The oldest go, if their run is over.
    pub(crate) fn logs(&self, step: &str) -> Result<PathBuf> {
        let top = self.dir("logs")?;
        let mut old: Vec<PathBuf> = fs::read_dir(&top)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        old.sort();
        let too_many = old.len().saturating_sub(KEPT_LOGS);
        for dir in old[..too_many].iter().filter(|dir| !is_in_use(dir)) {
            // Another run may be removing the same one.
            let _ = fs::remove_dir_all(dir);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        self.dir(Path::new("logs").join(format!("{now}-{}-{step}", std::process::id())))
    }

    /// Keeps other runs away from one thing that is built in the cache until it is dropped.
    pub(crate) fn lock(&self, what: impl AsRef<Path>) -> Result<Flock<File>> {
        let name = tag(what.as_ref());
        let path = self.dir("locks")?.join(&name);
        lock(
            &path,
            (FlockArg::LockExclusiveNonblock, FlockArg::LockExclusive),
            &format!("another run is building {name}, waiting for it"),
        )
    }

    /// Keeps other runs from changing what is read until it is dropped.
    pub(crate) fn share(path: &Path) -> Result<Flock<File>> {
        lock(
            path,
            (FlockArg::LockSharedNonblock, FlockArg::LockShared),
            "another run is at work on the kernel's source, waiting for it",
        )
    }
}

fn lock(path: &Path, (try_it, wait): (FlockArg, FlockArg), why: &str) -> Result<Flock<File>> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match Flock::lock(file, try_it) {
        Ok(lock) => Ok(lock),
        Err((file, Errno::EWOULDBLOCK)) => {
            progress::note(why);
            Flock::lock(file, wait)
                .map_err(|(_, errno)| errno)
                .with_context(|| format!("cannot lock {}", path.display()))
        }
        Err((_, errno)) => Err(errno).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// A path of the host's as this program, which is in the workshop, finds it.
pub(crate) fn seen(path: &Path) -> PathBuf {
    let is_own = OWN.iter().any(|own| path.starts_with(own)) && !path.starts_with(HOST);
    match path.strip_prefix("/") {
        Ok(below) if is_own => Path::new(HOST).join(below),
        _ => path.into(),
    }
}

/// A path of this program's as the host has it.
pub(crate) fn of_host(path: &Path) -> PathBuf {
    match path.strip_prefix(HOST) {
        Ok(below) => Path::new("/").join(below),
        Err(_) => path.into(),
    }
}

/// Whether the run that made these logs goes on: it is in the name.
fn is_in_use(logs: &Path) -> bool {
    let name = logs.file_name().unwrap_or_default().to_string_lossy();
    let process = name.split('-').nth(1);
    process.is_some_and(|process| Path::new("/proc").join(process).exists())
}

/// A path as the name of one directory; `ci/run` makes the same.
pub(crate) fn tag(path: &Path) -> String {
    path.as_os_str()
        .as_encoded_bytes()
        .iter()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() {
                char::from(*byte)
            } else {
                '_'
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkouts_do_not_share_what_they_build() {
        let dir = tempfile::tempdir().unwrap();
        let own = |checkout: &str| {
            Paths {
                checkout: checkout.into(),
                cache: dir.path().into(),
            }
            .own_dir("modules")
            .unwrap()
        };
        assert_eq!(own("/a b/c"), dir.path().join("modules/_a_b_c"));
        assert_ne!(own("/a/c"), own("/a/d"));
    }

    #[test]
    fn the_logs_of_a_run_that_goes_on_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            checkout: "/".into(),
            cache: dir.path().into(),
        };
        let ours = paths.logs("ours").unwrap();
        // No process has this number.
        let old = paths.dir("logs/1-4194305-old").unwrap();
        for number in 0..KEPT_LOGS {
            paths.dir(format!("logs/2-4194305-{number}")).unwrap();
        }
        paths.logs("another").unwrap();
        assert!(ours.is_dir());
        assert!(!old.exists());
    }

    #[test]
    fn the_lock_keeps_others_out_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            checkout: "/".into(),
            cache: dir.path().into(),
        };
        let lock = paths.lock("a/b").unwrap();
        let try_again = || {
            let file = File::options()
                .append(true)
                .open(dir.path().join("locks/a_b"))
                .unwrap();
            Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok()
        };
        assert!(!try_again());
        // What is built beside is nobody's concern.
        drop(paths.lock("a/c").unwrap());
        drop(lock);
        assert!(try_again());
    }

    #[test]
    fn the_hosts_files_are_found_from_the_workshop() {
        for (host, ours) in [
            ("/usr/src/k", "/host/usr/src/k"),
            ("/home/u/k", "/home/u/k"),
            ("/etcetera", "/etcetera"),
        ] {
            assert_eq!(seen(Path::new(host)), Path::new(ours));
            assert_eq!(of_host(Path::new(ours)), Path::new(host));
        }
    }
}
