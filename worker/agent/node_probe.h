// What this machine offers, read from the system: its name, its memory, where this program lies;
// and the Node that the daemon reports.
#ifndef FATHOM_WORKER_AGENT_NODE_PROBE_H_
#define FATHOM_WORKER_AGENT_NODE_PROBE_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/fathom/v1/cluster.pb.h"
#include "proto/fathom/v1/config.pb.h"
#include "worker/agent/worker_config.h"

namespace fathom {

absl::StatusOr<HostFacts> ProbeHost();

// The programs that the daemon runs: as configured, or beside this one, or where Bazel builds them.
// A rank's must be there (codes of ErrnoStatus); without the preflight's the daemon goes on, and
// its reports say so.
absl::StatusOr<std::string> FindRankBinary(const v1::WorkerConfig& config, const HostFacts& host);
std::string FindPreflightBinary(const v1::WorkerConfig& config, const HostFacts& host);

// Bytes that this process and its ranks may use: the machine's, or the control group's if less.
absl::StatusOr<int64_t> ProbeMemory();

// The bytes that /proc/meminfo calls MemTotal. DATA_LOSS: it doesn't.
absl::StatusOr<int64_t> ParseMemTotal(absl::string_view meminfo);

// A completed configuration as a Node whose CPU devices share `memory_bytes` evenly.
v1::Node DescribeNode(const v1::WorkerConfig& config, int64_t memory_bytes);

// Of a process of this user, from /proc; 0 when it is gone.
int64_t ResidentBytes(int64_t pid);

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_NODE_PROBE_H_
