// How long the state of a job takes to come to the ranks that lack it: from buddies' memory over
// the network, or from a checkpoint on storage.
#ifndef FATHOM_COORDINATOR_PLANNER_RESTORE_COST_H_
#define FATHOM_COORDINATOR_PLANNER_RESTORE_COST_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "common/cluster/topology.h"
#include "proto/fathom/v1/plan.pb.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

struct RestoreCost {
  double seconds = 0;
  int64_t bytes = 0;  // of the device, or with a checkpoint of the cluster, that they are read by
  std::string path;
  v1::Assumption assumption;
};

// From the memory of those who have it. Both plans are on nodes of the topology. Ranks that moved
// get their shard from its buddy of before; where the layout changed, all get a whole new shard.
// Then everyone gathers weights, as at any start.
absl::StatusOr<RestoreCost> RestoreFromMemory(const v1::Plan& before, const v1::Plan& after,
                                              const cluster::Topology& topology);

// All read a checkpoint; `written_first`: it has to be written before.
absl::StatusOr<RestoreCost> RestoreFromCheckpoint(const v1::Plan& after,
                                                  const cluster::Topology& topology,
                                                  bool written_first);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_RESTORE_COST_H_
