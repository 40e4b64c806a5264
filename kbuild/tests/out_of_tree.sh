# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# What the tests of the build out of tree share. Each takes the build directory of a kernel that the
# modules can be built for, and skips what needs one without it:
#
#   kbuild/tests/<test>.sh [KDIR]

kbuild=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
# shellcheck source-path=SCRIPTDIR source=ktap.sh
. "$kbuild/tests/ktap.sh"

KDIR=${1:+$(CDPATH='' cd -- "$1" && pwd)}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What a make around the tests has been told is not for those that they run.
unset MAKEFLAGS MAKELEVEL MFLAGS KERNELRELEASE
unset INSTALL_MOD_PATH INSTALL_MOD_DIR MODULES MO LLVM RUSTC BINDGEN
export LC_ALL=C

has_kernel() { [ -n "$KDIR" ]; }

# fake_kernel DIRECTORY: what is looked at to judge a kernel's build directory, and a Makefile that
# tells how it was called.
fake_kernel() {
	mkdir -p "$1/rust" "$1/include/config"
	cat >"$1/.config" <<-'EOF'
		CONFIG_MODULES=y
		CONFIG_RUST=y
		CONFIG_HMM_MIRROR=y
		CONFIG_SCHEDSTATS=y
		CONFIG_DEVICE_PRIVATE=y
		CONFIG_TRANSPARENT_HUGEPAGE=y
		CONFIG_RUSTC_VERSION_TEXT="rustc 1.85.1 (4eb161250 2025-03-15)"
	EOF
	echo 7.3.4-fake >"$1/include/config/kernel.release"
	for file in libcore.rmeta libbindings.rmeta libkernel.rmeta libmacros.so; do
		: >"$1/rust/$file"
	done
	# shellcheck disable=SC2016 # The variables are those of make.
	printf '%s\n\t@%s\n' '%:' 'echo "target=$@ M=$(M) MO=$(MO) LLVM=$(LLVM)"' >"$1/Makefile"
}

# fake_tools DIRECTORY: for PATH, what a build that gets nowhere needs, with tools for Rust that only
# tell their version.
fake_tools() {
	mkdir -p "$1"
	for tool in cat env grep make mkdir sed sh tr uname; do
		ln -sf "$(command -v "$tool")" "$1/$tool"
	done
	printf '#!/bin/sh\necho "rustc 1.85.1 (4eb161250 2025-03-15)"\n' >"$1/rustc"
	printf '#!/bin/sh\necho "bindgen 0.72.0"\n' >"$1/bindgen"
	chmod +x "$1/rustc" "$1/bindgen"
}

echo "KTAP version 1"
