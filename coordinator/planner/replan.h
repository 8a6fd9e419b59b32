// A job's next plan from its last one, when nodes are lost, drained, or come back.
//
// Ranks stay where they are as far as they can: what stays keeps its process and its state in
// memory. What must leave a node leaves as a block: to the successor named for the node, to one
// spare that fits, to one other node that fits, or else spread over free devices; a rank and its
// mirror, which hold the same weights, are kept on different nodes, then in different failure
// domains, then under different leaves, and a block near the rest of its expert groups, where there
// is a choice. Where nothing fits, a job of several replicas can drop some:
// the samples of a step stay the same, as its other lanes take more micro-batches each.
//
// Pure: the same input always gives the same answer.
#ifndef FATHOM_COORDINATOR_PLANNER_REPLAN_H_
#define FATHOM_COORDINATOR_PLANNER_REPLAN_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/planner/rank_assignment.h"
#include "proto/fathom/v1/plan.pb.h"

namespace fathom::planner {

struct ReplanNode {
  NodeCapacity capacity;  // its free devices, the job's own included
  bool spare = false;
};

struct ReplanRequest {
  const v1::Plan* previous = nullptr;
  uint64_t epoch = 0;
  // What the user asked for; the previous plan may have fewer replicas.
  const v1::JobSpec* asked = nullptr;
  std::set<std::string> vacate;  // nodes whose ranks must leave; their devices are not used
  std::vector<ReplanNode> nodes;
  std::map<std::string, std::string> successor;  // of a vacated node: preferred, not required
};

// The same shape on other devices. A point to resume from is the caller's to set, as is CheckPlan.
// RESOURCE_EXHAUSTED: too few free devices; says how many. INVALID_ARGUMENT: as AssignRanks.
absl::StatusOr<v1::Plan> Replan(const ReplanRequest& request);

// As many replicas as fit, at most those asked for; may be more or fewer than the previous plan
// has. Replicas of which most survives stay. Same codes.
absl::StatusOr<v1::Plan> Reshape(const ReplanRequest& request);

// Micro-batches per lane with `replicas` instead of those asked for, so that a step's samples stay
// the same; 0: it can't be divided so.
int64_t MicroBatchesWith(const v1::JobSpec& asked, int replicas);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_REPLAN_H_
