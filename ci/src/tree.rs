// SPDX-License-Identifier: GPL-2.0

//! Kernels with the crates in their tree.
//!
//! The crates are installed into the cache's own source, so that what is built of it can begin with the
//! objects of the kernel that the other suites use: make compares paths as well as times. They are gone
//! from it before anybody else uses it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{ensure, Context as _, Result};
use duct::cmd;
use nix::fcntl::Flock;

use crate::kernel::{self, Kernel};
use crate::paths::Paths;
use crate::progress::note;
use crate::step::Step;
use crate::toolchain::Toolchain;
use crate::{config, vm};

/// What `kbuild/install` leaves in a tree that it has been in.
const NOTE: &str = ".mmu_notifier_helpers";

/// A source that the crates are in until this is dropped. Nobody else builds meanwhile.
pub(crate) struct Installed<'a> {
    paths: &'a Paths,
    tools: &'a Toolchain,
    source: PathBuf,
    logs: &'a Path,
    _lock: Flock<File>,
}

impl<'a> Installed<'a> {
    /// Installs the crates into the source of `kernel`, which must be the cache's.
    pub(crate) fn new(
        paths: &'a Paths,
        tools: &'a Toolchain,
        kernel: &Kernel,
        logs: &'a Path,
    ) -> Result<Self> {
        ensure!(
            kernel.source.starts_with(&paths.cache),
            "the crates are not installed into a tree of yours: run without KDIR"
        );
        let lock = paths.lock()?;
        let this = Self {
            paths,
            tools,
            source: kernel.source.clone(),
            logs,
            _lock: lock,
        };
        Step::new("installing the crates", logs.join("install.log"))
            .run(cmd!(paths.checkout.join("kbuild/install"), &this.source))?;
        Ok(this)
    }

    /// A kernel of this source that begins as `base` and has `options` on top, built below `name`.
    pub(crate) fn build(&self, base: &Kernel, name: &str, options: &str) -> Result<Kernel> {
        let slot = base.slot.with_file_name(format!("tree-{name}"));
        let build = self.paths.cache.join("build").join(&slot);
        if !vm::image(&build).is_file() {
            self.begin(&base.build, &build, name)?;
        }
        let kernel = Kernel {
            build,
            source: self.source.clone(),
            slot,
            programs: base.programs.clone(),
            name: name.into(),
        };
        self.configure(&kernel, options)?;
        self.make(&kernel, "kernel", &["bzImage", "modules"])?;
        Ok(kernel)
    }

    /// Copies a build tree to where none is, or what one left that was not ended.
    fn begin(&self, from: &Path, to: &Path, name: &str) -> Result<()> {
        if to.exists() {
            fs::remove_dir_all(to)?;
        }
        let parent = to.parent().context("a build tree is in the cache")?;
        let copying = self.log(name, "copy");
        Step::new(format!("copying a build tree to {name}"), &copying).run(cmd!(
            "cp",
            "-a",
            "--reflink=auto",
            from,
            to
        ))?;
        ensure!(parent.is_dir(), "the copy went elsewhere");
        // The tool is linked anew, as it is at another path, and each object depends on it; it is
        // the same tool.
        let objtool = "tools/objtool";
        let kernel = Kernel {
            build: to.into(),
            source: self.source.clone(),
            slot: PathBuf::new(),
            programs: PathBuf::new(),
            name: name.into(),
        };
        self.make(&kernel, "objtool", &["tools/objtool"])?;
        let reference = from.join(objtool).join("objtool");
        Step::new("keeping its objects", &copying).run(cmd!(
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
        ))
    }

    fn configure(&self, kernel: &Kernel, options: &str) -> Result<()> {
        let path = kernel.build.join(".config");
        let mut text = fs::read_to_string(&path)?;
        text += options;
        fs::write(&path, text)?;
        self.make(kernel, "config", &["olddefconfig"])?;
        config::check(options, &fs::read_to_string(&path)?)
    }

    /// Runs make on a kernel of this source.
    pub(crate) fn make(&self, kernel: &Kernel, what: &str, targets: &[&str]) -> Result<()> {
        let log = self.log(&kernel.name, what);
        Step::new(format!("{}: {}", kernel.name, targets.join(" ")), log)
            .run(self.tools.make(&kernel::make_args(kernel, targets)))
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
        let to = |name: &str, path: &Path| -> OsString {
            let mut arg = OsString::from(name);
            arg.push("=");
            arg.push(path);
            arg
        };
        self.make(kernel, "headers", &["headers"])?;
        let args = [
            "-C".into(),
            self.source.join("tools/testing/selftests").into(),
            to("O", &kernel.build),
            "TARGETS=gpu_mirror_rs mmu_notifier_helpers".into(),
            to("INSTALL_PATH", &tests),
            "install".into(),
        ];
        Step::new(
            "installing the kselftests",
            self.log(&kernel.name, "kselftest"),
        )
        .run(self.tools.make(&args))?;
        let mut args = kernel::make_args(kernel, &["modules_install"]);
        args.push(to("INSTALL_MOD_PATH", &modules));
        Step::new("installing the modules", self.log(&kernel.name, "modules"))
            .run(self.tools.make(&args))?;
        Ok((tests, modules))
    }

    fn log(&self, name: &str, what: &str) -> PathBuf {
        self.logs.join(format!("{name}-{what}.log"))
    }
}

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        if let Err(error) = remove(self.paths, &self.source, &self.logs.join("remove.log")) {
            note(format!("{error:#}"));
        }
    }
}

/// Removes the crates from a source.
fn remove(paths: &Paths, source: &Path, log: &Path) -> Result<()> {
    Step::new("removing the crates", log).run(cmd!(
        paths.checkout.join("kbuild/install"),
        "--remove",
        source
    ))
}

/// Removes what a run that was killed left in a source. Whoever calls has the lock of the cache.
pub(crate) fn clean(paths: &Paths, source: &Path) -> Result<()> {
    if !source.join(NOTE).is_dir() {
        return Ok(());
    }
    remove(paths, source, &paths.logs("remove")?.join("remove.log"))
}

/// A list of all that is in a tree: kinds, modes, names, and what the files hold.
pub(crate) fn listing(tree: &Path, to: &Path) -> Result<()> {
    const SCRIPT: &str = r#"{
	find . -printf '%y %m %p %l\n'
	find . -type f -exec sha256sum {} +
} | sort"#;
    Step::new("looking at the source", to).run(cmd!("sh", "-c", SCRIPT).dir(tree))
}
