// SPDX-License-Identifier: GPL-2.0

//! What user space says to the device: the ioctls of `lib/test_hmm_uapi.h`.
//!
//! Pure but for the copying from and to user space, so that the host can hold it against the
//! header.

#![forbid(unsafe_code)]

use kernel::ioctl::_IOWR;
#[cfg(CONFIG_RUST)]
use kernel::{prelude::*, uaccess::UserSlice};

/// `struct hmm_dmirror_cmd`, the argument of every ioctl.
#[repr(C)]
pub struct Command {
    /// The first address in the mirrored process.
    pub addr: u64,
    /// Where the caller wants the data, or has it.
    pub ptr: u64,
    /// How many pages from `addr` on.
    pub npages: u64,
    /// Out: pages copied.
    pub cpages: u64,
    /// Out: times that the device stopped at a page that it had to fault in.
    pub faults: u64,
}

/// What `HMM_DMIRROR_FLAGS` sets.
pub mod flags {
    /// The next allocation of a page for a migration fails: `HMM_DMIRROR_FLAG_FAIL_ALLOC`.
    pub const FAIL_ALLOC: u64 = 1;
}

/// The structure as it crosses the border: five words, without padding.
pub type Words = [u64; 5];

impl Command {
    /// The command that user space sends as `words`, with the outputs zero.
    pub const fn from_words(words: Words) -> Self {
        let [addr, ptr, npages, ..] = words;
        Self {
            addr,
            ptr,
            npages,
            cpages: 0,
            faults: 0,
        }
    }

    /// The command as user space gets it back.
    pub const fn to_words(&self) -> Words {
        [self.addr, self.ptr, self.npages, self.cpages, self.faults]
    }
}

#[cfg(CONFIG_RUST)]
impl Command {
    /// Reads the command at the user address `arg`, with the outputs zero.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    pub(crate) fn read(arg: usize) -> Result<Self> {
        Ok(Self::from_words(Self::user(arg).reader().read()?))
    }

    /// Writes the command back to the user address `arg`.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    pub(crate) fn write(&self, arg: usize) -> Result {
        Self::user(arg).writer().write(&self.to_words())
    }

    fn user(arg: usize) -> UserSlice {
        UserSlice::new(UserPtr::from_addr(arg), size_of::<Words>())
    }
}

/// An ioctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// `HMM_DMIRROR_READ`
    Read,
    /// `HMM_DMIRROR_WRITE`
    Write,
    /// `HMM_DMIRROR_MIGRATE_TO_DEV`
    MigrateToDevice,
    /// `HMM_DMIRROR_MIGRATE_TO_SYS`
    MigrateToSystem,
    /// `HMM_DMIRROR_SNAPSHOT`
    Snapshot,
    /// `HMM_DMIRROR_EXCLUSIVE`
    Exclusive,
    /// `HMM_DMIRROR_CHECK_EXCLUSIVE`
    CheckExclusive,
    /// `HMM_DMIRROR_RELEASE`
    Release,
    /// `HMM_DMIRROR_FLAGS`
    Flags,
    /// `HMM_DMIRROR_READ_UNLOCKED`
    ReadUnlocked,
}

impl Request {
    /// By number.
    const ALL: [Self; 10] = [
        Self::Read,
        Self::Write,
        Self::MigrateToDevice,
        Self::MigrateToSystem,
        Self::Snapshot,
        Self::Exclusive,
        Self::CheckExclusive,
        Self::Release,
        Self::Flags,
        Self::ReadUnlocked,
    ];

    /// The request that the ioctl number `cmd` stands for.
    pub fn from_ioctl(cmd: u32) -> Option<Self> {
        let mut numbers = (0..).map(|nr| _IOWR::<Words>('H' as u32, nr));
        Self::ALL.into_iter().find(|_| numbers.next() == Some(cmd))
    }
}

/// What `SNAPSHOT` says of a page: `HMM_DMIRROR_PROT_*`.
pub mod prot {
    /// The device cannot have the page.
    pub const ERROR: u8 = 0xff;
    /// Nothing is mapped, or without access.
    pub const NONE: u8 = 0x00;
    /// May be read.
    pub const READ: u8 = 0x01;
    /// May be read and written.
    pub const WRITE: u8 = 0x02;
    /// Part of a huge page that is mapped by the second level of page tables.
    pub const PMD: u8 = 0x04;
    /// Part of a huge page that is mapped by the third level of page tables.
    pub const PUD: u8 = 0x08;
    /// The page of zeroes.
    pub const ZERO: u8 = 0x10;
    /// In private memory of this device.
    pub const DEV_PRIVATE_LOCAL: u8 = 0x20;
    /// In coherent memory of this device.
    pub const DEV_COHERENT_LOCAL: u8 = 0x40;
    /// In coherent memory of another device.
    pub const DEV_COHERENT_REMOTE: u8 = 0x50;
}
