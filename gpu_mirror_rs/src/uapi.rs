// SPDX-License-Identifier: GPL-2.0

//! What user space says to the device: the ioctls of `lib/test_hmm_uapi.h`.

#![forbid(unsafe_code)]

use kernel::{ioctl::_IOWR, prelude::*, uaccess::UserSlice};

/// `struct hmm_dmirror_cmd`, the argument of every ioctl.
pub(crate) struct Command {
    /// The first address in the mirrored process.
    pub(crate) addr: u64,
    /// Where the caller wants the data, or has it.
    pub(crate) ptr: u64,
    /// How many pages from `addr` on.
    pub(crate) npages: u64,
    /// Out: pages copied.
    pub(crate) cpages: u64,
    /// Out: times that the device stopped at a page that it had to fault in.
    pub(crate) faults: u64,
}

/// The structure as it crosses the border: five words, without padding.
type Words = [u64; 5];

impl Command {
    /// Reads the command at the user address `arg`, with the outputs zero.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    pub(crate) fn read(arg: usize) -> Result<Self> {
        let [addr, ptr, npages, ..] = Self::user(arg).reader().read::<Words>()?;
        Ok(Self {
            addr,
            ptr,
            npages,
            cpages: 0,
            faults: 0,
        })
    }

    /// Writes the command back to the user address `arg`.
    ///
    /// # Errors
    ///
    /// `EFAULT`.
    pub(crate) fn write(&self, arg: usize) -> Result {
        let words: Words = [self.addr, self.ptr, self.npages, self.cpages, self.faults];
        Self::user(arg).writer().write(&words)
    }

    fn user(arg: usize) -> UserSlice {
        UserSlice::new(UserPtr::from_addr(arg), size_of::<Words>())
    }
}

/// An ioctl.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Read,
    Write,
    MigrateToDevice,
    MigrateToSystem,
    Snapshot,
    Exclusive,
    CheckExclusive,
    Release,
    Flags,
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
    pub(crate) fn from_ioctl(cmd: u32) -> Option<Self> {
        let mut numbers = (0..).map(|nr| _IOWR::<Words>('H' as u32, nr));
        Self::ALL.into_iter().find(|_| numbers.next() == Some(cmd))
    }
}

/// What `SNAPSHOT` says of a page: `HMM_DMIRROR_PROT_*`.
pub(crate) mod prot {
    pub(crate) const ERROR: u8 = 0xff;
    pub(crate) const NONE: u8 = 0x00;
    pub(crate) const READ: u8 = 0x01;
    pub(crate) const WRITE: u8 = 0x02;
    pub(crate) const PMD: u8 = 0x04;
    pub(crate) const PUD: u8 = 0x08;
    pub(crate) const ZERO: u8 = 0x10;
}
