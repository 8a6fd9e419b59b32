#!/usr/bin/env bash
# Runs every test that needs no accelerator, and ends with one line: "N passed, N failed".
#
#   tests/run.sh                install what is missing, build, tidy, all tests, then the address
#                               and undefined-behaviour sanitizers on kernels and parsers
#   tests/run.sh --all          also: those sanitizers everywhere, the simulation of the cores among
#                               it, the thread sanitizer on transports and queues, clang-tidy
#   tests/run.sh --no-install   leave the system's packages alone
#
# Exits with 0 when all passed, 1 when something failed, 2 on a wrong option. Logs stay where the
# last lines say. A test tagged "gpu" or "rdma" needs hardware and is left out.
set -uo pipefail

usage() { sed -n '2,/^set/{/^# \{0,1\}/s///p}' "${BASH_SOURCE[0]}"; }

all=0
install=1
for option in "$@"; do
  case "$option" in
    --all) all=1 ;;
    --no-install) install=0 ;;
    -h | --help) usage; exit 0 ;;
    *) echo "run.sh: unknown option '$option'; see --help" >&2; exit 2 ;;
  esac
done

cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." || exit 1
logs=$(mktemp -d "${TMPDIR:-/tmp}/fathom-tests-XXXXXX")
results=$logs/results
: >"$results"

# What `bazel test` is asked for, and what the sanitizers look at: kernels and what parses files.
NEEDS_HARDWARE='gpu|rdma'
SANITIZED='//common/base/... + //common/data/... + //common/checkpoint/... + //kernels/...'
THREADED='//worker/transport/... + //coordinator/service/... + //common/...'

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*"; }

# Runs a command with its output in a log; shows the log's end when it fails.
step() {
  local name=$1 log=$logs/$1.log
  shift
  if "$@" >"$log" 2>&1; then
    echo "passed $name" >>"$results"
  else
    echo "failed $name $log" >>"$results"
    tail -n 40 "$log"
  fi
}

# Tests of a query's targets in a configuration; each is counted, whether or not it built.
# A test tagged no-asan or no-tsan is left out of that configuration, and says why beside the tag.
bazel_tests() {
  local name=$1 scope=$2 prefix=$3 log=$logs/$1.log left_out="$NEEDS_HARDWARE|no-$1"
  shift 3
  bazel query --noshow_progress "tests($scope) except attr(tags, '$left_out', $scope)" \
    >"$logs/$name.expected" 2>"$log" || tail -n 20 "$log"
  bazel test --keep_going --test_output=errors --test_summary=none "$@" \
    --build_event_json_file="$logs/$name.events" --target_pattern_file="$logs/$name.expected" \
    >>"$log" 2>&1 || grep -vE '^(INFO|WARNING|Loading|Analyzing)' "$log" | tail -n 120
  tests/tally.py bazel "$prefix" "$logs/$name.expected" "$logs/$name.events" >>"$results"
}

clang_tidy() {
  local files
  mapfile -t files < <(git ls-files '*.cc' | grep -vE '_test\.cc$|^third_party/')
  printf '%s\0' "${files[@]}" | xargs -0 -n 4 -P 2 \
    sh -c 'clang-tidy --quiet "--warnings-as-errors=*" "$@" -- -std=c++20 -I. -Ibazel-bin' sh
}

if ((install)); then
  say "installing what is missing"
  deploy/install.sh || exit 1
fi

say "building everything"
step build bazel build --keep_going //...

say "checking the house style"
tests/tidy/tidy.py --summary "$logs/tidy.json" >"$logs/tidy.log" 2>&1 || cat "$logs/tidy.log"
tests/tally.py tidy "$logs/tidy.json" "$logs/tidy.log" >>"$results"

say "running the tests"
bazel_tests tests '//...' ''

if ((all)); then
  say "running everything under the address and undefined-behaviour sanitizers"
  bazel_tests asan '//...' 'asan ' --config=asan
  say "running transports and queues under the thread sanitizer"
  bazel_tests tsan "$THREADED" 'tsan ' --config=tsan
  say "running clang-tidy"
  step clang-tidy clang_tidy
else
  say "running kernels and parsers under the address and undefined-behaviour sanitizers"
  bazel_tests asan "$SANITIZED" 'asan ' --config=asan
fi

passed=$(grep -c '^passed ' "$results")
failed=$(grep -c '^failed ' "$results")
say "done; logs in $logs"
if ((failed)); then
  grep '^failed ' "$results" | sed 's/^/  /'
fi
echo "$passed passed, $failed failed"
((failed == 0 && passed > 0))
