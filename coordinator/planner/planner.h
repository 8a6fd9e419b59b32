// From a job and the free part of a cluster to a plan.
#ifndef FATHOM_COORDINATOR_PLANNER_PLANNER_H_
#define FATHOM_COORDINATOR_PLANNER_PLANNER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/planner/rank_assignment.h"
#include "proto/fathom/v1/plan.pb.h"

namespace fathom::planner {

// A plan that has passed CheckPlan, without a point to resume from: that is the caller's to set.
// `resolved` is a spec from ResolveJob. Experts go to the expert ranks in equal runs.
// RESOURCE_EXHAUSTED: too few free devices, and how many are missing. INVALID_ARGUMENT: a spec that
// is not resolved or sound, or nodes that contradict themselves.
absl::StatusOr<v1::Plan> MakePlan(const std::string& job_id, uint64_t epoch,
                                  const v1::JobSpec& resolved,
                                  const std::vector<NodeCapacity>& nodes);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_PLANNER_H_
