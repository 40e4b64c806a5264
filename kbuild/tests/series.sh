#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Tests kbuild/series on a kernel's source, which is only read:
#
#   kbuild/tests/series.sh KDIR

set -eu
top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
kernel=$(CDPATH='' cd -- "$1" && pwd)
# shellcheck source-path=SCRIPTDIR source=ktap.sh
. "$top/tests/ktap.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree
series=$work/series

# git as it is for who signs off, whatever is configured here.
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL="$work/config" HOME="$work"
nobody() { GIT_CONFIG_GLOBAL=/dev/null "$top/series" "$kernel" "$work/none"; }
git config --global user.name 'A Maintainer'
git config --global user.email maintainer@example.org

mkdir "$tree"
{
	printf '%s\n' Makefile Kbuild
	sed -n 's:^+++ b/::p' "$top"/tree/*/hooks.patch
} | sort -u | while read -r file; do
	mkdir -p "$tree/$(dirname -- "$file")"
	cat "$kernel/$file" >"$tree/$file"
done
cp -a "$tree" "$work/installed"
git -C "$tree" init -q -b main
git -C "$tree" add -A
git -C "$tree" commit -qm base

patches() { find "$series" -name '*.patch' ! -name '0000-*' | sort; }
write() { "$top/series" "$kernel" "$series"; }
# As the README has it.
apply() {
	# shellcheck disable=SC2016 # The variable is of the command that is run.
	command=$(sed -n 's/^\(cat DIR.*git -C \)KDIR am$/\1"$tree" am/p' "$top/README.md")
	[ -n "$command" ] && (cd "$work" && eval "$(printf '%s' "$command" | sed 's:DIR/:series/:g')")
}
signed() {
	patches | while read -r patch; do
		grep -q '^Signed-off-by: A Maintainer <maintainer@example.org>$' "$patch" || {
			echo "$patch"
			return 1
		}
	done
}
# New files are not in MAINTAINERS patch by patch, which it cannot see; `maintained` looks at all.
style() {
	perl "$kernel/scripts/checkpatch.pl" --strict --no-tree --quiet --show-types --no-summary \
		--ignore FILE_PATH_CHANGES "$1"
}
maintained() {
	lost=$(
		{
			sed -n 's/^F:\t/pattern /p' "$tree/MAINTAINERS"
			git -C "$tree" diff --diff-filter=A --name-only HEAD~"$(patches | wc -l)" |
				sed 's/^/file /'
		} | awk '
			$1 == "pattern" { patterns[$2] = 1; next }
			$2 in patterns { next }
			{
				for (dir = $2; sub("[^/]*/?$", "", dir) && dir != ""; )
					if (dir in patterns) next
				print $2
			}'
	)
	[ -z "$lost" ] || {
		echo "$lost"
		return 1
	}
}
installed_alike() {
	"$top/install" "$work/installed" >/dev/null
	diff -r -x .git -x .mmu_notifier_helpers "$tree" "$work/installed"
}

echo "KTAP version 1"
# series_of NAME COMMAND: what series makes of a tree that the command has changed.
series_of() {
	rm -rf "$work/other"
	cp -a "$work/installed" "$work/other"
	(cd "$work/other" && eval "$2")
	refused "$1" "$top/series" "$work/other" "$work/none"
}
check "refuses a kernel that it does not know" series_of "supported" \
	"sed -i 's/^PATCHLEVEL = .*/PATCHLEVEL = 1/' Makefile"
check "refuses a tree with the crates in it" series_of "crates installed" "mkdir .mmu_notifier_helpers"
check "refuses a tree without the line that a hook follows" series_of "rust/Makefile" \
	"sed -i '/rustdoc-kernel rustdoc-pin_init/d' rust/Makefile"
check "refuses a tree without a file to hook into" series_of "no mm/Kconfig" "rm mm/Kconfig"
check "refuses without somebody to sign off" refused "user.name" nobody
check "writes the patches" write
check "refuses to write over patches" refused "has patches already" write
check "signs each of them" signed
check "has a cover letter with a summary" grep -q 'files changed' "$series"/0000-*.patch
for patch in $(patches); do
	check "style of $(basename "$patch" .patch)" style "$patch"
done
check "applies" apply
check "is what is installed" installed_alike
check "has a maintainer for each file" maintained
check "names the maintainer" grep -q '^M:.A Maintainer <maintainer@example.org>$' "$tree/MAINTAINERS"
finish
