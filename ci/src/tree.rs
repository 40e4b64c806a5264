// SPDX-License-Identifier: GPL-2.0

//! Kernels with the crates in their tree.
//!
//! The crates are installed into the cache's own source, so that what is built of it can begin with the
//! objects of the kernel that the other suites use: make compares paths as well as times. They are gone
//! from it before anybody else uses it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{ensure, Result};
use duct::cmd;
use nix::fcntl::Flock;

use crate::config;
use crate::kernel::{self, Kernel};
use crate::paths::Paths;
use crate::progress::note;
use crate::step::Step;
use crate::toolchain::Toolchain;

/// What `kbuild/install` leaves in a tree that it has been in.
pub(crate) const NOTE: &str = ".mmu_notifier_helpers";
/// The file in a build tree that says that the copy of another was finished.
const WHOLE: &str = ".ci-copied";

/// Why nothing is installed into a kernel that `KDIR` names.
pub(crate) const FOREIGN: &str = "KDIR= is a tree of yours, which the crates are not put into";

/// Whether the source of a kernel is the cache's.
pub(crate) fn is_ours(paths: &Paths, kernel: &Kernel) -> bool {
    kernel.source.starts_with(&paths.cache)
}

/// A source that the crates are in until this is dropped. Nobody else builds meanwhile.
pub(crate) struct Installed<'a>(Borrowed<'a>);

impl<'a> Installed<'a> {
    /// Installs the crates into the source of `kernel`, which must be the cache's.
    pub(crate) fn new(
        paths: &'a Paths,
        tools: &'a Toolchain,
        kernel: &Kernel,
        logs: &'a Path,
    ) -> Result<Self> {
        let this = Self(Borrowed::new(paths, tools, kernel, logs)?);
        Step::new("installing the crates", logs.join("install.log"))
            .run(cmd!(paths.checkout.join("kbuild/install"), &kernel.source))?;
        Ok(this)
    }

    /// A kernel of this source that begins as `base` and has `options` on top, built below `name`.
    pub(crate) fn build(&self, base: &Kernel, name: &str, options: &str) -> Result<Kernel> {
        let kernel = self.0.prepare(base, name)?;
        self.0.configure(&kernel, options)?;
        config::check(options, &fs::read_to_string(kernel.build.join(".config"))?)?;
        self.make(&kernel, "kernel", &["bzImage", "modules"])?;
        Ok(kernel)
    }

    /// Runs make on a kernel of this source.
    pub(crate) fn make(&self, kernel: &Kernel, what: &str, targets: &[&str]) -> Result<()> {
        let log = self.0.log(&kernel.name, what);
        self.0.make(kernel, &log, targets)
    }

    /// Installs what `kernel` has of kselftests and of modules, and returns where each went.
    pub(crate) fn install(&self, kernel: &Kernel) -> Result<(PathBuf, PathBuf)> {
        let top = self.0.paths.dir(Path::new("tree").join(&kernel.slot))?;
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
            self.0.source.join("tools/testing/selftests").into(),
            to("O", &kernel.build),
            "TARGETS=gpu_mirror_rs mmu_notifier_helpers rdma_odp_rs".into(),
            to("INSTALL_PATH", &tests),
            "install".into(),
        ];
        let log = self.0.log(&kernel.name, "kselftest");
        Step::new("installing the kselftests", log).run(self.0.tools.make(&args))?;
        let mut args = kernel::make_args(kernel, &["modules_install"]);
        args.push(to("INSTALL_MOD_PATH", &modules));
        let log = self.0.log(&kernel.name, "modules");
        Step::new("installing the modules", log).run(self.0.tools.make(&args))?;
        Ok((tests, modules))
    }
}

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        if let Err(error) = remove(
            self.0.paths,
            &self.0.source,
            &self.0.logs.join("remove.log"),
        ) {
            note(format!("{error:#}"));
        }
    }
}

/// A source that patches are applied to until this is dropped.
pub(crate) struct Applied<'a> {
    borrowed: Borrowed<'a>,
    patches: Vec<PathBuf>,
}

impl<'a> Applied<'a> {
    /// The source of `kernel`, which must be the cache's, without any patch.
    pub(crate) fn new(
        paths: &'a Paths,
        tools: &'a Toolchain,
        kernel: &Kernel,
        logs: &'a Path,
    ) -> Result<Self> {
        Ok(Self {
            borrowed: Borrowed::new(paths, tools, kernel, logs)?,
            patches: Vec::new(),
        })
    }

    /// Applies one more patch.
    pub(crate) fn apply(&mut self, patch: &Path) -> Result<()> {
        self.git(&["apply"], patch)?;
        self.patches.push(patch.into());
        Ok(())
    }

    /// Builds a kernel as it is now, with those of the options that it knows.
    pub(crate) fn build(
        &self,
        base: &Kernel,
        name: &str,
        options: &str,
        log: &Path,
    ) -> Result<Kernel> {
        let kernel = self.borrowed.prepare(base, name)?;
        self.borrowed.configure(&kernel, options)?;
        self.borrowed.make(&kernel, log, &["bzImage", "modules"])?;
        Ok(kernel)
    }

    /// Runs make on what was built.
    pub(crate) fn make(&self, kernel: &Kernel, targets: &[&str], log: &Path) -> Result<()> {
        self.borrowed.make(kernel, log, targets)
    }

    fn git(&self, args: &[&str], patch: &Path) -> Result<()> {
        let mut args: Vec<OsString> = args.iter().map(OsString::from).collect();
        args.push(patch.into());
        let log = self.borrowed.log("patches", "apply");
        // Not in the repository that the cache may be in.
        let command = cmd("git", args)
            .dir(&self.borrowed.source)
            .env("GIT_CEILING_DIRECTORIES", &self.borrowed.source);
        Step::new("applying a patch", log).run(command)
    }
}

impl Drop for Applied<'_> {
    fn drop(&mut self) {
        while let Some(patch) = self.patches.pop() {
            if let Err(error) = self.git(&["apply", "-R"], &patch) {
                note(format!("{error:#}"));
            }
        }
    }
}

/// The cache's source, which nobody else builds meanwhile.
struct Borrowed<'a> {
    paths: &'a Paths,
    tools: &'a Toolchain,
    source: PathBuf,
    logs: &'a Path,
    _lock: Flock<File>,
}

impl<'a> Borrowed<'a> {
    fn new(
        paths: &'a Paths,
        tools: &'a Toolchain,
        kernel: &Kernel,
        logs: &'a Path,
    ) -> Result<Self> {
        ensure!(is_ours(paths, kernel), FOREIGN);
        let this = Self {
            paths,
            tools,
            source: kernel.source.clone(),
            logs,
            _lock: paths.lock()?,
        };
        clean(paths, &this.source)?;
        Ok(this)
    }

    /// The build tree `name`, which begins as a copy of that of `base`.
    fn prepare(&self, base: &Kernel, name: &str) -> Result<Kernel> {
        let slot = base.slot.with_file_name(format!("tree-{name}"));
        let kernel = Kernel {
            build: self.paths.cache.join("build").join(&slot),
            source: self.source.clone(),
            slot,
            programs: base.programs.clone(),
            name: name.into(),
        };
        if !kernel.build.join(WHOLE).is_file() {
            self.copy(&base.build, &kernel)?;
            fs::write(kernel.build.join(WHOLE), "")?;
        }
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
        self.make(kernel, &self.log(&kernel.name, "objtool"), &[objtool])?;
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

    fn configure(&self, kernel: &Kernel, options: &str) -> Result<()> {
        let path = kernel.build.join(".config");
        let text = fs::read_to_string(&path)?;
        fs::write(&path, text + options)?;
        self.make(kernel, &self.log(&kernel.name, "config"), &["olddefconfig"])
    }

    fn make(&self, kernel: &Kernel, log: &Path, targets: &[&str]) -> Result<()> {
        Step::new(format!("{}: {}", kernel.name, targets.join(" ")), log)
            .run(self.tools.make(&kernel::make_args(kernel, targets)))
    }

    fn log(&self, name: &str, what: &str) -> PathBuf {
        self.logs.join(format!("{name}-{what}.log"))
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
