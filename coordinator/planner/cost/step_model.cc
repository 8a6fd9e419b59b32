#include "coordinator/planner/cost/step_model.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "coordinator/planner/calibration/cpu_step.h"
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
std::vector<double> PairCosts(const CostInput& input, StageCostModel* stages) {
  const int count = static_cast<int>(input.layout.stage_layers.size());
  const int ranks = input.layout.parallelism.pipeline();
  std::vector<double> out(static_cast<size_t>(count) * count, -1);
  for (int f = 0; f < count; ++f) {
    for (int b = 0; b < count; ++b) {
      const int rank = f % ranks;
      if (b % ranks != rank && b % ranks != ranks - 1 - rank) continue;
      out[static_cast<size_t>(f) * count + b] = stages->Pair(f, b).seconds;
    }
  }
  return out;
}

// Messages as the public DualPipe code has them: an instruction's are posted together before it,
// and it starts when they are through. So they take a rank's time, one for a pass and two for a
// pair, and nothing goes on beside them.
void WaitForMessages(double message_s, schedule::StepCosts* costs) {
  for (schedule::StageCosts& stage : costs->stages) {
    stage.forward += message_s;
    stage.backward += message_s;
    stage.backward_input += message_s;
    stage.overlapped += 2 * message_s;
  }
  for (double& pair : costs->pairs) {
    if (pair >= 0) pair += 2 * message_s;
  }
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

// --- Machines whose op times are measured: CPU ranks (coordinator/planner/calibration) ---

// The op times to go by: null where times come from rates. INVALID_ARGUMENT: some devices have
// them and others don't.
absl::StatusOr<const v1::OpTimes*> OpTimesOf(const CostInput& input) {
  const auto& places = input.placement.places;
  const v1::DeviceProfile& first = input.topology.profile_of(places[0].node);
  for (const RankPlacement::Place& place : places) {
    const v1::DeviceProfile& profile = input.topology.profile_of(place.node);
    if ((profile.op_times().ops_size() > 0) != (first.op_times().ops_size() > 0)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "ranks on ", first.kind(), " and on ", profile.kind(),
          " can't be timed together: one has op_times, the other rates; place them in one pool"));
    }
  }
  return first.op_times().ops_size() > 0 ? &first.op_times() : nullptr;
}

CpuJob CpuJobOf(const CostInput& input) {
  CpuJob job;
  job.config = &input.config;
  job.recipe = &input.recipe;
  job.parallelism = input.layout.parallelism;
  job.stage_layers = input.layout.stage_layers;
  job.micro_batch = MicroBatchOf(input);
  job.micro_batch.imbalance = 1;  // op_times say how experts' loads spread
  job.recomputation = input.layout.recomputation;
  job.snapshots = input.layout.snapshots_on_buddy;
  return job;
}

StageTimes FromCpu(CpuStage stage) {
  StageTimes out;
  out.costs = stage.costs;
  out.compute_s = stage.costs.overlapped;
  out.ops = std::move(stage.ops);
  return out;
}

absl::StatusOr<std::vector<StageTimes>> CpuStages(const CpuJob& job, const v1::OpTimes& times) {
  FATHOM_ASSIGN_OR_RETURN(std::vector<CpuStage> stages, CpuTimesOfStages(job, times));
  std::vector<StageTimes> out;
  for (CpuStage& stage : stages) out.push_back(FromCpu(std::move(stage)));
  return out;
}

// Each layer on a stage of its own, and the ends on theirs.
absl::StatusOr<std::vector<schedule::StageCosts>> CpuLayers(const CostInput& input,
                                                            const v1::OpTimes& times) {
  CpuJob job = CpuJobOf(input);
  job.stage_layers.assign(input.config.num_hidden_layers + 2, 1);
  job.stage_layers.front() = 0;
  job.stage_layers.back() = 0;
  FATHOM_ASSIGN_OR_RETURN(const std::vector<CpuStage> stages, CpuTimesOfStages(job, times));
  std::vector<schedule::StageCosts> out;
  for (const CpuStage& stage : stages) out.push_back(stage.costs);
  return out;
}

absl::StatusOr<StepTimes> CpuPrediction(const CostInput& input, const schedule::Schedule& schedule,
                                        const v1::OpTimes& times) {
  FATHOM_ASSIGN_OR_RETURN(CpuStep cpu,
                          PredictCpuStep(CpuJobOf(input), schedule,
                                         PlacesOn(input.topology, input.placement, times), times));
  StepTimes step;
  for (CpuStage& stage : cpu.stages) {
    step.message_s = std::max(step.message_s, stage.message_s);
    step.stages.push_back(FromCpu(std::move(stage)));
    step.costs.stages.push_back(step.stages.back().costs);
  }
  step.costs.message_time = step.message_s;
  step.reduce_s = cpu.reduce_s;
  step.optimizer_s = cpu.optimizer_s;
  step.other_s = cpu.other_s;
  step.assumptions = std::move(cpu.assumptions);
  step.simulation = std::move(cpu.simulation);
  step.breakdown = cpu.breakdown;
  step.seconds = cpu.seconds;
  return step;
}

// --- Accelerators ---

absl::StatusOr<StepTimes> PredictOnce(const CostInput& input, const schedule::Schedule& schedule,
                                      const schedule::CompiledSchedule& compiled,
                                      const Choices& choices) {
  LayoutShape layout = input.layout;
  if (choices.balanced) layout.imbalance = 1;
  const CostInput chosen = {input.config, input.recipe, layout, input.topology, input.placement};
  FATHOM_ASSIGN_OR_RETURN(StageCostModel stages, StageCostModel::Make(chosen, choices.profile));
  StepTimes step;
  for (int s = 0; s < schedule.stages; ++s) {
    step.stages.push_back(stages.Stage(s));
    step.costs.stages.push_back(step.stages.back().costs);
  }
  step.costs.pairs = PairCosts(chosen, &stages);
  step.message_s = choices.free_messages ? 0 : MessageSeconds(chosen);
  WaitForMessages(step.message_s, &step.costs);
  FATHOM_ASSIGN_OR_RETURN(step.simulation, compiled.Simulate(step.costs));
  const StepEnd end = EndOfStep(chosen, schedule, step.simulation, &stages);
  step.reduce_s = choices.free_reduction ? 0 : end.reduce_s;
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
  FATHOM_ASSIGN_OR_RETURN(const v1::OpTimes* times, OpTimesOf(input));
  if (times != nullptr) return CpuStages(CpuJobOf(input), *times);
  FATHOM_ASSIGN_OR_RETURN(StageCostModel stages, StageCostModel::Make(input));
  std::vector<StageTimes> out;
  for (size_t s = 0; s < layout.stage_layers.size(); ++s) {
    out.push_back(stages.Stage(static_cast<int>(s)));
  }
  return out;
}

absl::StatusOr<std::vector<schedule::StageCosts>> TimesOfLayers(
    const model::ModelConfig& config, const model::PrecisionRecipe& recipe,
    const LayoutShape& layout, const cluster::Topology& topology, const RankPlacement& placement) {
  const CostInput input = {config, recipe, layout, topology, placement};
  FATHOM_RETURN_IF_ERROR(CheckCostInput(input, /*with_stages=*/false));
  FATHOM_ASSIGN_OR_RETURN(const v1::OpTimes* times, OpTimesOf(input));
  if (times != nullptr) return CpuLayers(input, *times);
  FATHOM_ASSIGN_OR_RETURN(StageCostModel stages, StageCostModel::Make(input));
  std::vector<schedule::StageCosts> out;
  for (int64_t layer = -1; layer <= config.num_hidden_layers; ++layer) {
    const bool again = layer > 0 && layer < config.num_hidden_layers &&
                       config.is_moe_layer(layer) == config.is_moe_layer(layer - 1);
    if (again) {
      out.push_back(out.back());
      continue;
    }
    out.push_back(stages.LayerShare(layer));
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
  FATHOM_ASSIGN_OR_RETURN(const v1::OpTimes* times, OpTimesOf(input));
  if (times != nullptr) return CpuPrediction(input, schedule, *times);
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
