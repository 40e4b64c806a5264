#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Says what a kernel or this machine lacks for modules in Rust, and what to do about it:
#
#   check_kernel.sh configured|rust|rdma KDIR
#
# "configured" asks for a kernel build directory that has its configuration, which is all that
# installing modules takes; "rust" for what building them takes, and "rdma" for what those of RDMA
# take as well. RUSTC and BINDGEN are the tools; MODULES names what is to be built, or is empty
# for all that the kernel has what it takes for.

set -eu

supported=$(tr '\n' ' ' <"$(dirname -- "$0")/../kernel_series")
# Of all that is in rust/, files that every version has: a compiled crate for each step of the
# way.
metadata='libcore.rmeta libbindings.rmeta libkernel.rmeta libmacros.so'

what=$1
kdir=$2
: "${RUSTC:=rustc}" "${BINDGEN:=bindgen}" "${MODULES:=}"

say() { printf '%s\n' "$@" >&2; }
die() {
	say "$@"
	exit 1
}

[ -d "$kdir" ] || die \
	"KDIR=$kdir is no directory." \
	"  Set KDIR to the build directory of the kernel that the modules are for."
for file in .config Makefile; do
	[ -r "$kdir/$file" ] || die \
		"KDIR=$kdir is no configured kernel build directory: it lacks $file." \
		"  Configure and build the kernel there, or set KDIR to where that has been done."
done
[ "$what" != configured ] || exit 0

grep -qx 'CONFIG_RUST=y' "$kdir/.config" || die \
	"The kernel in KDIR=$kdir has no Rust support: CONFIG_RUST is not set." \
	"  Build it with CONFIG_RUST=y. If the configuration does not offer that," \
	"  \"make LLVM=1 rustavailable\" in the kernel's source says which tool is missing."

# lacks OPTION...: those that are not set, each after a blank.
lacks() {
	for option; do
		grep -qx "CONFIG_$option=y" "$kdir/.config" || printf ' CONFIG_%s' "$option"
	done
}
# One of the options that select what nobody can set by itself.
missing=$(lacks HMM_MIRROR SCHEDSTATS)
[ -z "$missing" ] || die \
	"The kernel in KDIR=$kdir lacks what the helpers stand on:$missing." \
	"  CONFIG_HMM_MIRROR is selected by drivers of GPUs and by CONFIG_TEST_HMM=m. Without" \
	"  CONFIG_SCHEDSTATS=y bindgen gets the layout of struct task_struct wrong."
missing=$(lacks DEVICE_PRIVATE TRANSPARENT_HUGEPAGE)
if [ -n "$missing" ]; then
	case " $MODULES " in
	*' gpu_mirror_rs '*)
		die "The kernel in KDIR=$kdir lacks what gpu_mirror_rs stands on:$missing." \
			"  Build the kernel with that, or leave the module out: MODULES=mmu_notifier_helpers."
		;;
	'  ') say "Note: gpu_mirror_rs is left out, as the kernel in KDIR=$kdir lacks:$missing." ;;
	esac
fi

missing=
for file in $metadata; do
	[ -e "$kdir/rust/$file" ] || missing="$missing rust/$file"
done
[ -z "$missing" ] || die \
	"The kernel in KDIR=$kdir lacks the Rust metadata that modules are compiled against:" \
	" $missing" \
	"  Debian's linux-headers packages leave it out. For a kernel of Debian's \"kbuild/metadata\"" \
	"  makes it, and prints what to set KDIR to. Another kernel build yourself, \"make LLVM=1\" with" \
	"  CONFIG_RUST=y, and set KDIR to its build directory. Who packages a kernel for others keeps" \
	"  rust/*.rmeta and rust/*.so in it."

if [ "$what" = rdma ]; then
	source=$kdir/source
	[ -d "$source" ] || source=$kdir
	source=$(cd -- "$source" && pwd -P)
	[ -e "$source/rust/mmu_notifier_helpers/Kconfig" ] || die \
		"The source of the kernel in KDIR=$kdir has no crates, and RDMA's modules are built there." \
		"  Run \"kbuild/install $source\", and then what has made KDIR once more, kbuild/metadata" \
		"  for a kernel of Debian's."
	missing=$(lacks INFINIBAND_ON_DEMAND_PAGING_RUST RDMA_RXE_ODP_RUST)
	[ -e "$kdir/rust/mmu_notifier_helpers/libmmu_notifier_helpers.rmeta" ] ||
		missing="$missing rust/mmu_notifier_helpers/libmmu_notifier_helpers.rmeta"
	[ -z "$missing" ] || die \
		"The kernel in KDIR=$kdir lacks what RDMA's modules are built on:$missing." \
		"  Configure it with these options, and \"make modules_prepare\"; for a kernel of Debian's run" \
		"  kbuild/metadata once more, which does both. One without CONFIG_RDMA_RXE has nothing to build."
	missing=
	for option in INFINIBAND RDMA_RXE MMU_NOTIFIER_HELPERS; do
		grep -qx "CONFIG_$option=m" "$kdir/.config" || missing="$missing CONFIG_$option"
	done
	[ -z "$missing" ] || die \
		"The kernel in KDIR=$kdir has RDMA built in, and no module can take its place:$missing." \
		"  Build the kernel itself from the source that has the crates."
fi

# Metadata is for the very compiler that wrote it.
built_by=$(sed -n 's/^CONFIG_RUSTC_VERSION_TEXT="\(.*\)"$/\1/p' "$kdir/.config")
found=$("$RUSTC" --version 2>/dev/null | tr -d '#') || found=
if [ -z "$found" ]; then
	die "There is no Rust compiler: \"$RUSTC --version\" does not run." \
		"  The kernel in KDIR=$kdir was built by ${built_by:-rustc}: install that, or set RUSTC to it."
fi
if [ -n "$built_by" ] && [ "$found" != "$built_by" ]; then
	die "The Rust compiler is not the one that the kernel in KDIR=$kdir was built by:" \
		"  the kernel's: $built_by" \
		"  $RUSTC: $found" \
		"  Set RUSTC to the kernel's, or build the kernel anew with this one."
fi
"$BINDGEN" --version >/dev/null 2>&1 || die \
	"There is no bindgen: \"$BINDGEN --version\" does not run." \
	"  Install Debian's bindgen, or \"cargo install --locked bindgen-cli\", or set BINDGEN to it."

release=$(cat "$kdir/include/config/kernel.release" 2>/dev/null) || release=unknown
fits=
for series in $supported; do
	case $release in
	"$series" | "$series".* | "$series"-*) fits=y ;;
	esac
done
[ -n "$fits" ] || say \
	"Warning: the kernel in KDIR=$kdir is $release; ${supported% } is what is supported and tested."
