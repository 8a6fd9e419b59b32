// How long a step takes, from first principles: every op's roofline with measured efficiencies by
// shape, compute and communication overlapped inside a pair, the pipeline's own waiting (the event
// simulator), gradient reduction and the optimizer. No factor is fitted to a published total: all
// that is taken for granted is listed, with its source and what it adds.
//
// On devices whose op times are measured (CPU ranks) coordinator/planner/calibration reckons
// instead.
//
// The parts: op_rate (an op), op_fusion (which ops are one kernel), exchange_time (tokens to their
// experts), layer_time (a layer), pair_overlap (a stage), reduce_time (the end of a step).
#ifndef FATHOM_COORDINATOR_PLANNER_COST_STEP_MODEL_H_
#define FATHOM_COORDINATOR_PLANNER_COST_STEP_MODEL_H_

#include <vector>

#include "absl/status/statusor.h"
#include "common/cluster/topology.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "common/schedule/compiled_schedule.h"
#include "common/schedule/instruction.h"
#include "common/schedule/step_costs.h"
#include "coordinator/planner/cost/memory_model.h"
#include "coordinator/planner/cost/stage_times.h"
#include "coordinator/planner/rank_placement.h"
#include "proto/fathom/v1/hardware.pb.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

struct StepTimes {
  std::vector<StageTimes> stages;
  schedule::StepCosts costs;  // of the simulation: with each pair of stages, and the messages
  double message_s = 0;       // activations from a stage to the next
  double reduce_s = 0;        // not hidden
  double optimizer_s = 0;
  double other_s = 0;
  std::vector<v1::Assumption> assumptions;
  schedule::Simulation simulation;
  v1::StepBreakdown breakdown;  // its parts add up to `seconds`
  double seconds = 0;
};

// All: the layout names as many stages as it likes; stage s lies on pipeline ranks s mod P and
// P - 1 - s mod P. INVALID_ARGUMENT: layout, schedule and placement contradict each other; a device
// has no rate for an op that the model needs.

// Stage times alone are what the search asks for; a layout's step asks for a schedule as well.
absl::StatusOr<std::vector<StageTimes>> TimesOfStages(const model::ModelConfig& config,
                                                      const model::PrecisionRecipe& recipe,
                                                      const LayoutShape& layout,
                                                      const cluster::Topology& topology,
                                                      const RankPlacement& placement);

// What one layer adds to a stage, whichever it lies on: the embedding, every layer, the head with
// the MTP modules. `stage_layers` is not looked at.
absl::StatusOr<std::vector<schedule::StageCosts>> TimesOfLayers(
    const model::ModelConfig& config, const model::PrecisionRecipe& recipe,
    const LayoutShape& layout, const cluster::Topology& topology, const RankPlacement& placement);

// `with_assumptions`: also says what each assumption adds, which takes a few more predictions.
absl::StatusOr<StepTimes> PredictStep(const model::ModelConfig& config,
                                      const model::PrecisionRecipe& recipe,
                                      const LayoutShape& layout, const schedule::Schedule& schedule,
                                      const cluster::Topology& topology,
                                      const RankPlacement& placement,
                                      bool with_assumptions = false);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_COST_STEP_MODEL_H_
