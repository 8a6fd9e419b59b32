// The best layout of a job on so many devices: the least step time among those that fit memory.
//
// It goes through every shape (layout_space), recomputation and schedule. What can't fit is left
// out by the bytes of its state alone; what can't win, by its arithmetic alone: no rank ends before
// its own work and the first micro-batch's way to it. The rest is simulated. Stages are split by
// predicted times, and those of the winner improved layer by layer.
//
// Costs come in as functions, so that the search knows no model of them. A layout that ranks can't
// run yet is told of but not taken, unless its schedule is asked for. Pure, one thread,
// deterministic.
#ifndef FATHOM_COORDINATOR_PLANNER_SEARCH_LAYOUT_SEARCH_H_
#define FATHOM_COORDINATOR_PLANNER_SEARCH_LAYOUT_SEARCH_H_

#include <cstdint>
#include <functional>
#include <optional>
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

// Times of one micro-batch.
struct LayerTimes {
  schedule::StageCosts embedding;
  std::vector<schedule::StageCosts> layers;
  schedule::StageCosts head;  // with MTP modules
};

// What layouts cost. `layers` and `least_bytes` look at a layout's shape, not at its stages.
struct CostFunctions {
  std::function<absl::StatusOr<LayerTimes>(const LayoutShape&)> layers;
  std::function<absl::StatusOr<StepTimes>(const LayoutShape&, const schedule::Schedule&)> step;
  // Of the rank that needs most.
  std::function<absl::StatusOr<v1::PredictedMemory>(const LayoutShape&, const schedule::Schedule&)>
      memory;
  // That no split can keep the largest peak below.
  std::function<int64_t(const LayoutShape&, const ScheduleForm&)> least_bytes;
  // That an expert group lies on; for sentences.
  std::function<int(const v1::Parallelism&)> nodes_of_group;
};

struct SearchRequest {
  SpaceLimits space;
  LayoutShape base;          // what all have: sequence length, imbalance, snapshots
  int64_t usable_bytes = 0;  // of a device's memory
  std::string schedule;      // only this kind, run by ranks or not; empty: all
  int candidates = 8;        // at most, in SearchResult.others
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

struct SearchResult {
  std::optional<CostedLayout> best;  // none: nothing fits
  // The best of each other shape, and of each schedule of the best one's; by time, what doesn't fit
  // last.
  std::vector<CostedLayout> others;
  int64_t considered = 0;
  int64_t infeasible = 0;  // by memory
  int64_t simulated = 0;
  bool leaves_idle = false;  // no layout that fits uses every device
};

// Codes of the cost functions; INVALID_ARGUMENT: no such schedule.
absl::StatusOr<SearchResult> SearchLayouts(const SearchRequest& request,
                                           const CostFunctions& costs);

// One layout's memory and, where it fits, its step. Its stages must be set.
absl::StatusOr<CostedLayout> CostLayout(const LayoutShape& layout,
                                        const schedule::Schedule& schedule, int64_t usable_bytes,
                                        const CostFunctions& costs);

// Splits that may be best, by the layers' times.
absl::StatusOr<std::vector<std::vector<int64_t>>> SplitsOf(const LayerTimes& times,
                                                           const ScheduleForm& form, int pipeline);

std::vector<schedule::StageCosts> StagesOf(const LayerTimes& times,
                                           const std::vector<int64_t>& stage_layers);

// Of a step, that no schedule of this form can beat.
double LeastSeconds(const std::vector<schedule::StageCosts>& stages, const ScheduleForm& form,
                    int pipeline, int64_t micro_batches);

// `base` with a shape's numbers.
LayoutShape WithShape(const LayoutShape& base, const Shape& shape,
                      model::Recomputation recomputation);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_SEARCH_LAYOUT_SEARCH_H_
