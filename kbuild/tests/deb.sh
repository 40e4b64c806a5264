#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# The Debian package: that it builds, and that it holds what DKMS gets from the sources themselves.

set -eu
# shellcheck source-path=SCRIPTDIR source=out_of_tree.sh
. "$(dirname -- "$0")/out_of_tree.sh"

version=$(sh "$kbuild/scripts/version.sh")
deb=$work/deb/mmu-notifier-helpers-dkms_${version}_all.deb

for tool in dpkg-buildpackage dh dh_dkms; do
	command -v "$tool" >/dev/null || {
		skip 'the package builds' "there is no $tool"
		finish
		exit
	}
done

builds() {
	make -C "$kbuild" DEB="$work/deb" deb && [ -f "$deb" ]
}

has_field() {
	dpkg-deb -f "$deb" "$1"
	dpkg-deb -f "$deb" "$1" | grep -qE "$2"
}

same_sources() {
	dpkg-deb -x "$deb" "$work/package" &&
		make -C "$kbuild" DESTDIR="$work/made" dkms-source &&
		diff -r "$work/package/usr/src" "$work/made/usr/src"
}

has_changelog() {
	changelog=$work/package/usr/share/doc/mmu-notifier-helpers-dkms/changelog.gz
	zcat "$changelog"
	zcat "$changelog" | grep -qxF ' -- A | B & C <a@b.example>  Thu, 01 Jan 1970 00:00:00 +0000'
}

# Into a system of its own, where nothing of the package is run.
installs() {
	mkdir -p "$work/system"
	dpkg --root="$work/system" --force-depends --unpack "$deb" &&
		[ -f "$work/system/usr/src/mmu-notifier-helpers-$version/dkms.conf" ] &&
		dpkg --root="$work/system" --verify mmu-notifier-helpers-dkms
}
ships_no_rdma() {
	! dpkg-deb -c "$deb" | grep -E 'rdma|/kbuild/(odp|rxe)/'
}

lintian_is_silent() {
	lintian --fail-on error,warning "$work/deb/"*.changes
}

export DEBFULLNAME='A | B & C' DEBEMAIL=a@b.example SOURCE_DATE_EPOCH=0
check 'the package builds' builds
check 'it is for the version' has_field Version "^$version\$"
check 'it depends on DKMS' has_field Depends '(^|, )dkms '
check 'its maintainer is who builds it' has_field Maintainer '^A \| B & C <a@b\.example>$'
check 'its sources are those of dkms-source' same_sources
check 'its change log is dated' has_changelog
check 'it has nothing of the crate that has another licence' ships_no_rdma
if [ "$(id -u)" = 0 ]; then
	check 'it is unpacked whole' installs
else
	skip 'it is unpacked whole' 'dpkg wants root'
fi
if command -v lintian >/dev/null; then
	check 'lintian has nothing to say' lintian_is_silent
else
	skip 'lintian has nothing to say' 'there is no lintian'
fi

finish
