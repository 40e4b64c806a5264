#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Lets modprobe find what was installed, or no longer is:
#
#   depmod.sh KDIR RELEASE
#
# depmod runs as from the kernel's scripts/depmod.sh, with DEPMOD and INSTALL_MOD_PATH as there.
# That leaves it out if the build directory has no System.map to check symbols against, which
# neither Debian's headers nor those that kbuild/metadata has completed have. Here only the check
# is left out.

set -eu

kdir=$1
release=$2

PATH=$PATH:/sbin
if ! command -v "${DEPMOD:=depmod}" >/dev/null; then
	echo >&2 "Warning: there is no $DEPMOD (Debian's package kmod), so it was left out."
	exit 0
fi
printf '  DEPMOD  %s\n' "${INSTALL_MOD_PATH-}/lib/modules/$release"
if [ -r "$kdir/System.map" ]; then
	set -- -ae -F "$kdir/System.map"
else
	set -- -a
fi
set -- "$@" ${INSTALL_MOD_PATH:+-b "$INSTALL_MOD_PATH"} "$release"
exec "$DEPMOD" "$@"
