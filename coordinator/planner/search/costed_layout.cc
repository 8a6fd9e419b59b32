#include "coordinator/planner/search/costed_layout.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "common/base/check.h"
#include "common/base/status_util.h"
#include "coordinator/planner/search/pair_split.h"
#include "coordinator/planner/stage_split.h"

namespace fathom::planner {
namespace {

using model::Recomputation;
using schedule::StageCosts;

constexpr double kNever = std::numeric_limits<double>::infinity();

void Add(const PartCosts& more, PartCosts* sum) {
  sum->costs.forward += more.costs.forward;
  sum->costs.backward += more.costs.backward;
  sum->costs.backward_input += more.costs.backward_input;
  sum->costs.weight += more.costs.weight;
  sum->costs.overlapped += more.costs.overlapped;
  sum->compute_s += more.compute_s;
  sum->communication_s += more.communication_s;
}

double BackwardOf(const StageCosts& costs) {
  return std::min(costs.backward, costs.backward_input + costs.weight);
}

// BalancedWork, that no pairing with other stages can beat: each stream does its own work.
double LeastWorkOf(const PartCosts& part, bool pairs) {
  const double apart = part.costs.forward + BackwardOf(part.costs);
  return pairs ? std::min(apart, std::max(part.compute_s, part.communication_s)) : apart;
}

std::vector<int> StagesHeld(const ScheduleForm& form, int pipeline, int rank) {
  if (pipeline == 1) return {0};
  const int stages = form.stages(pipeline);
  if (form.mirrored) return {rank, stages - 1 - rank};
  std::vector<int> held;
  for (int chunk = 0; chunk < form.chunks; ++chunk) held.push_back(chunk * pipeline + rank);
  return held;
}

}  // namespace

double BalancedWork(const PartCosts& part, bool pairs) {
  const double apart = part.costs.forward + BackwardOf(part.costs);
  return pairs ? std::min(apart, part.costs.overlapped) : apart;
}

std::vector<StageCosts> StageCostsOf(const std::vector<PartCosts>& parts) {
  std::vector<StageCosts> costs;
  for (const PartCosts& part : parts) costs.push_back(part.costs);
  return costs;
}

LayoutShape WithShape(const LayoutShape& base, const Shape& shape, Recomputation recomputation) {
  LayoutShape layout = base;
  layout.parallelism = shape.parallelism;
  layout.micro_batches = shape.micro_batches;
  layout.micro_batch_sequences = shape.micro_batch_sequences;
  layout.recomputation = recomputation;
  layout.stage_layers.clear();
  return layout;
}

std::vector<PartCosts> StagesOf(const CostsByLayer& times,
                                const std::vector<int64_t>& stage_layers) {
  std::vector<PartCosts> stages(stage_layers.size());
  size_t layer = 0;
  for (size_t i = 0; i < stages.size(); ++i) {
    for (int64_t n = 0; n < stage_layers[i]; ++n) Add(times.layers[layer++], &stages[i]);
  }
  FATHOM_CHECK(layer == times.layers.size()) << layer << " of " << times.layers.size();
  Add(times.embedding, &stages.front());
  Add(times.head, &stages.back());
  return stages;
}

absl::StatusOr<std::vector<std::vector<int64_t>>> SplitsOf(const CostsByLayer& times,
                                                           const ScheduleForm& form, int pipeline) {
  LayerCosts costs;
  for (const PartCosts& layer : times.layers)
    costs.layers.push_back(BalancedWork(layer, form.pairs));
  costs.embedding = BalancedWork(times.embedding, form.pairs);
  costs.head = BalancedWork(times.head, form.pairs);
  const int stages = form.stages(pipeline);
  FATHOM_ASSIGN_OR_RETURN(std::vector<int64_t> simple, SplitLayers(costs, stages));
  std::vector<std::vector<int64_t>> splits = {std::move(simple)};
  if (form.mirrored && pipeline > 1) {
    FATHOM_ASSIGN_OR_RETURN(std::vector<int64_t> paired, SplitPairs(costs, stages));
    if (paired != splits[0]) splits.push_back(std::move(paired));
  }
  return splits;
}

double LeastSeconds(const std::vector<PartCosts>& stages, const ScheduleForm& form, int pipeline,
                    int64_t micro_batches) {
  // Of a stage: the first micro-batch's way there, and the last one's back.
  std::vector<double> there(stages.size());
  std::vector<double> back(stages.size());
  for (size_t i = 1; i < stages.size(); ++i) {
    const StageCosts& before = stages[i - 1].costs;
    there[i] = there[i - 1] + before.forward;
    back[i] = back[i - 1] + std::min(before.backward, before.backward_input);
  }
  const double passes = static_cast<double>(micro_batches) / form.directions;
  double least = 0;
  for (int rank = 0; rank < pipeline; ++rank) {
    double work = 0;
    double weights = 0;  // that may come after the last backward
    double first = kNever;
    double last = kNever;
    for (int stage : StagesHeld(form, pipeline, rank)) {
      work += passes * LeastWorkOf(stages[stage], form.pairs);
      weights += passes * stages[stage].costs.weight;
      first = std::min(first, there[stage]);
      last = std::min(last, back[stage]);
    }
    least = std::max({least, first + work, first + std::max(0.0, work - weights) + last});
  }
  return least;
}

absl::StatusOr<CostedLayout> CostLayout(const LayoutShape& layout,
                                        const schedule::Schedule& schedule, int64_t usable_bytes,
                                        const CostFunctions& costs) {
  CostedLayout result;
  result.layout = layout;
  result.schedule = schedule.kind;
  result.run_by_ranks = RunByRanks(schedule.kind, layout.recomputation);
  FATHOM_ASSIGN_OR_RETURN(const v1::PredictedMemory memory, costs.memory(layout, schedule));
  result.peak_bytes = memory.peak_bytes();
  result.fits = result.peak_bytes <= usable_bytes;
  if (!result.fits) return result;
  FATHOM_ASSIGN_OR_RETURN(const StepTimes step, costs.step(layout, schedule));
  result.seconds = step.seconds;
  result.breakdown = step.breakdown;
  for (const StageTimes& stage : step.stages) {
    if (stage.compute_s <= 0) continue;
    result.communication_over_compute =
        std::max(result.communication_over_compute, stage.communication_s / stage.compute_s);
  }
  return result;
}

}  // namespace fathom::planner
