#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# kbuild/metadata on a made-up system, with a make and compilers that only pretend. Given what it
# has printed for a kernel of Debian's, whose packages are installed, it makes that anew, with the
# real ones:
#
#   kbuild/tests/metadata.sh [KDIR]

set -eu
# shellcheck source-path=SCRIPTDIR source=out_of_tree.sh
. "$(dirname -- "$0")/out_of_tree.sh"

metadata=$kbuild/metadata
release=7.3.4+deb13-amd64
rustc='rustc 1.85.1 (4eb161250 2025-03-15)'
out=$work/out
kdir=$out/build
real_path=$PATH

# The tools: those that are real, and those that pretend. What make is to do is in files beside
# its list of calls.
fake=$work/fake
bin=$work/bin
mkdir -p "$fake" "$bin"
real='awk cat chmod cmp comm cp cut dirname env find flock grep head mkdir mv nm nproc printf rm
	sed sh sha256sum sort stat tail tar tr wc xz'
for tool in $real; do
	ln -s "$(command -v "$tool")" "$bin/$tool"
done
# pretend NAME: a tool that does what standard input says.
pretend() {
	{
		echo '#!/bin/sh'
		cat
	} >"$bin/$1"
	chmod +x "$bin/$1"
}
for tool in bc bison flex pahole; do
	pretend "$tool" </dev/null
done
for tool in gcc-14 x86_64-linux-gnu-gcc-14; do
	echo 'echo "gcc-14 (Debian 14.2.0-19) 14.2.0"' | pretend "$tool"
done
pretend uname <<END
echo "$release"
END
pretend id <<-'END'
	echo "${FAKE_ID:-0}"
END
pretend bindgen <<-'END'
	echo "bindgen 0.71.1"
END
mkdir -p "$work/sysroot/lib/rustlib/src/rust/library/core/src"
: >"$work/sysroot/lib/rustlib/src/rust/library/core/src/lib.rs"
as_rustc() {
	pretend rustc <<-END
		case \$1 in
		--version) echo "$1" ;;
		--print) echo "$work/sysroot" ;;
		esac
	END
}
pretend make <<-'END'
	for arg; do
		case $arg in
		O=*) build=${arg#O=} ;;
		KERNELRELEASE=*) release=${arg#*=} ;;
		olddefconfig | modules_prepare | rustavailable) target=$arg ;;
		esac
	done
	echo "$target" >>"$FAKE/calls"
	cd "$build" || exit
	kill_at_start= kill_at_end=
	[ ! -e "$FAKE/$target" ] || . "$FAKE/$target"
	if [ -n "$kill_at_start" ]; then
		kill -KILL "$PPID"
		exit
	fi
	case $target in
	olddefconfig)
		echo 'CONFIG_BUILD_SALT=""' >>.config
		;;
	modules_prepare)
		mkdir -p rust include/config
		for file in libcore.rmeta libbindings.rmeta libkernel.rmeta libmacros.so; do
			: >"rust/$file"
		done
		echo "$release" >include/config/kernel.release
		sed 's/.*/EXPORT_SYMBOL_RUST_GPL(&);/' "$FAKE/symbols" >rust/exports_kernel_generated.h
		# One of C's, which begins as others do.
		echo 'EXPORT_SYMBOL_RUST_GPL(rust_tlb_flush_all_noop);' >>rust/exports_kernel_generated.h
		[ -z "$kill_at_end" ] || kill -KILL "$PPID"
		;;
	esac
END
export FAKE="$fake"
export METADATA_ROOT="$work/root"
export XDG_CACHE_HOME="$work/cache"

# Each case starts from a system that has all that it takes, and nothing made.
tree=$work/linux
src=$METADATA_ROOT/usr/src
headers=$src/linux-headers-$release
# packed VERSION SUBLEVEL [EXTRA]: the source as a package of Debian's has it.
packed() {
	rm -rf "$tree"
	mkdir -p "$tree/rust/kernel" "$tree/mm" "$tree/drivers/gpu/drm/i915" "$tree/arch/x86"
	printf 'VERSION = 7\nPATCHLEVEL = %s\nSUBLEVEL = %s\nEXTRAVERSION = %s\n' "$1" "$2" "${3-}" \
		>"$tree/Makefile"
	for file in Kbuild rust/Makefile rust/kernel/lib.rs mm/Kconfig drivers/gpu/drm/Kconfig \
		drivers/gpu/drm/i915/i915.c; do
		: >"$tree/$file"
	done
	tar -c -J -f "$src/linux-source-7.$1.tar.xz" -C "$work" --transform "s:^linux:linux-source-7.$1:" \
		linux
}
symvers() {
	awk '{ print "0x00000000\t" $1 "\tvmlinux\tEXPORT_SYMBOL_GPL\t" }' "$fake/symbols"
	printf '0x00000000\tkmalloc\tvmlinux\tEXPORT_SYMBOL\t\n'
}
anew() {
	rm -rf "$METADATA_ROOT" "$out" "$work/cache" "$fake"
	mkdir -p "$fake" "$headers" "$METADATA_ROOT/usr/lib/modules/$release"
	ln -s usr/lib "$METADATA_ROOT/lib"
	cat >"$METADATA_ROOT/usr/lib/modules/$release/config" <<-END
		CONFIG_CC_VERSION_TEXT="x86_64-linux-gnu-gcc-14 (Debian 14.2.0-19) 14.2.0"
		CONFIG_CC_IS_GCC=y
		CONFIG_GCC_VERSION=140200
		CONFIG_RUSTC_VERSION_TEXT="$rustc"
		CONFIG_BINDGEN_VERSION_TEXT="bindgen 0.71.1"
		CONFIG_RUST=y
		CONFIG_DEBUG_INFO_BTF=y
		CONFIG_SMP=y
	END
	printf '%s\n' _RNvCs_6kernel3one _RNvCs_6kernel3two rust_helper_BUG >"$fake/symbols"
	symvers >"$headers/Module.symvers"
	packed 3 4
	as_rustc "$rustc"
	}

run() { PATH=$bin "$metadata" --jobs 2 --output "$out" "$@" 2>"$work/err"; }
# made [ARGUMENT]...: it succeeds and prints nothing but the directory.
made() {
	printed=$(run "$@") || {
		cat "$work/err"
		return 1
	}
	cat "$work/err"
	[ "$printed" = "$kdir" ] || {
		echo "it printed: $printed"
		return 1
	}
	[ -e "$kdir/rust/libkernel.rmeta" ] && cmp "$headers/Module.symvers" "$kdir/Module.symvers" &&
		[ "$(cat "$kdir/include/config/kernel.release")" = "$release" ] &&
		grep -qxF "release=$release" "$out/made"
}
# refuses WORDS... -- ARGUMENT...: it fails, prints nothing, says all the words, and leaves no
# stamp.
refuses() {
	: >"$work/words"
	while [ $# -gt 0 ]; do
		word=$1
		shift
		[ "$word" != -- ] || break
		printf '%s\n' "$word" >>"$work/words"
	done
	if printed=$(run "$@"); then
		echo 'it was not refused'
		return 1
	fi
	cat "$work/err"
	[ -z "$printed" ] && [ ! -e "$out/made" ] || return 1
	while read -r word; do
		grep -qF -- "$word" "$work/err" || {
			echo "Not said: $word"
			return 1
		}
	done <"$work/words"
}
calls() { [ "$(tr '\n' ' ' <"$fake/calls" 2>/dev/null)" = "$1" ]; }
once='olddefconfig modules_prepare '

anew
check 'it makes the metadata' made
check 'the source is unpacked without the drivers of GPUs' \
	test -e "$out/source/rust/kernel/lib.rs" -a ! -e "$out/source/drivers/gpu/drm/i915/i915.c"
check 'but with their Kconfig' test -e "$out/source/drivers/gpu/drm/Kconfig"
says_up_to_date() { made "$@" && grep -q 'is up to date' "$work/err" && calls "$once"; }
check 'a second time there is nothing to do' says_up_to_date --release "$release"
# This is what Debian's makefiles read.
check 'modules get the compiler of the image' \
	grep -qx 'CC = x86_64-linux-gnu-gcc-14' "$kdir/.kernelvariables"
check 'no module is to be signed by a key that is not here' \
	grep -qx '# CONFIG_MODULE_SIG_ALL is not set' "$kdir/.config"
rm "$src/linux-source-7.3.tar.xz"
check 'what is made outlasts the package of the source' says_up_to_date

# Anything that it is made from.
remakes() { made && calls "$once$once"; }
anew
made >"$work/log"
echo 'CONFIG_NEW=y' >>"$METADATA_ROOT/usr/lib/modules/$release/config"
check 'another configuration is made anew' remakes
has_new_option() { grep -qx CONFIG_NEW=y "$kdir/.config"; }
check 'with the new options' has_new_option
anew
made >"$work/log"
printf '0x00000000\tkfree\tvmlinux\tEXPORT_SYMBOL\t\n' >>"$headers/Module.symvers"
check 'other exported symbols are taken over' remakes
anew
made >"$work/log"
echo '// new' >>"$out/source/rust/kernel/lib.rs"
check 'crates that changed are made anew' remakes
anew
made >"$work/log"
rm "$kdir/rust/libkernel.rmeta"
check 'what was cleaned away is made again' remakes
anew
made >"$work/log"
echo 'echo "bindgen 0.72.0"' | pretend bindgen
check 'another bindgen makes it anew' remakes
echo 'echo "bindgen 0.71.1"' | pretend bindgen
anew
made >"$work/log"
packed 3 4
touch -d 2001-01-01 "$src/linux-source-7.3.tar.xz"
check 'another tarball is unpacked' remakes

# A directory is used as it is.
listing() { (cd "$tree" && find . -printf '%p %T@\n' | sort); }
leaves_directory() {
	before=$(listing)
	made --source "$tree" && [ "$(listing)" = "$before" ] && [ ! -e "$out/source" ]
}
anew
rm "$src/linux-source-7.3.tar.xz"
check 'a directory is not written to' leaves_directory
mkdir "$tree/rust/mmu_notifier_helpers"
: >"$tree/rust/mmu_notifier_helpers/Kconfig"
configures_rdma() {
	# Nobody asks which kernel lacks soft-RoCE here.
	made --source "$tree" && for option in MMU_NOTIFIER_HELPERS=m RDMA_RXE_ODP_RUST=y \
		INFINIBAND_ON_DEMAND_PAGING_RUST=y; do
		grep -qx "CONFIG_$option" "$kdir/.config" || return 1
	done
	grep -qx crates=yes "$out/made"
}
check 'with the crates in the source RDMA is configured' configures_rdma
echo '// new' >"$tree/rust/mmu_notifier_helpers/new.rs"
follows_crates() { rm -f "$fake/calls" && made --source "$tree" && calls "$once"; }
check 'the crates that changed are made anew' follows_crates
rm -r "$tree/rust/mmu_notifier_helpers"
without_crates() {
	made --source "$tree" && ! grep -q RDMA_RXE_ODP_RUST "$kdir/.config" &&
		grep -qx crates=no "$out/made"
}
check 'and without them it is not' without_crates

# What is missing.
anew
rm "$bin/flex" "$headers/Module.symvers" "$src/linux-source-7.3.tar.xz"
check 'all packages that are missing are named at once' refuses 'As root:' \
	"apt-get install linux-headers-$release linux-source-7.3 flex" --
pretend flex </dev/null
anew
rm "$bin/rustc"
check 'no Rust compiler' refuses 'apt-get install rustc rust-src' --
anew
rm "$work/sysroot/lib/rustlib/src/rust/library/core/src/lib.rs"
check 'no source of the core library' refuses 'apt-get install rust-src' --
: >"$work/sysroot/lib/rustlib/src/rust/library/core/src/lib.rs"
echo 'exit 1' | pretend gcc-14
check 'no headers' refuses 'gcc-14' 'libelf-dev' 'libssl-dev' --
echo 'echo "gcc-14 (Debian 14.2.0-19) 14.2.0"' | pretend gcc-14
as_rustc 'rustc 1.97.1 (abcdefabc 2026-06-01)'
check 'another Rust compiler' refuses "the kernel's: $rustc" 'rustc: rustc 1.97.1' \
	'RUSTC=/usr/bin/rustc' --
cp "$bin/rustc" "$work/new_rustc"
as_rustc "$rustc"
takes_rustc() { RUSTC=$work/new_rustc refuses "$work/new_rustc: rustc 1.97.1" --; }
check 'RUSTC is the compiler' takes_rustc
not_for_rust() {
	refuses 'with the tools that are here the kernel has no Rust support' \
		"*** Rust bindings generator 'bindgen' is too old." 'was built by' --
}
anew
echo "sed -i 's/^CONFIG_RUST=y/# CONFIG_RUST is not set/' .config" >"$fake/olddefconfig"
echo "echo >&2 \"*** Rust bindings generator 'bindgen' is too old.\"; exit 1" >"$fake/rustavailable"
check "what the kernel says of the tools is shown" not_for_rust

# Which kernel.
anew
check 'no such kernel' refuses 'there is no configuration of 7.9.9-nobody' \
	"Its configuration is here: $release" -- --release 7.9.9-nobody
check 'no release' refuses 'is no kernel release' -- --release ../../etc
anew
sed -i 's/^CONFIG_RUST=y/# CONFIG_RUST is not set/' "$METADATA_ROOT/usr/lib/modules/$release/config"
check 'a kernel without Rust' refuses 'has no Rust support: CONFIG_RUST is not set' --
anew
packed 3 5
check 'the source of another version' refuses \
	"the package linux-source-7.3 is that of 7.3.5, and not of $release" 'snapshot.debian.org' --
check 'a directory of another version' refuses "the source in $tree is that of 7.3.5" -- \
	--source "$tree"
packed 3 40
check 'a version that begins the same' refuses 'is that of 7.3.40' --
packed 3 4
check 'what is no source' refuses 'is no source of a kernel with Rust' -- --source "$work/bin"
check 'no source there' refuses 'neither a directory nor a file' -- --source "$work/nowhere"
: >"$tree/.config"
check 'a source that was built in' refuses 'make mrproper' -- --source "$tree"
rm "$tree/.config"
mkdir -p "$tree/.mmu_notifier_helpers/progress"
check 'a source in which installing was cut short' refuses "kbuild/install $tree" -- --source "$tree"
candidate() {
	anew
	release=$2
	headers=$src/linux-headers-$release
	mv "$METADATA_ROOT/usr/lib/modules/$1" "$METADATA_ROOT/usr/lib/modules/$release"
	mv "$src/linux-headers-$1" "$headers"
	packed 3 0 -rc7
	made --release "$release"
}
check 'a candidate of a release' candidate "$release" 7.3-rc7-amd64
not_the_release() {
	packed 3 0
	refuses 'is that of 7.3.0, and not of' -- --release "$release"
}
release=7.3-rc7-amd64
headers=$src/linux-headers-$release
rm -rf "$out"
check 'which is not the release' not_the_release
release=7.3.4+deb13-amd64
headers=$src/linux-headers-$release

# What comes out.
anew
echo 'sed -i /CONFIG_SMP/d .config' >"$fake/olddefconfig"
check 'an option that gets lost' refuses 'does not come out of this source the same' SMP --
rm "$fake/olddefconfig"
check 'and then it is made' made
anew
echo _RNvCs_6kernel5three >>"$fake/symbols"
check 'symbols that the image lacks' refuses 'only the new metadata: 1 symbols' \
	_RNvCs_6kernel5three 'only the image: 0 symbols' --
anew
made >"$work/log"
symvers | sed 's/3two/3TWO/' >"$headers/Module.symvers"
check 'what was good for another image is no longer' refuses 'only the image: 1 symbols' \
	'only the new metadata: 1 symbols' --
anew
echo _RNvCs_6kernel5three >>"$fake/symbols"
symvers >"$headers/Module.symvers"
sed -i '$d' "$fake/symbols"
check 'symbols that the image alone has' refuses 'only the image: 1 symbols' --
anew
: >"$fake/symbols"
symvers >"$headers/Module.symvers"
check 'no symbols at all' refuses 'nothing can be checked' --
anew
echo 'release=7.3.4' >"$fake/modules_prepare"
check 'another release' refuses "what came out is for 7.3.4, and not for $release" --
anew
echo 'echo "this is why" >&2; exit 2' >"$fake/modules_prepare"
check 'the end of the log is shown' refuses 'making the metadata failed' "$out/log" 'this is why' --
rm "$fake/modules_prepare"
check 'and then it is made, too' made

# Cut short.
killed() {
	echo "$2=y" >"$fake/$1"
	! made >/dev/null && [ ! -e "$out/made" ] || return 1
	rm "$fake/$1"
	: >"$out/source/here"
	made && [ -e "$out/source/here" ]
}
for where in olddefconfig:kill_at_start modules_prepare:kill_at_start \
	modules_prepare:kill_at_end; do
	anew
	check "it resumes: $where" killed "${where%%:*}" "${where#*:}"
done
anew
mv "$bin/tar" "$bin/real_tar"
pretend tar <<END
case \$1 in
-x)
	: >"\${5:-}/half"
	kill -KILL \$PPID
	exit 1
	;;
esac
exec "$bin/real_tar" "\$@"
END
unpacks_again() {
	! made >/dev/null && [ ! -e "$out/source" ] || return 1
	mv "$bin/real_tar" "$bin/tar"
	made && [ ! -e "$out/source/half" ]
}
check 'it unpacks anew what was unpacked half' unpacks_again

# Two at once: the first waits in make for the second to say that it waits.
two_at_once() {
	mkfifo "$work/in_make" "$work/go_on" "$work/second"
	cat >"$fake/modules_prepare" <<-END
		if mkdir "$work/first" 2>/dev/null; then
			: >"$work/in_make"
			cat "$work/go_on"
		fi
	END
	PATH=$bin "$metadata" --output "$out" >"$work/one" 2>"$work/one.err" &
	one=$!
	: <"$work/in_make"
	PATH=$bin "$metadata" --output "$out" >"$work/two" 2>"$work/second" &
	two=$!
	waited=
	while read -r line; do
		echo "$line"
		case $line in
		*'waiting for another run'*)
			waited=y
			: >"$work/go_on"
			;;
		esac
	done <"$work/second" >"$work/two.err"
	[ -n "$waited" ] || : >"$work/go_on"
	wait "$one" && wait "$two" || return 1
	cat "$work/one.err" "$work/two.err"
	[ -n "$waited" ] && cmp "$work/one" "$work/two" &&
		grep -q 'is up to date' "$work/two.err" && calls "$once"
}
anew
check 'two at once make it once' two_at_once

# Where.
at() {
	printed=$(FAKE_ID=$1 PATH=$bin "$metadata" 2>"$work/err") || {
		cat "$work/err"
		return 1
	}
	[ "$printed" = "$2/build" ] || {
		echo "it printed: $printed"
		return 1
	}
}
anew
check 'root has it where DKMS looks' at 0 "$src/linux-rust-$release"
check 'others have it in their cache' at 1000 "$work/cache/mmu-notifier-helpers/linux-rust-$release"
check 'a blank in the name' refuses 'has a blank' -- --output "$work/a b"
: >"$work/file"
check 'no directory' refuses 'cannot be made' -- --output "$work/file/x"
shipped() {
	printed=$(run) && [ "$printed" = "$METADATA_ROOT/lib/modules/$release/build" ] &&
		[ ! -e "$fake/calls" ] && [ ! -e "$out" ]
}
anew
fake_kernel "$METADATA_ROOT/lib/modules/$release/build"
check 'headers that have it are what is printed' shipped
rm "$METADATA_ROOT/lib/modules/$release/build/rust/libmacros.so"
check 'but not if a part is missing' made

usage() {
	status=0
	PATH=$bin "$metadata" "$@" >/dev/null 2>"$work/err" || status=$?
	cat "$work/err"
	[ "$status" = 2 ] && grep -q -- '--release RELEASE' "$work/err"
}
check 'an unknown option' usage --nonsense
check 'an option without its value' usage --output
anew
check 'no number of jobs' refuses '--jobs takes a number' -- --jobs none

# With the real ones.
remade() {
	PATH=$real_path
	unset METADATA_ROOT
	"$metadata" --release "$(cat "$KDIR/include/config/kernel.release")" --source "$KDIR/source" \
		--output "$work/real" >"$work/printed" || return 1
	cat "$work/printed"
	[ "$(tail -n 1 "$work/printed")" = "$work/real/build" ]
}
builds() {
	PATH=$real_path
	make -C "$kbuild" KDIR="$work/real/build" MO="$work/mo" || return 1
	of_debian=$(find "/usr/lib/modules/$(cat "$KDIR/include/config/kernel.release")/kernel" \
		-name '*.ko*' | head -n 1)
	for module in mmu_notifier_helpers gpu_mirror_rs; do
		[ "$(modinfo -F vermagic "$work/mo/$module.ko")" = "$(modinfo -F vermagic "$of_debian")" ] ||
			return 1
	done
}
if has_kernel && [ -e "$KDIR/../made" ]; then
	check 'the real metadata' remade
	check "modules for Debian's kernel" builds
else
	why='KDIR is not what kbuild/metadata has made'
	skip 'the real metadata' "$why"
	skip "modules for Debian's kernel" "$why"
fi

finish
