// SPDX-License-Identifier: GPL-2.0

//! Debian from nothing: what a new user on a new machine goes through.

use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{ensure, Context as _, Result};
use duct::{cmd, Expression};
use nix::unistd::geteuid;

use super::{minutes, Context};
use crate::progress::note;
use crate::report::{Case, Verdict};
use crate::source;
use crate::step::Step;
use crate::{disk, paths};

/// The releases that must work.
const RELEASES: [&str; 2] = ["trixie", "bookworm"];
/// How long each may take.
const LIMIT: std::time::Duration = minutes(60);
/// A system with everything in it that the demo takes.
const NEEDED: u64 = 9 << 30;

/// What ties this machine to its network, which the new system needs as well.
const NETWORK: [&str; 4] = [
    "/etc/resolv.conf",
    "/etc/apt/apt.conf.d",
    "/etc/ssl/certs/ca-certificates.crt",
    "/usr/local/share/ca-certificates",
];

/// Makes the new system a root of its own, in which namespaces can be made, and runs a command there.
const AS_ROOT_OF_ITS_OWN: &str = r#"set -eu
mount --rbind "$1" "$1"
cd "$1"
mount -t proc proc proc
mount -t sysfs sys sys
mount --rbind /dev dev
pivot_root . mnt
umount -l /mnt
shift
exec "$@""#;
/// Changes the root to the new system, as containers do in which no user's namespace can be made, and
/// runs a command there.
const AS_CHANGED_ROOT: &str = r#"set -eu
mount -t proc proc "$1/proc"
mount -t sysfs sys "$1/sys"
mount --rbind /dev "$1/dev"
exec chroot "$@""#;

/// Makes the user, who has no right to anything, and hands over the clone.
const USER: &str = r#"set -eu
chroot "$1" useradd -m -s /bin/sh user
cp -R "$2" "$1/home/user/project"
chroot "$1" chown -R user: /home/user
cp -R "$2" "$1/root/project""#;

/// Whom the new system is seen by.
const AS_USER: [&str; 5] = ["su", "-l", "user", "-c", "project/ci/run demo"];
const AS_ROOT: [&str; 5] = ["su", "-l", "root", "-c", "project/ci/run demo"];

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    ensure!(
        geteuid().is_root()
            && fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| is_all(&map)),
        "the suite makes systems with users of their own: run it as root"
    );
    let top = context.paths.dir("fresh")?;
    disk::require(&top, NEEDED, "a system from nothing")?;
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
        let made = make(context, release, &system, &clone);
        let name = format!("{release}: the demo, as a user without rights");
        let is_made = made.is_ok();
        let outcome =
            made.and_then(|()| demo(context, &name, &system, AS_ROOT_OF_ITS_OWN, &AS_USER));
        context.outcome_of(&name, outcome);
        keep_logs(context, release, &system);
        // The same for root, and for a user, where no namespace can be made.
        if is_made && release == RELEASES[1] {
            remove(&system.join("home/user/.cache"))?;
            let name = format!("{release}: a user where no namespace can be made is told so");
            let refused = refused(context, &name, &system);
            context.outcome_of(&name, refused);
            let name =
                format!("{release}: the demo, as root where no namespace of users can be made");
            let outcome = demo(context, &name, &system, AS_CHANGED_ROOT, &AS_ROOT);
            context.outcome_of(&name, outcome);
        }
        remove(&system)?;
    }
    remove(&clone)
}

/// Whether a map of users is that of a system and not that of a namespace.
fn is_all(map: &str) -> bool {
    map.split_whitespace().nth(2) == Some("4294967295")
}

/// Makes the system with its user and the clone.
fn make(context: &Context<'_>, release: &str, system: &Path, clone: &Path) -> Result<()> {
    note(format!("Debian {release} from nothing"));
    remove(system)?;
    let path = system.to_str().context("the cache's path is not UTF-8")?;
    let clone = clone.to_str().context("the cache's path is not UTF-8")?;
    let mirror = source::mirror(context.paths)?;
    let step = |what: &str| {
        let log = context.logs.join(format!("{release}-{what}.log"));
        Step::new(format!("{release}: {what}"), log)
    };
    let deadline = Instant::now() + LIMIT;
    step("debootstrap").by(deadline).run(contained(
        deadline,
        &[
            "debootstrap",
            "--variant=minbase",
            "--include=git",
            release,
            path,
            &mirror,
        ],
    ))?;
    for file in NETWORK {
        let here = paths::seen(Path::new(file));
        let here = here.to_str().context("a path is UTF-8")?;
        if Path::new(here).exists() {
            let target = format!("{path}{file}");
            let parent = target.rsplit_once('/').map_or(path, |(parent, _)| parent);
            cmd!("mkdir", "-p", parent).run()?;
            cmd!("cp", "-RLT", here, &target).run()?;
        }
    }
    step("user").run(cmd!("sh", "-c", USER, "sh", path, clone))
}

/// Runs the demo to its verdict, and says how long it took.
fn demo(
    context: &Context<'_>,
    name: &str,
    system: &Path,
    enter: &str,
    command: &[&str],
) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let started = Instant::now();
    let path = system.to_str().context("the cache's path is not UTF-8")?;
    let mut all = vec!["sh", "-c", enter, "sh", path];
    all.extend(command);
    let log = context
        .logs
        .join(format!("{}.log", paths::tag(Path::new(name))));
    Step::new(name, &log)
        .by(deadline)
        .run(contained(deadline, &all))?;
    let said = fs::read_to_string(&log)?;
    for wanted in ["verdict: good", "the kernel's log confirms it: no report"] {
        ensure!(said.contains(wanted), "the demo did not say \"{wanted}\"");
    }
    println!("{name}: {} s", started.elapsed().as_secs());
    Ok(())
}

/// Where nothing can be entered, the message names what forbids it.
fn refused(context: &Context<'_>, name: &str, system: &Path) -> Result<()> {
    let path = system.to_str().context("the cache's path is not UTF-8")?;
    let deadline = Instant::now() + LIMIT;
    let mut all = vec!["sh", "-c", AS_CHANGED_ROOT, "sh", path];
    all.extend(AS_USER);
    let log = context
        .logs
        .join(format!("{}.log", paths::tag(Path::new(name))));
    let outcome = Step::new(name, &log)
        .by(deadline)
        .run(contained(deadline, &all));
    ensure!(outcome.is_err(), "it was not refused");
    let said = fs::read_to_string(&log)?;
    ensure!(
        said.contains("no namespace can be made here"),
        "it does not say why: {said}"
    );
    Ok(())
}

/// Keeps what the new system's own runs wrote.
fn keep_logs(context: &Context<'_>, release: &str, system: &Path) {
    let kept = system.join("home/user/.cache/mmu-notifier-helpers/logs");
    if kept.is_dir() {
        let target = context.logs.join(format!("{release}-logs"));
        // The outcome is told with or without them.
        let _ = cmd!("cp", "-R", &kept, &target)
            .unchecked()
            .stderr_null()
            .run();
    }
}

impl Context<'_> {
    fn outcome_of(&mut self, name: &str, outcome: Result<()>) {
        let verdict = match outcome {
            Ok(()) => Verdict::Pass,
            Err(error) => Verdict::Fail(format!("{error:#}")),
        };
        self.cases.push(Case::new(name, verdict));
    }
}

/// A command in namespaces of its own, with an environment that says nothing: what it mounts, and all that
/// it starts, end with it.
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
    cmd(
        "/usr/bin/env",
        ["-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]
            .iter()
            .copied()
            .chain(all),
    )
}

/// Removes a tree that root wrote. Nothing is mounted in it: what was, ended with its namespace.
fn remove(tree: &Path) -> Result<()> {
    if fs::symlink_metadata(tree).is_ok() {
        cmd!("rm", "-rf", "--one-file-system", tree)
            .run()
            .with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_of_a_namespace_is_no_root() {
        assert!(is_all("         0          0 4294967295\n"));
        assert!(!is_all("         0       1000          1\n"));
    }
}
