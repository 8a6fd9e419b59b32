// Which device of which node each rank gets.
//
// Ranks of one expert group exchange every token, so a group lies on one node where it fits. A rank
// and its mirror hold the same weights, so they lie on different nodes where that is possible, and
// in different failure domains where that costs nothing else: one dead node then never takes both
// copies. No more nodes are used than that needs. The same input always gives the same answer.
#ifndef FATHOM_COORDINATOR_PLANNER_RANK_ASSIGNMENT_H_
#define FATHOM_COORDINATOR_PLANNER_RANK_ASSIGNMENT_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/fathom/v1/plan.pb.h"

namespace fathom::planner {

struct NodeCapacity {
  std::string name;
  std::vector<int> free_devices;
  std::string failure_domain;  // such as a rack or a power feed; empty: unknown
  std::string leaf;            // switch that it is under; empty: unknown
};

// In rank order. RESOURCE_EXHAUSTED: too few free devices; says how many are needed and how many
// are free. INVALID_ARGUMENT: a node without a name or twice in the list, a device twice on its
// node.
absl::StatusOr<std::vector<v1::RankAssignment>> AssignRanks(const v1::Parallelism& shape,
                                                            const std::vector<NodeCapacity>& nodes);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_RANK_ASSIGNMENT_H_
