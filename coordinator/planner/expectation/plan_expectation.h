// What a step of a plan that runs should take on the nodes that it is on.
#ifndef FATHOM_COORDINATOR_PLANNER_EXPECTATION_PLAN_EXPECTATION_H_
#define FATHOM_COORDINATOR_PLANNER_EXPECTATION_PLAN_EXPECTATION_H_

#include <vector>

#include "absl/status/statusor.h"
#include "proto/fathom/v1/cluster.pb.h"
#include "proto/fathom/v1/hardware.pb.h"
#include "proto/fathom/v1/plan.pb.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

// Step, breakdown, stages, ranks and layout; no ops, profiles or search. `nodes` hold at least
// those of the plan, which has passed CheckPlan. FAILED_PRECONDITION: CPU devices without op times,
// or a node that isn't known. ClusterOfNodes' and PredictStep's codes.
absl::StatusOr<v1::Prediction> ExpectPlan(const v1::Plan& plan, const std::vector<v1::Node>& nodes,
                                          const std::vector<v1::DeviceProfile>& profiles);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_EXPECTATION_PLAN_EXPECTATION_H_
