#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# Tests kbuild/install on a copy of those files of a kernel that it changes:
#
#   kbuild/tests/install.sh KDIR

set -eu
top=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
kernel=$(CDPATH='' cd -- "$1" && pwd)
# shellcheck source-path=SCRIPTDIR source=ktap.sh
. "$top/tests/ktap.sh"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree
mkdir "$tree"
# Nobody is known here who could maintain it; the test of the series has somebody.
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null HOME="$work"
{
	printf '%s\n' Makefile Kbuild
	sed -n 's:^+++ b/::p' "$top"/tree/*/hooks.patch
} | sort -u | while read -r file; do
	mkdir -p "$tree/$(dirname -- "$file")"
	cat "$kernel/$file" >"$tree/$file"
done
cp -a "$tree" "$work/clean"

same() { diff -r "$1" "$tree"; }
stamps() { (cd "$tree" && find . -type f -printf '%T@ %p\n' | sort); }

install() { "$top/install" "$@"; }
installs() { install "$tree"; }
removes() { install --remove "$tree"; }

# refusal NAME WHY COMMAND: what the command does to the tree makes install refuse, and stay away.
refusal() {
	rm -rf "$tree" "$work/before"
	cp -a "$work/${from-clean}" "$tree"
	(cd "$tree" && eval "$3")
	cp -a "$tree" "$work/before"
	check "refuses $1" refused "$2" install ${remove:+--remove} "$tree"
	check "leaves $1 alone" same "$work/before"
}

echo "KTAP version 1"
check "installs" installs
check "hooks the crates in" grep -q mmu_notifier_helpers/ "$tree/rust/Makefile"
check "names no maintainer that is not known" refused "" grep -r @MAINTAINER@ "$tree"
check "copies the crates" test -s "$tree/drivers/gpu/gpu_mirror_rs/gpu_mirror_rs.rs"
cp -a "$tree" "$work/installed"
before=$(stamps)
check "installs again" installs
check "changes nothing the second time" same "$work/installed"
check "touches nothing the second time" test "$before" = "$(stamps)"
check "removes" removes
check "leaves the tree as it was" same "$work/clean"
check "refuses to remove what is not there" refused "nothing of ours" removes

# A version that had a file more, another hook, and another text.
cp -a "$work/installed/." "$tree"
note=$tree/.mmu_notifier_helpers
echo old >"$tree/rust/mmu_notifier_helpers/old.c"
echo old >"$tree/rust/mmu_notifier_helpers/shims.c"
(cd "$tree" && find . -type f -path './rust/mmu_notifier_helpers/*' -exec sha256sum {} + |
	sort -k 2 >"$work/files" && grep -v ' ./rust/mmu_notifier_helpers/' "$note/files" >>"$work/files")
sort -k 2 "$work/files" >"$note/files"
check "updates an older version" installs
check "leaves nothing of the older version" same "$work/installed"

# cut_in STATE COUNT [OPTION]: a tree in which a run was killed after it had moved that many files.
mkdir "$work/bin"
cat >"$work/bin/mv" <<-'EOF'
	#!/bin/sh
	count=$(($(cat "$COUNT") - 1))
	echo "$count" >"$COUNT"
	[ "$count" -ge 0 ] || kill -KILL $PPID
	exec /bin/mv "$@"
EOF
chmod +x "$work/bin/mv"
export COUNT="$work/count"
cut_in() {
	rm -rf "$tree"
	cp -a "$work/$1" "$tree"
	echo "$2" >"$COUNT"
	! PATH="$work/bin:$PATH" "$top/install" ${3+"$3"} "$tree" || {
		echo "it was not cut short"
		return 1
	}
}
restores_after() { cut_in "$@" && install --remove "$tree" && same "$work/clean"; }
installs_after() { cut_in "$@" && install "$tree" && same "$work/installed"; }
for count in 0 8 150; do
	check "removes what was left when it was killed at file $count" restores_after clean "$count"
	check "installs when it was killed at file $count" installs_after clean "$count"
done
for count in 0 8; do
	check "removes when removing was killed at file $count" restores_after installed "$count" --remove
	check "installs when removing was killed at file $count" installs_after installed "$count" --remove
done
refuses_edit() {
	cut_in clean 150 && echo edit >>"$tree/rust/mmu_notifier_helpers/shims.c" || return 1
	rm -rf "$work/before"
	cp -a "$tree" "$work/before"
	refused "edited since a run was cut short" install --remove "$tree" && same "$work/before"
}
check "takes back nothing that was edited since it was killed" refuses_edit

# An older version that had shims.cc, but no shims.c, which is therefore in the way.
rm -rf "$work/longer"
cp -a "$work/installed" "$work/longer"
(
	cd "$work/longer"
	mv rust/mmu_notifier_helpers/shims.c rust/mmu_notifier_helpers/shims.cc
	sed -i 's:/shims\.c$:&c:' .mmu_notifier_helpers/files
)
from=longer
refusal "somebody else's file whose name begins as one of ours does" "same names" \
	"echo mine >rust/mmu_notifier_helpers/shims.c"
from=clean

refusal "a kernel that it does not know" "supported" "sed -i 's/^PATCHLEVEL = .*/PATCHLEVEL = 1/' Makefile"
refusal "what is no kernel" "no source tree" "rm Kbuild"
refusal "a tree without the line that the hook follows" "rust/Makefile" \
	"sed -i '/rustdoc-kernel rustdoc-pin_init/d' rust/Makefile"
refusal "a tree without a file to hook into" "mm/Kconfig" "rm mm/Kconfig"
refusal "a tree with somebody else's file in the way" "same names" \
	"mkdir -p rust/mmu_notifier_helpers && echo mine >rust/mmu_notifier_helpers/shims.c"
from=installed
refusal "an edited copy" "edited" "echo edit >>rust/mmu_notifier_helpers/shims.c"
refusal "a copy with a file gone" "edited" "rm rust/mmu_notifier_helpers/shims.c"
refusal "an edited hook" "edited" "sed -i '/mmu_notifier_helpers/d' rust/Makefile"
remove=yes
refusal "to remove an edited copy" "edited" "echo edit >>rust/mmu_notifier_helpers/shims.c"
refusal "to remove an edited hook" "edited" "sed -i '/mmu_notifier_helpers/d' rust/Makefile"
finish
