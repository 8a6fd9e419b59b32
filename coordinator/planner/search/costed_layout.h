// What a layout costs and how it is cut into stages: what the search weighs.
//
// Costs come in as functions, so that the search knows no model of them. Stages are split by
// predicted times.
#ifndef FATHOM_COORDINATOR_PLANNER_SEARCH_COSTED_LAYOUT_H_
#define FATHOM_COORDINATOR_PLANNER_SEARCH_COSTED_LAYOUT_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/schedule/event_simulator.h"
#include "common/schedule/instruction.h"
#include "coordinator/planner/cost/memory_model.h"
#include "coordinator/planner/cost/step_model.h"
#include "coordinator/planner/search/layout_space.h"
#include "coordinator/planner/search/schedule_form.h"

namespace fathom::planner {

// Times of one micro-batch through a part of the model. What is not overlapped in pairs has no
// streams.
struct PartCosts {
  schedule::StageCosts costs{0, 0, 0, 0, 0};
  double compute_s = 0;        // of an overlapped pair, busy
  double communication_s = 0;  // the same
};

struct CostsByLayer {
  PartCosts embedding;
  std::vector<PartCosts> layers;
  PartCosts head;  // with MTP modules
};

// What layouts cost. `layers` and `least_bytes` look at a layout's shape, not at its stages.
struct CostFunctions {
  std::function<absl::StatusOr<CostsByLayer>(const LayoutShape&)> layers;
  std::function<absl::StatusOr<StepTimes>(const LayoutShape&, const schedule::Schedule&)> step;
  // Of the rank that needs most.
  std::function<absl::StatusOr<v1::PredictedMemory>(const LayoutShape&, const schedule::Schedule&)>
      memory;
  // That no split can keep the largest peak below.
  std::function<int64_t(const LayoutShape&, const ScheduleForm&)> least_bytes;
  // Layers of each of so many stages as the coordinator's planner gives them: tried beside those by
  // times. May be left empty.
  std::function<absl::StatusOr<std::vector<int64_t>>(int stages)> usual_split;
  // That an expert group lies on; for sentences.
  std::function<int(const v1::Parallelism&)> nodes_of_group;
};

// A layout and what it costs. Where memory forbids it there is no step: `seconds` is a lower bound.
struct CostedLayout {
  LayoutShape layout;
  std::string schedule;
  bool run_by_ranks = false;
  bool fits = false;
  int64_t peak_bytes = 0;  // where not even its state fits, that
  double seconds = 0;
  v1::StepBreakdown breakdown;
  // Inside overlapped pairs, of the stage where it is most.
  double communication_over_compute = 0;
  std::string why;  // it isn't the best, in one sentence
};

// One layout's memory and, where it fits, its step. Its stages must be set.
absl::StatusOr<CostedLayout> CostLayout(const LayoutShape& layout,
                                        const schedule::Schedule& schedule, int64_t usable_bytes,
                                        const CostFunctions& costs);

// A micro-batch's forward and backward through a part, by which stages are balanced.
double BalancedWork(const PartCosts& part, bool pairs);

// Splits that may be best, by the layers' times.
absl::StatusOr<std::vector<std::vector<int64_t>>> SplitsOf(const CostsByLayer& times,
                                                           const ScheduleForm& form, int pipeline);

std::vector<PartCosts> StagesOf(const CostsByLayer& times,
                                const std::vector<int64_t>& stage_layers);

std::vector<schedule::StageCosts> StageCostsOf(const std::vector<PartCosts>& parts);

// Of a step, that no schedule of this form can beat.
double LeastSeconds(const std::vector<PartCosts>& stages, const ScheduleForm& form, int pipeline,
                    int64_t micro_batches);

// `base` with a shape's numbers.
LayoutShape WithShape(const LayoutShape& base, const Shape& shape,
                      model::Recomputation recomputation);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_SEARCH_COSTED_LAYOUT_H_
