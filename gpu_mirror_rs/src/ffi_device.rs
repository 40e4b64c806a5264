// SPDX-License-Identifier: GPL-2.0

//! From the registration that the core knows to the device around it.

use crate::{
    device::{Device, Shared},
    file::File,
};
use kernel::{miscdevice::MiscDeviceRegistration, sync::Arc};

/// What the files of the device share whose node `registration` is.
pub(crate) fn shared_of(registration: &MiscDeviceRegistration<File>) -> &Arc<Shared> {
    let field = core::ptr::from_ref(registration).cast_mut();
    // SAFETY: `Device::register` is the only place where a registration for `File` is made, so this
    // one is the field of a `Device`. The device is as long alive as its field is borrowed, and
    // `shared` was initialised before the registration.
    unsafe { &*kernel::container_of!(field, Device, registration) }.shared()
}
