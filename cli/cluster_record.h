// cluster.json of a local cluster's state folder: what `local up` started, for `status` and `down`.
#ifndef FATHOM_CLI_CLUSTER_RECORD_H_
#define FATHOM_CLI_CLUSTER_RECORD_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/daemon_process.h"

namespace fathom::cli {

struct ClusterShape {
  int nodes = 0;
  int ranks_per_node = 0;
  int spares = 0;

  friend bool operator==(const ClusterShape&, const ClusterShape&) = default;
};

struct DaemonRecord {
  std::string name;  // "coordinator", or the node's
  bool spare = false;
  ProcessIdentity process;
  std::string log;
};

struct ClusterRecord {
  ClusterShape shape;
  std::string address;                // the coordinator's; empty until it is known
  std::string metrics_address;        // the coordinator's
  std::vector<DaemonRecord> daemons;  // the coordinator first
};

// NOT_FOUND: no cluster was started in this folder. DATA_LOSS: a file that makes no sense.
absl::StatusOr<ClusterRecord> ReadClusterRecord(const std::string& state_folder);

// Durable when OK.
absl::Status WriteClusterRecord(const std::string& state_folder, const ClusterRecord& record);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_CLUSTER_RECORD_H_
