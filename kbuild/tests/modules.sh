#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The modules: what modinfo says of them, and that installing and uninstalling leaves nothing behind.

set -eu
# shellcheck source-path=SCRIPTDIR source=out_of_tree.sh
. "$(dirname -- "$0")/out_of_tree.sh"

# As deep as the sources, so that a path relative to the one is another relative to the other.
mo=$work/mo$kbuild
root=$work/root

# make TARGET for the kernel.
build() {
	make -C "$kbuild" KDIR="$KDIR" MO="$mo" "$@"
}

version_without_workspace() {
	mkdir -p "$work/top/kbuild/scripts"
	cp "$kbuild/scripts/version.sh" "$work/top/kbuild/scripts"
	printf '[workspace.dependencies]\nversion = "1.0"\n' >"$work/top/Cargo.toml"
	! sh "$work/top/kbuild/scripts/version.sh"
}
check 'a workspace without a version is refused' version_without_workspace

if ! has_kernel; then
	for name in 'the modules build' 'modinfo' 'install and uninstall' 'only what MODULES= says'; do
		skip "$name" 'there is no KDIR'
	done
	finish
	exit
fi

version=$(sh "$kbuild/scripts/version.sh")

# The module's field has the value, whatever that is if none is given.
field() {
	value=$(modinfo -F "$2" "$mo/$1.ko") && echo "$2: $value"
	[ -n "$value" ] && case $# in
	3) [ "$value" = "$3" ] ;;
	esac
}

all_fields() {
	field "$1" author && field "$1" description && field "$1" license GPL &&
		field "$1" version "$version"
}

parameter() {
	modinfo -p "$mo/gpu_mirror_rs.ko"
	modinfo -p "$mo/gpu_mirror_rs.ko" | grep -q "^$1:..* (u64)$"
}

# The files below the root other than what depmod writes.
placed() {
	(cd "$root" && find . ! -type d ! -name 'modules.*')
}

install_and_uninstall() {
	rm -rf "$root"
	mkdir -p "$root"
	build INSTALL_MOD_PATH="$1" modules_install || return 1
	release=$(cat "$KDIR/include/config/kernel.release")
	order=$root/lib/modules/$release/modules.dep
	placed
	[ "$(placed | wc -l)" -ge 3 ] && grep 'gpu_mirror_rs.ko.*: .*mmu_notifier_helpers.ko' "$order" ||
		return 1
	build INSTALL_MOD_PATH="$1" modules_uninstall &&
		[ -z "$(placed)" ] && ! grep gpu_mirror_rs "$order"
}

only_some() {
	build MODULES='mmu_notifier_helpers gpu_mirror_rs' &&
		[ "$(sort "$mo/modules.order" | tr '\n' ' ')" = 'gpu_mirror_rs.o mmu_notifier_helpers.o ' ]
}

check 'the modules build' build
for module in "$mo"/*.ko; do
	module=$(basename "$module" .ko)
	check "modinfo of $module" all_fields "$module"
done
check 'modinfo of spm_addr_dev0' parameter spm_addr_dev0
check 'modinfo of spm_addr_dev1' parameter spm_addr_dev1
check 'install and uninstall' install_and_uninstall "$root"
# Left to Kbuild, a relative root would be below where that runs.
check 'install and uninstall, the root relative' \
	install_and_uninstall "$(realpath -m --relative-to="$kbuild" "$root")"
check 'only what MODULES= says' only_some
cleans() {
	build clean && [ -z "$(find "$mo" -name '*.ko' -o -name '*.o' -o -name '*_generated.*')" ]
}
check 'clean' cleans
helps() {
	build help
	for target in modules modules_install modules_uninstall clean rustdoc rust-analyzer dkms-source deb; do
		build help | grep -q "^  $target  *- " || return 1
	done
}
check 'help' helps

finish
