#!/usr/bin/env bash
# The real program as a shell user meets it: exit codes, one-line errors, nothing left behind.
set -uo pipefail

ctl=$PWD/cli/fathomctl
work=$(mktemp -d "${TEST_TMPDIR:-/tmp}/fathomctl.XXXXXX")
trap 'umount "$work/full" 2>/dev/null; rm -rf "$work"' EXIT
export HOME=$work
unset FATHOM_COORDINATOR FATHOM_STATE_DIR
cd "$work" || exit 1
failures=0

# expect CODE PATTERN ARGUMENTS...: how it ends, and what its only line on standard error says.
expect() {
  local code=$1 pattern=$2 got
  shift 2
  "$ctl" "$@" >out 2>err </dev/null
  got=$?
  if [[ $got -ne $code ]] || ! grep -q -- "$pattern" err || [[ $(wc -l <err) -ne 1 ]]; then
    echo "FAILED: fathomctl $*: exit code $got, expected $code and '$pattern' on one line:"
    cat err
    failures=$((failures + 1))
  fi
}

# check DESCRIPTION COMMAND...
check() {
  local what=$1
  shift
  if ! "$@"; then
    echo "FAILED: $what"
    failures=$((failures + 1))
  fi
}

# A port that nobody listens on: bound once and given up.
port=$(python3 -c 'import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])')
nobody=127.0.0.1:$port

expect 5 "$nobody can't be reached" --coordinator "$nobody" get nodes
FATHOM_COORDINATOR=$nobody expect 5 "$nobody can't be reached" get jobs -o json
check "no output without an answer" test ! -s out
expect 2 "not expected: --bogus" get nodes --bogus
expect 2 "host:port" --coordinator nowhere get nodes
expect 3 "no local cluster" local status

printf 'apiVersion: fathom/v1\nkind: Job\nspec:\n  model: {preset: toy}\n  trainin: {}\n' >job.yaml
expect 2 "job.yaml:5: spec.trainin" submit -f job.yaml
printf 'apiVersion: fathom/v1\n\tkind: Job\n' >job.yaml
expect 2 "job.yaml" submit -f job.yaml
expect 3 "none.yaml" submit -f none.yaml

# Token files: of what is no text, of too little, of what isn't there.
expect 3 "none.txt" data prepare none.txt -o t.tokens
expect 2 "is a folder" data prepare "$work" -o t.tokens
: >empty.txt
expect 2 "no text" data prepare empty.txt -o t.tokens
head -c 100000 /dev/zero >zero.bin
expect 2 "not text" data prepare zero.bin -o t.tokens
check "no token file of bad input" test ! -e t.tokens

seq 1 100000 >numbers.txt
"$ctl" data prepare numbers.txt -o t.tokens >out || failures=$((failures + 1))
check "the entropies are printed" grep -q "bigram [0-9.]* nats per token" out
"$ctl" data prepare - -o piped.tokens <numbers.txt >out || failures=$((failures + 1))
check "standard input is an input" test -s piped.tokens
head -c 10000 t.tokens >short.tokens
expect 1 "short.tokens" data info short.tokens
expect 1 "short.tokens" data verify short.tokens

# A disk of 256 KiB, where this machine lets a test have one.
mkdir full
if mount -t tmpfs -o size=256k none full 2>/dev/null; then
  expect 1 "No space left on device" data prepare numbers.txt -o full/t.tokens
  check "nothing is left on the full disk" test -z "$(ls full)"
fi
"$ctl" version >/dev/full 2>err
check "output that can't be written is an error" test $? -eq 1

"$ctl" completion bash >completion || failures=$((failures + 1))
check "the completion script is bash" bash -n completion

# A reader of the output that leaves early.
"$ctl" --help | head -n 1 >/dev/null
check "the reader's end is no crash" test "${PIPESTATUS[0]}" -lt 128

[[ $failures -eq 0 ]] && echo "all as expected"
exit $((failures > 0))
