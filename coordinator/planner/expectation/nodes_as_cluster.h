// A cluster as its nodes report it, in the planner's terms: what a plan that runs is predicted on.
#ifndef FATHOM_COORDINATOR_PLANNER_EXPECTATION_NODES_AS_CLUSTER_H_
#define FATHOM_COORDINATOR_PLANNER_EXPECTATION_NODES_AS_CLUSTER_H_

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/cluster/topology.h"
#include "proto/fathom/v1/cluster.pb.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom::planner {

struct ReportedCluster {
  cluster::Topology topology;
  std::map<std::string, int> index_of;  // of a node's name: into topology.nodes()
};

// Nodes of one machine and kind are a pool that shares the machine's cores; other nodes of a kind
// are a pool. `profiles` take the place of built-in ones of their kinds. NOT_FOUND: a device is of
// a kind that has no profile; INVALID_ARGUMENT: a node without devices, or none at all.
absl::StatusOr<ReportedCluster> ClusterOfNodes(const std::vector<v1::Node>& nodes,
                                               const std::vector<v1::DeviceProfile>& profiles);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_EXPECTATION_NODES_AS_CLUSTER_H_
