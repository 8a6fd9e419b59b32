#include "coordinator/planner/search/job_costs.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "common/base/check.h"
#include "common/base/status_util.h"
#include "common/model/model_cost.h"
#include "coordinator/planner/stage_split.h"
#include "coordinator/planner/topology_placement.h"

namespace fathom::planner {

JobCosts::JobCosts(model::ModelConfig config, model::PrecisionRecipe recipe,
                   const cluster::Topology* topology)
    : config_(std::move(config)), recipe_(std::move(recipe)), topology_(topology) {
  for (const model::ParameterSpec& parameter : model::AllParameters(config_)) {
    (parameter.kind == model::ParameterKind::kExpert ? expert_parameters_ : dense_parameters_) +=
        parameter.size();
  }
}

int64_t JobCosts::capacity_bytes() const {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (size_t node = 0; node < topology_->nodes().size(); ++node) {
    if (topology_->nodes()[node].spare) continue;
    const int64_t bytes = topology_->profile_of(static_cast<int>(node)).memory_bytes();
    if (bytes > 0) least = std::min(least, bytes);
  }
  return least;
}

int64_t JobCosts::usable_bytes() const {
  const auto part =
      static_cast<int64_t>(static_cast<double>(capacity_bytes()) * kReservedMemoryPart);
  return capacity_bytes() - std::min(part, kReservedMemoryBytes);
}

absl::StatusOr<const RankPlacement*> JobCosts::PlacementOf(const v1::Parallelism& parallelism) {
  const std::tuple<int, int, int> key = {parallelism.pipeline(), parallelism.expert(),
                                         parallelism.replicas()};
  const auto found = placements_.find(key);
  if (found != placements_.end()) return &found->second;
  FATHOM_ASSIGN_OR_RETURN(RankPlacement placement, PlaceLayout(parallelism, *topology_));
  return &placements_.emplace(key, std::move(placement)).first->second;
}

bool JobCosts::device_is_host() const {
  return !topology_->nodes().empty() && !topology_->profile_of(0).op_times().ops().empty();
}

absl::StatusOr<StepTimes> JobCosts::StepOf(const LayoutShape& layout,
                                           const schedule::Schedule& schedule,
                                           bool with_assumptions) {
  FATHOM_ASSIGN_OR_RETURN(const RankPlacement* placement, PlacementOf(layout.parallelism));
  return PredictStep(config_, recipe_, layout, schedule, *topology_, *placement, with_assumptions);
}

absl::StatusOr<std::vector<v1::PredictedMemory>> JobCosts::MemoryOf(
    const LayoutShape& layout, const schedule::Schedule& schedule) const {
  LayoutShape here = layout;
  here.device_is_host = device_is_host();
  return MemoryOfRanks(config_, recipe_, here, schedule);
}

absl::StatusOr<CostsByLayer> JobCosts::LayerCostsOf(const LayoutShape& layout) {
  FATHOM_ASSIGN_OR_RETURN(const RankPlacement* placement, PlacementOf(layout.parallelism));
  FATHOM_ASSIGN_OR_RETURN(const std::vector<schedule::StageCosts> times,
                          TimesOfLayers(config_, recipe_, layout, *topology_, *placement));
  FATHOM_CHECK(times.size() == config_.num_hidden_layers + 2) << times.size();
  // The streams of each kind of layer, from stages that hold one kind each.
  const int64_t dense = std::min(config_.first_k_dense_replace, config_.num_hidden_layers);
  const int64_t experts = config_.num_hidden_layers - dense;
  LayoutShape kinds = layout;
  kinds.stage_layers = {0, dense, experts, 0};
  FATHOM_ASSIGN_OR_RETURN(const std::vector<StageTimes> streams,
                          TimesOfStages(config_, recipe_, kinds, *topology_, *placement));
  auto part = [](const schedule::StageCosts& one, const StageTimes& kind, int64_t count) {
    const double share = 1 / static_cast<double>(std::max<int64_t>(1, count));
    return PartCosts{one, kind.compute_s * share, kind.communication_s * share};
  };
  CostsByLayer costs;
  costs.embedding = part(times.front(), streams[0], 1);
  costs.head = part(times.back(), streams[3], 1);
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    costs.layers.push_back(i < dense ? part(times[i + 1], streams[1], dense)
                                     : part(times[i + 1], streams[2], experts));
  }
  return costs;
}

int64_t JobCosts::LeastBytes(const LayoutShape& layout, const ScheduleForm& form) const {
  const v1::Parallelism& grid = layout.parallelism;
  const int directions = grid.pipeline() == 1 ? 1 : form.directions;
  const int64_t copies = int64_t{grid.replicas()} * directions;
  const model::StateBytes dense =
      model::StateOf({dense_parameters_, copies * grid.expert()}, recipe_);
  const model::StateBytes experts =
      model::StateOf({expert_parameters_ / grid.expert(), copies}, recipe_);
  const double whole = static_cast<double>(dense.total()) + static_cast<double>(experts.total());
  return static_cast<int64_t>(whole * directions / grid.pipeline());
}

CostFunctions JobCosts::Functions(int64_t sequence_length) {
  CostFunctions functions;
  functions.layers = [this](const LayoutShape& layout) { return LayerCostsOf(layout); };
  functions.step = [this](const LayoutShape& layout, const schedule::Schedule& schedule) {
    return StepOf(layout, schedule);
  };
  functions.memory =
      [this](const LayoutShape& layout,
             const schedule::Schedule& schedule) -> absl::StatusOr<v1::PredictedMemory> {
    FATHOM_ASSIGN_OR_RETURN(const auto memory, MemoryOf(layout, schedule));
    return Largest(memory);
  };
  functions.least_bytes = [this](const LayoutShape& layout, const ScheduleForm& form) {
    return LeastBytes(layout, form);
  };
  functions.usual_split = [this,
                           sequence_length](int stages) -> absl::StatusOr<std::vector<int64_t>> {
    return SplitLayers(CostsOf(config_, sequence_length), stages);
  };
  functions.nodes_of_group = [this](const v1::Parallelism& parallelism) {
    const auto placement = PlacementOf(parallelism);
    return placement.ok()
               ? StatisticsOf(parallelism, **placement, *topology_).nodes_per_expert_group
               : 0;
  };
  return functions;
}

const v1::PredictedMemory& Largest(const std::vector<v1::PredictedMemory>& memory) {
  FATHOM_CHECK(!memory.empty()) << "memory of no rank";
  return *std::max_element(memory.begin(), memory.end(),
                           [](const v1::PredictedMemory& a, const v1::PredictedMemory& b) {
                             return a.peak_bytes() < b.peak_bytes();
                           });
}

}  // namespace fathom::planner
