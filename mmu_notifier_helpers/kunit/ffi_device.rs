// SPDX-License-Identifier: GPL-2.0

//! The device of processes under test, and how those processes are started.

use crate::{bindings as shims, puppet::Session};
use core::ptr::NonNull;
use kernel::{
    bindings,
    error::{from_err_ptr, to_result},
    fs::{file::FileDescriptorReservation, File},
    prelude::*,
    sync::{aref::ARef, Arc, ArcBorrow},
    types::ForeignOwnable,
    uaccess::{UserPtr, UserSlice},
};

/// The module.
pub(crate) struct Suites;

impl kernel::Module for Suites {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Ok(Self)
    }
}

/// The device, open for a session.
fn device(session: Arc<Session>) -> Result<ARef<File>> {
    let session = session.into_foreign();
    // SAFETY: The pointer is what the operations of the device expect.
    let file = from_err_ptr(unsafe { shims::mnh_kunit_device(session) }).inspect_err(|_| {
        // SAFETY: It is that of `into_foreign`, and nobody has taken it.
        drop(unsafe { Arc::<Session>::from_foreign(session) });
    })?;
    let file = NonNull::new(file.cast()).ok_or(ENOMEM)?;
    // SAFETY: The file is new, its one reference is the caller's, and no `fdget_pos` is under way.
    Ok(unsafe { ARef::from_raw(file) })
}

/// Starts a process for the session and returns when it runs.
///
/// # Errors
///
/// Those of `execve()`, and of writing the program: there must be a place from which it may be run.
///
/// C: `call_usermodehelper_exec()` with `UMH_WAIT_EXEC`.
pub(crate) fn start(session: Arc<Session>) -> Result {
    let file = device(session)?;
    // SAFETY: The file is the device's, and there is a reference to it until the call returns.
    to_result(unsafe { shims::mnh_kunit_start(file.as_ptr()) })
}

/// A process takes its next call, or a child its session.
///
/// # Safety
///
/// It is the device's, called by the core.
#[no_mangle]
unsafe extern "C" fn mnh_kunit_ioctl(
    file: *mut bindings::file,
    command: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: The file is open, so `release` has not taken what `device` put there.
    let session = unsafe { Arc::<Session>::borrow((*file).private_data) };
    match ioctl(session, command, arg) {
        Ok(result) => result,
        Err(error) => error.to_errno() as c_long,
    }
}

fn ioctl(session: ArcBorrow<'_, Session>, command: u32, arg: usize) -> Result<c_long> {
    match command {
        Session::TURN => {
            let current = kernel::current!();
            session.enter(current.mm().ok_or(EINVAL)?, current.pid());
            let slice = UserSlice::new(UserPtr::from_addr(arg), size_of::<[i64; 8]>());
            let (mut reader, mut writer) = slice.reader_writer();
            let [result, ..] = reader.read::<[i64; 8]>()?;
            writer.write(&session.turn(result))?;
            Ok(0)
        }
        Session::FORKED => {
            let child = device(session.child().ok_or(ENXIO)?)?;
            let reservation = FileDescriptorReservation::get_unused_fd_flags(0)?;
            let descriptor = reservation.reserved_fd();
            reservation.fd_install(child);
            Ok(descriptor as c_long)
        }
        _ => Err(ENOTTY),
    }
}

/// The last file of a session is gone.
///
/// # Safety
///
/// It is the device's, called by the core.
#[no_mangle]
unsafe extern "C" fn mnh_kunit_release(
    _inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: `device` put it there, and nobody looks at it after this.
    let session = unsafe { Arc::<Session>::from_foreign((*file).private_data) };
    session.closed();
    0
}
