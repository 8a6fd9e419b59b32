#include "coordinator/planner/cost/step_model.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "coordinator/planner/cost/assumptions.h"
#include "coordinator/planner/cost/stage_cost.h"
#include "coordinator/planner/cost/step_end.h"

namespace fathom::planner {
namespace {

constexpr double kGiga = 1e9;
constexpr double kMicro = 1e-6;

absl::Status CheckSchedule(const CostInput& input, const schedule::Schedule& schedule) {
  const LayoutShape& layout = input.layout;
  if (schedule.ranks != layout.parallelism.pipeline() ||
      schedule.micro_batches != layout.micro_batches ||
      schedule.stages != static_cast<int>(layout.stage_layers.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("the schedule ", schedule.kind, " is for ", schedule.ranks, " ranks, ",
                     schedule.micro_batches, " micro-batches and ", schedule.stages,
                     " stages, the layout has ", layout.parallelism.pipeline(), ", ",
                     layout.micro_batches, " and ", layout.stage_layers.size()));
  }
  return absl::OkStatus();
}

// Activations of a micro-batch to the next stage, over the slowest way that a lane has.
double MessageSeconds(const CostInput& input) {
  const v1::Parallelism& shape = input.layout.parallelism;
  const double bytes = static_cast<double>(input.layout.micro_batch_sequences) *
                       static_cast<double>(input.layout.sequence_length) *
                       static_cast<double>(input.config.hidden_size) *
                       static_cast<double>(model::BytesOf(input.recipe.activations));
  double slowest = 0;
  for (int replica = 0; replica < shape.replicas(); ++replica) {
    for (int e = 0; e < shape.expert(); ++e) {
      for (int r = 0; r + 1 < shape.pipeline(); ++r) {
        const auto& from = PlaceOf(input, replica, e, r);
        const auto& to = PlaceOf(input, replica, e, r + 1);
        const cluster::Path path =
            input.topology.Between(from.node, from.device, to.node, to.device);
        slowest = std::max(slowest,
                           bytes / (path.gigabytes_per_second * kGiga) + path.latency_us * kMicro);
      }
    }
  }
  return slowest;
}

// Of every pair of stages that one rank may overlap.
absl::StatusOr<std::vector<double>> PairCosts(const CostInput& input, StageCostModel* stages) {
  const int count = static_cast<int>(input.layout.stage_layers.size());
  const int ranks = input.layout.parallelism.pipeline();
  std::vector<double> out(static_cast<size_t>(count) * count, -1);
  for (int f = 0; f < count; ++f) {
    for (int b = 0; b < count; ++b) {
      const int rank = f % ranks;
      if (b % ranks != rank && b % ranks != ranks - 1 - rank) continue;
      FATHOM_ASSIGN_OR_RETURN(const StreamTimes pair, stages->Pair(f, b));
      out[static_cast<size_t>(f) * count + b] = pair.seconds;
    }
  }
  return out;
}

// A rank's part of the breakdown.
v1::StepBreakdown BusyOf(const schedule::Schedule& schedule, int rank,
                         const schedule::StepCosts& costs) {
  v1::StepBreakdown out;
  for (const schedule::Instruction& one : schedule.lists[rank]) {
    const int stage = schedule::StageOf(schedule, rank, one.first.direction, one.first.chunk);
    if (one.overlapped) {
      const int backward =
          schedule::StageOf(schedule, rank, one.second.direction, one.second.chunk);
      out.set_overlapped_s(out.overlapped_s() +
                           schedule::PairCostOf(costs, schedule.stages, stage, backward));
      continue;
    }
    const double cost = schedule::CostOf(costs, one.first.kind, stage);
    switch (one.first.kind) {
      case schedule::OpKind::kForward:
        out.set_forward_s(out.forward_s() + cost);
        break;
      case schedule::OpKind::kBackward:
      case schedule::OpKind::kBackwardInput:
        out.set_backward_s(out.backward_s() + cost);
        break;
      case schedule::OpKind::kWeight:
        out.set_weight_s(out.weight_s() + cost);
        break;
    }
  }
  return out;
}

void FillBreakdown(const schedule::Schedule& schedule, StepTimes* step) {
  int busiest = 0;
  for (int rank = 1; rank < schedule.ranks; ++rank) {
    if (step->simulation.ranks[rank].busy > step->simulation.ranks[busiest].busy) busiest = rank;
  }
  v1::StepBreakdown& parts = step->breakdown;
  parts = BusyOf(schedule, busiest, step->costs);
  const double busy =
      parts.forward_s() + parts.backward_s() + parts.weight_s() + parts.overlapped_s();
  parts.set_bubble_s(std::max(0.0, step->simulation.makespan - busy));
  parts.set_reduce_s(step->reduce_s);
  parts.set_optimizer_s(step->optimizer_s);
  parts.set_other_s(step->other_s);
  step->seconds =
      busy + parts.bubble_s() + parts.reduce_s() + parts.optimizer_s() + parts.other_s();
}

absl::StatusOr<StepTimes> PredictOnce(const CostInput& input, const schedule::Schedule& schedule,
                                      const schedule::CompiledSchedule& compiled,
                                      const Choices& choices) {
  LayoutShape layout = input.layout;
  if (choices.balanced) layout.imbalance = 1;
  const CostInput chosen = {input.config, input.recipe, layout, input.topology, input.placement};
  FATHOM_ASSIGN_OR_RETURN(StageCostModel stages, StageCostModel::Make(chosen, choices.profile));
  StepTimes step;
  for (int s = 0; s < schedule.stages; ++s) {
    FATHOM_ASSIGN_OR_RETURN(StageTimes stage, stages.Stage(s));
    step.costs.stages.push_back(stage.costs);
    step.stages.push_back(std::move(stage));
  }
  FATHOM_ASSIGN_OR_RETURN(step.costs.pairs, PairCosts(chosen, &stages));
  step.message_s = choices.free_messages ? 0 : MessageSeconds(chosen);
  step.costs.message_time = step.message_s;
  FATHOM_ASSIGN_OR_RETURN(step.simulation, compiled.Simulate(step.costs));
  FATHOM_ASSIGN_OR_RETURN(const StepEnd end, EndOfStep(chosen, schedule, step.simulation, &stages));
  step.reduce_s = end.reduce_s;
  step.optimizer_s = end.optimizer_s;
  const double jitter = choices.steady ? 0 : kJitter;
  step.other_s = jitter * (step.simulation.makespan + step.reduce_s + step.optimizer_s);
  FillBreakdown(schedule, &step);
  return step;
}

}  // namespace

absl::StatusOr<std::vector<StageTimes>> TimesOfStages(const model::ModelConfig& config,
                                                      const model::PrecisionRecipe& recipe,
                                                      const LayoutShape& layout,
                                                      const cluster::Topology& topology,
                                                      const RankPlacement& placement) {
  const CostInput input = {config, recipe, layout, topology, placement};
  FATHOM_RETURN_IF_ERROR(CheckCostInput(input, /*with_stages=*/true));
  FATHOM_ASSIGN_OR_RETURN(StageCostModel stages, StageCostModel::Make(input));
  std::vector<StageTimes> out;
  for (size_t s = 0; s < layout.stage_layers.size(); ++s) {
    FATHOM_ASSIGN_OR_RETURN(StageTimes stage, stages.Stage(static_cast<int>(s)));
    out.push_back(std::move(stage));
  }
  return out;
}

absl::StatusOr<std::vector<schedule::StageCosts>> TimesOfLayers(
    const model::ModelConfig& config, const model::PrecisionRecipe& recipe,
    const LayoutShape& layout, const cluster::Topology& topology, const RankPlacement& placement) {
  const CostInput input = {config, recipe, layout, topology, placement};
  FATHOM_RETURN_IF_ERROR(CheckCostInput(input, /*with_stages=*/false));
  FATHOM_ASSIGN_OR_RETURN(StageCostModel stages, StageCostModel::Make(input));
  std::vector<schedule::StageCosts> out;
  schedule::StageCosts dense;
  for (int64_t layer = -1; layer <= config.num_hidden_layers; ++layer) {
    const bool again = layer > 0 && layer < config.num_hidden_layers &&
                       config.is_moe_layer(layer) == config.is_moe_layer(layer - 1);
    if (again) {
      out.push_back(out.back());
      continue;
    }
    FATHOM_ASSIGN_OR_RETURN(const schedule::StageCosts one, stages.LayerShare(layer));
    out.push_back(one);
  }
  return out;
}

absl::StatusOr<StepTimes> PredictStep(const model::ModelConfig& config,
                                      const model::PrecisionRecipe& recipe,
                                      const LayoutShape& layout, const schedule::Schedule& schedule,
                                      const cluster::Topology& topology,
                                      const RankPlacement& placement, bool with_assumptions) {
  const CostInput input = {config, recipe, layout, topology, placement};
  FATHOM_RETURN_IF_ERROR(CheckCostInput(input, /*with_stages=*/true));
  FATHOM_RETURN_IF_ERROR(CheckSchedule(input, schedule));
  FATHOM_ASSIGN_OR_RETURN(const schedule::CompiledSchedule compiled,
                          schedule::CompiledSchedule::Make(schedule));
  FATHOM_ASSIGN_OR_RETURN(StepTimes step, PredictOnce(input, schedule, compiled, Choices()));
  if (!with_assumptions) return step;
  for (const AskedAssumption& asked : AssumptionsOf(input)) {
    v1::Assumption assumption = asked.assumption;
    if (asked.without) {
      FATHOM_ASSIGN_OR_RETURN(const StepTimes without,
                              PredictOnce(input, schedule, compiled, *asked.without));
      assumption.set_adds_s(step.seconds - without.seconds);
    }
    step.assumptions.push_back(std::move(assumption));
  }
  return step;
}

}  // namespace fathom::planner
