// Whether a plan's state outlives the loss of nodes, leaves and failure domains, in memory alone.
//
// What can be lost is a rank's shard: FP32 masters and moments of the parts it owns. It lives on
// the rank itself and, with snapshots, on its buddy (common/plan/buddy). Weights follow from the
// masters of all ranks that hold them, so whatever leaves every shard a holder leaves a whole copy
// of all state; and where a shard is lost, memory has no whole step any more, even if weights are
// left on mirrors and replicas. Hence the proof: a set of nodes is fatal exactly if it contains all
// nodes of some shard's holders. Takes time near linear in the ranks.
#ifndef FATHOM_COORDINATOR_PLANNER_SURVIVABILITY_H_
#define FATHOM_COORDINATOR_PLANNER_SURVIVABILITY_H_

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "common/cluster/topology.h"
#include "coordinator/planner/rank_placement.h"
#include "proto/fathom/v1/plan.pb.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

// `plan` has passed CheckPlan; where its nodes lie is in plan.nodes. A fatal pair is one that takes
// all of something that neither of the two takes alone. Where some node's leaf isn't known, that
// any leaf may be lost isn't claimed; a node of unknown failure domain fails alone.
v1::Survivability SurvivabilityOf(const v1::Plan& plan);

// The same of a layout that is no plan yet. `snapshot_every_steps`: as in v1::Recovery, 0: none.
v1::Survivability SurvivabilityOf(const v1::Parallelism& shape, int64_t routed_experts,
                                  int64_t snapshot_every_steps, const RankPlacement& placement,
                                  const cluster::Topology& topology);

// State of which no copy is left in memory once these nodes are gone, in words as in
// NodePair.holds; empty: none.
std::vector<std::string> LostWith(const v1::Plan& plan, const std::set<std::string>& nodes);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_SURVIVABILITY_H_
