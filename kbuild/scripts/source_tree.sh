#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Copies what the modules are built from, and nothing that a build has left beside it:
#
#   source_tree.sh DIRECTORY
#
# The directory must not be there yet, so that what is in it is of this version alone.

set -eu

dest=$1
case $dest in
/*) ;;
*) dest=$PWD/$dest ;;
esac
cd -- "$(dirname -- "$0")/../.."

if [ -e "$dest" ]; then
	echo >&2 "$dest is there already: remove it first."
	exit 1
fi
# What is for a kernel's tree only, RDMA among it, stays here.
joined=$(find kbuild -maxdepth 1 \( -name Kbuild -o -name Makefile -o -name 'Makefile.*' \
	-o -name '*.[chS]' -o -name '*_parameters' -o -name dkms.conf -o -name kernel_series \) \
	! -name '*_generated.*' ! -name '*_version.c' ! -name '*.mod.c')
scripts=$(find kbuild/scripts -type f)
crates=$(find mmu_notifier_helpers/src mmu_notifier_helpers/kunit mmu_notifier_helpers/samples \
	gpu_mirror_rs/src -name '*.rs')
for file in Cargo.toml $joined $scripts $crates; do
	install -D -m 644 -- "$file" "$dest/$file"
done
install -D -m 755 -- kbuild/metadata "$dest/kbuild/metadata"
