// SPDX-License-Identifier: GPL-2.0

//! The devices: a node in `/dev`, and what all its open files share.

#![forbid(unsafe_code)]

use crate::{counters::Counters, ffi_backing::coherent, file::File, memory::Memory};
use kernel::{
    debugfs::{self, Dir},
    fmt,
    miscdevice::{MiscDeviceOptions, MiscDeviceRegistration},
    prelude::*,
    sync::{atomic::Atomic, Arc},
};
use mmu_notifier_helpers::device_memory::Kind;

/// The names of the nodes of devices with private memory, and of those with coherent memory.
const PRIVATE: [&CStr; 2] = [c"hmm_dmirror0", c"hmm_dmirror1"];
const COHERENT: [&CStr; 2] = [c"hmm_dmirror2", c"hmm_dmirror3"];

/// All the devices: what the module is while it is loaded.
pub(crate) struct Devices(#[expect(dead_code)] KVec<Pin<KBox<Device>>>);

impl kernel::Module for Devices {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        let debugfs = Dir::new(c"gpu_mirror_rs");
        let mut devices = KVec::with_capacity(PRIVATE.len() + COHERENT.len(), GFP_KERNEL)?;
        let mut register = |name, kind| -> Result {
            let device = KBox::try_pin_init(Device::register(name, kind, &debugfs), GFP_KERNEL)?;
            Ok(devices.push(device, GFP_KERNEL)?)
        };
        for name in PRIVATE {
            register(name, Kind::Private)?;
        }
        for (name, kind) in COHERENT.into_iter().zip(coherent().into_iter().flatten()) {
            register(name, kind)?;
        }
        Ok(Self(devices))
    }
}

/// One device.
#[pin_data]
pub(crate) struct Device {
    // Before what it makes reachable: nobody opens the node of a device that is taken apart.
    #[pin]
    pub(crate) registration: MiscDeviceRegistration<File>,
    shared: Arc<Shared>,
    /// How many pages of the memory are in use, for debugfs.
    #[pin]
    _memory_used: debugfs::File<Arc<Memory>>,
    /// How many there are at most.
    #[pin]
    _memory_total: debugfs::File<Arc<Memory>>,
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
    /// How many files are open.
    pub(crate) open: Atomic<u64>,
    pub(crate) memory: Arc<Memory>,
}

impl Shared {
    fn new(debugfs: Dir, memory: Arc<Memory>) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            counters <- Counters::new(&debugfs),
            debugfs: debugfs.clone(),
            mirrors: Atomic::new(0),
            open: Atomic::new(0),
            memory,
        }? Error)
    }
}

impl Device {
    /// Makes the node `name` and its directory of counters in `debugfs`.
    ///
    /// A device is the only place where a [`MiscDeviceRegistration`] for [`File`] is made.
    pub(crate) fn register(
        name: &'static CStr,
        kind: Kind,
        debugfs: &Dir,
    ) -> impl PinInit<Self, Error> {
        let dir = debugfs.subdir(name);
        pin_init::pin_init_scope(move || {
            let memory = Arc::new(Memory::new(kind)?, GFP_KERNEL)?;
            let shared = Arc::pin_init(Shared::new(dir.clone(), memory.clone()), GFP_KERNEL)?;
            Ok(try_pin_init!(Self {
                _memory_used <- dir.read_callback_file(
                    c"memory_used",
                    Ok::<_, Error>(memory.clone()),
                    &|memory: &Arc<Memory>, f: &mut fmt::Formatter<'_>| {
                        writeln!(f, "{}", memory.used())
                    },
                ),
                _memory_total <- dir.read_callback_file(
                    c"memory_total",
                    Ok::<_, Error>(memory),
                    &|memory: &Arc<Memory>, f: &mut fmt::Formatter<'_>| {
                        writeln!(f, "{}", memory.total())
                    },
                ),
                shared,
                // The last one: the node can be opened before the call returns.
                registration <- MiscDeviceRegistration::register(MiscDeviceOptions { name }),
            }? Error))
        })
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}
