// SPDX-License-Identifier: GPL-2.0

//! RDMA in the guest: two complete sets of modules, the kernel's own and the one with the crates in
//! it, and a soft-RoCE device that any program can use.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure, Context, Result};
use serde::{Deserialize, Serialize};

use crate::guest::{self, Driver};
use crate::kernel::Kernel;
use crate::modules;
use crate::paths::Paths;
use crate::toolchain::Toolchain;
use crate::tree::{self, Variants};

/// The modules of a set, in the order to load them in, by where they are built.
const MODULES: [&str; 10] = [
    "net/ipv4/udp_tunnel",
    "net/ipv6/ip6_udp_tunnel",
    "drivers/infiniband/core/ib_core",
    "drivers/infiniband/core/ib_uverbs_support",
    "drivers/infiniband/core/ib_uverbs",
    "drivers/infiniband/core/ib_cm",
    "drivers/infiniband/core/iw_cm",
    "drivers/infiniband/core/rdma_cm",
    "drivers/infiniband/core/rdma_ucm",
    "drivers/infiniband/sw/rxe/rdma_rxe",
];
/// The module with the paging, and the one with soft-RoCE.
const CORE: &str = "ib_core";
const RXE: &str = "rdma_rxe";
/// What only the crates' soft-RoCE has.
const RXE_SYMBOL: &str = "rxe_odp_init";
/// The module that ours are linked against, and where it is built in a tree.
const HELPERS: &str = "mmu_notifier_helpers";
const HELPERS_FILE: &str = "rust/mmu_notifier_helpers/mmu_notifier_helpers";
/// The KUnit suite of the paging in a tree.
const KUNIT_FILE: &str = "drivers/infiniband/core/ib_odp_kunit";
/// Our GPU mirror in a tree.
const MIRROR_FILE: &str = "drivers/gpu/gpu_mirror_rs/gpu_mirror_rs";
/// What our modules are in what `make rdma` builds for a kernel that is another's.
const BUILT_BESIDE: [(&str, &str); 3] = [
    (HELPERS, "rdma/helpers/mmu_notifier_helpers.ko"),
    (CORE, "rdma/core/ib_core.ko"),
    (RXE, "rdma/rxe/rdma_rxe.ko"),
];
/// What makes a kernel with the kernel's own paging of one with the crates.
const THEIRS: &str = "CONFIG_INFINIBAND_ON_DEMAND_PAGING_RUST=n
CONFIG_RDMA_RXE_ODP_RUST=n
";

/// The RDMA device.
const DEVICE: &str = "rxe0";
/// The network device below it and the other end of that.
const LINK: &str = "rxe-veth0";
const PEER: &str = "rxe-veth1";
/// The address, of a network that is set aside for examples.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The index of the address among the device's; before it comes the one that is made of the MAC.
const GID: &str = "1";
/// How long the device may take to learn its address.
const GID_TIMEOUT: Duration = Duration::from_secs(60);

/// A set of RDMA modules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rdma {
    /// The files of the modules, in the order to load them in.
    pub(crate) modules: Vec<PathBuf>,
    /// Whether the crates are in it.
    pub(crate) is_ours: bool,
}

/// A module in the kernel, and the file that it was loaded from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Loaded {
    pub(crate) file: PathBuf,
    pub(crate) build_id: String,
}

/// The kernel's own set.
pub(crate) fn theirs(
    paths: &Paths,
    tools: &Toolchain,
    kernel: &Kernel,
    logs: &Path,
) -> Result<Rdma> {
    let kernel = match kernel.packaged {
        Some(_) => kernel.clone(),
        None if !tree::is_ours(paths, kernel) => kernel.clone(),
        // Ours has the crates in it.
        None => Variants::of_crates(paths, tools, kernel, logs)?.build(kernel, "c", THEIRS)?,
    };
    Ok(Rdma {
        modules: existing(&kernel, &MODULES)?,
        is_ours: false,
    })
}

/// The set with the crates in it, and the GPU mirror that goes with its helpers: a kernel can hold one
/// module of that name.
pub(crate) fn ours(paths: &Paths, tools: &Toolchain, kernel: &Kernel) -> Result<(Rdma, Driver)> {
    ensure!(tree::is_ours(paths, kernel), tree::FOREIGN);
    if kernel.packaged.is_some() {
        return beside(paths, tools, kernel);
    }
    // Another checkout may build its own there at any time.
    let kept = paths.own_dir(Path::new("rdma").join(&kernel.slot))?;
    let _lock = paths.lock(&kernel.slot)?;
    let keep = |file: &PathBuf| -> Result<PathBuf> {
        let copy = kept.join(file.file_name().unwrap_or_default());
        fs::copy(file, &copy).with_context(|| format!("cannot copy {}", file.display()))?;
        Ok(copy)
    };
    let mut files = existing(kernel, &[HELPERS_FILE])?;
    files.extend(existing(kernel, &MODULES)?);
    let modules = files.iter().map(keep).collect::<Result<_>>()?;
    existing(kernel, &[KUNIT_FILE])?
        .iter()
        .try_for_each(|file| keep(file).map(drop))?;
    let mirror = existing(kernel, &[MIRROR_FILE])?
        .iter()
        .map(keep)
        .collect::<Result<_>>()?;
    let rdma = Rdma {
        modules,
        is_ours: true,
    };
    Ok((rdma, modules::rust(mirror)))
}

/// The set for a kernel that is another's: all but the modules with the crates are its own files.
fn beside(paths: &Paths, tools: &Toolchain, kernel: &Kernel) -> Result<(Rdma, Driver)> {
    let output = modules::build(paths, tools, kernel, "rdma")?;
    let built = BUILT_BESIDE.map(|(name, file)| (name, output.join(file)));
    for (_, file) in &built {
        ensure!(file.is_file(), "the build left no {}", file.display());
    }
    let mut files = vec![built[0].1.clone()];
    for file in existing(kernel, &MODULES)? {
        let name = guest::module_name(&file);
        let ours = built.iter().find(|(built, _)| *built == name);
        files.push(ours.map_or(file.clone(), |(_, ours)| ours.clone()));
    }
    let mirror = modules::build(paths, tools, kernel, "modules")?.join("gpu_mirror_rs.ko");
    let rdma = Rdma {
        modules: files,
        is_ours: true,
    };
    Ok((rdma, modules::rust(vec![mirror])))
}

/// The symbols of the modules with the crates, for modules of others.
pub(crate) fn symbols(paths: &Paths, tools: &Toolchain, kernel: &Kernel) -> Result<PathBuf> {
    if kernel.packaged.is_none() {
        return Ok(kernel.build.join("Module.symvers"));
    }
    Ok(modules::build(paths, tools, kernel, "rdma")?.join("rdma/core/Module.symvers"))
}

/// The files of modules of the kernel's own.
fn existing(kernel: &Kernel, modules: &[&str]) -> Result<Vec<PathBuf>> {
    let files = modules.iter().map(|module| kernel.module(module));
    files
        .map(|file| {
            ensure!(
                file.is_file(),
                "the kernel has no {}: it needs what ci/config/base.config says of RDMA",
                file.display()
            );
            Ok(file)
        })
        .collect()
}

impl Rdma {
    /// Loads the modules, makes the device and waits until it can be used.
    pub(crate) fn start(&self) -> Result<Vec<Loaded>> {
        for path in &self.modules {
            guest::insert(path, c"")?;
        }
        if !Path::new("/sys/class/net").join(LINK).exists() {
            let address = format!("{ADDRESS}/24");
            run("ip", &["link", "set", "lo", "up"])?;
            run(
                "ip",
                &["link", "add", LINK, "type", "veth", "peer", "name", PEER],
            )?;
            run("ip", &["address", "add", &address, "dev", LINK])?;
            run("ip", &["link", "set", PEER, "up"])?;
            run("ip", &["link", "set", LINK, "up"])?;
        }
        run(
            "rdma",
            &["link", "add", DEVICE, "type", "rxe", "netdev", LINK],
        )?;
        wait_for_gid()?;
        self.modules.iter().map(|file| loaded(file)).collect()
    }

    /// Removes the device and unloads the modules.
    pub(crate) fn stop(&self) -> Result<()> {
        run("rdma", &["link", "delete", DEVICE])?;
        self.modules
            .iter()
            .rev()
            .try_for_each(|path| guest::unload(path))
    }

    /// The file of the KUnit suite of the paging, which is built with our set, and for both.
    pub(crate) fn kunit(&self) -> PathBuf {
        let suite = Path::new(KUNIT_FILE).file_name().unwrap_or_default();
        let core = self
            .modules
            .iter()
            .find(|path| guest::module_name(path) == CORE);
        core.map(|core| core.with_file_name(suite).with_extension("ko"))
            .unwrap_or_default()
    }

    /// Proves which set it is: of the crates' modules one is linked against the helpers, and the other
    /// has a function that C's has not.
    pub(crate) fn verify(&self) -> Result<()> {
        let holder = Path::new("/sys/module").join(HELPERS).join("holders");
        let symbols = fs::read_to_string("/proc/kallsyms").context("cannot read the symbols")?;
        for (module, is_ours) in [
            (CORE, holder.join(CORE).exists()),
            (RXE, has_symbol(&symbols, RXE_SYMBOL, RXE)),
        ] {
            let whose = if is_ours {
                "the crates'"
            } else {
                "the kernel's own"
            };
            ensure!(is_ours == self.is_ours, "the module {module} is {whose}");
        }
        Ok(())
    }
}

/// Whether a module has a symbol, by the text of `/proc/kallsyms`.
fn has_symbol(symbols: &str, symbol: &str, module: &str) -> bool {
    symbols.lines().any(|line| {
        let mut words = line.split_whitespace().skip(2);
        let found = (words.next(), words.next());
        found.0 == Some(symbol)
            && found
                .1
                .and_then(|of| of.strip_prefix('[')?.strip_suffix(']'))
                == Some(module)
    })
}

/// Waits for the address, which the device learns from a work queue.
fn wait_for_gid() -> Result<()> {
    let file = Path::new("/sys/class/infiniband")
        .join(DEVICE)
        .join("ports/1/gids")
        .join(GID);
    let start = Instant::now();
    loop {
        let gid = fs::read_to_string(&file).unwrap_or_default();
        if gid.trim().parse() == Ok(ADDRESS.to_ipv6_mapped()) {
            return Ok(());
        }
        let none = gid.trim().parse() == Ok(Ipv6Addr::UNSPECIFIED);
        ensure!(
            (gid.is_empty() || none) && start.elapsed() < GID_TIMEOUT,
            "{} is \"{}\" and not {ADDRESS}",
            file.display(),
            gid.trim()
        );
        thread::sleep(Duration::from_millis(10));
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!(
            "{program} {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// What the kernel says of a module that it has.
fn loaded(file: &Path) -> Result<Loaded> {
    let note = Path::new("/sys/module")
        .join(guest::module_name(file))
        .join("notes/.note.gnu.build-id");
    let bytes = fs::read(&note).with_context(|| format!("cannot read {}", note.display()))?;
    Ok(Loaded {
        file: file.into(),
        build_id: build_id(&bytes).with_context(|| format!("{} is no build id", note.display()))?,
    })
}

/// The build id in an ELF note: the lengths of the name and of the id, a type, the name, the id.
fn build_id(note: &[u8]) -> Option<String> {
    let length = |at: usize| Some(u32::from_ne_bytes(note.get(at..at + 4)?.try_into().ok()?));
    let name = usize::try_from(length(0)?).ok()?.next_multiple_of(4);
    let id = note
        .get(12 + name..)?
        .get(..usize::try_from(length(4)?).ok()?)?;
    let digits: Vec<_> = id.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(digits.concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Compiler;

    #[test]
    fn a_build_id_is_what_follows_the_name() {
        let note = b"\x04\0\0\0\x03\0\0\0\x03\0\0\0GNU\0\x01\xab\xff";
        assert_eq!(build_id(note).as_deref(), Some("01abff"));
        assert_eq!(build_id(&note[..18]), None);
        assert_eq!(build_id(b""), None);
    }

    #[test]
    fn a_symbol_is_of_its_module() {
        let symbols =
            "0 T rxe_odp_init\n0 t rxe_odp_init\t[other]\n0 t rxe_odp_inited\t[rdma_rxe]\n";
        assert!(!has_symbol(symbols, RXE_SYMBOL, RXE));
        let symbols = format!("{symbols}0 t rxe_odp_init\t[rdma_rxe]\n");
        assert!(has_symbol(&symbols, RXE_SYMBOL, RXE));
    }

    #[test]
    fn a_kernel_without_the_modules_is_told_what_it_needs() {
        let dir = tempfile::tempdir().unwrap();
        let kernel = Kernel {
            build: dir.path().into(),
            source: PathBuf::new(),
            image: PathBuf::new(),
            packaged: None,
            early: Vec::new(),
            compiler: Compiler::Llvm,
            slot: PathBuf::new(),
            programs: PathBuf::new(),
            name: String::new(),
            state: String::new(),
        };
        let error = existing(&kernel, &MODULES).unwrap_err().to_string();
        assert!(error.contains("udp_tunnel.ko"), "{error}");
    }
}
