// SPDX-License-Identifier: GPL-2.0

//! Clients of RDMA that others wrote, unmodified, on memory that is paged on demand: on the modules
//! with the crates in them and, with `--full`, in the same boot on the kernel's own.

use std::ffi::OsString;
use std::fs;

use anyhow::{Context as _, Result};

use super::{unloaded, Boots, Context};
use crate::exec;
use crate::guest::Turn;
use crate::kernel::{Kernel, Kind};
use crate::klog;
use crate::ktap;
use crate::modules::Which;
use crate::rdma::{self, Rdma};
use crate::vm::Machine;

/// What the guest's log says between the two turns.
const NEXT: &str = "ci: the next program starts";
/// What the output says there.
const TURN: &str = "# turn c\n";

/// Runs each client with both of its ends in the guest. The tests in Python are a case each.
const SCRIPT: &str = r##"tests=$1
device=rxe0 gid=1 limit=200
port=18600 number=0
dir=$(mktemp -d) || exit
export PYTHONDONTWRITEBYTECODE=1

result() {
	number=$((number + 1))
	case $1 in
	pass) echo "ok $number $2" ;;
	skip) echo "ok $number $2 # SKIP $3" ;;
	*) echo "not ok $number $2" ;;
	esac
}
listens() {
	grep -qi ": [0-9A-F]*:$(printf %04X "$1") [0-9A-F:]* 0A " /proc/net/tcp /proc/net/tcp6
}
# What a program said last, but for the lines that it draws.
last_words() {
	grep '[A-Za-z]' "$1" | tail -n 1
}
# both NAME COMMAND...: the server, and when it listens the client.
both() {
	name=$1
	shift
	port=$((port + 1))
	timeout $limit "$@" -p $port >"$dir/server" 2>&1 &
	server=$!
	while ! listens $port && kill -0 $server 2>/dev/null; do sleep 0.1; done
	timeout $limit "$@" -p $port 127.0.0.1 >"$dir/client" 2>&1
	client=$?
	wait $server
	server=$?
	if [ $client = 0 ] && [ $server = 0 ]; then
		result pass "$name"
	elif cause=$(grep 'does not support' "$dir/client"); then
		result skip "$name" "the program says: ${cause# }"
	else
		echo "# client: status $client, $(last_words "$dir/client")"
		echo "# server: status $server, $(last_words "$dir/server")"
		result fail "$name"
	fi
}

echo TAP version 13
for size in 1 64 1024 4096 4097 65536 1048576; do
	both "ibv_rc_pingpong.$size" ibv_rc_pingpong -d $device -g $gid -o -c -s $size -n 10
done
for program in ib_write_bw ib_read_bw ib_send_bw; do
	for size in 8 1024 4096 65536; do
		both "$program.$size" $program -d $device -x $gid -F --odp -s $size -n 20
	done
done
both ib_atomic_bw.fetch_and_add ib_atomic_bw -d $device -x $gid -F --odp -n 20
both ib_atomic_bw.compare_and_swap ib_atomic_bw -d $device -x $gid -F --odp -n 20 -A CMP_AND_SWAP

timeout $limit /usr/bin/python3 "$tests/run_tests.py" -v --dev $device --port 1 --gid $gid -k odp \
	>"$dir/python" 2>&1
# What describes a test, if anything does, is on a line of its own.
sed -E '/^test_[a-z0-9_]+ \([^)]*\)$/{N;s/\n.*( \.\.\. )/\1/}' "$dir/python" |
	sed -nE 's/^(test_[a-z0-9_]+) .* \.\.\. (ok|FAIL|ERROR)$/\2 \1/p
	s/^(test_[a-z0-9_]+) .* \.\.\. skipped (.*)$/skipped \1 \2/p' >"$dir/cases"
while read -r verdict name cause; do
	case $verdict in
	ok) result pass "pyverbs.$name" ;;
	skipped) result skip "pyverbs.$name" "$cause" ;;
	*)
		sed -n "/^$verdict: $name /,/^[A-Za-z._]*Error/s/^[A-Za-z._]*Error/# &/p" "$dir/python"
		result fail "pyverbs.$name"
		;;
	esac
done <"$dir/cases"
ran=$(sed -n 's/^Ran \([0-9]*\) tests.*/\1/p' "$dir/python")
if [ "${ran:-0}" -gt 0 ] && [ "$ran" = "$(wc -l <"$dir/cases")" ]; then
	result pass pyverbs.all_that_ran
else
	tail -n 5 "$dir/python" | sed 's/^/# /'
	result fail pyverbs.all_that_ran
fi
echo "1..$number""##;

pub(super) fn run(context: &mut Context<'_>) -> Result<()> {
    let kernel = context.kernel(Kind::Debug)?;
    let command = clients(context, &kernel)?;
    in_turn(context, &kernel, &exec::plain(&kernel), |_, _| {
        command.clone()
    })?;
    Ok(())
}

/// What runs all of the clients.
pub(super) fn clients(context: &Context<'_>, kernel: &Kernel) -> Result<Vec<OsString>> {
    let mut command: Vec<OsString> = ["sh", "-c", SCRIPT, "sh"].map(Into::into).into();
    command.push(context.builder(kernel).pyverbs()?.into());
    Ok(command)
}

/// Runs a program on our modules, and with `--full` on C's in the same boot. Ours are judged, C's
/// are put beside. What `command` gives is for the set that it is called with.
///
/// Returns our set, and what was printed on it.
pub(super) fn in_turn(
    context: &mut Context<'_>,
    kernel: &Kernel,
    machine: &Machine,
    command: impl Fn(Which, &Rdma) -> Vec<OsString>,
) -> Result<(Rdma, Vec<ktap::Stream>)> {
    let turn = |which: Which, rdma: &Rdma| Turn {
        driver: None,
        rdma: Some(rdma.clone()),
        command: marked(which, command(which, rdma)),
    };
    let (ours, _) = rdma::ours(context.paths, context.tools, kernel)?;
    let mut turns = vec![turn(Which::Rust, &ours)];
    turns.push(match context.full {
        true => {
            let theirs = rdma::theirs(context.paths, context.tools, kernel, &context.logs)?;
            turn(Which::C, &theirs)
        }
        false => unloaded(),
    });
    let name = match context.full {
        true => format!("both-{}", kernel.name),
        false => format!("rust-{}", kernel.name),
    };
    let boots = context.boot_in_turn(&name, machine, turns)?;
    if !context.full {
        context.judge("", &boots);
        return Ok((ours, boots.streams));
    }
    let log = fs::read(context.logs.join(&name).join("kernel.log"))
        .context("the kernel's log is gone")?;
    let (rust, c) = split(boots, &String::from_utf8_lossy(&log));
    context.judge("", &rust);
    context.beside("", &c);
    Ok((ours, rust.streams))
}

/// The program, after a line that says whose turn it is.
fn marked(which: Which, program: Vec<OsString>) -> Vec<OsString> {
    let script = format!("echo '# turn {}'; exec \"$@\"", which.name());
    let mut command: Vec<OsString> = ["sh", "-c"].map(Into::into).into();
    command.extend([script.into(), "sh".into()]);
    command.extend(program);
    command
}

/// What one boot printed, by turns. A fault is of the turn that was the last to come.
fn split(mut boots: Boots, log: &str) -> (Boots, Boots) {
    let (ours, theirs) = match boots.output.split_once(TURN) {
        Some((ours, theirs)) => (ours.to_owned(), Some(theirs.to_owned())),
        None => (boots.output.clone(), None),
    };
    let (before, after) = match (log.find(NEXT), &theirs) {
        (Some(at), Some(_)) => log.split_at(at),
        _ => (log, ""),
    };
    let fault = boots.fault.take();
    let (our_fault, their_fault) = match theirs {
        Some(_) => (None, fault),
        None => (fault, Some("its turn did not come".to_owned())),
    };
    let part = |output: String, fault, log: &str| Boots {
        streams: ktap::parse(&output),
        output,
        fault,
        reports: klog::judge(log),
    };
    (
        part(ours, our_fault, before),
        part(theirs.unwrap_or_default(), their_fault, after),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boots(output: &str) -> Boots {
        Boots {
            streams: ktap::parse(output),
            output: output.to_owned(),
            fault: Some("the guest went down".into()),
            reports: Vec::new(),
        }
    }

    const OURS: &str = "# turn rust\nTAP version 13\nok 1 a\n1..1\n";

    #[test]
    fn each_turn_has_its_own_results_and_reports() {
        let output = format!("{OURS}{TURN}TAP version 13\nnot ok 1 a\n1..1\n");
        let log = format!("[1] x\n[2] {NEXT}\n[3] BUG: KASAN: y\n");
        let (ours, theirs) = split(boots(&output), &log);
        assert_eq!(ours.streams[0].lines[0].result, ktap::Result::Pass);
        assert_eq!((ours.fault, ours.reports.len()), (None, 0));
        assert!(matches!(
            theirs.streams[0].lines[0].result,
            ktap::Result::Fail(_)
        ));
        assert_eq!(theirs.fault.as_deref(), Some("the guest went down"));
        assert_eq!(theirs.reports.len(), 1);
    }

    #[test]
    fn what_ends_in_our_turn_is_ours() {
        let (ours, theirs) = split(boots(OURS), "[3] BUG: KASAN: y\n");
        assert_eq!(ours.fault.as_deref(), Some("the guest went down"));
        assert_eq!(ours.reports.len(), 1);
        assert!(theirs.streams.is_empty() && theirs.reports.is_empty());
        assert!(theirs.fault.is_some());
    }
}
