// SPDX-License-Identifier: GPL-2.0

//! Boots a kernel in QEMU with virtme-ng and waits for what the guest says.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
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

use crate::guest::{self, Event, Spec};
use crate::interrupt;
use crate::klog::{self, Report};
use crate::paths::Paths;
use crate::progress::note;

/// How long a kernel may take to come up.
const BOOT_LIMIT: Duration = Duration::from_secs(600);
/// How long a guest may take to go down after its program ended.
const DOWN_LIMIT: Duration = Duration::from_secs(120);
/// How long a guest on hardware virtualization gets to show that it runs.
const PROBE_LIMIT: Duration = Duration::from_secs(30);

/// The machine to boot.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    /// The kernel's build tree.
    pub(crate) kernel: PathBuf,
    /// How many CPUs.
    pub(crate) cpus: u32,
    /// How much memory, in MiB.
    pub(crate) memory: u64,
    /// More words for the kernel's command line.
    pub(crate) append: Vec<String>,
    /// Whether the guest's clock counts instructions.
    pub(crate) icount: bool,
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
    /// A stream to be looked at afterwards.
    pub(crate) fn kept() -> (Self, Arc<Mutex<Vec<u8>>>) {
        let kept = Arc::default();
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
        let orders = self.orders()?;
        let (control, control_end) = pipe2(OFlag::O_CLOEXEC)?;
        let (stderr, stderr_end) = pipe2(OFlag::O_CLOEXEC)?;

        let mut command = self.virtme();
        let mut script = OsString::from("exec ");
        script.push(guest::shell_quote(&std::env::current_exe()?));
        script.push(" guest ");
        script.push(guest::shell_quote(&orders));
        command
            .arg("--script-sh")
            .arg(script)
            .arg("--show-boot-console");
        command
            .stdin(if self.stdin {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        ports(&mut command, vec![control_end, stderr_end])?;
        let mut child = command.spawn().context("cannot start virtme-ng")?;
        // It holds the guest's ends of the pipes.
        drop(command);
        let group = interrupt::Group::of(&child);

        let mut pumps = vec![
            pump(
                child.stdout.take(),
                self.stdout.clone().writer(io::stdout()),
            ),
            pump(
                Some(File::from(stderr)),
                self.stderr.clone().writer(io::stderr()),
            ),
            pump(child.stderr.take(), File::create(&log)?),
        ];
        if let Some(stdin) = child.stdin.take() {
            // Nobody waits for it: it may sit in a read for ever.
            pump(Some(io::stdin()), stdin);
        }
        let ending = self.watch(listen(File::from(control)), &group);
        end(&mut child, &group)?;
        drop(group);
        pumps.drain(..).for_each(|pump| drop(pump.join()));

        outcome(ending, log)
    }

    /// Boots with the terminal for the program. There is no limit of time.
    pub(crate) fn run_interactive(self) -> Result<Outcome> {
        let log = self.logs.join("kernel.log");
        let orders = self.orders()?;
        let (control, control_end) = pipe2(OFlag::O_CLOEXEC)?;
        let shell = self.logs.join("shell");
        let mut script = b"#!/bin/sh\nexec ".to_vec();
        script.extend(guest::shell_quote(&std::env::current_exe()?).into_encoded_bytes());
        script.extend(b" guest ");
        script.extend(guest::shell_quote(&orders).into_encoded_bytes());
        script.push(b'\n');
        File::options()
            .create_new(true)
            .write(true)
            .mode(0o755)
            .open(&shell)
            .and_then(|mut file| file.write_all(&script))
            .with_context(|| format!("cannot write {}", shell.display()))?;

        let mut command = self.virtme();
        command.arg("--shell").arg(&shell).arg("--disable-monitor");
        command.stderr(Stdio::piped());
        ports(&mut command, vec![control_end])?;
        let mut child = command.spawn().context("cannot start virtme-ng")?;
        drop(command);
        let console = pump(child.stderr.take(), File::create(&log)?);
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
        child.wait()?;
        drop(console.join());
        outcome(ending, log)
    }

    fn orders(&self) -> Result<PathBuf> {
        let path = self.logs.join("guest.json");
        fs::write(&path, serde_json::to_vec_pretty(self.spec)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// The command that boots, without what the guest is to run.
    fn virtme(&self) -> Command {
        let machine = self.machine;
        let mut command = Command::new(self.paths.cache.join("venv/bin/virtme-run"));
        command
            .arg("--kimg")
            .arg(image(&machine.kernel))
            .args([
                "--mods",
                "none",
                "--user",
                "root",
                "--force-9p",
                "--disable-microvm",
            ])
            .args([
                "--cpus",
                &machine.cpus.to_string(),
                "--memory",
                &format!("{}M", machine.memory),
            ]);
        if machine.icount || !kvm_works(self.paths, &machine.kernel) {
            command.arg("--disable-kvm");
        }
        if machine.icount {
            for option in ["-accel", "tcg,thread=single", "-icount", "shift=0"] {
                command.arg(format!("--qemu-opt={option}"));
            }
        }
        // The log is the verdict: all of it, dated, and none lost to a slow console. And no page
        // tables of five levels: early in the boot the feature reads as absent for a moment, and
        // a KASAN check in an interrupt then reports its own bounds of four levels.
        for word in [
            "ignore_loglevel",
            "printk.time=1",
            "log_buf_len=4M",
            "no5lvl",
        ] {
            command.arg(format!("--kopt={word}"));
        }
        for word in &machine.append {
            command.arg(format!("--kopt={word}"));
        }
        command
    }

    fn watch(&self, news: mpsc::Receiver<News>, group: &interrupt::Group) -> Ending {
        let mut deadline = Some(Instant::now() + BOOT_LIMIT);
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
                            deadline = Some(Instant::now() + DOWN_LIMIT);
                        }
                        None => ending = Ending::Died,
                    }
                    if event == Event::Ready {
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
    let text = fs::read(&log).context("the kernel's log is gone")?;
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

/// Gives the guest ports that lead into pipes; QEMU opens them by their number.
fn ports(command: &mut Command, ends: Vec<OwnedFd>) -> Result<()> {
    let names = [guest::CONTROL_PORT, guest::STDERR_PORT];
    command
        .arg("--qemu-opt=-device")
        .arg("--qemu-opt=virtio-serial-pci,id=ci");
    let mut mappings = Vec::new();
    for ((parent_fd, name), child_fd) in ends.into_iter().zip(names).zip(3..) {
        let id = name.replace('.', "_");
        let port = format!("virtserialport,bus=ci.0,name={name},chardev={id}");
        let pipe = format!("file,id={id},path=/proc/self/fd/{child_fd}");
        for option in ["-chardev", &pipe, "-device", &port] {
            command.arg(format!("--qemu-opt={option}"));
        }
        mappings.push(FdMapping {
            parent_fd,
            child_fd,
        });
    }
    command
        .fd_mappings(mappings)
        .context("the numbers of two pipes collide")?;
    Ok(())
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
    from: Option<impl Read + Send + 'static>,
    mut to: impl Write + Send + 'static,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let Some(mut from) = from else { return };
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

/// Waits for virtme-ng and makes sure that QEMU does not outlive it.
fn end(child: &mut Child, group: &interrupt::Group) -> Result<()> {
    child.wait()?;
    group.kill();
    Ok(())
}

/// Whether this kernel really runs on the hardware: the node alone proves nothing, nor does
/// firmware that comes up. The answer is kept for as long as the host is up.
pub(crate) fn kvm_works(paths: &Paths, kernel: &Path) -> bool {
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
    let works = probe_kvm(kernel).unwrap_or(false);
    // Without the file the next run asks again.
    let _ = fs::write(&kept, boot + if works { "works" } else { "fails" });
    works
}

/// Boots the kernel with nothing to mount, until it says so.
fn probe_kvm(kernel: &Path) -> Result<bool> {
    let mut child = Command::new("qemu-system-x86_64")
        .args([
            "-accel",
            "kvm",
            "-cpu",
            "host",
            "-m",
            "1G",
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
        ])
        .args([
            "-serial",
            "stdio",
            "-append",
            "console=ttyS0 panic=-1",
            "-kernel",
        ])
        .arg(image(kernel))
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

/// The kernel image of a build tree.
pub(crate) fn image(kernel: &Path) -> PathBuf {
    kernel.join("arch/x86/boot/bzImage")
}
