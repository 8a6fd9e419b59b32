// What the models say of a layout, as the fields of a prediction.
#ifndef FATHOM_COORDINATOR_PLANNER_COST_STEP_FIELDS_H_
#define FATHOM_COORDINATOR_PLANNER_COST_STEP_FIELDS_H_

#include <string>

#include "common/model/layer_ops.h"
#include "coordinator/planner/cost/memory_model.h"
#include "coordinator/planner/cost/step_model.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

std::string ToString(model::Recomputation recomputation);  // "none", "selective", "full"

// Without what depends on where it lies.
v1::PredictedLayout ToProto(const LayoutShape& layout, const std::string& schedule);

// The step with its breakdown and assumptions, stages without parameters and ops, ranks without
// memory. `step` is the layout's.
void FillStep(const LayoutShape& layout, const StepTimes& step, v1::Prediction* prediction);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_COST_STEP_FIELDS_H_
