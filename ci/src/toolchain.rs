// SPDX-License-Identifier: GPL-2.0

//! The one toolchain, the workshop's, for what runs on the host and in the kernel.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use duct::{cmd, Expression};

use crate::paths::Paths;

/// The LLVM that is used, as Debian numbers it.
const LLVM: &str = "/usr/lib/llvm-19";

/// Returns a variable on make's command line.
pub(crate) fn set(name: &str, value: &Path) -> OsString {
    let mut arg = OsString::from(name);
    arg.push("=");
    arg.push(value);
    arg
}

/// The tools, checked to fit together.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    path: OsString,
    library: PathBuf,
    version: String,
    target: PathBuf,
}

impl Toolchain {
    /// Finds the tools and checks that they belong together.
    pub(crate) fn new(paths: &Paths) -> Result<Self> {
        let mut path = OsString::from(format!("{LLVM}/bin:"));
        path.push("/usr/sbin:/usr/bin");
        let rustc = |args: &[&str]| {
            duct::cmd("/usr/bin/rustc", args)
                .env("PATH", &path)
                .read()
                .context(
                    "rustc does not run: start with ci/run, which makes the workshop that it is in",
                )
        };
        let verbose = rustc(&["-vV"])?;
        let version = verbose
            .lines()
            .find_map(|line| line.strip_prefix("release: "))
            .context("rustc does not tell its version")?
            .to_owned();
        let library = match std::env::var_os("RUST_LIB_SRC").filter(|dir| !dir.is_empty()) {
            Some(dir) => PathBuf::from(dir),
            None => {
                Path::new(&rustc(&["--print", "sysroot"])?).join("lib/rustlib/src/rust/library")
            }
        };
        check_library(&library, &version)?;
        Ok(Self {
            path,
            library,
            version,
            target: paths.own_dir("target")?,
        })
    }

    /// The version of the compiler.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// How many jobs a build gets.
    pub(crate) fn jobs() -> usize {
        std::thread::available_parallelism().map_or(2, usize::from)
    }

    /// `make` as the kernel wants it.
    pub(crate) fn make(&self, args: &[OsString]) -> Expression {
        self.make_by(cmd("make", self.make_words(args)))
    }

    /// The words for `make`.
    pub(crate) fn make_words(&self, args: &[OsString]) -> Vec<OsString> {
        let mut all: Vec<OsString> = vec![format!("-j{}", Self::jobs()).into()];
        all.extend_from_slice(args);
        all
    }

    /// A command that calls `make` as the kernel wants it.
    pub(crate) fn make_by(&self, command: Expression) -> Expression {
        self.tool(command)
            // What the caller's own make says must not get in here.
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL")
            // Left to the clock, each build would link the kernel anew.
            .env("KBUILD_BUILD_TIMESTAMP", "Thu Jan  1 00:00:00 UTC 1970")
            .env("KBUILD_BUILD_USER", "ci")
            .env("KBUILD_BUILD_HOST", "ci")
    }

    /// Debian's cargo, whatever else the user has.
    pub(crate) fn cargo(&self, args: &[&str]) -> Expression {
        self.cargo_in(&self.target, args)
    }

    /// The same, with another directory for what it builds: a lock of cargo's goes with it, and of
    /// two values for a variable a command takes the one that it was given first.
    pub(crate) fn cargo_in(&self, target: &Path, args: &[&str]) -> Expression {
        self.tool(cmd("/usr/bin/cargo", args))
            .env("CARGO_TARGET_DIR", target)
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTC")
            .env_remove("RUSTC_WRAPPER")
    }

    /// A program that calls `make` or its like.
    pub(crate) fn command(&self, command: Expression) -> Expression {
        self.tool(command)
            .env_remove("MAKEFLAGS")
            .env_remove("MAKELEVEL")
    }

    fn tool(&self, command: Expression) -> Expression {
        command
            .env("PATH", &self.path)
            .env("LIBCLANG_PATH", format!("{LLVM}/lib"))
            .env("RUST_LIB_SRC", &self.library)
            .env("LC_ALL", "C")
    }

    /// Where cargo puts what it builds.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }
}

/// The kernel builds Rust's own library from source, which must be that of the compiler.
fn check_library(library: &Path, version: &str) -> Result<()> {
    ensure!(
        library.join("core/src/lib.rs").is_file(),
        "the source of Rust's library is missing at {}: install Debian's package of it for rustc {version} \
         (rust-src, or rust-web-src), or set RUST_LIB_SRC",
        library.display()
    );
    let source = library.parent().and_then(|top| top.canonicalize().ok());
    let found = source
        .as_deref()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str()?.strip_prefix("rustc-").map(str::to_owned));
    match found {
        Some(found) if found == version => Ok(()),
        Some(found) => bail!(
            "rustc is {version}, but the source of Rust's library at {} is {found}: install the same version of both",
            library.display()
        ),
        None => bail!(
            "cannot tell the version of Rust's library at {}: its directory should be rustc-{version}",
            library.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library(version: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join(format!("rustc-{version}")).join("library");
        std::fs::create_dir_all(library.join("core/src")).unwrap();
        std::fs::write(library.join("core/src/lib.rs"), "").unwrap();
        (dir, library)
    }

    #[test]
    fn the_library_of_the_same_version_is_taken() {
        let (_dir, library) = library("1.85.0");
        check_library(&library, "1.85.0").unwrap();
    }

    #[test]
    fn the_library_of_another_version_is_refused() {
        let (_dir, library) = library("1.85.0");
        let error = check_library(&library, "1.96.0").unwrap_err().to_string();
        assert!(
            error.contains("rustc is 1.96.0") && error.contains("is 1.85.0"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_library_is_refused() {
        let error = check_library(Path::new("/nowhere/library"), "1.85.0")
            .unwrap_err()
            .to_string();
        assert!(error.contains("missing at /nowhere/library"), "{error}");
    }
}
