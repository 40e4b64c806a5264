// SPDX-License-Identifier: GPL-2.0

//! A GPU mirror: a device that works on a process's own addresses.
//!
//! Port of `lib/test_hmm.c`, the kernel's own device driver for heterogeneous memory management,
//! with its ioctls (`lib/test_hmm_uapi.h`), on [`mmu_notifier_helpers`].
//!
//! # Layout
//!
//! - `device`: the devices, each a node in `/dev`; `counters`: what they show in debugfs.
//! - `memory`: the memory of a device; `migration`: moving pages there and back.
//! - `file`: an open device, its ioctls and `mmap`; [`uapi`]: their numbers and structures.
//! - `mirror`: the mirrored address space: zap, publish, fault.
//! - [`page_table`]: the device's page table. Pure, runs on the host.
//! - `engine`: what moves the data.
//! - `ffi_*`: the little that needs unsafe code.

#[cfg(CONFIG_RUST)]
mod counters;
#[cfg(CONFIG_RUST)]
mod device;
#[cfg(CONFIG_RUST)]
mod engine;
#[cfg(CONFIG_RUST)]
mod ffi_backing;
#[cfg(CONFIG_RUST)]
mod ffi_device;
#[cfg(CONFIG_RUST)]
mod ffi_engine;
#[cfg(CONFIG_RUST)]
mod ffi_shadow;
#[cfg(CONFIG_RUST)]
mod file;
#[cfg(CONFIG_RUST)]
mod memory;
#[cfg(CONFIG_RUST)]
mod migration;
#[cfg(CONFIG_RUST)]
mod mirror;
pub mod page_table;
pub mod uapi;

#[cfg(CONFIG_RUST)]
use device::Devices;

#[cfg(CONFIG_RUST)]
kernel::prelude::module! {
    type: Devices,
    name: "gpu_mirror_rs",
    authors: ["mmu_notifier_helpers maintainers"],
    description: "GPU mirror: a device that works on a process's own addresses",
    license: "GPL",
    params: {
        spm_addr_dev0: u64 {
            default: 0,
            description: "Address of 256 MiB that nobody uses, for the first coherent device",
        },
        spm_addr_dev1: u64 {
            default: 0,
            description: "The same for the second coherent device; there are both or none",
        },
    },
}
