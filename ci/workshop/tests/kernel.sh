#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Which kernel is chosen of what a made-up suite serves.

set -eu
# shellcheck source-path=SCRIPTDIR source=../../../kbuild/tests/ktap.sh
. "$(dirname -- "$0")/../../../kbuild/tests/ktap.sh"

choose=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)/kernel
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# chooses WANTED SERIES...: of the listing in $served, "RELEASE VERSION SUPPORTED", or "none".
chooses() {
	wanted=$1
	shift
	printf '%s\n' "$@" >"$work/series"
	release=none version='' supported=''
	if printf '%s\n' "$served" | "$choose" "$work/series" >"$work/chosen"; then
		# shellcheck source=/dev/null
		. "$work/chosen"
	fi
	echo "chosen: $release $version $supported"
	[ "$release${version:+ $version $supported}" = "$wanted" ]
}

# Two series, the older with two versions of which one has no image yet, and what must not be taken:
# other flavours, unsigned images, another series that begins alike.
served='linux-source-7.3 7.3.4-1~bpo13+1
linux-source-7.3 7.3.12-1~bpo13+1
linux-source-7.3 7.3.9-1~bpo13+1
linux-source-7.4 7.4.1-1~bpo13+1
linux-source-7.30 7.30.1-1
linux-source-6.12 6.12.1-1
linux-binary-7.3.12+deb13-cloud-amd64 7.3.12-1~bpo13+1
linux-binary-unsigned-7.3.12+deb13-amd64 7.3.12-1~bpo13+1
linux-binary-7.3.9+deb13-rt-amd64 7.3.9-1~bpo13+1
linux-binary-7.3.9+deb13-amd64 7.3.9-1~bpo13+1
linux-binary-7.3.4+deb13-amd64 7.3.4-1~bpo13+1
linux-binary-7.4.1+deb13-amd64 7.4.1-1~bpo13+1'

check 'the newest version with an image is taken' \
	chooses '7.3.9+deb13-amd64 7.3.9-1~bpo13+1 yes' 7.3
check 'the first series that is served is taken' \
	chooses '7.4.1+deb13-amd64 7.4.1-1~bpo13+1 yes' 7.5 7.4 7.3
check 'where none is supported, the newest that has an image is tried' \
	chooses '7.4.1+deb13-amd64 7.4.1-1~bpo13+1 no' 7.2

served='linux-source-7.4 7.4.1-1~bpo13+1
linux-binary-7.4.1+deb13-amd64 7.4.1-1~bpo13+1'
check 'the next series stands in for one that is gone' \
	chooses '7.4.1+deb13-amd64 7.4.1-1~bpo13+1 no' 7.3

served='linux-source-7.3 7.3.4-1~bpo13+1'
check 'a source without an image is none' chooses none 7.3
served=
check 'where nothing is served nothing is chosen' chooses none 7.3

finish
