// SPDX-License-Identifier: GPL-2.0

//! An open device: it mirrors the address space of the process that opened it.
//!
//! Port of the file operations of `lib/test_hmm.c`. Where a caller could make C allocate what it
//! names, this one works through a buffer of bounded size.

#![forbid(unsafe_code)]

use crate::{
    ffi_device,
    mirror::{self, AddressSpace, Transfer, Walker},
    page_table::LEAF_PAGES,
    uapi::{prot, Command, Request},
};
use kernel::{
    alloc::flags::__GFP_ZERO,
    fs,
    miscdevice::{MiscDevice, MiscDeviceRegistration},
    mm::virt::VmaNew,
    page::{Page, PAGE_SHIFT},
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
    uaccess::UserSlice,
};
use mmu_notifier_helpers::{fault::fatal_signal_pending, pages::View, range::PageRange};

/// Pages that are copied in one go: 64 KiB, which a kernel allocates easily and a cache holds.
const BOUNCE_PAGES: usize = 16;

/// log2 of the pages of the huge mappings that `SNAPSHOT` tells apart.
const PMD_ORDER: u32 = 9;
const PUD_ORDER: u32 = 18;

/// An open file of a device. It may be shared after `fork()`, and still mirrors the address space
/// that opened it.
pub(crate) struct File {
    space: AddressSpace,
    /// `HMM_DMIRROR_FLAG_*`, as set by the user.
    flags: Atomic<u64>,
}

#[vtable]
impl MiscDevice for File {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &fs::File, misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        let device = ffi_device::shared_of(misc).clone();
        let task = kernel::current!();
        let mm = task.mm().ok_or(EINVAL)?;
        let file = Self {
            space: mirror::mirror(mm, device)?,
            flags: Atomic::new(0),
        };
        Ok(KBox::pin(file, GFP_KERNEL)?)
    }

    /// # Errors
    ///
    /// - `EFAULT`: the command, or the data that it points to, is not there; or a page that the
    ///   device needs cannot be faulted in, for example since the mirrored process is gone.
    /// - `EINVAL`: the range is none (not aligned, empty, overflowing), the request is unknown, or
    ///   `SNAPSHOT` finds the mirrored process gone.
    /// - `EPERM`: the device may not write there.
    /// - `EBUSY`: a page kept being invalidated for a second, or `SNAPSHOT`'s range did.
    /// - `EINTR`: the caller is being killed.
    /// - `ENOMEM`.
    /// - `EOPNOTSUPP`: the request needs device memory.
    fn ioctl(this: Pin<&Self>, _file: &fs::File, cmd: u32, arg: usize) -> Result<isize> {
        let mut command = Command::read(arg)?;
        let range = PageRange::from_pages(command.addr, command.npages)?;
        match Request::from_ioctl(cmd).ok_or(EINVAL)? {
            // The one faults as the other: page-fault handlers may always drop the mmap lock.
            Request::Read | Request::ReadUnlocked => this.read(range, &mut command)?,
            Request::Write => this.write(range, &mut command)?,
            Request::Snapshot => this.snapshot(range, &mut command)?,
            Request::Flags => this.flags.store(command.npages, Relaxed),
            // There is no device memory to give back.
            Request::Release => (),
            Request::MigrateToDevice
            | Request::MigrateToSystem
            | Request::Exclusive
            | Request::CheckExclusive => return Err(EOPNOTSUPP),
        }
        command.write(arg)?;
        Ok(0)
    }

    /// Fills the mapping with pages of zeroes, which are the process's from then on.
    fn mmap(_this: Pin<&Self>, _file: &fs::File, vma: &VmaNew) -> Result {
        let range = PageRange::new(vma.start(), vma.end())?;
        let mixed = vma.set_mixedmap();
        for page in range.chunks(1) {
            if fatal_signal_pending() {
                return Err(EINTR);
            }
            let zeroes = Page::alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO)?;
            mixed.vm_insert_page(page.start(), &zeroes)?;
        }
        Ok(())
    }
}

impl File {
    /// `HMM_DMIRROR_READ` and `HMM_DMIRROR_READ_UNLOCKED`: the device reads `range` and gives the
    /// data to the caller.
    fn read(&self, range: PageRange, command: &mut Command) -> Result {
        let mut bounce = Bounce::new(&range)?;
        let mut walker = Walker::new(&self.space, range);
        for part in range.chunks(bounce.pages()) {
            let data = bounce.part(&part);
            walker.transfer(&part, Transfer::Read(data))?;
            user_data(command, &range, &part)
                .writer()
                .write_slice(data)?;
            command.advance(&part, &walker)?;
        }
        Ok(())
    }

    /// `HMM_DMIRROR_WRITE`: the device writes data of the caller to `range`.
    fn write(&self, range: PageRange, command: &mut Command) -> Result {
        let mut bounce = Bounce::new(&range)?;
        let mut walker = Walker::new(&self.space, range);
        for part in range.chunks(bounce.pages()) {
            let data = bounce.part(&part);
            user_data(command, &range, &part)
                .reader()
                .read_slice(data)?;
            walker.transfer(&part, Transfer::Write(data))?;
            command.advance(&part, &walker)?;
        }
        Ok(())
    }

    /// `HMM_DMIRROR_SNAPSHOT`: a byte for each page of `range`, which says what is mapped there.
    fn snapshot(&self, range: PageRange, command: &mut Command) -> Result {
        let mut user =
            UserSlice::new(UserPtr::from_addr(command.ptr as usize), range.pages()).writer();
        mirror::look(&self.space, range, |views| {
            let mut protections = [prot::NONE; LEAF_PAGES];
            let mut n = 0;
            for (byte, view) in protections.iter_mut().zip(views) {
                *byte = protection(view);
                n += 1;
            }
            user.write_slice(&protections[..n])?;
            command.cpages += n as u64;
            Ok(())
        })
    }
}

impl Command {
    /// Notes that `part` is done. A caller that is being killed goes no further.
    fn advance(&mut self, part: &PageRange, walker: &Walker<'_>) -> Result {
        self.cpages += part.pages() as u64;
        self.faults = walker.episodes();
        if fatal_signal_pending() {
            return Err(EINTR);
        }
        Ok(())
    }
}

/// The caller's memory for `part` of a transfer of `range`.
fn user_data(command: &Command, range: &PageRange, part: &PageRange) -> UserSlice {
    let start = UserPtr::from_addr(command.ptr as usize);
    UserSlice::new(
        start.wrapping_byte_add(part.start() - range.start()),
        part.len(),
    )
}

/// What `SNAPSHOT` says of a page.
fn protection(view: View) -> u8 {
    let (writable, order, zero_page) = match view {
        View::Error => return prot::ERROR,
        View::Empty => return prot::NONE,
        View::Mapped {
            writable,
            order,
            zero_page,
        } => (writable, order, zero_page),
    };
    let kind = if zero_page { prot::ZERO } else { prot::NONE };
    let access = if writable { prot::WRITE } else { prot::READ };
    let size = match order {
        PMD_ORDER => prot::PMD,
        PUD_ORDER => prot::PUD,
        _ => prot::NONE,
    };
    kind | access | size
}

/// Where data waits between the mirrored process, whose pages are used under a lock, and the
/// caller's memory, which may fault.
struct Bounce(KVVec<u8>);

impl Bounce {
    /// For transfers of `range`.
    fn new(range: &PageRange) -> Result<Self> {
        let pages = range.pages().min(BOUNCE_PAGES);
        Ok(Self(KVVec::from_elem(0, pages << PAGE_SHIFT, GFP_KERNEL)?))
    }

    fn pages(&self) -> usize {
        self.0.len() >> PAGE_SHIFT
    }

    /// Room for `part`.
    fn part(&mut self, part: &PageRange) -> &mut [u8] {
        &mut self.0[..part.len()]
    }
}
