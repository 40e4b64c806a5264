// SPDX-License-Identifier: GPL-2.0

//! The kernel's source with the crates in it, and kernels that differ from the two that are built of it
//! in options, or in how many patches of the series are in their source.
//!
//! The tree lies beside the source as it is and has links to its files. All checkouts use the one tree,
//! so that each of them finds the objects that were built: make compares paths as well as times.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use duct::cmd;
use nix::fcntl::Flock;

use crate::config;
use crate::kernel::{self, Kernel};
use crate::paths::Paths;
use crate::source::Chosen;
use crate::step::Step;
use crate::toolchain::{set, Toolchain};

/// The file in a build tree that says that the copy of another was finished.
const WHOLE: &str = ".ci-copied";
/// How often the tree may be another checkout's when it is our turn.
const TURNS: usize = 100;

/// Why nothing is installed into a kernel that `KDIR` names.
pub(crate) const FOREIGN: &str = "KDIR= is a tree of yours, which the crates are not put into";

/// Whether the source of a kernel is the cache's.
pub(crate) fn is_ours(paths: &Paths, kernel: &Kernel) -> bool {
    kernel.source.starts_with(&paths.cache)
}

/// The source with this checkout's crates in it, which nobody changes until this is dropped.
pub(crate) struct Tree {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// What stands for all that modules are built from.
    pub(crate) content: String,
    /// What stands for all that a kernel is built from.
    pub(crate) own: String,
    _lock: Flock<File>,
}

impl Tree {
    /// Makes the tree, or takes it as it is if it is right.
    pub(crate) fn get(paths: &Paths) -> Result<Self> {
        let chosen = Chosen::read(paths)?;
        let name = format!("{}.lock", chosen.directory());
        let lock = paths.dir("crates")?.join(name);
        for _ in 0..TURNS {
            let held = Paths::share(&lock)?;
            let check = script(paths, &["--check"]).stdout_capture().unchecked();
            let check = check.run()?;
            if check.status.success() {
                let said = String::from_utf8_lossy(&check.stdout).into_owned();
                let mut lines = said.lines();
                let (path, content, own) = (lines.next(), lines.next(), lines.next());
                return Ok(Self {
                    path: path.context("the source has no path")?.into(),
                    content: content.context("the source has no content")?.into(),
                    own: own.context("the source has nothing of its own")?.into(),
                    _lock: held,
                });
            }
            drop(held);
            let log = paths.logs("source")?.join("source.log");
            Step::new("getting the kernel's source", log).run(script(paths, &[]))?;
        }
        bail!("other checkouts change the kernel's source all the time")
    }
}

fn script(paths: &Paths, more: &[&str]) -> duct::Expression {
    let mut args: Vec<OsString> = vec![
        paths.checkout.join("ci/kernel/source").into(),
        paths.checkout.clone().into(),
        paths.cache.clone().into(),
    ];
    args.extend(more.iter().map(OsString::from));
    cmd("/bin/sh", args)
}

/// The kernel's source as Debian has it.
pub(crate) fn pristine(paths: &Paths) -> Result<PathBuf> {
    // It is unpacked where the tree is made.
    drop(Tree::get(paths)?);
    Ok(paths
        .cache
        .join("src")
        .join(Chosen::read(paths)?.directory()))
}

/// A workplace for kernels that are built as variants of others.
pub(crate) struct Variants<'a> {
    paths: &'a Paths,
    tools: &'a Toolchain,
    logs: &'a Path,
    source: Source,
}

/// What the variants are built from.
enum Source {
    /// The tree with the crates, which stays as it is for as long.
    Crates { _tree: Tree },
    /// A copy of the source as it is, to which patches are applied. To those who build it is where the
    /// tree with the crates is.
    Patched { at: PathBuf, copy: PathBuf },
}

impl<'a> Variants<'a> {
    /// Variants with the crates in their source.
    pub(crate) fn of_crates(
        paths: &'a Paths,
        tools: &'a Toolchain,
        base: &Kernel,
        logs: &'a Path,
    ) -> Result<Self> {
        ensure!(is_ours(paths, base), FOREIGN);
        Ok(Self {
            paths,
            tools,
            logs,
            source: Source::Crates {
                _tree: Tree::get(paths)?,
            },
        })
    }

    /// Variants of the source as it is, to which patches are applied.
    pub(crate) fn of_patches(
        paths: &'a Paths,
        tools: &'a Toolchain,
        base: &Kernel,
        logs: &'a Path,
    ) -> Result<Self> {
        ensure!(is_ours(paths, base), FOREIGN);
        let copy = paths.own_dir("patched")?;
        fs::remove_dir_all(&copy)?;
        Step::new("copying the source", logs.join("copy.log")).run(cmd!(
            "cp",
            "-al",
            pristine(paths)?,
            &copy
        ))?;
        Ok(Self {
            paths,
            tools,
            logs,
            source: Source::Patched {
                at: base.source.clone(),
                copy,
            },
        })
    }

    /// Applies one more patch.
    pub(crate) fn apply(&self, patch: &Path) -> Result<()> {
        let Source::Patched { copy, .. } = &self.source else {
            bail!("the crates are in the source already");
        };
        // Not in the repository that the cache may be in. It writes files anew, so that the source,
        // which has links to them, stays as it is.
        let command = cmd!("git", "apply", patch)
            .dir(copy)
            .env("GIT_CEILING_DIRECTORIES", copy);
        Step::new("applying a patch", self.log("patches", "apply")).run(command)
    }

    /// Configures and builds a variant that begins as `base` and has `options` on top, all of which it
    /// must take.
    pub(crate) fn build(&self, base: &Kernel, name: &str, options: &str) -> Result<Kernel> {
        let log = self.log(name, "kernel");
        let kernel = self.build_known(base, name, options, &log)?;
        config::check(options, &fs::read_to_string(kernel.build.join(".config"))?)?;
        Ok(kernel)
    }

    /// Configures and builds a variant with those of the options that it knows.
    pub(crate) fn build_known(
        &self,
        base: &Kernel,
        name: &str,
        options: &str,
        log: &Path,
    ) -> Result<Kernel> {
        let slot = base.slot.with_file_name(format!("{}-{name}", base.name));
        let build = self.paths.cache.join("build").join(&slot);
        let kernel = Kernel {
            image: build.join(kernel::IMAGE),
            slot,
            name: name.into(),
            state: format!("{}\n{options}", base.state),
            build,
            ..base.clone()
        };
        let _lock = self.paths.lock(&kernel.slot)?;
        if !kernel.build.join(WHOLE).is_file() {
            self.copy(&base.build, &kernel)?;
            fs::write(kernel.build.join(WHOLE), "")?;
        }
        // From the base's own configuration each time, so that no option of another run stays.
        let config = fs::read_to_string(base.build.join(".config"))? + options;
        fs::write(kernel.build.join(".config"), config)?;
        self.make(&kernel, "config", &["olddefconfig"])?;
        self.make_with(&kernel, log, &["bzImage", "modules"])?;
        Ok(kernel)
    }

    fn copy(&self, from: &Path, kernel: &Kernel) -> Result<()> {
        let to = &kernel.build;
        if to.exists() {
            fs::remove_dir_all(to)?;
        }
        let copying = self.log(&kernel.name, "copy");
        Step::new(format!("copying a build tree to {}", kernel.name), &copying).run(cmd!(
            "cp",
            "-a",
            "--reflink=auto",
            from,
            to
        ))?;
        // The tool is linked anew, as it is at another path, and each object depends on it; it is
        // the same tool.
        let objtool = "tools/objtool";
        self.make(kernel, "objtool", &[objtool])?;
        let reference = from.join(objtool).join("objtool");
        let touch = cmd!(
            "find",
            to.join(objtool),
            "-type",
            "f",
            "-exec",
            "touch",
            "-r",
            reference,
            "{}",
            "+"
        );
        Step::new("keeping its objects", &copying).run(touch)
    }

    /// Runs make on a variant.
    pub(crate) fn make(&self, kernel: &Kernel, what: &str, targets: &[&str]) -> Result<()> {
        self.make_with(kernel, &self.log(&kernel.name, what), targets)
    }

    /// Runs make on a variant, with a log of the caller's.
    pub(crate) fn make_with(&self, kernel: &Kernel, log: &Path, targets: &[&str]) -> Result<()> {
        let what = format!("{}: {}", kernel.name, targets.join(" "));
        self.run(&what, log, &kernel::make_args(kernel, targets))
    }

    fn run(&self, what: &str, log: &Path, args: &[OsString]) -> Result<()> {
        let make = match &self.source {
            Source::Crates { .. } => self.tools.make(args),
            Source::Patched { at, copy } => {
                let script = r#"at=$1 copy=$2
shift 2
mount --bind "$copy" "$at" && exec make "$@""#;
                let mut all: Vec<OsString> =
                    ["--mount", "sh", "-c", script, "sh"].map(Into::into).into();
                all.extend([at.into(), copy.into()]);
                all.extend(self.tools.make_words(args));
                self.tools.make_by(cmd("unshare", all))
            }
        };
        Step::new(what, log).run(make)
    }

    /// Installs what `kernel` has of kselftests and of modules, and returns where each went.
    pub(crate) fn install(&self, kernel: &Kernel) -> Result<(PathBuf, PathBuf)> {
        let top = self.paths.dir(Path::new("tree").join(&kernel.slot))?;
        let (tests, modules) = (top.join("kselftest"), top.join("modules"));
        for old in [&tests, &modules] {
            if old.exists() {
                fs::remove_dir_all(old)?;
            }
        }
        self.make(kernel, "headers", &["headers"])?;
        let args = [
            "-C".into(),
            kernel.source.join("tools/testing/selftests").into(),
            set("O", &kernel.build),
            "TARGETS=gpu_mirror_rs mmu_notifier_helpers rdma_odp_rs".into(),
            set("INSTALL_PATH", &tests),
            "install".into(),
        ];
        let log = self.log(&kernel.name, "kselftest");
        self.run("installing the kselftests", &log, &args)?;
        let mut args = kernel::make_args(kernel, &["modules_install"]);
        args.push(set("INSTALL_MOD_PATH", &modules));
        let log = self.log(&kernel.name, "modules");
        self.run("installing the modules", &log, &args)?;
        Ok((tests, modules))
    }

    fn log(&self, name: &str, what: &str) -> PathBuf {
        self.logs.join(format!("{name}-{what}.log"))
    }
}

impl Drop for Variants<'_> {
    fn drop(&mut self) {
        if let Source::Patched { copy, .. } = &self.source {
            // What is left is removed when the next one is made.
            let _ = fs::remove_dir_all(copy);
        }
    }
}

/// A list of all that is in a tree: kinds, modes, names, and what the files hold.
pub(crate) fn listing(tree: &Path, to: &Path) -> Result<()> {
    const SCRIPT: &str = r#"{
	find . -printf '%y %m %p %l\n'
	find . -type f -exec sha256sum {} +
} | sort"#;
    Step::new("looking at the source", to).run(cmd!("sh", "-c", SCRIPT).dir(tree))
}
