#!/bin/bash
# Many seeds of the simulation, on all cores: tests/sim/run.sh [FIRST..LAST] (default 1..100000).
# Ends with 1 at the first violation of any process, and names its seed.
set -euo pipefail
cd "$(dirname "$0")/../.."
bazel build --jobs=2 //tests/sim:fathom-sim
exec bazel-bin/tests/sim/fathom-sim --seeds "${1:-1..100000}" --jobs "$(nproc)"
