// SPDX-License-Identifier: GPL-2.0

//! The module's device, which processes under test open, and how those processes are started.

use crate::puppet::Session;
use kernel::{
    bindings,
    error::to_result,
    fs::File,
    miscdevice::{MiscDevice, MiscDeviceOptions, MiscDeviceRegistration},
    prelude::*,
    str::CStr,
    sync::{global_lock, Arc},
    uaccess::{UserPtr, UserSlice},
};

/// The path of the device.
pub(crate) const NODE: &CStr = c"/dev/mmu_notifier_helpers_kunit";

global_lock! {
    // SAFETY: Initialised when the module is, before there is a device or a test.
    unsafe(uninit) static NEXT: Mutex<Option<Arc<Session>>> = None;
}

/// Lets the process that opens the device next have `session`.
pub(crate) fn expect(session: Arc<Session>) {
    *NEXT.lock() = Some(session);
}

/// The module.
#[pin_data]
pub(crate) struct Suites {
    #[pin]
    _device: MiscDeviceRegistration<Opened>,
}

impl kernel::InPlaceModule for Suites {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        // SAFETY: A module is initialised once.
        unsafe { NEXT.init() };
        let options = MiscDeviceOptions {
            name: c"mmu_notifier_helpers_kunit",
        };
        try_pin_init!(Self {
            _device <- MiscDeviceRegistration::register(options),
        })
    }
}

/// The device, open in a process under test.
struct Opened(Arc<Session>);

#[vtable]
impl MiscDevice for Opened {
    type Ptr = KBox<Self>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<KBox<Self>> {
        let session = NEXT.lock().take().ok_or(ENXIO)?;
        let current = kernel::current!();
        session.opened(current.mm().ok_or(EINVAL)?, current.pid());
        Ok(KBox::new(Self(session), GFP_KERNEL)?)
    }

    fn release(this: KBox<Self>, _file: &File) {
        this.0.closed();
    }

    fn ioctl(this: &Self, _file: &File, command: u32, arg: usize) -> Result<isize> {
        if command != Session::TURN {
            return Err(ENOTTY);
        }
        let slice = UserSlice::new(UserPtr::from_addr(arg), size_of::<[i64; 8]>());
        let (mut reader, mut writer) = slice.reader_writer();
        let [result, ..] = reader.read::<[i64; 8]>()?;
        writer.write(&this.0.turn(result))?;
        Ok(0)
    }
}

/// Starts a program as root and returns when it has begun.
///
/// # Errors
///
/// Those of `execve()`.
///
/// C: `call_usermodehelper()` with `UMH_WAIT_EXEC`.
pub(crate) fn start<const N: usize>(args: [&CStr; N]) -> Result {
    let mut argv = KVec::with_capacity(N + 1, GFP_KERNEL)?;
    for arg in args {
        argv.push(arg.as_char_ptr().cast_mut(), GFP_KERNEL)?;
    }
    let path = *argv.first().ok_or(EINVAL)?;
    argv.push(core::ptr::null_mut(), GFP_KERNEL)?;
    let mut envp = [core::ptr::null_mut()];
    // SAFETY: The lists end with NULL, and they and their strings live until the call returns,
    // which is after the program has copies of them. The callee writes to none.
    to_result(unsafe {
        bindings::call_usermodehelper(
            path,
            argv.as_mut_ptr(),
            envp.as_mut_ptr(),
            bindings::UMH_WAIT_EXEC as c_int,
        )
    })
}
