#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Undoes "make modules_install":
#
#   modules_uninstall.sh KDIR RELEASE DIRECTORY MODULE...
#
# removes the modules from the directory, compressed or not, and then the directory if nothing is
# left in it. depmod runs under the conditions of the kernel's scripts/depmod.sh, with DEPMOD and
# INSTALL_MOD_PATH as there.

set -eu

kdir=$1
release=$2
dir=$3
shift 3

found=
for module; do
	for suffix in '' .gz .xz .zst; do
		file=$dir/$module.ko$suffix
		[ -e "$file" ] || continue
		printf '  REMOVE  %s\n' "$file"
		rm -- "$file"
		found=y
	done
done
if [ -z "$found" ]; then
	echo "None of the modules is in $dir."
	exit 0
fi
rmdir -- "$dir" 2>/dev/null || :

if ! [ -r "$kdir/System.map" ]; then
	echo >&2 "Warning: $kdir has no System.map, so depmod was left out, as when installing."
	exit 0
fi
PATH=$PATH:/sbin
if ! command -v "${DEPMOD:=depmod}" >/dev/null; then
	echo >&2 "Warning: there is no $DEPMOD (Debian's package kmod), so it was left out."
	exit 0
fi
printf '  DEPMOD  %s\n' "${INSTALL_MOD_PATH-}/lib/modules/$release"
set -- -ae -F "$kdir/System.map" ${INSTALL_MOD_PATH:+-b "$INSTALL_MOD_PATH"} "$release"
exec "$DEPMOD" "$@"
