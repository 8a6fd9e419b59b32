#!/usr/bin/env bash
# Installs what Fathom needs to build, test and run on Debian 12, from Debian's packages only.
# Says what is missing before it installs it; a second run changes nothing.
#
#   deploy/install.sh           install what is missing (needs root or sudo)
#   deploy/install.sh --check   only list what is missing; exit 1 when something is
set -euo pipefail

BUILD_PACKAGES=(
  g++ git ca-certificates python3 python3-yaml
  bazel-bootstrap bazel-rules-java bazel-rules-proto bazel-platforms
  libgrpc++-dev protobuf-compiler-grpc libprotobuf-dev protobuf-compiler libabsl-dev
  prometheus-cpp-dev libcpp-httplib-dev nlohmann-json3-dev libyaml-cpp-dev libcli11-dev
  libsqlite3-dev libssl-dev libxxhash-dev libdnnl-dev libibverbs-dev libsentencepiece-dev
)
TEST_PACKAGES=(
  libgtest-dev libgmock-dev libbenchmark-dev clang-format clang-tidy prometheus curl
  iproute2 openssl strace coinor-cbc
)
DATA_PACKAGES=(dict-gcide dictzip)

missing=()
for package in "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}" "${DATA_PACKAGES[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null || true)
  [[ "$status" == ii* ]] || missing+=("$package")
done

if [[ ${#missing[@]} -eq 0 ]]; then
  echo "install: every package is present"
  exit 0
fi
echo "install: missing: ${missing[*]}"
if [[ "${1:-}" == "--check" ]]; then
  exit 1
fi

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  command -v sudo >/dev/null || {
    echo "install: not root and no sudo; run as root: apt-get install ${missing[*]}" >&2
    exit 1
  }
  as_root=(sudo)
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "install: refreshing the package list"
"${as_root[@]}" apt-get update >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
echo "install: installing ${#missing[@]} packages"
# Debian starts a packaged prometheus as a service on its own; Fathom runs its own copy.
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
  apt-get install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1 || {
  tail -n 30 "$log" >&2
  echo "install: apt-get failed; see the lines above" >&2
  exit 1
}
echo "install: done"
