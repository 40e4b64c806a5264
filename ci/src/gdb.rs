// SPDX-License-Identifier: GPL-2.0

//! A guest that waits for a debugger.

use std::path::Path;

use anyhow::{ensure, Result};

use crate::kernel::{self, Kernel, Kind};
use crate::paths::Paths;
use crate::progress::note;
use crate::toolchain::Toolchain;
use crate::tree::Variants;

/// The port that QEMU listens at, unless another is asked for.
pub(crate) const PORT: &str = "1234";
/// What a debugger needs: types for the kernel's own scripts, lines for the rest.
const OPTIONS: &str = "CONFIG_DEBUG_INFO_NONE=n
CONFIG_DEBUG_INFO_DWARF5=y
CONFIG_GDB_SCRIPTS=y
";

/// The kernel with what a debugger reads, built beside the one that it is like.
pub(crate) fn kernel(paths: &Paths, tools: &Toolchain, kind: Kind) -> Result<Kernel> {
    ensure!(
        kind.is_built() && !kernel::is_users(),
        "Debian's kernel has nothing for a debugger in it: --gdb takes --kernel debug or release"
    );
    let base = kernel::get(paths, tools, kind)?;
    let logs = paths.logs("gdb")?;
    let variants = Variants::of_crates(paths, tools, &base, &logs)?;
    let kernel = variants.build(&base, "gdb", OPTIONS)?;
    variants.make(&kernel, "scripts", &["scripts_gdb"])?;
    Ok(kernel)
}

/// Says how to connect.
pub(crate) fn say_how(paths: &Paths, kernel: &Kernel, port: u16) -> Result<()> {
    let build = kernel.build.display();
    let enter = paths.checkout.join("ci/workshop/enter");
    note(format!(
        "the guest waits at port {port} for a debugger; in another terminal:\n  \
         {} {} {} gdb -iex 'add-auto-load-safe-path {build}' -ex 'target remote :{port}' {build}/vmlinux\n\
         then `continue`; `lx-symbols {}` finds the modules when they are loaded, `hbreak` stops before that",
        enter.display(),
        paths.checkout.display(),
        paths.cache.display(),
        Path::new("modules").display()
    ));
    Ok(())
}
