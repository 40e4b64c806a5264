// SPDX-License-Identifier: GPL-2.0

//! Says which kernel the workshop has, and gets the sources of others from Debian, verified by apt's
//! own signatures.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure, Context, Result};
use duct::cmd;
use indicatif::HumanBytes;

use crate::disk;
use crate::paths::Paths;
use crate::progress::note;
use crate::step::Step;

/// Where the series of kernels are that the crates build with, the newest first.
pub(crate) const SERIES: &str = "kbuild/kernel_series";
/// What `ci/run` chose of what Debian serves.
const CHOSEN: &str = "kernel";
/// Where Debian serves kernels of its next release, and those that are candidates.
pub(crate) const OTHER_SUITES: [&str; 2] = ["unstable", "experimental"];
/// What signs it.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The package and what is unpacked from it, while both are there.
const NEEDED: u64 = 3 << 30;

/// A kernel's source.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Its version, as the cache's directories have it.
    pub(crate) version: String,
    /// The top of the tree.
    pub(crate) tree: PathBuf,
}

/// The stock kernel that `ci/run` chose, whose packages are in the workshop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// The version of its packages, as Debian has it.
    pub(crate) version: String,
    /// The release of its image.
    pub(crate) release: String,
}

impl Chosen {
    /// Reads what `ci/run` left in the cache.
    pub(crate) fn read(paths: &Paths) -> Result<Self> {
        let path = paths.cache.join(CHOSEN);
        let text = fs::read_to_string(&path)
            .with_context(|| format!("cannot read {}: start with ci/run", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is not whole", path.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            Some(line.strip_prefix("='")?.strip_suffix('\'')?.to_owned())
        };
        Some(Self {
            version: value("version")?,
            release: value("release")?,
        })
    }

    /// The version as the cache's directories have it.
    pub(crate) fn directory(&self) -> String {
        directory_name(&self.version)
    }

    /// The release of the image with `PREEMPT_RT` beside it.
    pub(crate) fn rt(&self) -> String {
        match self.release.strip_suffix("-amd64") {
            Some(rest) => format!("{rest}-rt-amd64"),
            None => format!("{}-rt", self.release),
        }
    }
}

/// Whether a kernel of this version, as Debian writes it, is of one of the series, a line each.
pub(crate) fn is_supported(series: &str, version: &str) -> bool {
    series.lines().any(|series| {
        version
            .strip_prefix(series)
            .is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// The newest source that one of Debian's other suites serves, if it serves any.
pub(crate) fn other(paths: &Paths, suite: &str) -> Result<Option<Source>> {
    let sources = paths.dir(Path::new("versions").join("src"))?;
    let logs = paths.logs("source")?;
    let apt = Apt::new(paths, &logs, suite)?;
    let served = apt.served()?;
    let Some(package) = newest_package(&served) else {
        return Ok(None);
    };
    disk::require(&sources, NEEDED, "another kernel's source")?;
    apt.fetch(paths, &package, &sources).map(Some)
}

/// The package of the newest series among those that are served.
fn newest_package(served: &[String]) -> Option<String> {
    let numbers = |package: &str| -> Option<(u32, u32)> {
        let (major, minor) = package.strip_prefix("linux-source-")?.split_once('.')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    served
        .iter()
        .filter(|package| numbers(package).is_some())
        .max_by_key(|package| numbers(package))
        .cloned()
}

/// A file that apt names, with the hash that its signed lists have for it.
///
/// apt's own download starts over after an interruption unless the server dates its files, which
/// not every mirror does.
#[derive(Debug, PartialEq, Eq)]
struct ToGet {
    uri: String,
    name: String,
    size: u64,
    hash_tool: &'static str,
    hash: String,
}

impl ToGet {
    /// Reads a line of `apt-get --print-uris`.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let uri = words
            .next()?
            .strip_prefix('\'')?
            .strip_suffix('\'')?
            .to_owned();
        let name = words.next().filter(|name| !name.contains('/'))?.to_owned();
        let size = words.next()?.parse().ok()?;
        let (hash_tool, hash) = match words.next()?.split_once(':')? {
            ("SHA256", hash) => ("sha256sum", hash.to_owned()),
            ("SHA512", hash) => ("sha512sum", hash.to_owned()),
            _ => return None,
        };
        Some(Self {
            uri,
            name,
            size,
            hash_tool,
            hash,
        })
    }

    /// Gets what is not there yet and checks the whole.
    fn get(&self, downloads: &Path, logs: &Path) -> Result<PathBuf> {
        let file = downloads.join(&self.name);
        let there = fs::metadata(&file).map_or(0, |metadata| metadata.len());
        if there < self.size {
            let options = [
                "--fail",
                "--location",
                "--silent",
                "--show-error",
                "--retry",
                "3",
            ];
            let mut args: Vec<OsString> = options.map(Into::into).into();
            args.extend(["--continue-at".into(), "-".into(), "--output".into()]);
            args.extend([file.clone().into(), self.uri.clone().into()]);
            let what = match there {
                0 => format!("downloading {}", self.name),
                _ => format!("going on with {} at {}", self.name, HumanBytes(there)),
            };
            Step::new(what, logs.join("download.log"))
                .run(cmd("curl", args))
                .context("the download did not end; the next run goes on where it stopped")?;
        }
        let found = cmd!(self.hash_tool, &file).read()?;
        if found.split_whitespace().next() != Some(&self.hash) {
            fs::remove_file(&file)?;
            bail!(
                "{} is not what Debian signed, so it was removed; run again",
                self.name
            );
        }
        Ok(file)
    }
}

/// Unpacks beside the goal and moves it there in one go: a tree that is there is whole.
fn unpack(deb: &Path, downloads: &Path, tree: &Path, logs: &Path) -> Result<()> {
    let scratch = downloads.join("unpacking");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir_all(&scratch)?;
    Step::new("unpacking the package", logs.join("dpkg.log"))
        .run(cmd!("dpkg-deb", "-x", deb, &scratch))?;
    let tarball = fs::read_dir(scratch.join("usr/src"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.to_string_lossy().contains(".tar."))
        .context("the package has no source in it")?;
    let unpacked = scratch.join("tree");
    fs::create_dir(&unpacked)?;
    Step::new("unpacking the kernel", logs.join("tar.log")).run(cmd!(
        "tar",
        "-xf",
        &tarball,
        "-C",
        &unpacked,
        "--strip-components=1"
    ))?;
    ensure!(
        unpacked.join("Kbuild").is_file(),
        "the package holds no kernel tree"
    );
    fs::rename(&unpacked, tree)
        .with_context(|| format!("cannot move the source to {}", tree.display()))?;
    fs::remove_dir_all(&scratch)?;
    Ok(())
}

/// A version of Debian's as the name of a directory.
fn directory_name(version: &str) -> String {
    version
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || ".-".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect()
}

/// The mirror of Debian's archive that the workshop was made from.
pub(crate) fn mirror(paths: &Paths) -> Result<String> {
    let path = paths.cache.join("apt/mirror");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: start with ci/run", path.display()))?;
    Ok(text.trim().to_owned())
}

/// apt with lists, cache and sources of its own, so that it needs no right and changes no setting.
struct Apt {
    conf: PathBuf,
    mirror: String,
    suite: String,
    logs: PathBuf,
}

impl Apt {
    fn new(paths: &Paths, logs: &Path, suite: &str) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).is_file(),
            "{KEYRING} is missing: install debian-archive-keyring, which verifies the kernel's source"
        );
        let top = Path::new("versions").join("apt").join(suite);
        let dir = paths.dir(&top)?;
        for below in ["lists/partial", "cache/archives/partial"] {
            paths.dir(top.join(below))?;
        }
        let mirror = mirror(paths)?;
        let sources = dir.join("debian.sources");
        fs::write(
            &sources,
            format!("Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n"),
        )?;
        let dir = dir
            .to_str()
            .context("apt cannot take a cache whose path is not UTF-8")?;
        ensure!(
            !dir.contains(['"', '\n']),
            "apt cannot take a cache at {dir}"
        );
        let conf = logs.join("apt.conf");
        fs::write(
            &conf,
            format!(
                "Dir::Etc::sourcelist \"{dir}/debian.sources\";\nDir::Etc::sourceparts \"-\";\n\
                 Dir::State::lists \"{dir}/lists\";\nDir::Cache \"{dir}/cache\";\n\
                 APT::Sandbox::User \"root\";\nAPT::Update::Error-Mode \"any\";\n\
                 Acquire::Retries \"3\";\n"
            ),
        )?;
        Ok(Self {
            conf,
            mirror,
            suite: suite.into(),
            logs: logs.into(),
        })
    }

    /// The packages of kernels' sources that there are now.
    fn served(&self) -> Result<Vec<String>> {
        Step::new(
            "reading Debian's list of kernels",
            self.logs.join("update.log"),
        )
        .run(cmd("apt-get", self.args(&["update"])))
        .with_context(|| {
            format!(
                "cannot read the suite {} of {}: is the network up?",
                self.suite, self.mirror
            )
        })?;
        let served = cmd("apt-cache", self.args(&["pkgnames", "linux-source-"])).read()?;
        Ok(served.lines().map(|line| line.trim().into()).collect())
    }

    /// Gets what is in a package, unless it is in `sources` already.
    fn fetch(&self, paths: &Paths, package: &str, sources: &Path) -> Result<Source> {
        let record = cmd(
            "apt-cache",
            self.args(&["show", "--no-all-versions", package]),
        )
        .read()?;
        let field = |name: &str| {
            record
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(str::trim)
        };
        let debian =
            field("Version:").with_context(|| format!("Debian's {package} has no version"))?;
        let version = directory_name(debian);
        let tree = sources.join(&version);
        if tree.is_dir() {
            note(format!("{package} {debian} is the newest, and it is here"));
            return Ok(Source { version, tree });
        }

        note(format!("the kernel is Debian's {package} {debian}"));
        let downloads = paths.dir("downloads")?;
        let uris = cmd("apt-get", self.args(&["--print-uris", "download", package])).read()?;
        let file = uris.lines().find_map(ToGet::parse).with_context(|| {
            format!("apt does not tell where to get {package} from, or not with a hash: {uris}")
        })?;
        let deb = file.get(&downloads, &self.logs)?;
        unpack(&deb, &downloads, &tree, &self.logs)?;
        // With it goes what an interrupted run left of another version.
        fs::remove_dir_all(&downloads)?;
        Ok(Source { version, tree })
    }

    fn args(&self, args: &[&str]) -> Vec<OsString> {
        let mut all: Vec<OsString> = vec!["-c".into(), self.conf.clone().into()];
        all.extend(args.iter().map(OsString::from));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_chosen_is_read() {
        let text = "series='7.3'\nversion='7.3.4-1~bpo13+1'\nrelease='7.3.4+deb13-amd64'\n";
        let chosen = Chosen::parse(text).unwrap();
        assert_eq!(chosen.directory(), "7.3.4-1_bpo13_1");
        assert_eq!(chosen.release, "7.3.4+deb13-amd64");
        assert_eq!(chosen.rt(), "7.3.4+deb13-rt-amd64");
        assert_eq!(Chosen::parse("version='7.3"), None);
    }

    #[test]
    fn what_apt_names_is_understood() {
        let line = "'http://x.example/pool/l/linux_1%7eb.deb' linux_1~b.deb 12 SHA256:00ff";
        let file = ToGet::parse(line).unwrap();
        assert_eq!(file.uri, "http://x.example/pool/l/linux_1%7eb.deb");
        assert_eq!((&*file.name, file.size), ("linux_1~b.deb", 12));
        assert_eq!((file.hash_tool, &*file.hash), ("sha256sum", "00ff"));
        assert_eq!(
            ToGet::parse("'http://x.example/a' ../a 12 SHA256:00ff"),
            None
        );
        assert_eq!(ToGet::parse("'http://x.example/a' a 12 MD5Sum:00ff"), None);
        assert_eq!(ToGet::parse("Reading package lists..."), None);
    }

    #[test]
    fn a_download_goes_on_where_it_stopped_and_is_checked() {
        let dir = tempfile::tempdir().unwrap();
        let served = dir.path().join("served");
        fs::write(&served, "the whole of it").unwrap();
        let mut file = ToGet {
            uri: format!("file://{}", served.display()),
            name: "got".into(),
            size: 15,
            hash_tool: "sha256sum",
            hash: cmd!("sha256sum", &served)
                .read()
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .into(),
        };
        // That the start is kept shows where the rest begins.
        fs::write(dir.path().join("got"), "THE").unwrap();
        let error = file.get(dir.path(), dir.path()).unwrap_err().to_string();
        assert!(error.contains("not what Debian signed"), "{error}");
        assert!(!dir.path().join("got").exists());

        fs::write(dir.path().join("got"), "the").unwrap();
        let got = file.get(dir.path(), dir.path()).unwrap();
        assert_eq!(fs::read_to_string(&got).unwrap(), "the whole of it");

        file.uri = "file:///nowhere".into();
        assert_eq!(file.get(dir.path(), dir.path()).unwrap(), got);
    }

    #[test]
    fn the_newest_package_is_chosen() {
        let served = ["linux-source-6.12", "linux-source-7.10", "linux-source-7.9"];
        let mut served: Vec<String> = served.map(String::from).into();
        served.push("linux-source-7.11-unsigned".into());
        assert_eq!(
            newest_package(&served).as_deref(),
            Some("linux-source-7.10")
        );
        assert_eq!(newest_package(&[]), None);
    }

    #[test]
    fn a_candidate_is_of_its_series() {
        let is_supported = |version| is_supported("7.4\n7.3\n", version);
        assert!(is_supported("7.3_rc7-1_exp1") && is_supported("7.3.4-1_bpo13_1"));
        assert!(!is_supported("7.2.13-1") && !is_supported("7.30-1"));
    }

    #[test]
    fn a_version_becomes_a_directory() {
        assert_eq!(directory_name("7.3.4-1~bpo13+1"), "7.3.4-1_bpo13_1");
        assert_eq!(directory_name("1:7/../x"), "1_7_.._x");
    }
}
