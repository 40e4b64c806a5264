#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Builds the Debian package:
#
#   deb.sh DIRECTORY
#
# A source package's tree is made in the directory, and the packages end up beside it. The maintainer
# is whom DEBFULLNAME and DEBEMAIL name, as with Debian's own tools, or else git's configuration. The
# date is SOURCE_DATE_EPOCH, or else that of the last commit.

set -eu

mkdir -p "$1"
dest=$(cd -- "$1" && pwd -P)
cd -- "$(dirname -- "$0")/../.."

version=$(sh kbuild/scripts/version.sh)
tree=$dest/mmu-notifier-helpers-$version

git_says() { git "$@" 2>/dev/null || :; }
name=${DEBFULLNAME:-$(git_says config user.name)}
email=${DEBEMAIL:-$(git_says config user.email)}
: "${name:=$(id -un)}" "${email:=$(id -un)@$(uname -n)}"
: "${SOURCE_DATE_EPOCH:=$(git_says log -1 --format=%ct)}"
: "${SOURCE_DATE_EPOCH:=$(date +%s)}"
export SOURCE_DATE_EPOCH
date=$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")

# In a replacement of sed these mean something.
escaped() { printf '%s\n' "$1" | sed 's/[\\&|]/\\&/g'; }
fill_in() {
	sed -e "s|@MAINTAINER@|$(escaped "$name <$email>")|" -e "s|@VERSION@|$version|" \
		-e "s|@DATE@|$date|" -e "s|@SERIES@|$(paste -sd , kbuild/kernel_series)|" "$1.in" >"$1"
	rm -- "$1.in"
}

rm -rf -- "$tree"
sh kbuild/scripts/source_tree.sh "$tree"
for file in kbuild/README.md mmu_notifier_helpers/README.md gpu_mirror_rs/README.md; do
	install -m 644 -- "$file" "$tree/$file"
done
cp -r kbuild/debian "$tree/debian"
cd -- "$tree"
fill_in debian/control
fill_in debian/changelog

# What an outer make was told is not for debian/rules.
unset MAKEFLAGS MAKELEVEL MFLAGS
dpkg-buildpackage --build=binary --unsigned-source --unsigned-changes
