// SPDX-License-Identifier: GPL-2.0

//! What runs inside the guest, as root, before, around and after the program.
//!
//! The guest's root is the workshop: its tools load the modules and make the devices. The program sees
//! the workshop's files or the host's through an overlay: it can write anywhere, and what it writes is
//! gone when it ends. The host hears of the guest's progress as lines of JSON on a port of its own.

use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nix::errno::Errno;
use nix::kmod::{delete_module, finit_module, DeleteModuleFlags, ModuleInitFlags};
use nix::mount::{mount, MsFlags};
use nix::sys::reboot::{reboot, RebootMode};
use nix::sys::stat::{makedev, mknod, Mode, SFlag};
use nix::sys::wait::{wait, WaitStatus};
use nix::unistd::{fchdir, Pid};
use serde::{Deserialize, Serialize};

use crate::rdma::{Loaded, Rdma};

/// How long references to a module may come and go on their own.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a module may be in use after whoever used it.
const UNLOAD_TIMEOUT: Duration = Duration::from_secs(60);
/// The port that carries the events.
pub(crate) const CONTROL_PORT: &str = "ci.control";
/// The port that carries the program's standard error.
pub(crate) const STDERR_PORT: &str = "ci.stderr";
/// The ports of its other streams.
pub(crate) const STDIN_PORT: &str = "ci.stdin";
pub(crate) const STDOUT_PORT: &str = "ci.stdout";
/// How long a port may take to be there.
const PORT_TIMEOUT: Duration = Duration::from_secs(60);
/// The tags of the directories that the guest is given.
pub(crate) const WORKSHOP_TAG: &str = "workshop";
pub(crate) const HOST_TAG: &str = "host";
/// The tag of a first root, by virtiofs.
pub(crate) const EARLY_TAG: &str = "early";
/// The options of 9p: nobody writes to these files, so what was read stays right.
pub(crate) const NINE_P: &str = "trans=virtio,version=9p2000.L,cache=loose,msize=524288,access=any";
/// The flag of the kernel's for a module in a compressed file.
const COMPRESSED: u32 = 4;
/// The copy of this program that runs, and the root of the workshop when the first root was another.
const AGENT: &str = "/run/ci-agent";
const SECOND_ROOT: &str = "/run/ci-root";
/// What comes before the file with the orders, on the kernel's command line.
pub(crate) const ORDERS: &str = "ci.orders=";
/// The terminal of a program that has one.
const TERMINAL: &str = "/dev/hvc0";
/// What the tools are found in.
const PATH: &str = "/usr/sbin:/usr/bin";
/// What the names of the device nodes start with, before their number.
const NODE: &str = "hmm_dmirror";
/// What both drivers register their character devices as.
const CHRDEV: &str = "HMM_DMIRROR";
/// Where the overlay is put together.
const OVERLAY: &str = "/run/ci";
/// How long output may still come from what a program left behind.
const DRAIN: Duration = Duration::from_secs(2);

/// A GPU mirror: the modules to load, in order, and what proves which it is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Driver {
    /// The files of the modules.
    pub(crate) modules: Vec<PathBuf>,
    /// The parameters of the one that owns the device nodes.
    pub(crate) parameters: Vec<String>,
    /// The module that must own the device nodes.
    pub(crate) owner: String,
    /// The module that must not be there.
    pub(crate) other: String,
    /// How many device nodes there must be.
    pub(crate) devices: usize,
}

/// Whose files the program sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Root {
    /// The host's.
    Host,
    /// The workshop's.
    Workshop,
}

/// What the guest is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// The files of modules without which there is no 9p.
    pub(crate) early: Vec<PathBuf>,
    /// Modules of the kernel's own that are loaded first, by their names.
    pub(crate) modprobe: Vec<String>,
    /// Modules of others that are loaded last, by their files.
    pub(crate) more: Vec<PathBuf>,
    /// What the program's root is.
    pub(crate) root: Root,
    /// The mirror to load.
    pub(crate) driver: Option<Driver>,
    /// The RDMA modules to load.
    pub(crate) rdma: Option<Rdma>,
    /// How many huge pages to reserve.
    pub(crate) huge_pages: u32,
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
    /// Where it runs.
    pub(crate) directory: OsString,
    /// Its environment, all of it.
    pub(crate) environment: Vec<(OsString, OsString)>,
    /// The size of the terminal that the program has for itself, if it has one: rows and columns.
    pub(crate) terminal: Option<String>,
    /// What runs after it, one after the other.
    pub(crate) then: Vec<Turn>,
}

/// Another program, on modules of its own in place of those before.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Turn {
    /// The mirror to load.
    pub(crate) driver: Option<Driver>,
    /// The RDMA modules to load.
    pub(crate) rdma: Option<Rdma>,
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
}

/// What the host hears.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Event {
    /// User space runs.
    Booted,
    /// These RDMA modules are loaded.
    Rdma(Vec<Loaded>),
    /// The drivers are verified and the program starts.
    Ready,
    /// A driver is not the one that was asked for.
    WrongDriver(String),
    /// The guest could not be set up.
    Failed(String),
    /// The program ended, with the status that a shell would give it.
    Exited(i32),
}

/// The guest's first process: runs [`main`] in another, buries the orphans until that ends, and takes
/// the guest down.
pub(crate) fn init() -> Result<()> {
    let done = first_mounts().and_then(|orders| {
        // In memory, where no page of it can be dropped and be read again.
        fs::copy("/proc/self/exe", AGENT).context("cannot copy the agent")?;
        let agent = Command::new(AGENT)
            .arg("guest")
            .arg(orders)
            .env("PATH", PATH)
            .spawn()
            .context("cannot start the agent")?;
        let agent = Pid::from_raw(i32::try_from(agent.id())?);
        loop {
            match wait()? {
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) if pid == agent => {
                    return Ok(());
                }
                _ => {}
            }
        }
    });
    if let Err(error) = done {
        log(&format!("{error:#}"));
    }
    // QEMU ends where a machine would start again, which each kernel can do.
    reboot(RebootMode::RB_AUTOBOOT)?;
    Ok(())
}

/// Mounts what every program expects, and returns the file with the orders.
fn first_mounts() -> Result<PathBuf> {
    for (kind, target, options) in [
        ("proc", "/proc", None),
        ("sysfs", "/sys", None),
        ("devtmpfs", "/dev", None),
        ("tmpfs", "/run", Some("mode=0755")),
    ] {
        // The kernel may have mounted its devices by itself.
        match mount_fs(kind, kind, target, options) {
            Err(error) if error.downcast_ref() == Some(&Errno::EBUSY) => {}
            other => other?,
        }
    }
    for dir in ["/dev/pts", "/dev/shm", "/dev/mqueue"] {
        fs::create_dir_all(dir)?;
    }
    mount_fs(
        "devpts",
        "devpts",
        "/dev/pts",
        Some("gid=5,mode=0620,ptmxmode=0666"),
    )?;
    mount_fs("tmpfs", "tmpfs", "/dev/shm", None)?;
    // Not every kernel has these.
    for (kind, target) in [
        ("cgroup2", "/sys/fs/cgroup"),
        ("debugfs", "/sys/kernel/debug"),
        ("tracefs", "/sys/kernel/tracing"),
        ("mqueue", "/dev/mqueue"),
    ] {
        let _ = mount_fs(kind, kind, target, None);
    }
    let line = fs::read_to_string("/proc/cmdline")?;
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(ORDERS))
        .map(PathBuf::from)
        .context("the kernel's command line names no orders")
}

/// Does what `spec` says and reports it. The status is for whoever waits for this process.
pub(crate) fn main(spec: &Path) -> Result<()> {
    let text = fs::read(spec).with_context(|| format!("cannot read {}", spec.display()))?;
    let spec: Spec = serde_json::from_slice(&text).context("the guest's orders are no JSON")?;
    let mut control = port(CONTROL_PORT)?;
    let mut tell = |event: Event| -> Result<()> {
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        control.write_all(&line).context("the control port is gone")
    };
    tell(Event::Booted)?;
    log("user space runs");

    let root = match prepare(&spec) {
        Ok(root) => root,
        Err(error) => return tell(Event::Failed(format!("{error:#}"))),
    };
    let mut loaded = None;
    let first = (&spec.driver, &spec.rdma);
    if !replace(&mut loaded, first, &mut tell)? {
        return Ok(());
    }
    for path in &spec.more {
        if let Err(error) = insert(path, c"") {
            return tell(Event::Failed(format!("{error:#}")));
        }
    }
    tell(Event::Ready)?;
    log("the program starts");
    let mut status = root.inside(|| match &spec.terminal {
        Some(size) => interact(&spec, size),
        None => run(&spec),
    })?;
    for turn in &spec.then {
        if !replace(&mut loaded, (&turn.driver, &turn.rdma), &mut tell)? {
            return Ok(());
        }
        log("the next program starts");
        let next = Spec {
            command: turn.command.clone(),
            ..spec.clone()
        };
        let next = root.inside(|| run(&next))?;
        status = if status == 0 { next } else { status };
    }
    log(&format!("{LOG_END} {status}"));
    tell(Event::Exited(status))
}

/// What the guest's last line in the log starts with: by it the host knows that the log is whole.
pub(crate) const LOG_END: &str = "the program ended with";

/// Writes to the kernel's log, where it dates what comes before and after.
fn log(text: &str) {
    // The log is a help here; the outcome does not hang on it.
    let _ = fs::write("/dev/kmsg", format!("<6>ci: {text}\n"));
}

/// Opens a virtio port by its name. The kernel learns of them while the guest runs already.
fn port(name: &str) -> Result<File> {
    let start = Instant::now();
    loop {
        // The directory is there when the first of them is.
        let ports = fs::read_dir("/sys/class/virtio-ports");
        for port in ports.into_iter().flatten() {
            let port = port?.path();
            if fs::read_to_string(port.join("name")).is_ok_and(|found| found.trim() == name) {
                let node = Path::new("/dev").join(port.file_name().context("a port has a name")?);
                return File::options()
                    .read(name == STDIN_PORT)
                    .write(name != STDIN_PORT)
                    .open(&node)
                    .with_context(|| format!("cannot open {}", node.display()));
            }
        }
        ensure!(
            start.elapsed() < PORT_TIMEOUT,
            "the guest has no port {name}"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// Goes from the first root to the workshop by 9p, if the first root is another.
fn second_root(modules: &[PathBuf]) -> Result<()> {
    if modules.is_empty() {
        return Ok(());
    }
    for path in modules {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let flags = ModuleInitFlags::from_bits_retain(COMPRESSED);
        match finit_module(&file, c"", flags) {
            // Two modules may stand on one.
            Err(Errno::EEXIST) => {}
            other => other.with_context(|| format!("cannot load {}", path.display()))?,
        }
    }
    fs::create_dir(SECOND_ROOT)?;
    mount_fs(WORKSHOP_TAG, "9p", SECOND_ROOT, Some(NINE_P))?;
    bind_kernels(SECOND_ROOT)?;
    std::os::unix::fs::chroot(SECOND_ROOT).context("cannot enter the workshop")?;
    std::env::set_current_dir("/")?;
    Ok(())
}

/// Binds what is the kernel's below another root.
fn bind_kernels(root: &str) -> Result<()> {
    for dir in ["proc", "sys", "dev", "run"] {
        let target = format!("{root}/{dir}");
        let none: Option<&str> = None;
        mount(
            Some(&*format!("/{dir}")),
            &*target,
            none,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            none,
        )
        .with_context(|| format!("cannot bind {target}"))?;
    }
    Ok(())
}

fn prepare(spec: &Spec) -> Result<Inside> {
    second_root(&spec.early)?;
    if !spec.modprobe.is_empty() {
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("-a").args(&spec.modprobe);
        done(&mut modprobe, "cannot load modules of the kernel's own")?;
    }
    // A program may talk to itself.
    done(
        Command::new("ip").args(["link", "set", "lo", "up"]),
        "there is no network",
    )?;
    if spec.huge_pages > 0 {
        fs::write("/proc/sys/vm/nr_hugepages", spec.huge_pages.to_string())
            .context("cannot reserve huge pages")?;
        let reserved = fs::read_to_string("/proc/sys/vm/nr_hugepages")?;
        ensure!(
            reserved.trim() == spec.huge_pages.to_string(),
            "only {} of {} huge pages could be reserved: give the guest more memory",
            reserved.trim(),
            spec.huge_pages
        );
    }
    copy_on_write(spec.root)
}

/// Runs a tool of the workshop's.
fn done(command: &mut Command, what: &str) -> Result<()> {
    let output = command.output().with_context(|| what.to_owned())?;
    ensure!(
        output.status.success(),
        "{what}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The root of the programs.
struct Inside {
    ours: File,
    theirs: String,
}

impl Inside {
    /// Does something there.
    fn inside<T>(&self, what: impl FnOnce() -> Result<T>) -> Result<T> {
        let theirs = &self.theirs;
        std::os::unix::fs::chroot(theirs).with_context(|| format!("cannot enter {theirs}"))?;
        std::env::set_current_dir("/")?;
        let result = what();
        fchdir(&self.ours)?;
        std::os::unix::fs::chroot(".").context("cannot return")?;
        result
    }
}

/// Puts an overlay over the files that the programs see.
fn copy_on_write(whose: Root) -> Result<Inside> {
    fs::create_dir_all(OVERLAY)?;
    mount_fs("ci", "tmpfs", OVERLAY, Some("mode=0755"))?;
    let [upper, work, root] = ["upper", "work", "root"].map(|dir| format!("{OVERLAY}/{dir}"));
    for dir in [&upper, &work, &root] {
        fs::create_dir(dir)?;
    }
    let lower = match whose {
        Root::Workshop => "/".to_owned(),
        Root::Host => {
            let lower = format!("{OVERLAY}/host");
            fs::create_dir(&lower)?;
            mount_fs(HOST_TAG, "9p", &lower, Some(NINE_P))?;
            lower
        }
    };
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work},xino=off");
    mount_fs("ci", "overlay", &root, Some(&options))?;
    // A container's root may lack one.
    for dir in ["proc", "sys", "dev", "run"] {
        fs::create_dir_all(format!("{root}/{dir}"))?;
    }
    bind_kernels(&root)?;
    Ok(Inside {
        ours: File::open("/")?,
        theirs: root,
    })
}

fn mount_fs(source: &str, kind: &str, target: &str, options: Option<&str>) -> Result<()> {
    mount(Some(source), target, Some(kind), MsFlags::empty(), options)
        .with_context(|| format!("cannot mount {kind} on {target}"))
}

fn load(driver: &Driver) -> Result<()> {
    for path in &driver.modules {
        insert(path, &parameters(driver, path)?)?;
    }
    Ok(())
}

/// Loads a module from its file. Debian's are compressed.
pub(crate) fn insert(path: &Path, parameters: &std::ffi::CStr) -> Result<()> {
    let why = || format!("cannot load {}; the kernel log says why", path.display());
    if path.extension().is_some_and(|extension| extension != "ko") {
        return done(Command::new("insmod").arg(path), &why());
    }
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    finit_module(&file, parameters, ModuleInitFlags::empty()).with_context(why)
}

/// The name of the module in a file, compressed or not.
pub(crate) fn module_name(path: &Path) -> &str {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(|name| name.split('.').next()).unwrap_or("")
}

/// What a module of the driver is loaded with.
fn parameters(driver: &Driver, module: &Path) -> Result<CString> {
    let is_owner = module_name(module) == driver.owner;
    let parameters = if is_owner {
        driver.parameters.join(" ")
    } else {
        String::new()
    };
    Ok(CString::new(parameters)?)
}

/// The drivers that a program wants, or that are loaded.
type Wanted<'a> = (&'a Option<Driver>, &'a Option<Rdma>);

/// Unloads the drivers of one program and loads those of the next. When that fails, the host is told
/// why and the answer is false.
fn replace<'a>(
    loaded: &mut Option<Wanted<'a>>,
    new: Wanted<'a>,
    mut tell: impl FnMut(Event) -> Result<()>,
) -> Result<bool> {
    if let Err(error) = loaded.take().map_or(Ok(()), remove) {
        tell(Event::Failed(format!("{error:#}")))?;
        return Ok(false);
    }
    *loaded = Some(new);
    let (driver, rdma) = new;
    // The mirror may be linked against helpers that came with the RDMA modules.
    if let Some(rdma) = rdma {
        match rdma.start() {
            Ok(modules) => tell(Event::Rdma(modules))?,
            Err(error) => {
                tell(Event::Failed(format!("{error:#}")))?;
                return Ok(false);
            }
        }
    }
    if let Err(error) = driver.as_ref().map_or(Ok(()), load) {
        tell(Event::Failed(format!("{error:#}")))?;
        return Ok(false);
    }
    let verified = rdma
        .as_ref()
        .map_or(Ok(()), Rdma::verify)
        .and_then(|()| driver.as_ref().map_or(Ok(()), verify));
    if let Err(error) = verified {
        tell(Event::WrongDriver(format!("{error:#}")))?;
        return Ok(false);
    }
    Ok(true)
}

fn remove((driver, rdma): Wanted<'_>) -> Result<()> {
    if let Some(driver) = driver {
        driver
            .modules
            .iter()
            .rev()
            .try_for_each(|path| unload(path))?;
        // What was made by hand would stand in the way of the next driver's.
        for node in nodes()? {
            fs::remove_file(&node).with_context(|| format!("cannot remove {}", node.display()))?;
        }
    }
    rdma.as_ref().map_or(Ok(()), Rdma::stop)
}

/// Unloads the module of a file when nobody uses it any more.
///
/// What a process had of it goes after the process: its address space when the last kernel thread that
/// looks at it is done, its notifier after a grace period.
pub(crate) fn unload(path: &Path) -> Result<()> {
    let name = CString::new(module_name(path))?;
    let start = Instant::now();
    loop {
        match delete_module(&name, DeleteModuleFlags::O_NONBLOCK) {
            Err(Errno::EAGAIN) if start.elapsed() < UNLOAD_TIMEOUT => {
                thread::sleep(Duration::from_millis(10));
            }
            result => {
                return result.with_context(|| format!("cannot unload {}", path.display()));
            }
        }
    }
}

/// Proves that the device nodes belong to the module that was asked for: each
/// of them pins that module while it is open, and the other one is not loaded.
fn verify(driver: &Driver) -> Result<()> {
    let is_loaded = |name: &str| Path::new("/sys/module").join(name).join("refcnt").exists();
    ensure!(
        is_loaded(&driver.owner),
        "the module {} is not loaded",
        driver.owner
    );
    ensure!(
        !is_loaded(&driver.other),
        "the module {} is loaded as well",
        driver.other
    );

    make_nodes(driver.devices)?;
    let nodes = nodes()?;
    for wanted in (0..driver.devices).map(node) {
        ensure!(
            nodes.contains(&wanted),
            "the module {} made no {}",
            driver.owner,
            wanted.display()
        );
    }
    for node in nodes {
        // What was opened before is given up after a grace period, maybe just between the two looks.
        let start = Instant::now();
        loop {
            let before = references(&driver.owner)?;
            let open = File::options()
                .read(true)
                .write(true)
                .open(&node)
                .with_context(|| format!("cannot open {}", node.display()))?;
            let during = references(&driver.owner)?;
            drop(open);
            if during > before {
                break;
            }
            ensure!(
                start.elapsed() < SETTLE_TIMEOUT,
                "{} does not belong to the module {}: opening it left the module's {before} references at {during}",
                node.display(),
                driver.owner
            );
        }
    }
    Ok(())
}

fn references(module: &str) -> Result<i64> {
    let path = format!("/sys/module/{module}/refcnt");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    text.trim()
        .parse()
        .with_context(|| format!("{path} holds no number"))
}

fn nodes() -> Result<Vec<PathBuf>> {
    let mut nodes = Vec::new();
    for entry in fs::read_dir("/dev")? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with(NODE) && entry.file_type()?.is_char_device() {
            nodes.push(entry.path());
        }
    }
    nodes.sort();
    Ok(nodes)
}

/// The node of the device with this number.
fn node(number: usize) -> PathBuf {
    format!("/dev/{NODE}{number}").into()
}

/// Makes the nodes of a driver that registers numbers but no devices.
fn make_nodes(count: usize) -> Result<()> {
    if !nodes()?.is_empty() {
        return Ok(());
    }
    let devices = fs::read_to_string("/proc/devices")?;
    let major = devices
        .lines()
        .filter_map(|line| line.trim().split_once(' '))
        .find(|(_, name)| *name == CHRDEV)
        .and_then(|(major, _)| major.parse().ok());
    if let Some(major) = major {
        for (node, minor) in (0..count).map(node).zip(0..) {
            mknod(
                &node,
                SFlag::S_IFCHR,
                Mode::from_bits_truncate(0o600),
                makedev(major, minor),
            )
            .with_context(|| format!("cannot make {}", node.display()))?;
        }
    }
    Ok(())
}

fn command(spec: &Spec) -> Command {
    let mut command = Command::new(&spec.command[0]);
    command
        .args(&spec.command[1..])
        .current_dir(&spec.directory)
        .env_clear()
        .envs(spec.environment.iter().map(|(name, value)| (name, value)));
    command
}

/// Runs the program and hands its output to the ports.
///
/// A port can be open only once, so a program that opens `/dev/stdout` anew
/// would fail on it: what it gets are pipes.
fn run(spec: &Spec) -> Result<i32> {
    standard_links()?;
    let mut to_stderr = port(STDERR_PORT)?;
    let to_stdout = port(STDOUT_PORT)?;
    let started = command(spec)
        .stdin(port(STDIN_PORT)?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = match started {
        Ok(child) => child,
        Err(error) => return refuse(&mut to_stderr, spec, &error),
    };
    let stdout = child.stdout.take().context("standard output is a pipe")?;
    let stderr = child.stderr.take().context("standard error is a pipe")?;
    let out = pump(stdout, to_stdout);
    let err = pump(stderr, to_stderr);
    let status = child.wait()?;
    for pump in [out, err] {
        // Whoever inherited the pipe may hold it for ever.
        let _ = pump.recv_timeout(DRAIN);
    }
    Ok(shell_status(status))
}

/// Gives the program the terminal.
fn interact(spec: &Spec, size: &str) -> Result<i32> {
    standard_links()?;
    let terminal = || File::options().read(true).write(true).open(TERMINAL);
    let (rows, columns) = size.split_once(' ').unwrap_or(("24", "80"));
    // With another size it is not as nice.
    let _ = Command::new("stty")
        .args(["rows", rows, "cols", columns])
        .stdin(terminal()?)
        .status();
    let mut all: Vec<OsString> = ["setsid", "--ctty", "--wait"].map(Into::into).into();
    all.extend(spec.command.iter().cloned());
    let spec = Spec {
        command: all,
        ..spec.clone()
    };
    let started = command(&spec)
        .stdin(terminal()?)
        .stdout(terminal()?)
        .stderr(terminal()?)
        .status();
    match started {
        Ok(status) => Ok(shell_status(status)),
        Err(error) => refuse(&mut terminal()?, &spec, &error),
    }
}

/// Says why the program cannot start, with the status that a shell has for it.
fn refuse(out: &mut impl Write, spec: &Spec, error: &io::Error) -> Result<i32> {
    let program = Path::new(&spec.command[0]).display();
    let directory = Path::new(&spec.directory);
    if directory.is_dir() {
        writeln!(out, "ci: cannot run {program}: {error}")?;
    } else {
        writeln!(
            out,
            "ci: the guest has no directory {}",
            directory.display()
        )?;
    }
    Ok(if error.kind() == io::ErrorKind::NotFound {
        127
    } else {
        126
    })
}

/// The links to a process's own files, which the boot may have pointed at ports.
fn standard_links() -> Result<()> {
    for (name, number) in [("stdin", 0), ("stdout", 1), ("stderr", 2)] {
        let link = format!("/dev/{name}");
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(format!("/proc/self/fd/{number}"), &link)?;
    }
    Ok(())
}

/// Copies until the end, each piece as it comes, then says so.
fn pump(
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
) -> mpsc::Receiver<()> {
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if to
                .write_all(&buffer[..length])
                .and_then(|()| to.flush())
                .is_err()
            {
                break;
            }
        }
        // A port can be open only once, and the next program needs it.
        drop(to);
        let _ = done.send(());
    });
    wait
}

fn shell_status(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_named_without_its_suffixes() {
        assert_eq!(module_name(Path::new("/m/ib_core.ko.xz")), "ib_core");
        assert_eq!(module_name(Path::new("rdma_rxe.ko")), "rdma_rxe");
    }

    #[test]
    fn parameters_are_for_the_module_that_owns_the_devices() {
        let driver = Driver {
            modules: vec!["/m/helpers.ko".into(), "/m/mirror.ko".into()],
            parameters: vec!["a=1".into(), "b=0x2".into()],
            owner: "mirror".into(),
            other: "theirs".into(),
            devices: 4,
        };
        let of = |module: usize| parameters(&driver, &driver.modules[module]).unwrap();
        assert_eq!(of(0).to_bytes(), b"");
        assert_eq!(of(1).to_bytes(), b"a=1 b=0x2");
    }

    #[test]
    fn a_status_is_what_a_shell_would_say() {
        assert_eq!(shell_status(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(shell_status(ExitStatus::from_raw(9)), 137);
    }
}
