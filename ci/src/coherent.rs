// SPDX-License-Identifier: GPL-2.0

//! Memory for the device-coherent devices: the kernel leaves it alone as it boots, and the driver is
//! told of it as it is loaded.

use crate::guest::Driver;
use crate::vm::Machine;

/// The parameters of both drivers, one for each coherent device: where its memory starts.
const PARAMETERS: [&str; 2] = ["spm_addr_dev0", "spm_addr_dev1"];
/// What a device needs at least, in bytes.
const EACH: u64 = 256 << 20;
/// Where the first device's memory starts. QEMU's PC keeps room for its devices below that: of the
/// guest's memory, what does not fit there goes on here, in whole.
const START: u64 = 4 << 30;
/// How much memory a guest needs, in MiB, for enough of it to be above [`START`].
const MEMORY: u64 = 4096;

/// The machine with the memory in it, out of the kernel's hands.
pub(crate) fn machine(mut machine: Machine) -> Machine {
    machine.memory = machine.memory.max(MEMORY);
    machine.append.push(format!(
        "memmap={}M${START:#x}",
        (EACH >> 20) * PARAMETERS.len() as u64
    ));
    machine
}

/// The driver with coherent devices on such a machine.
pub(crate) fn driver(mut driver: Driver) -> Driver {
    for (parameter, number) in PARAMETERS.iter().zip(0..) {
        driver
            .parameters
            .push(format!("{parameter}={:#x}", START + number * EACH));
    }
    driver.devices += PARAMETERS.len();
    driver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_driver_is_told_of_what_the_kernel_leaves_alone() {
        let machine = machine(Machine {
            image: "kernel".into(),
            early: Vec::new(),
            modprobe: Vec::new(),
            cpus: 2,
            memory: 2048,
            append: vec!["quiet".into()],
            icount: false,
            gdb: None,
        });
        assert_eq!(machine.memory, 4096);
        assert_eq!(machine.append, ["quiet", "memmap=512M$0x100000000"]);

        let driver = driver(Driver {
            modules: vec!["a.ko".into()],
            parameters: Vec::new(),
            owner: "a".into(),
            other: "b".into(),
            devices: 2,
        });
        assert_eq!(
            driver.parameters,
            ["spm_addr_dev0=0x100000000", "spm_addr_dev1=0x110000000"]
        );
        assert_eq!(driver.devices, 4);
    }

    #[test]
    fn a_guest_with_more_memory_keeps_it() {
        let machine = machine(Machine {
            image: "kernel".into(),
            early: Vec::new(),
            modprobe: Vec::new(),
            cpus: 2,
            memory: 6144,
            append: Vec::new(),
            icount: false,
            gdb: None,
        });
        assert_eq!(machine.memory, 6144);
    }
}
