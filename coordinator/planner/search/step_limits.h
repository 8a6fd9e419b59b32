// What keeps a step from being shorter, in sentences, most first.
#ifndef FATHOM_COORDINATOR_PLANNER_SEARCH_STEP_LIMITS_H_
#define FATHOM_COORDINATOR_PLANNER_SEARCH_STEP_LIMITS_H_

#include <string>
#include <vector>

#include "coordinator/planner/cost/memory_model.h"
#include "coordinator/planner/cost/step_model.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

// `usable_bytes`: of a device's memory.
std::vector<std::string> StepLimits(const LayoutShape& layout, const StepTimes& step,
                                    const v1::PredictedMemory& memory, int64_t usable_bytes);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_SEARCH_STEP_LIMITS_H_
