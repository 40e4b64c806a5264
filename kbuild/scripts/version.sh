#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Prints the version of the modules, which is that of the cargo workspace.

set -eu

workspace=$(dirname -- "$0")/../../Cargo.toml
version=$(sed -n '/^\[workspace\.package\]$/,/^\[/ s/^version = "\(.*\)"$/\1/p' "$workspace")
[ -n "$version" ] || {
	echo >&2 "$workspace has no version under [workspace.package]"
	exit 1
}
echo "$version"
