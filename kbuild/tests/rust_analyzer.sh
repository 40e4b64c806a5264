#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
#
# rust-project.json: our crates in it, and what they refer to.

set -eu
# shellcheck source-path=SCRIPTDIR source=out_of_tree.sh
. "$(dirname -- "$0")/out_of_tree.sh"

top=$(dirname -- "$kbuild")
crates='mmu_notifier_helpers mmu_notifier_helpers_kunit rust_mmu_mirror gpu_mirror_rs'

if ! command -v jq >/dev/null; then
	skip 'our crates are added to those of the kernel' 'there is no jq'
	skip 'rust-project.json' 'there is no jq'
	finish
	exit
fi

# Every dependency is the crate of that name.
# shellcheck disable=SC2016 # The variables are those of jq.
resolves='
	.crates as $crates
	| all(.crates[]; all(.deps[]; .name == $crates[.crate].display_name))'
# A kernel tree may have crates of these names as well.
# shellcheck disable=SC2016
depends='
	(.crates[] | select(.display_name == $crate and (.root_module // "" | startswith($top)))) as $it
	| ($it.deps | map(.name)) as $deps
	| ($deps | contains(["core", "kernel", "pin_init"]))
	and ($crate == "mmu_notifier_helpers" or ($deps | contains(["mmu_notifier_helpers"])))
	and ($it.cfg | contains(["CONFIG_RUST", "MODULE"]))'

# The project in the file has the crates, whole.
is_whole() {
	jq -e "$resolves" "$1" || return 1
	for crate in $crates; do
		jq -e --arg top "$top/" --arg crate "$crate" "$depends" "$1" || return 1
	done
}

fake_project() {
	cat <<-'EOF'
		{
		  "sysroot": "/usr",
		  "crates": [
		    {"display_name": "core", "deps": [], "cfg": []},
		    {"display_name": "zerocopy_derive", "deps": [], "cfg": []},
		    {"display_name": "pin_init", "deps": [{"crate": 0, "name": "core"}], "cfg": []},
		    {"display_name": "zerocopy", "deps": [{"crate": 0, "name": "core"}], "cfg": []},
		    {"display_name": "kernel", "deps": [{"crate": 2, "name": "pin_init"}],
		     "cfg": ["CONFIG_RUST", "CONFIG_SMP"]}
		  ]
		}
	EOF
}

add_ours() {
	jq --arg top "$top" --arg built "$work/built" -f "$kbuild/scripts/rust_analyzer.jq" "$@"
}

adds_ours() {
	fake_project >"$work/fake.json"
	add_ours "$work/fake.json" >"$work/added.json" || return 1
	is_whole "$work/added.json" || return 1
	# What was there is there.
	jq '.crates |= .[:5]' "$work/added.json" | diff - "$work/expected.json" || return 1
	jq -r '.crates[5:][].root_module' "$work/added.json" | while read -r root; do
		[ -f "$root" ] || exit 1
	done
}
fake_project | jq . >"$work/expected.json"
check 'our crates are added to those of the kernel' adds_ours

says_what_is_missing() {
	! fake_project | sed s/pin_init/pinned/ | add_ours 2>"$work/err" &&
		grep "the kernel's script has no crate pin_init" "$work/err"
}
check 'a crate that the kernel lacks is named' says_what_is_missing

every_file_is_there() {
	# shellcheck disable=SC2016
	jq -r --arg top "$top/" '.crates[] | select(.root_module | startswith($top))
		| .root_module, (.env | .MMU_NOTIFIER_HELPERS_BINDINGS,
			.MMU_NOTIFIER_HELPERS_KUNIT_BINDINGS | select(.))' "$1" >"$work/files"
	# Those of the kernel.
	jq -r '.crates[] | .root_module, .proc_macro_dylib_path // empty' "$1" >>"$work/files"
	missing=0
	while read -r file; do
		[ -f "$file" ] || {
			echo "no $file"
			missing=1
		}
	done <"$work/files"
	[ "$(wc -l <"$work/files")" -gt 10 ] && [ "$missing" = 0 ]
}

if has_kernel; then
	project=$work/mo/rust-project.json
	check 'the modules build' make -C "$kbuild" KDIR="$KDIR" MO="$work/mo"
	check 'rust-project.json is written' make -C "$kbuild" KDIR="$KDIR" MO="$work/mo" rust-analyzer
	check 'rust-project.json has our crates and what they depend on' is_whole "$project"
	check 'rust-project.json names files that exist' every_file_is_there "$project"
else
	skip 'rust-project.json' 'there is no KDIR'
fi

finish
