// Which device of which node each rank gets.
//
// Ranks of one expert group exchange every token, so a group lies on one node where it fits, and
// else under as few leaf switches as possible. A rank and its mirror hold the same weights, so they
// lie on different nodes where that is possible, and in different failure domains and under
// different leaves where that costs nothing else: what fails together then never takes both copies.
// A leaf is what is near in the network, a failure domain what fails together. No more nodes are
// used than that needs. The same input always gives the same answer, in time near linear in the
// ranks.
#ifndef FATHOM_COORDINATOR_PLANNER_RANK_ASSIGNMENT_H_
#define FATHOM_COORDINATOR_PLANNER_RANK_ASSIGNMENT_H_

#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/planner/node_order.h"
#include "proto/fathom/v1/plan.pb.h"

namespace fathom::planner {

// In rank order. RESOURCE_EXHAUSTED: too few free devices; says how many are needed and how many
// are free. INVALID_ARGUMENT: a node without a name or twice in the list, a device twice on its
// node.
absl::StatusOr<std::vector<v1::RankAssignment>> AssignRanks(const v1::Parallelism& shape,
                                                            const std::vector<NodeCapacity>& nodes);

// Lists in plan->nodes() those of `nodes` that its ranks are on, by name.
void SetPlannedNodes(const std::vector<NodeCapacity>& nodes, v1::Plan* plan);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_RANK_ASSIGNMENT_H_
