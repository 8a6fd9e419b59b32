#!/usr/bin/env bash
# From a fresh clone on Debian 12 to a trained model: installs, builds, prepares 40 MB of English,
# starts a coordinator and 4 node daemons of 2 ranks each on this machine, trains the "tiny" model
# in fp8 over them, and ends with a summary. A second run uses what is there.
#
#   deploy/quickstart.sh [options]
#     --steps N         optimizer steps; default: those of deploy/examples/tiny.yaml
#     --summary FILE    write the summary as JSON: final_loss, validation_loss, unigram_entropy,
#                       bigram_entropy, steps, tokens_per_second, nodes, ranks
#     --state-dir DIR   where data, logs and checkpoints go; default: that of `fathomctl local`,
#                       $FATHOM_STATE_DIR or ~/.fathom/local
#     --keep-running    leave the cluster up at the end, to look around
#     --down            only stop a cluster left up before
#     --no-install      leave the system's packages alone
#     -h, --help
#
# Exits with 0 when the job is complete, 1 when something failed, 2 on a wrong option.
set -euo pipefail

JOB=tiny
NODES=4
RANKS_PER_NODE=2

usage() { sed -n '2,/^set/{/^# \{0,1\}/s///p}' "${BASH_SOURCE[0]}"; }
fail() { echo "quickstart: $*" >&2; exit 1; }
wrong_option() { echo "quickstart: $*; see --help" >&2; exit 2; }

steps='' summary='' keep_running=0 only_down=0 install=1 state_option=''
state=${FATHOM_STATE_DIR:-${HOME:-$PWD}/.fathom/local}
while (($#)); do
  case "$1" in
    --steps | --summary | --state-dir)
      [[ $# -ge 2 && -n "$2" ]] || wrong_option "$1 needs a value"
      case "$1" in
        --steps)
          [[ "$2" =~ ^[1-9][0-9]{0,8}$ ]] || wrong_option "--steps takes a number from 1, not '$2'"
          steps=$2 ;;
        --summary) summary=$(realpath -m -- "$2") ;;
        --state-dir)
          state=$(realpath -m -- "$2")
          state_option="--state-dir $state" ;;
      esac
      shift 2 ;;
    --keep-running) keep_running=1; shift ;;
    --down) only_down=1; shift ;;
    --no-install) install=0; shift ;;
    -h | --help) usage; exit 0 ;;
    *) wrong_option "unknown option '$1'" ;;
  esac
done

root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
fathomctl=$root/bazel-bin/cli/fathomctl
began=$SECONDS

say() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - began)); }

if ((only_down)); then
  [[ -x "$fathomctl" ]] || fail "nothing is built here, so nothing of it can be running"
  exec "$fathomctl" local down --state-dir "$state"
fi
if [[ -n "$summary" ]]; then
  mkdir -p -- "$(dirname "$summary")" || fail "can't make the folder of --summary $summary"
fi
mkdir -p -- "$state" || fail "can't make the state folder $state; give another with --state-dir"

say "1/5 Debian packages"
if ((install)); then
  "$root/deploy/install.sh"
else
  echo "left alone, as asked"
fi

say "2/5 build"
programs=(cli/fathomctl coordinator/service/fathom-coordinator worker/agent/fathom-worker
  worker/engine/fathom-rank worker/health/fathom-preflight)
labels=()
for program in "${programs[@]}"; do labels+=("//${program%/*}:${program##*/}"); done
progress=(--show_progress)
[[ -t 1 ]] || progress+=(--curses=no --show_progress_rate_limit=30)
(cd "$root" && bazel build "${progress[@]}" "${labels[@]}") || fail "the build failed; see above"

say "3/5 data: the Collaborative International Dictionary of English"
tokens=$state/gcide.tokens
if [[ -f "$tokens" ]] && "$fathomctl" data info "$tokens" >/dev/null 2>&1; then
  echo "already prepared: $tokens"
else
  dictionary=/usr/share/dictd/gcide.dict.dz
  [[ -f "$dictionary" ]] || fail "$dictionary is not there; run deploy/install.sh"
  text=$state/gcide.txt
  trap 'rm -f "$text"' EXIT
  zcat <"$dictionary" >"$text" || fail "can't unpack $dictionary to $text"
  "$fathomctl" data prepare "$text" -o "$tokens"
  rm -f "$text"
  trap - EXIT
fi

say "4/5 a coordinator and $NODES nodes of $RANKS_PER_NODE ranks"
"$fathomctl" local up --state-dir "$state" --nodes $NODES --ranks-per-node $RANKS_PER_NODE
if ((!keep_running)); then
  trap '"$fathomctl" local down --state-dir "$state" >/dev/null 2>&1 || true' EXIT
fi

say "5/5 training"
"$fathomctl" --state-dir "$state" get jobs -o json |
  "$root/deploy/quickstart_summary.py" unfinished "$JOB" |
  while read -r left; do
    echo "cancelling $left, which an earlier run left unfinished"
    "$fathomctl" --state-dir "$state" cancel "$left" --reason "a new quickstart began"
  done
overrides=(--set "spec.data.token_file=$tokens")
[[ -z "$steps" ]] || overrides+=(--set "spec.training.steps=$steps")
training_began=$SECONDS
"$fathomctl" --state-dir "$state" submit -f "$root/deploy/examples/$JOB.yaml" \
  "${overrides[@]}" --wait || fail "the job did not complete; its logs are under $state"
echo "trained for $((SECONDS - training_began)) s"

say "summary"
"$fathomctl" --state-dir "$state" describe job "$JOB" -o json >"$state/quickstart-job.json"
"$fathomctl" data info "$tokens" -o json >"$state/quickstart-data.json"
"$root/deploy/quickstart_summary.py" summary "$state/quickstart-job.json" \
  "$state/quickstart-data.json" $NODES $RANKS_PER_NODE ${summary:+"$summary"}

cat <<END

Look further:
  export PATH=$root/bazel-bin/cli:\$PATH FATHOM_STATE_DIR=$state
END
if ((keep_running)); then
  metrics=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["metrics_address"])' \
    "$state/coordinator/coordinator.json")
  cat <<END
  fathomctl get jobs -o wide; fathomctl get nodes; fathomctl get events
  fathomctl describe job $JOB; fathomctl logs $JOB --rank 0; fathomctl checkpoint list $JOB
  fathomctl submit -f $root/deploy/examples/toy.yaml --set spec.data.token_file=$tokens --wait
Metrics, and whom to scrape:
  http://$metrics/metrics  http://$metrics/sd
  prometheus --config.file=$root/dashboards/prometheus/prometheus.yml \\
    --storage.tsdb.path=$state/prometheus
Stop it all:
  $root/deploy/quickstart.sh --down${state_option:+ $state_option}
END
else
  cat <<END
  fathomctl local up --nodes $NODES --ranks-per-node $RANKS_PER_NODE   # the same cluster again
  fathomctl describe job $JOB; fathomctl logs $JOB --rank 0; fathomctl checkpoint list $JOB
  fathomctl local down
END
fi
