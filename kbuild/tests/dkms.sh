#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# What DKMS gets to build from, and that it builds and installs it, in trees of its own. DKMS wants
# to be run by root.

set -eu
# shellcheck source-path=SCRIPTDIR source=out_of_tree.sh
. "$(dirname -- "$0")/out_of_tree.sh"

version=$(sh "$kbuild/scripts/version.sh")
package=mmu-notifier-helpers
usr_src=$work/root/usr/src
source=$usr_src/$package-$version

lays_out() {
	make -C "$kbuild" DESTDIR="$work/root" dkms-source || return 1
	for file in dkms.conf kbuild/Makefile kbuild/Kbuild kbuild/shims.c kbuild/bindings_helper.h \
		kbuild/metadata mmu_notifier_helpers/src/mmu_notifier_helpers.rs \
		gpu_mirror_rs/src/gpu_mirror_rs.rs; do
		[ -f "$source/$file" ] || {
			echo "no $file"
			return 1
		}
	done
	[ "$(sh "$source/kbuild/scripts/version.sh")" = "$version" ] &&
		grep -qx "PACKAGE_VERSION=\"$version\"" "$source/dkms.conf"
}
check 'dkms-source lays the sources out' lays_out

keeps_what_is_there() {
	! make -C "$kbuild" DESTDIR="$work/root" dkms-source
}
check 'it does not write over what is there' keeps_what_is_there

# Relative to what: make -C kbuild.
relative() {
	path=$(realpath -m --relative-to="$kbuild" "$work/relative")
	make -C "$kbuild" DESTDIR="$path" dkms-source && diff -r "$work/root" "$work/relative"
}
check 'a relative DESTDIR= is one' relative

# In a copy, since it is in the source directories that a build leaves something.
leaves_out_what_is_built() {
	cp -r "$source" "$work/copy"
	make -C "$work/copy/kbuild" KDIR="$KDIR" || return 1
	make -C "$work/copy/kbuild" DESTDIR="$work/from_copy" dkms-source &&
		diff -r "$work/root" "$work/from_copy"
}
# Nothing that a build leaves is mistaken for a source, and cleaning leaves none of it.
cleans_up() {
	make -C "$work/copy/kbuild" KDIR="$KDIR" clean && diff -r "$source" "$work/copy"
}

kernel=$work/kernel
release=7.3.4-test
# The real one, if there is one, and root does it; else the cases are skipped.
dkms_action() {
	action=$1
	shift
	dkms --dkmstree "$work/dkms" --sourcetree "$usr_src" -m "$package" -v "$version" -a x86_64 \
		"$@" "$action"
}
dkms_builds() {
	mkdir -p "$work/dkms" "$work/modules/$release"
	dkms_action build -k "$release" --kernelsourcedir "$KDIR" || return 1
	dkms_action install -k "$release" --kernelsourcedir "$KDIR" --no-depmod \
		--installtree "$work/modules" || return 1
	for module in mmu_notifier_helpers gpu_mirror_rs; do
		modinfo -F version "$work/modules/$release/updates/dkms/$module.ko" |
			grep -qxF "$version" || return 1
	done
}
# ends_with STATUS RELEASE: how a build for the fake kernel ends.
ends_with() {
	status=0
	dkms_action build -k "$2" --kernelsourcedir "$kernel" || status=$?
	[ "$status" = "$1" ]
}
# builds_with KDIR: it gets as far as make, which is told of that directory.
builds_with() {
	ends_with 10 7.3.4 || return 1
	cat "$work/dkms/$package/$version/build/make.log"
	grep -qF "KDIR=$1 " "$work/dkms/$package/$version/build/make.log"
}
# It is passed over, which is no failure to those who install kernels.
passes_over() { ends_with 77 "$1"; }
# There is nothing to build with in this kernel, so that fails.
tries() { ends_with 10 "$1"; }

if ! command -v dkms >/dev/null; then
	why='there is no dkms'
elif [ "$(id -u)" != 0 ]; then
	why='DKMS wants root'
else
	why=
fi
if [ -z "$why" ]; then
	mkdir "$work/dkms"
	dkms_action add >"$work/add.log" 2>&1
	for config in RUST HMM_MIRROR DEVICE_PRIVATE TRANSPARENT_HUGEPAGE SCHEDSTATS; do
		fake_kernel "$kernel"
		sed -i "/^CONFIG_$config=y\$/d" "$kernel/.config"
		check "DKMS passes over a kernel without CONFIG_$config" passes_over 7.3.4
	done
	printf 'CONFIG_SCHEDSTATS=y\n' >>"$kernel/.config"
	check 'DKMS passes over another version' passes_over 7.2.11
	check 'DKMS does not pass over one that fits' tries 7.3.4
	rm "$kernel/rust/libkernel.rmeta"
	check 'DKMS passes over a kernel without the Rust metadata' passes_over 7.3.4
	# What kbuild/metadata leaves.
	export MMU_NOTIFIER_HELPERS_METADATA="$work/remade"
	mkdir "$work/remade"
	fake_kernel "$work/remade/build"
	check 'DKMS passes over metadata that is half made' passes_over 7.3.4
	echo 'release=7.3.4-other' >"$work/remade/made"
	check 'DKMS passes over metadata of another release' passes_over 7.3.4
	echo 'release=7.3.4' >"$work/remade/made"
	check 'DKMS builds with the metadata that was made' builds_with "$work/remade/build"
	: >"$kernel/rust/libkernel.rmeta"
	check 'DKMS prefers what the headers have' builds_with "$kernel"
	unset MMU_NOTIFIER_HELPERS_METADATA
else
	skip 'DKMS passes over kernels that do not fit' "$why"
fi

has_kernel || why=${why:-there is no KDIR}
if [ -z "$why" ]; then
	check 'DKMS builds and installs' dkms_builds
else
	skip 'DKMS builds and installs' "$why"
fi
# What kbuild/metadata has made, for headers that lack it.
of_debian=
if has_kernel && [ -e "$KDIR/../made" ]; then
	of_debian=$(cat "$KDIR/include/config/kernel.release")
fi
dkms_builds_for_debian() {
	MMU_NOTIFIER_HELPERS_METADATA=$(dirname "$KDIR") dkms_action build -k "$of_debian" || return 1
	for module in mmu_notifier_helpers gpu_mirror_rs; do
		file=$(echo "$work/dkms/$package/$version/$of_debian"/*/module/"$module".ko*)
		modinfo -F vermagic "$file" | grep "^$of_debian " || return 1
	done
}
name="DKMS builds for Debian's kernel"
if [ -n "$why" ]; then
	skip "$name" "$why"
elif [ -z "$of_debian" ] || [ ! -e "/lib/modules/$of_debian/build" ]; then
	skip "$name" 'KDIR is not what kbuild/metadata has made for a kernel that is here'
else
	check "$name" dkms_builds_for_debian
fi
if has_kernel; then
	check 'what is built is no source' leaves_out_what_is_built
	check 'clean leaves the sources' cleans_up
else
	skip 'what is built is no source' 'there is no KDIR'
	skip 'clean leaves the sources' 'there is no KDIR'
fi

finish
