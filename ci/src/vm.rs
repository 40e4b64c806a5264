// SPDX-License-Identifier: GPL-2.0

//! Boots a kernel in QEMU and waits for what the guest says.
//!
//! The guest's root is the workshop, by 9p; the program may have the host's files in its place. Nothing of
//! either can be written. A kernel whose 9p is a module finds it on a root by virtiofs, which it has
//! built in, so that none needs an initramfs.
//!
//! Virtiofs is for no more than that: its server writes into the guest's memory behind QEMU's back. Where
//! QEMU translates, what it has translated of a page's old contents then runs in place of the new ones.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use command_fds::{CommandFdExt, FdMapping};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;

use crate::guest::{self, Event, Root, Spec};
use crate::interrupt;
use crate::klog::{self, Report};
use crate::paths::{self, Paths};
use crate::progress::note;
use crate::step;

/// How long a kernel may take to come up.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
/// How long a guest may take to go down after its program ended.
const DOWN_LIMIT: Duration = Duration::from_secs(120);
/// How long a guest on hardware virtualization gets to show that it runs.
const PROBE_LIMIT: Duration = Duration::from_secs(30);
/// The server of the guest's files.
const VIRTIOFSD: &str = "/usr/libexec/virtiofsd";
/// The first number of a file that QEMU inherits.
const FIRST_FD: i32 = 10;

/// The machine to boot.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The kernel's image.
    pub(crate) image: PathBuf,
    /// The files of modules without which the guest cannot have its root.
    pub(crate) early: Vec<PathBuf>,
    /// The modules of the kernel's own that the guest needs before anything else, by their names.
    pub(crate) modprobe: Vec<String>,
    /// How many CPUs.
    pub(crate) cpus: u32,
    /// How much memory, in MiB.
    pub(crate) memory: u64,
    /// More words for the kernel's command line.
    pub(crate) append: Vec<String>,
    /// Whether the guest's clock counts instructions.
    pub(crate) icount: bool,
    /// The port on which QEMU waits for a debugger before it starts the guest.
    pub(crate) gdb: Option<u16>,
}

/// Where a stream of the program goes.
#[derive(Clone)]
pub(crate) enum Sink {
    /// To the stream of this process.
    Ours,
    /// Into memory.
    Kept(Arc<Mutex<Vec<u8>>>),
}

impl Sink {
    /// A sink that keeps, and what it keeps.
    pub(crate) fn kept() -> (Self, Arc<Mutex<Vec<u8>>>) {
        let kept = Arc::<Mutex<Vec<u8>>>::default();
        (Self::Kept(Arc::clone(&kept)), kept)
    }
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The program ended with this status.
    Program(i32),
    /// The device nodes are not those of the module that was asked for.
    WrongDriver(String),
    /// The guest could not be set up.
    Failed(String),
    /// The program was not done in time.
    Hang(Duration),
    /// User space was never reached.
    NoBoot,
    /// The guest went down under the program.
    Died,
}

/// All there is to know of one boot.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) ending: Ending,
    pub(crate) log: PathBuf,
    pub(crate) reports: Vec<Report>,
}

/// One boot to be: the machine, the orders, the streams and the time.
pub(crate) struct Boot<'a> {
    pub(crate) paths: &'a Paths,
    pub(crate) machine: &'a Machine,
    pub(crate) spec: &'a Spec,
    /// How long the program may take; `None` is for ever.
    pub(crate) limit: Option<Duration>,
    /// Whether the program reads what this process is given.
    pub(crate) stdin: bool,
    pub(crate) stdout: Sink,
    pub(crate) stderr: Sink,
    /// The directory for the logs.
    pub(crate) logs: PathBuf,
}

enum News {
    Guest(Event),
    Gone,
}

impl Boot<'_> {
    /// Boots, waits and judges.
    pub(crate) fn run(self) -> Result<Outcome> {
        let log = self.logs.join("kernel.log");
        let (control, control_end) = pipe2(OFlag::O_CLOEXEC)?;
        let (stdin_end, stdin) = pipe2(OFlag::O_CLOEXEC)?;
        let (stdout, stdout_end) = pipe2(OFlag::O_CLOEXEC)?;
        let (stderr, stderr_end) = pipe2(OFlag::O_CLOEXEC)?;

        let mut qemu = Qemu::new(&self, &log)?;
        qemu.port(guest::CONTROL_PORT, control_end, Flow::Out);
        qemu.port(guest::STDIN_PORT, stdin_end, Flow::In);
        qemu.port(guest::STDOUT_PORT, stdout_end, Flow::Out);
        qemu.port(guest::STDERR_PORT, stderr_end, Flow::Out);
        let mut running = qemu.start(Stdio::null(), true)?;

        let mut pumps = vec![
            pump(File::from(stdout), self.stdout.clone().writer(io::stdout())),
            pump(File::from(stderr), self.stderr.clone().writer(io::stderr())),
        ];
        if self.stdin {
            // Nobody waits for it: it may sit in a read for ever.
            pump(io::stdin(), File::from(stdin));
        } else {
            drop(stdin);
        }
        let ending = self.watch(listen(File::from(control)), &running.group);
        let ending = running.end(ending)?;
        pumps.drain(..).for_each(|pump| drop(pump.join()));

        outcome(ending, log)
    }

    /// Boots with the terminal for the program. There is no limit of time.
    pub(crate) fn run_interactive(self) -> Result<Outcome> {
        let log = self.logs.join("kernel.log");
        let (control, control_end) = pipe2(OFlag::O_CLOEXEC)?;
        let mut qemu = Qemu::new(&self, &log)?;
        qemu.port(guest::CONTROL_PORT, control_end, Flow::Out);
        qemu.command.args([
            "-chardev",
            "stdio,id=terminal,signal=off",
            "-device",
            "virtconsole,bus=ports.0,chardev=terminal",
        ]);
        let mut running = qemu.start(Stdio::inherit(), false)?;
        let mut ending = Ending::NoBoot;
        for news in listen(File::from(control)) {
            match news {
                News::Guest(event) => {
                    show(&event);
                    ending = ending_of(event).unwrap_or(Ending::Died);
                }
                News::Gone => break,
            }
        }
        let ending = running.end(ending)?;
        outcome(ending, log)
    }

    fn orders(&self) -> Result<PathBuf> {
        let path = self.logs.join("guest.json");
        let spec = Spec {
            early: self.machine.early.clone(),
            modprobe: self.machine.modprobe.clone(),
            ..self.spec.clone()
        };
        fs::write(&path, serde_json::to_vec_pretty(&spec)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// The kernel's command line.
    fn append(&self) -> Result<String> {
        let program = std::env::current_exe()?;
        let orders = self.orders()?;
        let mut words = vec![
            "console=ttyS0".to_owned(),
            "ro".into(),
            format!("init={}", program.display()),
            format!("{}{}", guest::ORDERS, orders.display()),
            // The log is the verdict: all of it, dated, and none lost to a slow console. And no page
            // tables of five levels: early in the boot the feature reads as absent for a moment, and
            // a KASAN check in an interrupt then reports its own bounds of four levels.
            "ignore_loglevel".into(),
            "printk.time=1".into(),
            "log_buf_len=4M".into(),
            "no5lvl".into(),
            "panic=-1".into(),
        ];
        words.push(match self.machine.early.is_empty() {
            true => format!(
                "root={} rootfstype=9p rootflags={}",
                guest::WORKSHOP_TAG,
                guest::NINE_P
            ),
            false => format!("root={} rootfstype=virtiofs", guest::EARLY_TAG),
        });
        if self.machine.gdb.is_some() {
            words.push("nokaslr".into());
        }
        words.extend(self.machine.append.iter().cloned());
        Ok(words.join(" "))
    }

    fn watch(&self, news: mpsc::Receiver<News>, group: &interrupt::Group) -> Ending {
        // With a debugger nobody knows how long it takes.
        let limited = self.machine.gdb.is_none();
        let mut deadline = limited.then(|| Instant::now() + BOOT_LIMIT);
        let mut ending = Ending::NoBoot;
        let mut ready = false;
        loop {
            let event = match deadline {
                Some(at) => news.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => news.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match event {
                Ok(News::Guest(event)) => {
                    show(&event);
                    match ending_of(event.clone()) {
                        Some(end) => {
                            ending = end;
                            deadline = limited.then(|| Instant::now() + DOWN_LIMIT);
                        }
                        None => ending = Ending::Died,
                    }
                    if event == Event::Ready && limited {
                        ready = true;
                        deadline = self.limit.map(|limit| Instant::now() + limit);
                    }
                }
                Ok(News::Gone) | Err(RecvTimeoutError::Disconnected) => return ending,
                Err(RecvTimeoutError::Timeout) => {
                    group.kill();
                    return match (ending, self.limit) {
                        (Ending::Died, Some(limit)) if ready => Ending::Hang(limit),
                        (Ending::Died, _) => {
                            Ending::Failed("the modules were not loaded in time".into())
                        }
                        (other, _) => other,
                    };
                }
            }
        }
    }
}

/// Which way a port of the guest's goes.
enum Flow {
    In,
    Out,
}

/// A QEMU to be, and the servers of its files.
struct Qemu {
    command: Command,
    files: Vec<FdMapping>,
    servers: Vec<Command>,
    words: PathBuf,
    _sockets: tempfile::TempDir,
}

impl Qemu {
    /// The machine, with its root and its log.
    fn new(boot: &Boot<'_>, log: &Path) -> Result<Self> {
        let machine = boot.machine;
        // The path of a socket is a short one.
        let sockets = tempfile::Builder::new().prefix("ci-").tempdir_in("/tmp")?;
        let mut this = Self {
            command: Command::new("/usr/bin/qemu-system-x86_64"),
            files: Vec::new(),
            servers: Vec::new(),
            words: boot.logs.join("qemu.log"),
            _sockets: sockets,
        };
        let kvm = !machine.icount && kvm_works(boot.paths, &machine.image);
        let (accelerator, cpu) = match (kvm, machine.icount) {
            (true, _) => ("kvm", "host"),
            (false, true) => ("tcg,thread=single", "max"),
            (false, false) => ("tcg,thread=multi", "max"),
        };
        let memory = format!("{}M", machine.memory);
        this.command
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none"])
            .args(["-accel", accelerator, "-cpu", cpu])
            .args(["-smp", &machine.cpus.to_string(), "-m", &memory])
            // A server of files sees the guest's memory.
            .args(["-M", "q35,memory-backend=ram", "-object"])
            .arg(format!(
                "memory-backend-memfd,id=ram,size={memory},share=on"
            ))
            .args(["-device", "virtio-rng-pci"])
            .args(["-device", "virtio-serial-pci,id=ports,max_ports=8"])
            .args(["-chardev", &format!("file,id=log,path={}", log.display())])
            .args(["-serial", "chardev:log"])
            .arg("-kernel")
            .arg(&machine.image)
            .args(["-append", &boot.append()?]);
        if machine.icount {
            this.command.args(["-icount", "shift=0"]);
        }
        if let Some(port) = machine.gdb {
            this.command.args(["-S", "-gdb"]);
            this.command.arg(format!("tcp:127.0.0.1:{port}"));
        }
        this.share(guest::WORKSHOP_TAG, "/");
        if boot.spec.root == Root::Host {
            this.share(guest::HOST_TAG, paths::HOST);
        }
        if !machine.early.is_empty() {
            this.serve(guest::EARLY_TAG, Path::new("/"))?;
        }
        Ok(this)
    }

    /// Gives the guest a directory by 9p, which it cannot write to.
    fn share(&mut self, tag: &str, dir: &str) {
        let files = format!(
            "local,id=files-{tag},path={dir},security_model=none,readonly=on,multidevs=remap"
        );
        let device = format!("virtio-9p-pci,fsdev=files-{tag},mount_tag={tag}");
        self.command.args(["-fsdev", &files, "-device", &device]);
    }

    /// Gives the guest a directory by virtiofs, which it cannot write to.
    fn serve(&mut self, tag: &str, dir: &Path) -> Result<()> {
        let socket = self._sockets.path().join(tag);
        let listener = UnixListener::bind(&socket)
            .with_context(|| format!("cannot listen at {}", socket.display()))?;
        let mut server = Command::new(VIRTIOFSD);
        server
            .args(["--fd", "3", "--shared-dir"])
            .arg(dir)
            // With another policy the guest drops a file's pages whenever it is opened again.
            .args(["--sandbox", "none", "--cache", "always", "--readonly"])
            // What is mounted below a directory is a part of it to the guest's overlay.
            .args(["--no-announce-submounts", "--log-level", "error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .fd_mappings(vec![FdMapping {
                parent_fd: listener.into(),
                child_fd: 3,
            }])
            .context("the numbers of two files collide")?;
        self.servers.push(server);
        let connection = format!("socket,id=fs-{tag},path={}", socket.display());
        let device = format!("vhost-user-fs-pci,queue-size=1024,chardev=fs-{tag},tag={tag}");
        self.command
            .args(["-chardev", &connection, "-device", &device]);
        Ok(())
    }

    /// Gives the guest a port with this name. QEMU opens the other end by its number.
    fn port(&mut self, name: &str, end: OwnedFd, flow: Flow) {
        let child_fd = FIRST_FD + self.files.len() as i32;
        let id = name.replace('.', "-");
        let file = match flow {
            Flow::Out => format!("file,id={id},path=/proc/self/fd/{child_fd}"),
            Flow::In => format!("file,id={id},path=/dev/null,input-path=/proc/self/fd/{child_fd}"),
        };
        let port = format!("virtserialport,bus=ports.0,name={name},chardev={id}");
        self.command.args(["-chardev", &file, "-device", &port]);
        self.files.push(FdMapping {
            parent_fd: end,
            child_fd,
        });
    }

    /// Starts all of it. In a group of its own it has no terminal.
    fn start(mut self, stdin: Stdio, group: bool) -> Result<Running> {
        File::create(&self.words)
            .with_context(|| format!("cannot write {}", self.words.display()))?;
        let words = || File::options().append(true).open(&self.words);
        let mut servers = Vec::new();
        let mut leader: Option<interrupt::Group> = None;
        for mut server in self.servers.drain(..) {
            server.process_group(leader.as_ref().map_or(0, interrupt::Group::number));
            server.stderr(words()?);
            let child = server.spawn().context("cannot start virtiofsd")?;
            leader.get_or_insert_with(|| interrupt::Group::of(&child));
            servers.push(child);
        }
        self.command
            .fd_mappings(self.files)
            .context("the numbers of two files collide")?;
        self.command.stdin(stdin).stderr(words()?).stdout(if group {
            Stdio::null()
        } else {
            Stdio::inherit()
        });
        if group {
            let leader = leader.as_ref().map_or(0, interrupt::Group::number);
            self.command.process_group(leader);
        }
        let qemu = self.command.spawn().context("cannot start QEMU")?;
        // Dropping the command closes the ends of the pipes that are QEMU's.
        drop(self.command);
        Ok(Running {
            servers,
            group: leader.unwrap_or_else(|| interrupt::Group::of(&qemu)),
            qemu,
            words: self.words,
            _sockets: self._sockets,
        })
    }
}

/// A guest that runs.
struct Running {
    qemu: Child,
    servers: Vec<Child>,
    group: interrupt::Group,
    words: PathBuf,
    _sockets: tempfile::TempDir,
}

impl Running {
    /// Waits for QEMU and makes sure that nothing outlives it. A guest that did not come up may be one
    /// that QEMU did not start.
    fn end(&mut self, ending: Ending) -> Result<Ending> {
        let status = self.qemu.wait()?;
        self.group.kill();
        for server in &mut self.servers {
            server.wait()?;
        }
        if ending == Ending::NoBoot && status.code().is_some_and(|code| code != 0) {
            let words = step::tail(&self.words);
            return Ok(Ending::Failed(format!("QEMU failed ({status})\n{words}")));
        }
        Ok(ending)
    }
}

impl Sink {
    fn writer(self, ours: impl Write + Send + 'static) -> Box<dyn Write + Send> {
        match self {
            Self::Ours => Box::new(ours),
            Self::Kept(kept) => Box::new(Keeper(kept)),
        }
    }
}

struct Keeper(Arc<Mutex<Vec<u8>>>);

impl Write for Keeper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut kept = self
            .0
            .lock()
            .map_err(|_| io::Error::other("the reader panicked"))?;
        kept.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Adds what the kernel's log says to how it ended.
fn outcome(ending: Ending, log: PathBuf) -> Result<Outcome> {
    // Without QEMU there is none.
    let text = fs::read(&log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let reports = match ending {
        Ending::Program(_) => klog::judge_whole(&text, guest::LOG_END),
        // It says itself that it is cut short.
        _ => klog::judge(&text),
    };
    Ok(Outcome {
        ending,
        log,
        reports,
    })
}

/// Says which modules were loaded.
fn show(event: &Event) {
    if let Event::Rdma(modules) = event {
        note("the RDMA modules, and their build ids:");
        for module in modules {
            note(format!("  {} {}", module.build_id, module.file.display()));
        }
    }
}

/// What an event says about the end, if it is one.
fn ending_of(event: Event) -> Option<Ending> {
    match event {
        Event::Booted | Event::Rdma(_) | Event::Ready => None,
        Event::WrongDriver(why) => Some(Ending::WrongDriver(why)),
        Event::Failed(why) => Some(Ending::Failed(why)),
        Event::Exited(status) => Some(Ending::Program(status)),
    }
}

/// The guest's events, then word that nobody holds the other end any more.
fn listen(control: File) -> mpsc::Receiver<News> {
    let (send, news) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(control).lines().map_while(Result::ok) {
            if let Ok(event) = serde_json::from_str(&line) {
                if send.send(News::Guest(event)).is_err() {
                    return;
                }
            }
        }
        let _ = send.send(News::Gone);
    });
    news
}

fn pump(
    mut from: impl Read + Send + 'static,
    mut to: impl Write + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match from.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => {
                    if to
                        .write_all(&buffer[..length])
                        .and_then(|()| to.flush())
                        .is_err()
                    {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    })
}

/// The size of the terminal, as `stty` prints it.
pub(crate) fn terminal_size() -> Option<String> {
    if !io::stdin().is_terminal() {
        return None;
    }
    let output = Command::new("stty")
        .arg("size")
        .stdin(Stdio::inherit())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (text.split_whitespace().count() == 2).then(|| text.trim().to_owned())
}

/// Whether this kernel really runs on the hardware: the node alone proves nothing, nor does
/// firmware that comes up. The answer is kept for as long as the host is up.
pub(crate) fn kvm_works(paths: &Paths, image: &Path) -> bool {
    if File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return false;
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let kept = paths.cache.join("kvm");
    if let Some(answer) = fs::read_to_string(&kept)
        .ok()
        .and_then(|kept| kept.strip_prefix(&boot).map(str::to_owned))
    {
        return answer == "works";
    }
    note("trying hardware virtualization");
    let works = probe_kvm(image).unwrap_or(false);
    // Without the file the next run asks again.
    let _ = fs::write(&kept, boot + if works { "works" } else { "fails" });
    works
}

/// Boots the kernel with nothing to mount, until it says so.
fn probe_kvm(image: &Path) -> Result<bool> {
    let mut child = Command::new("/usr/bin/qemu-system-x86_64")
        .args(["-accel", "kvm", "-cpu", "host", "-m", "1G"])
        .args(["-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-serial", "stdio", "-append", "console=ttyS0 panic=-1"])
        .arg("-kernel")
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    let group = interrupt::Group::of(&child);
    let stdout = child.stdout.take().context("standard output is a pipe")?;
    let (send, alive) = mpsc::channel();
    thread::spawn(move || {
        let mut lines = BufReader::new(stdout).split(b'\n').map_while(Result::ok);
        let _ = send.send(
            lines.any(|line| String::from_utf8_lossy(&line).contains("Unable to mount root fs")),
        );
    });
    let works = alive.recv_timeout(PROBE_LIMIT).unwrap_or(false);
    group.kill();
    child.wait()?;
    Ok(works)
}
