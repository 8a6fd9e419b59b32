// A layout's ranks on the nodes of a described cluster: the placement that costs, predictions and
// what-ifs are reckoned on. The same rules as for a real cluster (rank_assignment), over the nodes
// that are no spares.
//
// Where a scale-up domain spans several nodes, expert groups are kept within such domains first:
// they are what is near, more than a leaf is.
#ifndef FATHOM_COORDINATOR_PLANNER_TOPOLOGY_PLACEMENT_H_
#define FATHOM_COORDINATOR_PLANNER_TOPOLOGY_PLACEMENT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/cluster/topology.h"
#include "coordinator/planner/rank_assignment.h"
#include "coordinator/planner/rank_placement.h"
#include "proto/fathom/v1/job.pb.h"
#include "proto/fathom/v1/plan.pb.h"

namespace fathom::planner {

// Names that nodes' leaves and failure domains go by in plans.
std::string LeafName(const cluster::Topology& topology, int node);
std::string FailureDomainName(const cluster::Topology& topology, int node);

// Within the first pool that the layout fits in; where it fits in none, over all of them.
// RESOURCE_EXHAUSTED: too few devices; says how many are needed and how many there are.
absl::StatusOr<RankPlacement> PlaceLayout(const v1::Parallelism& shape,
                                          const cluster::Topology& topology);

// A plan on the described cluster, as MakePlan makes it on a real one, placed as above.
// Codes as MakePlan's.
absl::StatusOr<v1::Plan> PlanOnTopology(const std::string& job_id, uint64_t epoch,
                                        const v1::JobSpec& resolved,
                                        const cluster::Topology& topology);

struct PlacementStatistics {
  int nodes = 0;                    // with ranks
  int leaves_per_expert_group = 0;  // most that one group spans
  int nodes_per_expert_group = 0;
  // Shares of the pairs of a rank and its mirror; 0 without a pipeline.
  double mirrors_on_one_node = 0;
  double mirrors_on_one_leaf = 0;
  double mirrors_in_one_failure_domain = 0;
};
PlacementStatistics StatisticsOf(const v1::Parallelism& shape, const RankPlacement& placement,
                                 const cluster::Topology& topology);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_TOPOLOGY_PLACEMENT_H_
