// SPDX-License-Identifier: GPL-2.0

//! Debian from nothing: what a new user on a new machine goes through.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result};
use duct::{cmd, Expression};
use nix::unistd::geteuid;

use super::{minutes, Context};
use crate::progress::note;
use crate::report::{Case, Verdict};
use crate::step::Step;
use crate::{apt, disk};

/// The releases that must work.
const RELEASES: [&str; 2] = ["trixie", "bookworm"];
/// How long each may take.
const LIMIT: std::time::Duration = minutes(80);
/// A system with everything in it that one kernel takes.
const NEEDED: u64 = 9 << 30;

/// What ties this machine to its network, which the new system needs as well.
const NETWORK: [&str; 3] = [
    "/etc/resolv.conf",
    "/etc/pip.conf",
    "/usr/local/share/ca-certificates",
];

/// Enters the new system as its user.
const INSIDE: &str = r#"set -eu
mount -t proc proc "$1/proc"
mount -t sysfs sys "$1/sys"
mount --rbind /dev "$1/dev"
exec chroot "$1" su -l -w http_proxy,https_proxy,no_proxy user -c 'project/ci/run exec -- true'"#;

/// Makes the user and hands over the clone.
const USER: &str = r#"set -eu
chroot "$1" useradd -m -s /bin/sh user
echo 'user ALL=(ALL) NOPASSWD: ALL' > "$1/etc/sudoers.d/user"
cp -R "$2" "$1/home/user/project"
chroot "$1" chown -R user: /home/user"#;

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    let top = context.paths.dir("fresh")?;
    disk::require(&top, NEEDED, "a system from nothing")?;
    if !geteuid().is_root() {
        // Asks now, at the terminal, and not in the middle.
        cmd!("sudo", "-v")
            .run()
            .context("the suite needs root, or sudo")?;
    }
    if !Path::new("/usr/sbin/debootstrap").exists() {
        let install = [
            "apt-get",
            "install",
            "-y",
            "--no-install-recommends",
            "debootstrap",
        ];
        Step::new(
            "installing debootstrap",
            context.logs.join("debootstrap-install.log"),
        )
        .run(root(&install))?;
    }
    let clone = top.join("clone");
    remove(&clone)?;
    Step::new("cloning the checkout", context.logs.join("clone.log")).run(cmd!(
        "git",
        "clone",
        "--no-local",
        &context.paths.checkout,
        &clone
    ))?;
    for release in RELEASES {
        let system = top.join(release);
        let outcome = one(context, release, &system, &clone);
        let kept = system.join("home/user/.cache/mmu-notifier-helpers/logs");
        if outcome.is_err() && kept.is_dir() {
            let target = context.logs.join(format!("{release}-logs"));
            // The failure is told with or without them.
            let _ = cmd!("cp", "-R", &kept, &target)
                .unchecked()
                .stderr_null()
                .run();
        }
        remove(&system)?;
        context.cases.push(Case::new(
            format!("{release}: ci/run exec -- true"),
            match outcome {
                Ok(()) => Verdict::Pass,
                Err(error) => Verdict::Fail(format!("{error:#}")),
            },
        ));
    }
    remove(&clone)
}

fn one(context: &Context<'_>, release: &str, system: &Path, clone: &Path) -> Result<()> {
    note(format!("Debian {release} from nothing"));
    remove(system)?;
    let deadline = Instant::now() + LIMIT;
    let step = |what: &str| {
        Step::new(
            format!("{release}: {what}"),
            context
                .logs
                .join(format!("{release}-{}.log", what.replace(' ', "-"))),
        )
        .by(deadline)
    };
    let path = system.to_str().context("the cache's path is not UTF-8")?;
    let clone = clone.to_str().context("the cache's path is not UTF-8")?;
    step("debootstrap").run(contained(
        deadline,
        &[
            "debootstrap",
            "--include=git,sudo",
            release,
            path,
            &apt::mirror(),
        ],
    ))?;
    for file in NETWORK.iter().filter(|file| Path::new(file).exists()) {
        let target = format!("{path}{file}");
        let parent = Path::new(&target)
            .parent()
            .and_then(Path::to_str)
            .unwrap_or(path);
        root(&["mkdir", "-p", parent]).run()?;
        root(&["cp", "-RLT", file, &target]).run()?;
    }
    step("user").run(root(&["sh", "-c", USER, "sh", path, clone]))?;
    step("set-up to the first boot").run(contained(deadline, &["sh", "-c", INSIDE, "sh", path]))
}

/// A command as root in namespaces of its own: what it mounts, and all that it starts, end with it.
fn contained(deadline: Instant, args: &[&str]) -> Expression {
    let seconds = deadline
        .saturating_duration_since(Instant::now())
        .as_secs()
        .max(1)
        .to_string();
    let mut all = vec!["timeout", "--kill-after=10", &seconds];
    all.extend([
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    all.extend(args);
    root(&all)
}

/// A command as root.
fn root(args: &[&str]) -> Expression {
    if geteuid().is_root() {
        cmd(args[0], &args[1..])
    } else {
        cmd("sudo", args)
    }
    .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
    .env("LC_ALL", "C.UTF-8")
}

/// Removes a tree that root wrote. Nothing is mounted in it: what was, ended with its namespace.
fn remove(tree: &Path) -> Result<()> {
    if fs::symlink_metadata(tree).is_ok() {
        let path = tree.to_str().context("the cache's path is not UTF-8")?;
        root(&["rm", "-rf", "--one-file-system", path])
            .run()
            .with_context(|| format!("cannot remove {path}"))?;
    }
    Ok(())
}
