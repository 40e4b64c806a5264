#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Undoes "make modules_install":
#
#   modules_uninstall.sh KDIR RELEASE DIRECTORY MODULE...
#
# removes the modules from the directory, compressed or not, and then the directory if nothing is
# left in it.

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

exec sh "$(dirname -- "$0")/depmod.sh" "$kdir" "$release"
