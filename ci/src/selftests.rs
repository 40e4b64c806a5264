// SPDX-License-Identifier: GPL-2.0

//! Builds the test programs that run in the guest: the kernel tree's own,
//! unmodified, and ours.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{ensure, Context, Result};
use duct::{cmd, Expression};

use crate::kernel::Kernel;
use crate::paths::Paths;
use crate::step::Step;
use crate::toolchain::{set, Toolchain};
use crate::tree;

/// Where Debian's rdma-core has the tests of its bindings for Python.
const PYVERBS: &str = "/usr/share/doc/rdma-core/tests";
/// The file beside the kernel's headers that says that they are whole.
const HEADERS: &str = ".ci-installed";
/// Copies the directory and unpacks what is packed in it.
const UNPACK: &str = r#"cp -r "$1" "$2" && find "$2" -name '*.gz' -exec gunzip {} +"#;

/// What a suite builds its programs with.
pub(crate) struct Builder<'a> {
    pub(crate) paths: &'a Paths,
    pub(crate) tools: &'a Toolchain,
    pub(crate) kernel: &'a Kernel,
    pub(crate) logs: &'a Path,
    pub(crate) deadline: Instant,
}

impl Builder<'_> {
    /// The kernel tree's `hmm-tests`.
    pub(crate) fn hmm_tests(&self) -> Result<PathBuf> {
        let top = self.top()?;
        let _lock = self.paths.lock(&top)?;
        let headers = self.headers(&top)?;
        // The selftests write into their own directory: a tree of links takes it.
        let tree = top.join("tree");
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        let below = ["tools", "testing", "selftests", "mm"];
        link(&self.kernel.source, &tree, &below)
            .with_context(|| format!("cannot link the kernel's source to {}", tree.display()))?;
        let output = self.paths.dir(top.join("mm"))?;
        let program = output.join("hmm-tests");
        self.step("building hmm-tests", "hmm-tests-build.log")
            .run(make(vec![
                "-C".into(),
                tree.join(below.join("/")).into(),
                set("OUTPUT", &output),
                system_headers(&headers),
                program.clone().into(),
            ]))?;
        Ok(program)
    }

    /// Our own programs for the GPU mirror.
    pub(crate) fn gpu_mirror(&self) -> Result<Vec<PathBuf>> {
        self.ours("gpu_mirror_rs/selftests", "gpu_mirror")
    }

    /// One of our own programs for the GPU mirror that is built with its tests and is none.
    pub(crate) fn gpu_mirror_extended(&self, name: &str) -> Result<PathBuf> {
        beside(&self.gpu_mirror()?, name)
    }

    /// Our own programs for what comes with the helper crate.
    pub(crate) fn helpers(&self) -> Result<Vec<PathBuf>> {
        self.ours("mmu_notifier_helpers/selftests", "mmu_notifier_helpers")
    }

    /// Our own programs for RDMA on-demand paging.
    pub(crate) fn rdma_odp(&self) -> Result<Vec<PathBuf>> {
        self.ours("rdma_odp_rs/selftests", "rdma_odp")
    }

    /// The program that measures it.
    pub(crate) fn rdma_odp_bench(&self) -> Result<PathBuf> {
        beside(&self.rdma_odp()?, "rdma_odp_bench")
    }

    /// The program that shows RDMA on-demand paging.
    pub(crate) fn rdma_odp_demo(&self) -> Result<PathBuf> {
        beside(&self.rdma_odp()?, "rdma_odp_demo")
    }

    /// The tests of rdma-core's bindings for Python, as their package has them, unpacked.
    pub(crate) fn pyverbs(&self) -> Result<PathBuf> {
        let output = self.paths.own_dir("selftests/pyverbs")?;
        let _lock = self.paths.lock(&output)?;
        let tests = output.join("tests");
        if tests.exists() {
            fs::remove_dir_all(&tests)?;
        }
        self.step("unpacking the tests of pyverbs", "pyverbs.log")
            .run(cmd!("sh", "-c", UNPACK, "sh", PYVERBS, &tests).dir(&output))?;
        Ok(tests)
    }

    /// The programs of a directory of the checkout, which go to `name` in the cache.
    fn ours(&self, directory: &str, name: &str) -> Result<Vec<PathBuf>> {
        let top = self.top()?;
        let _lock = self.paths.lock(&top)?;
        let headers = self.headers(&top)?;
        let output = self.paths.own_dir(top.join(name))?;
        let args = vec![
            "-s".into(),
            "--no-print-directory".into(),
            "-C".into(),
            self.paths.checkout.join(directory).into(),
            set("OUTPUT", &output),
            set("KSRC", &self.kernel.source),
            system_headers(&headers),
        ];
        let mut list = args.clone();
        list.extend([
            "--eval=list-programs: ; @echo $(TEST_GEN_PROGS)".into(),
            "list-programs".into(),
        ]);
        self.step(
            &format!("building {directory}"),
            &format!("{name}-build.log"),
        )
        .run(make(args))?;
        let names = make(list).read()?;
        let programs: Vec<PathBuf> = names.split_whitespace().map(PathBuf::from).collect();
        ensure!(!programs.is_empty(), "{directory} builds no program");
        for program in &programs {
            ensure!(program.is_file(), "the build left no {}", program.display());
        }
        Ok(programs)
    }

    fn top(&self) -> Result<PathBuf> {
        let top = self
            .paths
            .dir(Path::new("selftests").join(&self.kernel.programs))?;
        let text = top.to_string_lossy();
        ensure!(
            !text.contains(|c: char| c.is_whitespace()),
            "make cannot build in {text}, which has a space in it: point XDG_CACHE_HOME elsewhere"
        );
        Ok(top)
    }

    /// The kernel's headers for user space.
    fn headers(&self, top: &Path) -> Result<PathBuf> {
        let output = self.paths.dir(top.join("headers"))?;
        // The source that they are of never changes.
        let stamp = output.join(HEADERS);
        if tree::is_ours(self.paths, self.kernel) && stamp.is_file() {
            return Ok(output.join("usr/include"));
        }
        self.step("installing the kernel's headers", "headers.log")
            .run(self.tools.make(&[
                "-C".into(),
                self.kernel.source.clone().into(),
                set("O", &output),
                "headers".into(),
            ]))?;
        fs::write(&stamp, "")?;
        Ok(output.join("usr/include"))
    }

    fn step(&self, what: &str, log: &str) -> Step {
        Step::new(what, self.logs.join(log)).by(self.deadline)
    }
}

/// A program that is built with tests, and is none.
fn beside(tests: &[PathBuf], name: &str) -> Result<PathBuf> {
    let test = tests.first().context("there are no selftests")?;
    let program = test.with_file_name(name);
    ensure!(program.is_file(), "the build left no {}", program.display());
    Ok(program)
}

/// `make`, free of what a make around us says.
fn make(args: Vec<OsString>) -> Expression {
    cmd("make", args)
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
}

/// The kernel's headers where the selftests look for them.
fn system_headers(headers: &Path) -> OsString {
    format!("KHDR_INCLUDES=-isystem {}", headers.display()).into()
}

/// Makes `to` look like `from`: links all the way, real directories along `below`.
fn link(from: &Path, to: &Path, below: &[&str]) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        match below {
            [next, rest @ ..] if entry.file_name() == *next => link(&entry.path(), &target, rest)?,
            _ => symlink(entry.path(), &target)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_into_a_tree_of_links_leaves_the_source_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("a/b")).unwrap();
        fs::create_dir_all(from.join("c")).unwrap();
        fs::write(from.join("a/b/file"), "x").unwrap();
        link(&from, &to, &["a", "b"]).unwrap();
        fs::write(to.join("a/b/new"), "y").unwrap();
        assert_eq!(fs::read_to_string(to.join("a/b/file")).unwrap(), "x");
        assert!(!from.join("a/b/new").exists());
        assert!(to.join("c").is_symlink());
    }
}
