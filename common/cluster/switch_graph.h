// The explicit network of a cluster file: which switch each node hangs on, and whether the switches
// make a network at all.
//
// Traffic goes up to a switch that both ends reach, then down; so a network is whole when every two
// leaves reach a common top switch.
#ifndef FATHOM_COMMON_CLUSTER_SWITCH_GRAPH_H_
#define FATHOM_COMMON_CLUSTER_SWITCH_GRAPH_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom::cluster {

// "pool-3", or "pool-[0-31]" (both ends included) as the 32 names it stands for. INVALID_ARGUMENT:
// a range that can't be read, runs backwards or has more nodes than a cluster may.
absl::StatusOr<std::vector<std::string>> ExpandNodes(absl::string_view text);

std::string NodeName(const v1::Pool& pool, int index);

// Of each node, pool by pool, the index of its leaf among the switches that have nodes. All 0s
// if the spec has no switches. Pools are resolved.
// INVALID_ARGUMENT, naming the switch and what would do: no or a doubled name, an unknown switch or
// node, a cycle, a node under no switch or two, a switch with nothing under it, leaves that reach
// no common top switch.
absl::StatusOr<std::vector<int>> LeavesOfNodes(const v1::ClusterSpec& spec);

}  // namespace fathom::cluster

#endif  // FATHOM_COMMON_CLUSTER_SWITCH_GRAPH_H_
