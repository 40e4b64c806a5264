// SPDX-License-Identifier: GPL-2.0

//! An open device: it mirrors the address space of the process that opened it.
//!
//! Port of the file operations of `lib/test_hmm.c`. Where a caller could make C allocate what it
//! names, this one needs a buffer of bounded size, or none.

#![forbid(unsafe_code)]

use crate::{
    device::Shared,
    ffi_device, migration,
    mirror::{self, AddressSpace, Faults, Transfer, Walker, PART_PAGES},
    page_table::Reserve,
    uapi::{flags, prot, Command, Request},
};
use kernel::{
    alloc::flags::__GFP_ZERO,
    fs,
    miscdevice::{MiscDevice, MiscDeviceRegistration},
    mm::virt::VmaNew,
    page::Page,
    prelude::*,
    sync::{
        atomic::{Atomic, Full, Relaxed},
        Arc,
    },
    uaccess::{UserPtr, UserSlice},
};
use mmu_notifier_helpers::{
    fault::Buffer,
    mirror::Subscription,
    pages::{Entry, Memory, View},
    range::PageRange,
    wait::fatal_signal_pending,
};

/// log2 of the pages of the huge mappings that `SNAPSHOT` tells apart.
const PMD_ORDER: u32 = 9;
const PUD_ORDER: u32 = 18;

/// An open file of a device. It may be shared after `fork()`, and still mirrors the address space
/// that opened it.
pub(crate) struct File {
    space: AddressSpace,
    device: Arc<Shared>,
    /// `HMM_DMIRROR_FLAG_*`, as set by the user.
    flags: Atomic<u64>,
}

impl Drop for File {
    fn drop(&mut self) {
        // An allocation that failed for nobody does not fail for somebody else.
        self.set_flags(0);
        if self.device.open.fetch_sub(1, Full) == 1 {
            // What is busy just now comes back when it is used, or when the module goes.
            let _ = self.device.memory.evict();
        }
    }
}

#[vtable]
impl MiscDevice for File {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &fs::File, misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
        let device = ffi_device::shared_of(misc).clone();
        let task = kernel::current!();
        let mm = task.mm().ok_or(EINVAL)?;
        let space = mirror::mirror(mm, device.clone())?;
        device.open.fetch_add(1, Full);
        let file = Self {
            space,
            device,
            flags: Atomic::new(0),
        };
        Ok(KBox::pin(file, GFP_KERNEL_ACCOUNT)?)
    }

    /// # Errors
    ///
    /// - `EFAULT`: the command, or the data that it points to, is not there; or a page that the
    ///   device needs cannot be faulted in, for example since the mirrored process is gone.
    /// - `EINVAL`: the range is none (not aligned, empty, overflowing), the request is unknown, or
    ///   not for this kind of memory; or the mirrored process is gone, for requests that do not
    ///   fault.
    /// - `EPERM`: the device may not write there; `CHECK_EXCLUSIVE` found a page that it has alone.
    /// - `ENOENT`: a page to be moved to the device, or to be had alone, is not there afterwards.
    /// - `EOPNOTSUPP`: the device cannot have the memory alone, which is not anonymous.
    /// - `EBUSY`: a page kept being invalidated for a second, or `SNAPSHOT`'s range did, or pages
    ///   to be released kept being used.
    /// - `EINTR`: the caller is being killed.
    /// - `ENOMEM`.
    fn ioctl(this: Pin<&Self>, _file: &fs::File, cmd: u32, arg: usize) -> Result<isize> {
        let mut command = Command::read(arg)?;
        let range = PageRange::from_pages(command.addr, command.npages)?;
        match Request::from_ioctl(cmd).ok_or(EINVAL)? {
            // The one faults as the other: page-fault handlers may always drop the mmap lock.
            Request::Read | Request::ReadUnlocked => {
                this.transfer(range, &mut command, Transfer::Read, Faults::All)?
            }
            Request::Write => this.transfer(range, &mut command, Transfer::Write, Faults::All)?,
            Request::Snapshot => this.snapshot(range, &mut command)?,
            Request::Flags => this.set_flags(command.npages),
            Request::Release => this.device.memory.evict()?,
            Request::MigrateToDevice => {
                migration::to_device(&this.space, &this.device.memory, range)?;
                this.transfer(range, &mut command, Transfer::Read, Faults::OwnMemory)?;
            }
            Request::MigrateToSystem => {
                let moved = migration::to_system(&this.space, &this.device.memory, range)?;
                command.cpages = moved as u64;
            }
            Request::Exclusive => {
                this.make_exclusive(range)?;
                this.transfer(range, &mut command, Transfer::Read, Faults::None)?;
            }
            Request::CheckExclusive => {
                if this.space.lock().any(&range, Entry::exclusive) {
                    return Err(EPERM);
                }
            }
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
    /// The device reads `range` and gives the data to the caller, or writes data of the caller
    /// there, with page faults as `faults` says.
    fn transfer(
        &self,
        range: PageRange,
        command: &mut Command,
        transfer: Transfer,
        faults: Faults,
    ) -> Result {
        let mut walker = Walker::new(&self.space, range, faults);
        let user = UserPtr::from_addr(command.ptr as usize);
        for part in range.chunks(PART_PAGES) {
            let user = user.wrapping_byte_add(part.start() - range.start());
            walker.transfer(&part, transfer, user)?;
            command.cpages += part.pages() as u64;
            command.faults = walker.episodes();
            // A caller that is being killed goes no further.
            if fatal_signal_pending() {
                return Err(EINTR);
            }
        }
        Ok(())
    }

    /// `HMM_DMIRROR_EXCLUSIVE`: takes each page of `range` for the device alone.
    fn make_exclusive(&self, range: PageRange) -> Result {
        let mut buffer = Buffer::new(1, GFP_KERNEL)?;
        let mut reserve = Reserve::default();
        for page in range.chunks(1) {
            reserve.fill()?;
            let mm = self.space.mm().mmget_not_zero().ok_or(EINVAL)?;
            self.space
                .make_exclusive(&mm, page.start(), &mut buffer, &mut reserve)?;
            if fatal_signal_pending() {
                return Err(EINTR);
            }
        }
        Ok(())
    }

    /// `HMM_DMIRROR_FLAGS`: what is to fail. The one flag is the device's, since a CPU that
    /// stumbles on a page knows of no file.
    fn set_flags(&self, new: u64) {
        let old = self.flags.xchg(new, Relaxed);
        if (old | new) & flags::FAIL_ALLOC != 0 {
            let fail = new & flags::FAIL_ALLOC != 0;
            self.device.memory.control().inject(fail);
        }
    }

    /// `HMM_DMIRROR_SNAPSHOT`: a byte for each page of `range`, which says what is mapped there.
    fn snapshot(&self, range: PageRange, command: &mut Command) -> Result {
        let mut user =
            UserSlice::new(UserPtr::from_addr(command.ptr as usize), range.pages()).writer();
        mirror::look(&self.space, range, protection, |protections| {
            user.write_slice(protections)?;
            command.cpages += protections.len() as u64;
            // Nothing else ends it where nothing is mapped: no lock is waited for, no page faulted
            // in.
            if fatal_signal_pending() {
                return Err(EINTR);
            }
            Ok(())
        })
    }
}

/// What `SNAPSHOT` says of a page.
fn protection(view: View) -> u8 {
    let (writable, order, memory) = match view {
        View::Error => return prot::ERROR,
        View::Empty => return prot::NONE,
        View::Mapped {
            writable,
            order,
            memory,
        } => (writable, order, memory),
    };
    let kind = match memory {
        Memory::System => prot::NONE,
        Memory::Zero => prot::ZERO,
        Memory::OwnPrivate => prot::DEV_PRIVATE_LOCAL,
        Memory::OwnCoherent => prot::DEV_COHERENT_LOCAL,
        Memory::ForeignCoherent => prot::DEV_COHERENT_REMOTE,
    };
    let access = if writable { prot::WRITE } else { prot::READ };
    let size = match order {
        PMD_ORDER => prot::PMD,
        PUD_ORDER => prot::PUD,
        _ => prot::NONE,
    };
    kind | access | size
}
