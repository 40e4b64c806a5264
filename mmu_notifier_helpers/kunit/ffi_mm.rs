// SPDX-License-Identifier: GPL-2.0

//! Address spaces that no process runs in, so that a test knows every reference to them.

use crate::bindings as shims;
use core::ptr::NonNull;
use kernel::{
    bindings,
    error::{from_err_ptr, to_result},
    mm::{Mm, MmWithUser},
    module::ModuleMetadata,
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::ARef,
    task::Task,
    uaccess::{UserPtr, UserSlice},
};
use mmu_notifier_helpers::range::PageRange;

/// Makes an address space with nothing in it.
pub(crate) fn new_mm() -> Result<ARef<MmWithUser>> {
    // SAFETY: Process context, as for every function of a test.
    let mm = NonNull::new(unsafe { shims::mnh_kunit_mm_alloc() }).ok_or(ENOMEM)?;
    // SAFETY: The one user of the new address space is handed over.
    Ok(unsafe { ARef::from_raw(mm.cast()) })
}

/// Runs `function` in `mm`, whose memory then is the thread's user memory.
///
/// # Errors
///
/// `EBUSY` where the thread has user memory already.
pub(crate) fn attached<R>(mm: &MmWithUser, function: impl FnOnce() -> R) -> Result<R> {
    let parking = new_mm()?;
    // SAFETY: The reference keeps the address space and its users.
    to_result(unsafe { shims::mnh_kunit_use_mm(mm.as_raw()) })?;
    let result = function();
    // SAFETY: The thread uses `mm` since the call above, and `parking` has a user.
    unsafe { shims::mnh_kunit_unuse_mm(mm.as_raw(), parking.as_raw()) };
    Ok(result)
}

/// `mm_users`.
pub(crate) fn users(mm: &Mm) -> i32 {
    // SAFETY: The reference keeps the address space.
    unsafe { shims::mnh_kunit_mm_users(mm.as_raw()) }
}

/// `mm_count`, in which all users count as one.
pub(crate) fn count(mm: &Mm) -> i32 {
    // SAFETY: The reference keeps the address space.
    unsafe { shims::mnh_kunit_mm_count(mm.as_raw()) }
}

/// How many references there are to this module, if it is one.
pub(crate) fn module_references() -> Option<i32> {
    let module = crate::LocalModule::THIS_MODULE.as_ptr();
    // SAFETY: The module's code runs.
    (!module.is_null()).then(|| unsafe { shims::mnh_kunit_module_refcount(module) })
}

/// Waits for the callbacks of the core and of RCU that are due.
///
/// C: `mmu_notifier_synchronize()` and `rcu_barrier()`.
pub(crate) fn synchronize() {
    // SAFETY: May sleep, as every function of a test.
    unsafe {
        bindings::mmu_notifier_synchronize();
        bindings::rcu_barrier();
    }
}

/// Whether the task waits for something, deaf to signals.
pub(crate) fn is_asleep(task: &Task) -> bool {
    // SAFETY: The reference keeps the task.
    unsafe { shims::mnh_kunit_is_asleep(task.as_ptr()) }
}

/// What may be done to memory that is mapped.
#[derive(Clone, Copy)]
pub(crate) enum Protection {
    Nothing,
    Read,
    ReadWrite,
}

impl Protection {
    const fn flags(self) -> u32 {
        match self {
            Self::Nothing => shims::PROT_NONE,
            Self::Read => shims::PROT_READ,
            Self::ReadWrite => shims::PROT_READ | shims::PROT_WRITE,
        }
    }
}

const ANONYMOUS: u32 = shims::MAP_PRIVATE | shims::MAP_ANONYMOUS;

/// Maps anonymous private memory of `pages` pages.
pub(crate) fn map(mm: &MmWithUser, pages: usize, protection: Protection) -> Result<PageRange> {
    // SAFETY: Null is no file.
    unsafe {
        map_file(
            mm,
            core::ptr::null_mut(),
            0,
            pages * PAGE_SIZE,
            protection,
            ANONYMOUS,
        )
    }
}

/// Maps fresh memory over that of `range`.
pub(crate) fn map_over(mm: &MmWithUser, range: &PageRange) -> Result {
    let flags = ANONYMOUS | shims::MAP_FIXED;
    let (addr, len) = (range.start(), range.len());
    // SAFETY: Null is no file.
    unsafe {
        map_file(
            mm,
            core::ptr::null_mut(),
            addr,
            len,
            Protection::ReadWrite,
            flags,
        )
    }
    .map(|_| ())
}

/// # Safety
///
/// `file` must be null or valid.
unsafe fn map_file(
    mm: &MmWithUser,
    file: *mut bindings::file,
    addr: usize,
    len: usize,
    protection: Protection,
    flags: u32,
) -> Result<PageRange> {
    let (protection, flags) = (protection.flags() as usize, flags as usize);
    // SAFETY: The thread has an address space, and the file is valid by the caller's promise.
    let addr = attached(mm, || unsafe {
        bindings::vm_mmap(file, addr, len, protection, flags, 0)
    })?;
    match addr as isize {
        errno @ -4095..=-1 => Err(Error::from_errno(errno as i32)),
        _ => PageRange::new(addr, addr + len),
    }
}

/// Unmaps what is mapped in `range`.
pub(crate) fn unmap(mm: &MmWithUser, range: &PageRange) -> Result {
    // SAFETY: The thread has an address space.
    to_result(attached(mm, || unsafe {
        bindings::vm_munmap(range.start(), range.len())
    })?)
}

/// The same, while the first allocation fails that must not wait for memory, if the kernel can do
/// that, which is returned.
///
/// C: `CONFIG_FAILSLAB`, `fail_nth` of `struct task_struct`.
pub(crate) fn unmap_without_memory(mm: &MmWithUser, range: &PageRange) -> Result<bool> {
    attached(mm, || {
        // SAFETY: Sets a field of the current task.
        let can_fail = unsafe { shims::mnh_kunit_fail_nth_allocation(1) };
        // SAFETY: The thread has an address space.
        let result = to_result(unsafe { bindings::vm_munmap(range.start(), range.len()) });
        // SAFETY: As above.
        unsafe { shims::mnh_kunit_fail_nth_allocation(0) };
        result.map(|()| can_fail)
    })?
}

/// Reads a byte of the memory at `addr`.
pub(crate) fn touch(mm: &MmWithUser, addr: usize) -> Result {
    attached(mm, || {
        let mut byte = [0];
        UserSlice::new(UserPtr::from_addr(addr), 1)
            .reader()
            .read_slice(&mut byte)
    })?
}

/// Writes a byte to the memory at `addr`.
pub(crate) fn write(mm: &MmWithUser, addr: usize, byte: u8) -> Result {
    attached(mm, || {
        UserSlice::new(UserPtr::from_addr(addr), 1)
            .writer()
            .write_slice(&[byte])
    })?
}

/// Writes to the first byte of each page of `range` what `byte` says for its number.
#[cfg(CONFIG_DEVICE_PRIVATE)]
pub(crate) fn write_each(mm: &MmWithUser, range: &PageRange, byte: impl Fn(usize) -> u8) -> Result {
    attached(mm, || {
        for (page, addr) in (range.start()..range.end()).step_by(PAGE_SIZE).enumerate() {
            UserSlice::new(UserPtr::from_addr(addr), 1)
                .writer()
                .write_slice(&[byte(page)])?;
        }
        Ok(())
    })?
}

/// Whether the first byte of each page of `range` is what `byte` says for its number.
#[cfg(CONFIG_DEVICE_PRIVATE)]
pub(crate) fn reads_as(
    mm: &MmWithUser,
    range: &PageRange,
    byte: impl Fn(usize) -> u8,
) -> Result<bool> {
    attached(mm, || {
        let mut same = true;
        for (page, addr) in (range.start()..range.end()).step_by(PAGE_SIZE).enumerate() {
            let mut found = [0];
            UserSlice::new(UserPtr::from_addr(addr), 1)
                .reader()
                .read_slice(&mut found)?;
            same &= found == [byte(page)];
        }
        Ok(same)
    })?
}

/// A file in memory.
///
/// # Invariants
///
/// Owns a reference to the file.
pub(crate) struct SharedFile {
    file: NonNull<bindings::file>,
    len: usize,
}

// SAFETY: Files are counted atomically.
unsafe impl Send for SharedFile {}
// SAFETY: What is done to it here may be done by any number of threads.
unsafe impl Sync for SharedFile {}

impl SharedFile {
    /// Makes one of `pages` pages.
    pub(crate) fn new(pages: usize) -> Result<Self> {
        let len = pages * PAGE_SIZE;
        // SAFETY: Process context.
        let file = from_err_ptr(unsafe { shims::mnh_kunit_shared_file(len) })?;
        // INVARIANT: The reference is handed over. It is no error, so not null.
        Ok(Self {
            file: NonNull::new(file).ok_or(ENOMEM)?,
            len,
        })
    }

    /// Maps it, to be read and written by all who do.
    pub(crate) fn map(&self, mm: &MmWithUser) -> Result<PageRange> {
        let (file, flags) = (self.file.as_ptr(), shims::MAP_SHARED);
        // SAFETY: The file is valid by the type invariant.
        unsafe { map_file(mm, file, 0, self.len, Protection::ReadWrite, flags) }
    }

    /// Takes `len` bytes from `offset` on out of all page tables.
    ///
    /// C: `unmap_mapping_range()`.
    pub(crate) fn unmap(&self, offset: usize, len: usize) {
        // SAFETY: The file is valid by the type invariant.
        unsafe { shims::mnh_kunit_unmap_file(self.file.as_ptr(), offset, len) }
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        // SAFETY: Gives up the reference that the type invariant tells of.
        unsafe { bindings::fput(self.file.as_ptr()) }
    }
}
