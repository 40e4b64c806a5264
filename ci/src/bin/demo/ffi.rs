// SPDX-License-Identifier: GPL-2.0

//! What the demo asks of Linux that safe Rust does not have: memory whose mapping changes in place,
//! the device's commands, and children.

#![allow(unsafe_code)]

use anyhow::{bail, Context, Result};
use nix::{
    errno::Errno,
    libc::c_void,
    sys::{
        mman::{self, MRemapFlags, MapFlags, MmapAdvise, ProtFlags},
        wait::{waitpid, WaitStatus},
    },
    unistd::{self, ForkResult, Pid, SysconfVar},
};
use std::{
    fs::File,
    num::NonZeroUsize,
    os::fd::AsRawFd,
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// What the process and the device may do to pages.
#[derive(Clone, Copy)]
pub(crate) enum Protection {
    None,
    ReadOnly,
    ReadWrite,
}

impl Protection {
    fn flags(self) -> ProtFlags {
        match self {
            Self::None => ProtFlags::PROT_NONE,
            Self::ReadOnly => ProtFlags::PROT_READ,
            Self::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        }
    }
}

/// Words of a page.
pub(crate) fn words_of_page() -> Result<usize> {
    let bytes = unistd::sysconf(SysconfVar::PAGE_SIZE)?.context("the page size is unknown")?;
    Ok(usize::try_from(bytes)? / size_of::<u64>())
}

/// Private memory of the process. Its addresses stay its own until it is dropped; what is mapped
/// there changes.
///
/// # Invariants
///
/// The `words` words at `start` are anonymous memory that nothing else in this process maps, with
/// some protection. Nobody but the kernel accesses them otherwise than as atomics.
pub(crate) struct Memory {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: The memory belongs to no thread, and all accesses are atomic.
unsafe impl Send for Memory {}

// SAFETY: As above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Zeroes that can be read and written.
    pub(crate) fn new(pages: usize) -> Result<Self> {
        let words = pages * words_of_page()?;
        let bytes = NonZeroUsize::new(words * size_of::<u64>()).context("no memory asked for")?;
        // SAFETY: Without an address, the kernel chooses one where nothing is mapped.
        let start = unsafe {
            mman::mmap_anonymous(
                None,
                bytes,
                Protection::ReadWrite.flags(),
                MapFlags::MAP_PRIVATE,
            )
        }
        .context("mmap")?;
        // INVARIANT: The mapping is new.
        Ok(Self {
            start: start.cast(),
            words,
        })
    }

    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    pub(crate) fn bytes(&self) -> usize {
        self.words * size_of::<u64>()
    }

    /// The contents. Accesses that the protection forbids end the process.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: By the type's invariants, for as long as the reference lives. Memory that is
        // replaced below is other memory at the same address, which atomics allow for.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// Writes each word.
    pub(crate) fn fill(&self, word: impl Fn(usize) -> u64) {
        for (i, place) in self.words().iter().enumerate() {
            place.store(word(i), Relaxed);
        }
    }

    /// Changes the protection.
    pub(crate) fn protect(&self, protection: Protection) -> Result<()> {
        // SAFETY: The memory is ours.
        unsafe { mman::mprotect(self.start(), self.bytes(), protection.flags()) }
            .context("mprotect")
    }

    /// Frees the pages; zeroes take their place when they are used again.
    pub(crate) fn free(&self) -> Result<()> {
        // SAFETY: The memory is ours, and accesses as atomics put up with a change of value.
        unsafe { mman::madvise(self.start(), self.bytes(), MmapAdvise::MADV_DONTNEED) }
            .context("madvise")
    }

    /// Unmaps the memory and maps new memory at the same address.
    pub(crate) fn map_anew(&self) -> Result<()> {
        let bytes = NonZeroUsize::new(self.bytes()).context("no memory")?;
        // SAFETY: What goes away is ours alone. What comes keeps the type's invariants.
        unsafe {
            mman::mmap_anonymous(
                NonZeroUsize::new(self.start.as_ptr() as usize),
                bytes,
                Protection::ReadWrite.flags(),
                MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED,
            )
        }
        .map(drop)
        .context("mmap")
    }

    /// Moves the pages of `other` here, in one step for whoever looks at this memory.
    pub(crate) fn take_pages_of(&self, other: Self) -> Result<()> {
        assert_eq!(self.words, other.words);
        // SAFETY: Both are ours. The pages of `other` leave its addresses, and so it must not be
        // dropped: they may be somebody else's by then.
        unsafe {
            mman::mremap(
                other.start(),
                other.bytes(),
                self.bytes(),
                MRemapFlags::MREMAP_MAYMOVE | MRemapFlags::MREMAP_FIXED,
                Some(self.start()),
            )
        }
        .context("mremap")?;
        std::mem::forget(other);
        Ok(())
    }

    fn start(&self) -> NonNull<c_void> {
        self.start.cast()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: By the type's invariants, and no reference is left.
        let unmapped = unsafe { mman::munmap(self.start(), self.bytes()) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// `struct hmm_dmirror_cmd` of the kernel's `lib/test_hmm_uapi.h`.
#[repr(C)]
struct Command {
    addr: u64,
    ptr: u64,
    npages: u64,
    cpages: u64,
    faults: u64,
}

nix::ioctl_readwrite!(hmm_dmirror_read, b'H', 0x00, Command);
nix::ioctl_readwrite!(hmm_dmirror_write, b'H', 0x01, Command);

/// The device, working on the address space of this process.
pub(crate) struct Device(pub(crate) File);

impl Device {
    /// The device reads all of `memory`, at its addresses, and hands out what it found.
    pub(crate) fn read(&self, memory: &Memory, into: &mut [u64]) -> Result<(), Errno> {
        assert_eq!(memory.words, into.len());
        let mut command = Command::new(memory, into.as_mut_ptr() as u64);
        // SAFETY: The command and the buffer, which is as long as the memory, live through the call.
        unsafe { hmm_dmirror_read(self.0.as_raw_fd(), &mut command) }.map(drop)
    }

    /// The device writes `from` to all of `memory`, at its addresses.
    pub(crate) fn write(&self, memory: &Memory, from: &[u64]) -> Result<(), Errno> {
        assert_eq!(memory.words, from.len());
        let mut command = Command::new(memory, from.as_ptr() as u64);
        // SAFETY: The command and the buffer, which is as long as the memory, live through the call.
        // What is written are words that are only accessed as atomics.
        unsafe { hmm_dmirror_write(self.0.as_raw_fd(), &mut command) }.map(drop)
    }
}

impl Command {
    fn new(memory: &Memory, ptr: u64) -> Self {
        Self {
            addr: memory.address(),
            ptr,
            npages: (memory.bytes() / page_bytes()) as u64,
            cpages: 0,
            faults: 0,
        }
    }
}

/// A page's size; memory that exists has had it from the kernel.
fn page_bytes() -> usize {
    words_of_page().map_or(4096, |words| words * size_of::<u64>())
}

/// A child of this process, with a copy of its memory.
pub(crate) struct Child(Pid);

impl Child {
    /// Forks; the child runs `run` and tells what it returned.
    ///
    /// # Panics
    ///
    /// If the process has more than one thread.
    pub(crate) fn run(run: impl FnOnce() -> bool) -> Result<Self> {
        assert_eq!(std::fs::read_dir("/proc/self/task")?.count(), 1);
        // SAFETY: There is one thread, so that the child finds no lock held by another.
        match unsafe { unistd::fork() }.context("fork")? {
            ForkResult::Parent { child } => Ok(Self(child)),
            // SAFETY: `_exit` may be called anywhere, and leaves the parent's buffers alone.
            ForkResult::Child => unsafe { nix::libc::_exit(i32::from(!run())) },
        }
    }

    /// What it returned.
    pub(crate) fn wait(self) -> Result<bool> {
        match waitpid(self.0, None).context("waitpid")? {
            WaitStatus::Exited(_, status) => Ok(status == 0),
            status => bail!("a child ended otherwise than by itself: {status:?}"),
        }
    }
}
