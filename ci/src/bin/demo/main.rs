// SPDX-License-Identifier: GPL-2.0

//! Shows what mirroring is: a process and a device work on the same pointers, while the memory
//! behind them is protected, freed, mapped anew, forked, and all of it at once.
//!
//! Runs as root where the GPU mirror is loaded. Every word that either side sees is compared with
//! what has to be there.

#![deny(unsafe_code)]

mod ffi;

use anyhow::{Context, Result};
use ffi::{Child, Device, Memory, Protection};
use nix::{errno::Errno, mount::MsFlags};
use std::{
    fmt,
    fs::{self, File},
    io::{Read, Write},
    path::Path,
    process::ExitCode,
    sync::atomic::{
        AtomicBool, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
    thread,
};

const DEVICE: &str = "/dev/hmm_dmirror0";
const DEBUGFS: &str = "/sys/kernel/debug";
const COUNTERS: &str = "gpu_mirror_rs/hmm_dmirror0";

/// Pages of each memory in the acts.
const PAGES: usize = 64;
/// Pages of each memory in the storm, and how often at least the device reads and writes them.
const STORM_PAGES: usize = 16;
const STORM_ROUNDS: u64 = 150;

fn main() -> ExitCode {
    match demo() {
        Ok(tally) => {
            println!("verdict: {tally}");
            ExitCode::from(u8::from(!tally.is_good()))
        }
        Err(error) => {
            println!("verdict: the demo could not be run: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<Tally> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(DEVICE)
        .with_context(|| format!("cannot open {DEVICE}; load the module gpu_mirror_rs first"))?;
    let before = Counters::read()?;
    let mut stage = Stage {
        device: Device(file),
        memory: Memory::new(PAGES)?,
        tally: Tally::default(),
    };

    println!("The device {DEVICE} works on this process's memory by the process's own pointers.");
    println!(
        "They share {} KiB at {:#x}; nothing is copied or pinned beforehand.",
        stage.memory.bytes() / 1024,
        stage.memory.address()
    );
    println!();
    stage.device_reads()?;
    stage.device_writes()?;
    stage.protect()?;
    stage.replace()?;
    stage.fork()?;
    stage.storm()?;

    println!();
    match (before, Counters::read()?) {
        (Some(before), Some(after)) => after.print_since(&before),
        _ => println!("  (this driver does not count what it does)"),
    }
    row("bytes compared", stage.tally.compared);
    row("mismatches", stage.tally.mismatches);
    Ok(stage.tally)
}

fn row(what: &str, n: u64) {
    println!("  {what:<34}{n:>12}");
}

/// Whose data a word is and where it belongs, so that no other data passes for it. Never zero.
fn word(tag: u64, index: usize) -> u64 {
    tag << 32 | index as u64
}

fn words(tag: u64, count: usize) -> Vec<u64> {
    (0..count).map(|i| word(tag, i)).collect()
}

/// What came of the comparisons.
#[derive(Default)]
struct Tally {
    compared: u64,
    mismatches: u64,
    surprises: u64,
}

impl Tally {
    /// Compares what was seen, word by word, and returns whether all of it fits.
    fn compare(
        &mut self,
        seen: impl Iterator<Item = u64>,
        fits: impl Fn(usize, u64) -> bool,
    ) -> bool {
        let mismatches = self.mismatches;
        for (i, value) in seen.enumerate() {
            self.compared += size_of::<u64>() as u64;
            self.mismatches += u64::from(!fits(i, value));
        }
        self.mismatches == mismatches
    }

    /// Notes whether the device, or a process, did what it has to do.
    fn expect(&mut self, as_expected: bool) -> &'static str {
        if as_expected {
            "as it must be"
        } else {
            self.surprises += 1;
            "WHICH IS WRONG"
        }
    }

    fn is_good(&self) -> bool {
        self.mismatches == 0 && self.surprises == 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_good() {
            f.write_str("good; the device always saw what the process saw")
        } else {
            write!(
                f,
                "BAD; {} words were wrong and {} answers",
                self.mismatches, self.surprises
            )
        }
    }
}

/// What to say of data.
fn judge(right: bool) -> &'static str {
    if right {
        "every byte is right"
    } else {
        "WRONG DATA"
    }
}

/// An answer of the device, for people.
fn answer(result: Result<(), Errno>) -> String {
    result.map_or_else(
        |errno| format!("refused with {errno:?}"),
        |()| "done".into(),
    )
}

struct Stage {
    device: Device,
    memory: Memory,
    tally: Tally,
}

impl Stage {
    /// What the device sees has to be `tag`'s data, or zeroes.
    fn device_sees(&mut self, tag: Option<u64>) -> Result<&'static str> {
        let mut seen = vec![u64::MAX; self.memory.words().len()];
        self.device
            .read(&self.memory, &mut seen)
            .context("the device cannot read the memory")?;
        let right = self.tally.compare(seen.into_iter(), |i, value| {
            value == tag.map_or(0, |tag| word(tag, i))
        });
        Ok(judge(right))
    }

    /// What the process sees has to be `tag`'s data.
    fn process_sees(&mut self, tag: u64) -> &'static str {
        let seen = self.memory.words().iter().map(|place| place.load(Relaxed));
        judge(self.tally.compare(seen, |i, value| value == word(tag, i)))
    }

    fn device_writes_tag(&self, tag: u64) -> Result<(), Errno> {
        let data = words(tag, self.memory.words().len());
        self.device.write(&self.memory, &data)
    }

    fn device_reads(&mut self) -> Result<()> {
        self.memory.fill(|i| word(1, i));
        let seen = self.device_sees(Some(1))?;
        println!("1. The process writes, the device reads: {seen}");
        Ok(())
    }

    fn device_writes(&mut self) -> Result<()> {
        self.device_writes_tag(2)
            .context("the device cannot write the memory")?;
        let seen = self.process_sees(2);
        println!("2. The device writes, the process reads: {seen}");
        Ok(())
    }

    fn protect(&mut self) -> Result<()> {
        println!("3. The process protects the memory");
        self.memory.protect(Protection::ReadOnly)?;
        let result = self.device_writes_tag(3);
        let judged = self.tally.expect(result == Err(Errno::EPERM));
        println!(
            "     read-only, the device writes: {}, {judged}",
            answer(result)
        );
        let seen = self.device_sees(Some(2))?;
        println!("     read-only, the device reads: {seen}");
        self.memory.protect(Protection::None)?;
        let mut nothing = vec![0; self.memory.words().len()];
        let result = self.device.read(&self.memory, &mut nothing);
        let judged = self.tally.expect(result == Err(Errno::EFAULT));
        println!(
            "     no access, the device reads: {}, {judged}",
            answer(result)
        );
        self.memory.protect(Protection::ReadWrite)?;
        let seen = self.device_sees(Some(2))?;
        println!("     accessible again, the device reads: {seen}");
        Ok(())
    }

    fn replace(&mut self) -> Result<()> {
        println!("4. The process replaces the memory behind its pointers");
        self.memory.map_anew()?;
        let seen = self.device_sees(None)?;
        println!("     unmapped and mapped anew, the device reads zeroes: {seen}");
        self.memory.fill(|i| word(4, i));
        let seen = self.device_sees(Some(4))?;
        println!("     filled, the device reads the new data: {seen}");
        self.memory.free()?;
        let seen = self.device_sees(None)?;
        println!("     freed, the device reads zeroes: {seen}");
        Ok(())
    }

    fn fork(&mut self) -> Result<()> {
        println!("5. The process forks; parent and child share each page until one writes");
        self.memory.fill(|i| word(5, i));
        self.device_sees(Some(5))?;
        let (wait, go) = nix::unistd::pipe().context("pipe")?;
        let (mut wait, mut go) = (File::from(wait), File::from(go));
        let memory = &self.memory;
        let child = Child::run(|| {
            let told = wait.read_exact(&mut [0]).is_ok();
            let mut places = memory.words().iter().enumerate();
            let unchanged = places.all(|(i, place)| place.load(Relaxed) == word(5, i));
            memory.fill(|i| word(6, i));
            told && unchanged
        })?;
        self.device_writes_tag(7)
            .context("the device cannot write the memory")?;
        go.write_all(&[0])?;
        let unchanged = child.wait()?;
        let judged = self.tally.expect(unchanged);
        println!(
            "     the device writes, the child's copy {}, {judged}",
            if unchanged { "stays" } else { "changes" }
        );
        let seen = self.device_sees(Some(7))?;
        println!("     the child writes, the device reads the parent's data: {seen}");
        Ok(())
    }

    fn storm(&mut self) -> Result<()> {
        println!("6. Storm: threads remap, free and protect while the device reads and writes");
        let storm = Storm::new()?;
        let work = thread::scope(|scope| {
            let replacing = scope.spawn(|| storm.replace());
            let protecting = scope.spawn(|| storm.protect());
            let work = storm.work(&self.device, &mut self.tally);
            storm.over.store(true, SeqCst);
            replacing.join().expect("the thread does not panic")?;
            protecting.join().expect("the thread does not panic")?;
            work
        })?;
        println!(
            "     {} changes, {} transfers: {}",
            storm.changes.load(SeqCst),
            2 * work.rounds,
            judge(work.right)
        );
        println!(
            "     {} writes met a read-only page and were refused, {} transfers gave up",
            work.refused, work.gave_up
        );
        Ok(())
    }
}

/// Two memories that change for as long as the device works on them.
struct Storm {
    /// Holds generations: the newest that has begun and the newest that is complete.
    replaced: Memory,
    begun: AtomicU64,
    complete: AtomicU64,
    protected: Memory,
    changes: AtomicU64,
    over: AtomicBool,
}

impl Storm {
    fn new() -> Result<Self> {
        let replaced = Memory::new(STORM_PAGES)?;
        let protected = Memory::new(STORM_PAGES)?;
        replaced.fill(|i| word(1, i));
        Ok(Self {
            replaced,
            begun: AtomicU64::new(1),
            complete: AtomicU64::new(1),
            protected,
            changes: AtomicU64::new(0),
            over: AtomicBool::new(false),
        })
    }

    /// Brings one generation after the other: one is moved in whole, the next is written to freed
    /// pages, the one after to fresh ones.
    fn replace(&self) -> Result<()> {
        for generation in 2.. {
            if self.over.load(SeqCst) {
                break;
            }
            if generation % 3 == 0 {
                let next = Memory::new(STORM_PAGES)?;
                next.fill(|i| word(generation, i));
                self.begun.store(generation, SeqCst);
                self.replaced.take_pages_of(next)?;
            } else {
                self.begun.store(generation, SeqCst);
                if generation % 3 == 1 {
                    self.replaced.free()?;
                } else {
                    self.replaced.map_anew()?;
                }
                self.replaced.fill(|i| word(generation, i));
            }
            self.complete.store(generation, SeqCst);
            self.changes.fetch_add(1, SeqCst);
        }
        Ok(())
    }

    fn protect(&self) -> Result<()> {
        while !self.over.load(SeqCst) {
            self.protected.protect(Protection::ReadOnly)?;
            self.protected.protect(Protection::ReadWrite)?;
            self.changes.fetch_add(2, SeqCst);
        }
        Ok(())
    }

    /// Has the device work until it has done its rounds and the memory has changed as often.
    fn work(&self, device: &Device, tally: &mut Tally) -> Result<Work> {
        let mut seen = vec![0; self.replaced.words().len()];
        let mut work = Work {
            right: true,
            ..Work::default()
        };
        while work.rounds < STORM_ROUNDS || self.changes.load(SeqCst) < STORM_ROUNDS {
            work.rounds += 1;
            let oldest = self.complete.load(SeqCst);
            match device.read(&self.replaced, &mut seen) {
                Ok(()) => {
                    let newest = self.begun.load(SeqCst);
                    work.right &= tally.compare(seen.iter().copied(), |i, value| {
                        fits(i, value, oldest, newest)
                    });
                }
                Err(Errno::EBUSY) => work.gave_up += 1,
                Err(errno) => return Err(errno).context("the device cannot read in the storm"),
            }

            match device.write(&self.protected, &words(work.rounds, seen.len())) {
                Ok(()) => {
                    let places = self.protected.words().iter();
                    let written = places.map(|place| place.load(Relaxed));
                    work.right &= tally.compare(written, |i, value| value == word(work.rounds, i));
                }
                Err(Errno::EPERM) => work.refused += 1,
                Err(Errno::EBUSY) => work.gave_up += 1,
                Err(errno) => return Err(errno).context("the device cannot write in the storm"),
            }
        }
        Ok(work)
    }
}

/// What came of the device's work in the storm.
#[derive(Default)]
struct Work {
    rounds: u64,
    right: bool,
    refused: u64,
    gave_up: u64,
}

/// Whether a word may be seen while the generations from `oldest` to `newest` come and go. Until a
/// generation is complete, there may be zeroes.
fn fits(index: usize, value: u64, oldest: u64, newest: u64) -> bool {
    let tag = value >> 32;
    (value == 0 && oldest < newest)
        || ((oldest..=newest).contains(&tag) && value == word(tag, index))
}

/// What the driver counted since it was loaded.
struct Counters {
    faults: u64,
    pages: u64,
    invalidations: u64,
    retries: u64,
}

impl Counters {
    /// `None` for a driver that has none, as the kernel's own in C.
    fn read() -> Result<Option<Self>> {
        if !Path::new(DEBUGFS).join("tracing").exists() {
            // It may be mounted all the same.
            let none = None::<&str>;
            match nix::mount::mount(none, DEBUGFS, Some("debugfs"), MsFlags::empty(), none) {
                Ok(()) | Err(Errno::EBUSY) => {}
                Err(errno) => return Err(errno).context("cannot mount debugfs"),
            }
        }
        let counters = Path::new(DEBUGFS).join(COUNTERS);
        if !counters.exists() {
            return Ok(None);
        }
        let read = |name| -> Result<u64> {
            let path = counters.join(name);
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            text.trim()
                .parse()
                .with_context(|| format!("{} holds no number: {text:?}", path.display()))
        };
        Ok(Some(Self {
            faults: read("faults")?,
            pages: read("pages")?,
            invalidations: read("invalidations")?,
            retries: read("retries")?,
        }))
    }

    fn print_since(&self, before: &Self) {
        row("device faults", self.faults.wrapping_sub(before.faults));
        row("pages faulted in", self.pages.wrapping_sub(before.pages));
        row(
            "invalidations",
            self.invalidations.wrapping_sub(before.invalidations),
        );
        row(
            "retries after a collision",
            self.retries.wrapping_sub(before.retries),
        );
    }
}
