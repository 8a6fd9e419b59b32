// How long a step takes, from first principles: every op's roofline with measured efficiencies by
// shape, compute and communication overlapped inside a pair, the pipeline's own waiting (the event
// simulator), gradient reduction and the optimizer. No factor is fitted to a published total: all
// that is taken for granted is listed, with its source and what it adds.
#ifndef FATHOM_COORDINATOR_PLANNER_COST_STEP_MODEL_H_
#define FATHOM_COORDINATOR_PLANNER_COST_STEP_MODEL_H_

#include <vector>

#include "absl/status/statusor.h"
#include "common/cluster/topology.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "common/schedule/event_simulator.h"
#include "common/schedule/instruction.h"
#include "coordinator/planner/cost/memory_model.h"
#include "coordinator/planner/rank_placement.h"
#include "proto/fathom/v1/hardware.pb.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

// Times of one micro-batch through one stage, seconds, on the slowest device that holds it.
struct StageTimes {
  schedule::StageCosts costs;
  double compute_s = 0;  // of an overlapped pair, per stream
  double communication_s = 0;
  std::vector<v1::PredictedOp> ops;
};

struct StepTimes {
  std::vector<StageTimes> stages;
  double message_s = 0;  // activations from a stage to the next
  double reduce_s = 0;   // not hidden
  double optimizer_s = 0;
  double other_s = 0;
  std::vector<v1::Assumption> assumptions;
  schedule::Simulation simulation;
  v1::StepBreakdown breakdown;
  double seconds = 0;
};

// Stage times alone are what the search asks for; a layout's step asks for a schedule as well.
absl::StatusOr<std::vector<StageTimes>> TimesOfStages(const model::ModelConfig& config,
                                                      const model::PrecisionRecipe& recipe,
                                                      const LayoutShape& layout,
                                                      const cluster::Topology& topology,
                                                      const RankPlacement& placement);

// INVALID_ARGUMENT: layout, schedule and placement contradict each other; a device has no rate for
// an op the model needs.
absl::StatusOr<StepTimes> PredictStep(const model::ModelConfig& config,
                                      const model::PrecisionRecipe& recipe,
                                      const LayoutShape& layout, const schedule::Schedule& schedule,
                                      const cluster::Topology& topology,
                                      const RankPlacement& placement);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_COST_STEP_MODEL_H_
