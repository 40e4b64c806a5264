#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# modules_uninstall removes our modules and nothing else. modules.sh has it follow modules_install.

set -eu
# shellcheck source-path=SCRIPTDIR source=out_of_tree.sh
. "$(dirname -- "$0")/out_of_tree.sh"

kernel=$work/kernel
root=$work/root
modules='mmu_notifier_helpers gpu_mirror_rs rust_mmu_mirror mmu_notifier_helpers_kunit'

# A root with modules of ours in lib/modules/RELEASE/DIR, all with the suffix, and others' around them.
installed() {
	place=$root/lib/modules/7.3.4-fake/$1
	rm -rf "$root"
	mkdir -p "$place" "$root/lib/modules/7.3.5/updates"
	for module in $modules; do
		: >"$place/$module.ko$2"
	done
	: >"$root/lib/modules/7.3.4-fake/modules.dep"
	: >"$root/lib/modules/7.3.5/updates/gpu_mirror_rs.ko"
}

# depmod notes how it was called. The kernel has a System.map unless a case takes it away.
fake_kernel "$kernel"
: >"$kernel/System.map"
printf '#!/bin/sh\necho "$@" >>"%s/depmod.log"\n' "$work" >"$work/depmod"
chmod +x "$work/depmod"
export DEPMOD="$work/depmod"

uninstall() {
	rm -f "$work/depmod.log"
	make -C "$kbuild" KDIR="$kernel" INSTALL_MOD_PATH="$root" "$@" modules_uninstall \
		>"$work/out" 2>&1 || {
		cat "$work/out"
		return 1
	}
}

# What is left below the root.
left() {
	(cd "$root" && find . ! -type d | sort | tr '\n' ' ')
}
others='./lib/modules/7.3.4-fake/modules.dep ./lib/modules/7.3.5/updates/gpu_mirror_rs.ko '

removes_all() {
	dir=$1
	suffix=$2
	shift 2
	installed "$dir" "$suffix"
	uninstall "$@" || return 1
	cat "$work/out"
	[ "$(left)" = "$others" ] && [ ! -e "$root/lib/modules/7.3.4-fake/$dir" ] || return 1
	for module in $modules; do
		grep -qF "REMOVE  $root/lib/modules/7.3.4-fake/$dir/$module.ko$suffix" "$work/out" ||
			return 1
	done
	[ "$(cat "$work/depmod.log")" = "-ae -F $kernel/System.map -b $root 7.3.4-fake" ]
}
for suffix in '' .gz .xz .zst; do
	check "modules as .ko$suffix are removed" removes_all updates "$suffix"
done
check 'INSTALL_MOD_DIR= is where they are' removes_all extra/ours '' INSTALL_MOD_DIR=extra/ours

keeps_others() {
	installed updates .xz
	: >"$root/lib/modules/7.3.4-fake/updates/gpu_mirror_rs_of_others.ko"
	: >"$root/lib/modules/7.3.4-fake/updates/gpu_mirror_rs.ko.lz4"
	uninstall || return 1
	left
	[ "$(left)" = "./lib/modules/7.3.4-fake/modules.dep \
./lib/modules/7.3.4-fake/updates/gpu_mirror_rs.ko.lz4 \
./lib/modules/7.3.4-fake/updates/gpu_mirror_rs_of_others.ko \
./lib/modules/7.3.5/updates/gpu_mirror_rs.ko " ]
}
check "others' modules stay" keeps_others

says_nothing_to_do() {
	uninstall && cat "$work/out" &&
		grep -qF "None of the modules is in $root/lib/modules/7.3.4-fake/updates." "$work/out" &&
		[ ! -e "$work/depmod.log" ]
}
installed updates ''
uninstall
check 'a second time there is nothing to do' says_nothing_to_do

# One helper module serves both halves.
with_rdma() {
	installed updates .xz
	for module in ib_core rdma_rxe; do
		: >"$root/lib/modules/7.3.4-fake/updates/$module.ko.xz"
	done
}
# keeps_helper TARGET TARGET: the first leaves what the second needs, and the second leaves nothing.
keeps_helper() {
	with_rdma
	for target; do
		make -C "$kbuild" KDIR="$kernel" INSTALL_MOD_PATH="$root" "$target" || return 1
		left | tr ' ' '\n' >"$work/left.$target"
	done
	cat "$work/left.$1"
	grep -q '/updates/mmu_notifier_helpers.ko.xz$' "$work/left.$1" && [ "$(left)" = "$others" ]
}
goes_without() {
	! grep -E "$1" "$work/left.$2"
}
check 'the helper stays for RDMA' keeps_helper modules_uninstall rdma_uninstall
check 'and the others are gone' goes_without 'gpu_mirror_rs.ko.xz|_kunit|rust_mmu' modules_uninstall
check 'the helper stays for the mirror' keeps_helper rdma_uninstall modules_uninstall
check "and RDMA's are gone" goes_without 'ib_core|rdma_rxe' rdma_uninstall

checks_no_symbols() {
	installed updates ''
	rm "$kernel/System.map"
	uninstall || return 1
	cat "$work/out" "$work/depmod.log"
	: >"$kernel/System.map"
	[ "$(cat "$work/depmod.log")" = "-a -b $root 7.3.4-fake" ]
}
check 'without System.map depmod checks no symbols' checks_no_symbols

finish
