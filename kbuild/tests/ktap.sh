# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=sh
#
# Results of shell tests, as the kernel's selftests print them.

cases=0
failures=0

# check NAME COMMAND...: whether it succeeds. What it says is printed if it does not.
check() {
	name=$1
	shift
	cases=$((cases + 1))
	if said=$("$@" 2>&1); then
		echo "ok $cases $name"
	else
		failures=$((failures + 1))
		printf '%s\n' "$said" | sed 's/^/# /'
		echo "not ok $cases $name"
	fi
}

# skip NAME WHY
skip() {
	cases=$((cases + 1))
	echo "ok $cases $1 # SKIP $2"
}

# refused WHY COMMAND...: whether it fails and says why.
refused() {
	why=$1
	shift
	if said=$("$@" 2>&1); then
		echo "it was not refused"
		return 1
	fi
	printf '%s\n' "$said" | grep -q -- "$why" && return
	printf 'it does not say "%s", but: %s\n' "$why" "$said"
	return 1
}

# finish: the plan, and the status.
finish() {
	echo "1..$cases"
	[ "$failures" = 0 ]
}
