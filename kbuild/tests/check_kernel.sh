#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What the build says of a kernel, or a machine, that it cannot be done with.

set -eu
# shellcheck source-path=SCRIPTDIR source=out_of_tree.sh
. "$(dirname -- "$0")/out_of_tree.sh"

kernel=$work/kernel
tools=$work/tools
fake_tools "$tools"

# Runs make TARGET for the fake kernel; its output is in $work/out and its errors in $work/err.
build() {
	target=$1
	shift
	PATH=$tools make -C "$kbuild" KDIR="$kernel" "$@" "$target" \
		>"$work/out" 2>"$work/err"
}

build_loudly() {
	build "$@" || {
		cat "$work/err"
		return 1
	}
}

# Whether all the words are in what the build said.
says() {
	cat "$work/err"
	for words; do
		grep -qF -- "$words" "$work/err" || {
			echo "Not said: $words"
			return 1
		}
	done
}

# The build is refused with a message that has all the words, and nothing of the kernel's is run.
refuses() {
	! build modules && ! grep -q '^target=' "$work/out" && says "$@"
}

accepts() {
	build "$@" || {
		cat "$work/out" "$work/err"
		return 1
	}
	grep -q "^target=$1 M=$kbuild " "$work/out"
}

silently() {
	accepts "$@" && cat "$work/err" && ! [ -s "$work/err" ]
}

# Each case starts from a kernel that is fit.
anew() {
	rm -rf "$kernel"
	fake_kernel "$kernel"
}

anew
check 'a kernel that is fit is built for without a word' silently modules

rm -rf "$kernel"
check 'no directory' refuses "KDIR=$kernel is no directory" 'Set KDIR to'

anew
rm "$kernel/.config"
check 'not configured' refuses "KDIR=$kernel is no configured kernel build directory" '.config'

anew
rm "$kernel/Makefile"
check 'a configuration and no kernel' refuses 'no configured kernel build directory' 'Makefile'

anew
sed -i 's/^CONFIG_RUST=y$/# CONFIG_RUST is not set/' "$kernel/.config"
check 'no Rust support' refuses 'has no Rust support: CONFIG_RUST is not set' \
	'Build it with CONFIG_RUST=y' 'make LLVM=1 rustavailable'
# As root may do it, who has no Rust.
mkdir "$work/mo"
echo gpu_mirror_rs.o >"$work/mo/modules.order"
: >"$kernel/System.map"
check 'installing takes no Rust' silently modules_install MO="$work/mo"
rm "$kernel/System.map"
printf '#!/bin/sh\necho "$@" >"%s/depmod.log"\n' "$work" >"$tools/depmod"
chmod +x "$tools/depmod"
runs_depmod() {
	accepts modules_install MO="$work/mo" INSTALL_MOD_PATH="$work" &&
		[ "$(cat "$work/depmod.log")" = "-a -b $work 7.3.4-fake" ]
}
check 'depmod runs where there is no System.map' runs_depmod
check 'cleaning takes no Rust' silently clean

nothing_to_install() {
	! build modules_install MO="$work/mo" && ! grep -q '^target=' "$work/out" &&
		says "There are no modules in $work/mo to install"
}
: >"$work/mo/modules.order"
check 'what "make rustdoc" leaves is not installed' nothing_to_install
rm "$work/mo/modules.order"
check 'nothing is not installed' nothing_to_install

for option in HMM_MIRROR SCHEDSTATS; do
	anew
	sed -i "/^CONFIG_$option=y\$/d" "$kernel/.config"
	check "no $option" refuses "lacks what the helpers stand on: CONFIG_$option." 'CONFIG_TEST_HMM=m'
done
without() {
	anew
	sed -i "/^CONFIG_$1=y\$/d" "$kernel/.config"
}
leaves_mirror_out() {
	accepts modules && says "Note: gpu_mirror_rs is left out" "lacks: CONFIG_$1."
}
refuses_mirror() {
	! build modules MODULES='mmu_notifier_helpers gpu_mirror_rs' && ! grep -q '^target=' "$work/out" &&
		says "lacks what gpu_mirror_rs stands on: CONFIG_$1." 'MODULES=mmu_notifier_helpers'
}
for option in DEVICE_PRIVATE TRANSPARENT_HUGEPAGE; do
	without "$option"
	check "no $option, so no mirror" leaves_mirror_out "$option"
	check "no $option, and the mirror is wanted" refuses_mirror "$option"
	check "no $option, and the mirror is not wanted" silently modules MODULES=mmu_notifier_helpers
done

anew
rm -r "$kernel/rust"
check 'headers without metadata' refuses 'lacks the Rust metadata' 'rust/libkernel.rmeta' \
	'rust/libmacros.so' "Debian's linux-headers" '"kbuild/metadata"' '"make LLVM=1" with' \
	'rust/*.rmeta and rust/*.so'

# RDMA's modules are built in the kernel's source.
with_crates() {
	anew
	mkdir -p "$kernel/source/rust/mmu_notifier_helpers" "$kernel/rust/mmu_notifier_helpers"
	: >"$kernel/source/rust/mmu_notifier_helpers/Kconfig"
	: >"$kernel/rust/mmu_notifier_helpers/libmmu_notifier_helpers.rmeta"
	cat >>"$kernel/.config" <<-'END'
		CONFIG_MMU_NOTIFIER_HELPERS=m
		CONFIG_INFINIBAND=m
		CONFIG_RDMA_RXE=m
		CONFIG_INFINIBAND_ON_DEMAND_PAGING_RUST=y
		CONFIG_RDMA_RXE_ODP_RUST=y
	END
}
refuses_rdma() {
	! build rdma MO="$work/mo" && ! grep -q '^target=' "$work/out" && says "$@"
}
rdma_is_built() {
	build rdma MO="$work/mo" || {
		cat "$work/out" "$work/err"
		return 1
	}
	cat "$work/out"
	place=$kernel/source
	printf '%s\n' "target=modules M=$place/rust/mmu_notifier_helpers MO=$work/mo/rdma/helpers LLVM=" \
		"target=ib_core.ko M=$place/drivers/infiniband/core MO=$work/mo/rdma/core LLVM=" \
		"target=modules M=$place/drivers/infiniband/sw/rxe MO=$work/mo/rdma/rxe LLVM=" |
		sed 's/ $//' >"$work/expected"
	grep '^target=' "$work/out" | diff - "$work/expected" && ! [ -s "$work/err" ]
}
with_crates
check "RDMA's modules are built in the order of their symbols" rdma_is_built
rm "$kernel/source/rust/mmu_notifier_helpers/Kconfig"
check 'a source without the crates' refuses_rdma 'has no crates' "kbuild/install $kernel/source" \
	'kbuild/metadata'
for option in INFINIBAND_ON_DEMAND_PAGING_RUST RDMA_RXE_ODP_RUST; do
	with_crates
	sed -i "/^CONFIG_$option=y\$/d" "$kernel/.config"
	check "crates and no $option" refuses_rdma "lacks what RDMA's modules are built on: CONFIG_$option."
done
with_crates
rm "$kernel/rust/mmu_notifier_helpers/libmmu_notifier_helpers.rmeta"
check 'crates that are not compiled' refuses_rdma 'libmmu_notifier_helpers.rmeta' 'modules_prepare'
with_crates
sed -i 's/^CONFIG_INFINIBAND=m/CONFIG_INFINIBAND=y/' "$kernel/.config"
check 'RDMA built in' refuses_rdma 'has RDMA built in' 'CONFIG_INFINIBAND.'
with_crates
check 'no module of RDMA is not installed' refused 'make rdma first' build_loudly rdma_install \
	MO="$work/mo_empty"

only_macros_missing() {
	refuses 'rust/libmacros.so' && ! grep -q 'rust/libkernel.rmeta' "$work/err"
}
anew
rm "$kernel/rust/libmacros.so"
check 'only what is missing is named' only_macros_missing

anew
printf '#!/bin/sh\necho "rustc 1.96.0 (ac68faa20 2026-05-25)"\n' >"$tools/rustc"
check 'another compiler' refuses "the kernel's: rustc 1.85.1 (4eb161250 2025-03-15)" \
	'rustc: rustc 1.96.0 (ac68faa20 2026-05-25)' 'Set RUSTC to'
fake_tools "$work/others"
check 'RUSTC= is the compiler' silently modules RUSTC="$work/others/rustc"
# Kbuild does not take it from there.
anew
RUSTC=$work/others/rustc
export RUSTC
check 'RUSTC of the environment is not' refuses 'rustc: rustc 1.96.0'
unset RUSTC

anew
rm "$tools/rustc"
check 'no compiler' refuses 'There is no Rust compiler: "rustc --version" does not run' \
	'was built by rustc 1.85.1 (4eb161250 2025-03-15)'
fake_tools "$tools"
rm "$tools/bindgen"
check 'no bindgen' refuses 'There is no bindgen' 'cargo install --locked bindgen-cli'
check 'BINDGEN= is bindgen' silently modules BINDGEN="$work/others/bindgen"
fake_tools "$tools"

warns() {
	accepts modules && says "$@" && [ "$(wc -l <"$work/err")" = 1 ]
}
for release in 7.2.11 7.30.1 7.4.0-rc2; do
	anew
	echo "$release" >"$kernel/include/config/kernel.release"
	check "$release gets a warning" warns "Warning: the kernel in KDIR=$kernel is $release; 7.3 is"
done
for release in 7.3.0 7.3.4+deb13-amd64 7.3.0-rc1; do
	anew
	echo "$release" >"$kernel/include/config/kernel.release"
	check "$release gets none" silently modules
done

with_llvm() {
	llvm=$1
	shift
	silently modules "$@" && grep -q " LLVM=$llvm\$" "$work/out"
}
anew
check 'a kernel of GCC is left to GCC' with_llvm ''
printf 'CONFIG_CC_IS_CLANG=y\nCONFIG_LD_IS_LLD=y\n' >>"$kernel/.config"
check 'a kernel of LLVM takes LLVM' with_llvm 1
check 'LLVM= is which' with_llvm -19 LLVM=-19

finish
