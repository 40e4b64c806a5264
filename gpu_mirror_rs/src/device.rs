// SPDX-License-Identifier: GPL-2.0

//! The devices: a node in `/dev`, and what all its open files share.

#![forbid(unsafe_code)]

use crate::{counters::Counters, file::File};
use kernel::{
    debugfs::Dir,
    miscdevice::{MiscDeviceOptions, MiscDeviceRegistration},
    prelude::*,
    sync::{atomic::Atomic, Arc},
};

/// The names of the nodes, in the order of the devices.
const NAMES: [&CStr; 2] = [c"hmm_dmirror0", c"hmm_dmirror1"];

/// All the devices: what the module is while it is loaded.
pub(crate) struct Devices(#[expect(dead_code)] KVec<Pin<KBox<Device>>>);

impl kernel::Module for Devices {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let debugfs = Dir::new(c"gpu_mirror_rs");
        let mut devices = KVec::with_capacity(NAMES.len(), GFP_KERNEL)?;
        for name in NAMES {
            let device = KBox::try_pin_init(Device::register(name, &debugfs), GFP_KERNEL)?;
            devices.push(device, GFP_KERNEL)?;
        }
        Ok(Self(devices))
    }
}

/// One device.
#[pin_data]
pub(crate) struct Device {
    shared: Arc<Shared>,
    #[pin]
    pub(crate) registration: MiscDeviceRegistration<File>,
}

/// What the open files of a device share. They keep it alive, though not the node.
#[pin_data]
pub(crate) struct Shared {
    #[pin]
    pub(crate) counters: Counters,
    /// The directory of the counters.
    pub(crate) debugfs: Dir,
    /// How many mirrors there have been.
    pub(crate) mirrors: Atomic<u64>,
}

impl Device {
    /// Makes the node `name` and its directory of counters in `debugfs`.
    ///
    /// A device is the only place where a [`MiscDeviceRegistration`] for [`File`] is made.
    pub(crate) fn register(name: &'static CStr, debugfs: &Dir) -> impl PinInit<Self, Error> {
        let dir = debugfs.subdir(name);
        let shared = Arc::pin_init(
            try_pin_init!(Shared {
                counters <- Counters::new(&dir),
                debugfs: dir.clone(),
                mirrors: Atomic::new(0),
            }? Error),
            GFP_KERNEL,
        );
        try_pin_init!(Self {
            shared: shared?,
            // The last field: the node can be opened before the call returns.
            registration <- MiscDeviceRegistration::register(MiscDeviceOptions { name }),
        }? Error)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}
