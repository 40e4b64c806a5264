# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# What goes into a kernel tree, step by step: each directory NN-name beside this file is one patch of
# the series. It has the patch's message, the list of its files, and what changes in the tree's own.

# The top of the project, and this directory.
project=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
steps=$project/kbuild/tree

# The kernels that the hooks fit.
supported=$(tr '\n' ' ' <"$project/kbuild/kernel_series")

say() { printf '%s: %s\n' "${0##*/}" "$*"; }
fail() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# Whose kernel tree this is, as git says it: "name <mail>". Empty if git does not know.
maintainer() {
	name=$(git -C "$1" config user.name 2>/dev/null) || return 0
	mail=$(git -C "$1" config user.email 2>/dev/null) || return 0
	printf '%s <%s>' "$name" "$mail"
}

# check_tree TREE: refuses what is no kernel source that we know.
check_tree() {
	if [ ! -f "$1/Makefile" ] || [ ! -f "$1/Kbuild" ] || [ ! -d "$1/rust" ]; then
		fail "$1 is no source tree of a kernel with Rust"
	fi
	version=$(sed -n 's/^VERSION = //p;s/^PATCHLEVEL = /./p' "$1/Makefile" | head -n 2 | tr -d '\n')
	case " $supported " in
	*" $version "*) ;;
	*) fail "$1 is Linux $version; supported: ${supported% }" ;;
	esac
}

# the_steps: their names in order.
the_steps() {
	for step in "$steps"/[0-9][0-9]-*/; do
		basename "$step"
	done
}

# without_missing FROM TO DIR: writes the root of a crate without those modules whose files are not
# beside it, and without the documentation of the sample if that is not below DIR.
without_missing() {
	dir=$(dirname -- "$2")
	missing=$(sed -n 's/^\(pub \)\{0,1\}mod \([a-z_]*\);$/\2/p' "$1" | while read -r name; do
		[ -e "$dir/$name.rs" ] || printf ' %s ' "$name"
	done)
	awk -v missing="$missing" -v sample="$(cd "$3" && echo samples/rust/rust_mmu_mirror*.rs)" '
		function flush() { if (held != "") print held; held = "" }
		/^\/\/! # A driver$/ && sample ~ /\*/ { skip = 1 }
		skip { if (/^\)\]$/) skip = 0; next }
		# What comes later is linked to, and uses the rest.
		/^\/\/ The links to what needs it lead nowhere\.$/ && missing != "" {
			print "// What is missing comes with later patches."
			next
		}
		/^#!\[cfg_attr\(not\(CONFIG_DEVICE_PRIVATE\), allow\(.*\)\)\]$/ && missing != "" {
			print "#![allow(dead_code, rustdoc::broken_intra_doc_links)]"
			next
		}
		/^(pub )?mod [a-z_]+;$/ {
			name = $NF
			sub(/;$/, "", name)
			if (index(missing, " " name " ")) {
				held = ""
				next
			}
		}
		{ flush() }
		/^#\[cfg\([A-Z_]+\)\]$/ { held = $0; next }
		{ print }
		END { flush() }' "$1" >"$2"
}

# The list of a step's files, with the patterns in it resolved.
listed() {
	sed '/^#/d' "$steps/$1/files" | while read -r to from; do
		# shellcheck disable=SC2086 # These are lists of patterns.
		(cd "$project" && printf '%s' "$to" && printf ' %s' $from && echo)
	done
}

# copy_step STEP DIR: puts the files of the step below DIR.
copy_step() {
	listed "$1" | while read -r to from; do
		root=
		if [ "$to" = roots ]; then
			root=yes
			to=${from%% *}
			from=${from#* }
		fi
		mkdir -p "$2/$(dirname -- "${to}x")"
		case $root$to in
		yes*)
			without_missing "$project/$from" "$2/$to" "$2"
			;;
		*/)
			for source in $from; do
				cat "$project/$source" >"$2/$to$(basename -- "$source")" || exit
			done
			;;
		*)
			# Each of them names the licence, the sum does once.
			for source in $from; do
				cat "$project/$source" || exit
			done | awk '/^# SPDX-License-Identifier: / && seen++ { next } { print }' >"$2/$to"
			;;
		esac
	done
}

# hooks_of STEP MAINTAINER: the patch of the tree's own files, if the step has one.
hooks_of() {
	[ -e "$steps/$1/hooks.patch" ] || return 0
	if [ -n "$2" ]; then
		sed "s/@MAINTAINER@/$(printf '%s' "$2" | sed 's/[&/\]/\\&/g')/" "$steps/$1/hooks.patch"
	else
		# Nobody to name; the hunk is shorter by a line.
		awk '/^\+M:\t@MAINTAINER@$/ { next } { print }' "$steps/$1/hooks.patch" |
			recount
	fi
}

# Corrects the lengths in the headers of hunks.
recount() {
	awk '
		function flush(i) {
			if (header != "") {
				sub(/\+[0-9]+,[0-9]+ @@/, "+" start "," count " @@", header)
				print header
				for (i = 0; i < n; i++) print line[i]
			}
			header = ""
			n = count = 0
		}
		/^@@ / { flush(); header = $0; split($3, at, ","); start = substr(at[1], 2); next }
		/^(diff|index|---|\+\+\+) / && !/^(---|\+\+\+) [^ab\/]/ { flush(); print; next }
		header != "" { line[n++] = $0; if ($0 !~ /^-/) count++; next }
		{ print }
		END { flush() }'
}

# files_in PATCH: the files that it changes.
files_in() {
	sed -n 's:^+++ b/::p' "$1"
}

# apply_to DIR PATCH [-R]: applies it to the copies in DIR.
apply_to() {
	patch -d "$1" -p1 -s -f -F0 --no-backup-if-mismatch -r - ${3:+"$3"} <"$2" >/dev/null
}
