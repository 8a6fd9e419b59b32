// How long gradients take to be summed and weights to be gathered after the last micro-batch.
//
// ZeRO-1: every rank of a group that holds the same parameters receives the sum of its part (FP32),
// updates it, and sends the new weights to the others. A group's ring goes through each scale-up
// domain before the next, so that of S bytes a device sends S (L-1)/L within its domain of L
// members and S (D-1)/D / L over its own NIC to another of D; both at once, the slower counts.
#ifndef FATHOM_COORDINATOR_PLANNER_COST_REDUCE_TIME_H_
#define FATHOM_COORDINATOR_PLANNER_COST_REDUCE_TIME_H_

#include <vector>

#include "common/cluster/topology.h"
#include "coordinator/planner/rank_placement.h"

namespace fathom::planner {

// What a collective of some ranks depends on.
struct RingShape {
  int ranks = 1;
  int domains = 1;
  int ranks_per_domain = 1;  // fewest in one: they share out what leaves it
  cluster::Path network;     // slowest
  cluster::Path scale_up;
};
RingShape RingOf(const cluster::Topology& topology,
                 const std::vector<RankPlacement::Place>& places);

// Of `bytes` on every rank, so that each ends with the sum of its part; gathering the parts of so
// many bytes together takes as long.
double ReduceScatterSeconds(const RingShape& ring, double bytes);

// Of a few bytes, to all and back.
double SmallAllReduceSeconds(const RingShape& ring);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_COST_REDUCE_TIME_H_
