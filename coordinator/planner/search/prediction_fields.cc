#include "coordinator/planner/search/prediction_fields.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_util.h"
#include "common/model/model_cost.h"
#include "common/model/parameter_layout.h"
#include "coordinator/planner/cost/stage_layers.h"
#include "coordinator/planner/cost/step_fields.h"
#include "coordinator/planner/search/loss_reason.h"
#include "coordinator/planner/search/step_limits.h"
#include "coordinator/planner/survivability.h"
#include "coordinator/planner/topology_placement.h"

namespace fathom::planner {
namespace {

constexpr double kSecondsPerHour = 3600;
constexpr double kSecondsPerDay = 86400;
constexpr double kTrillion = 1e12;
constexpr double kTera = 1e12;

int64_t Ranks(const LayoutShape& layout) {
  const v1::Parallelism& grid = layout.parallelism;
  return int64_t{grid.pipeline()} * grid.expert() * grid.replicas();
}

void FillParameters(const JobSetting& setting, v1::Prediction* prediction) {
  const model::ParameterCount count = model::CountParameters(setting.config);
  prediction->mutable_parameters()->set_total(count.total);
  prediction->mutable_parameters()->set_active(count.active);
  prediction->mutable_parameters()->set_mtp(count.mtp);
}

void FillRates(const JobSetting& setting, const ChosenLayout& chosen,
               const RankPlacement& placement, v1::Prediction* prediction) {
  const cluster::Topology& topology = *chosen.set->topology;
  double peak = 0;   // FLOP/s of all devices
  double price = 0;  // dollars per hour of all devices
  for (const RankPlacement::Place& place : placement.places) {
    peak += topology.profile_of(place.node).bf16_tflops() * kTera;
    price += topology.pool_of(place.node).dollars_per_device_hour();
  }
  const double devices = static_cast<double>(Ranks(chosen.layout));
  const double tokens = static_cast<double>(setting.sequences * setting.base.sequence_length);
  const double seconds = chosen.step.seconds;
  auto rate = [&](model::AttentionCount count) {
    return model::TrainFlopsPerToken(setting.config, setting.base.sequence_length, count, false) *
           tokens / seconds;
  };
  const double causal = rate(model::AttentionCount::kCausal);
  const double full = rate(model::AttentionCount::kFull);
  if (peak > 0) {
    prediction->set_mfu_causal(causal / peak);
    prediction->set_mfu_noncausal(full / peak);
  }
  prediction->set_tflops_causal(causal / devices / kTera);
  prediction->set_tflops_noncausal(full / devices / kTera);
  prediction->set_devices(static_cast<int32_t>(devices));
  prediction->set_tokens_per_step(tokens);
  prediction->set_tokens_per_day(tokens / seconds * kSecondsPerDay);
  const double gpu_hours = GpuHoursPerTrillionTokens(devices, seconds, tokens);
  prediction->set_gpu_hours_per_trillion_tokens(gpu_hours);
  prediction->set_dollars_per_trillion_tokens(gpu_hours * price / devices);
  const double hours =
      static_cast<double>(setting.job.spec().training().steps()) * seconds / kSecondsPerHour;
  prediction->set_total_hours(hours);
  prediction->set_total_gpu_hours(hours * devices);
  prediction->set_total_dollars(hours * price);
}

void FillParametersAndOps(const JobSetting& setting, const ChosenLayout& chosen,
                          v1::Prediction* prediction) {
  const model::ModelConfig& config = setting.config;
  for (v1::PredictedStage& stage : *prediction->mutable_stages()) {
    int64_t parameters = 0;
    for (const int64_t layer :
         LayersOfStage(config, chosen.layout.stage_layers, static_cast<size_t>(stage.index()))) {
      for (const model::ParameterSpec& parameter : model::LayerParameters(config, layer)) {
        parameters += parameter.size();
      }
    }
    stage.set_parameters(parameters);
    for (const v1::PredictedOp& op : chosen.step.stages[stage.index()].ops) *stage.add_ops() = op;
  }
}

void FillMemory(const ChosenLayout& chosen, v1::Prediction* prediction) {
  const int64_t capacity = chosen.set->costs->capacity_bytes();
  for (size_t i = 0; i < chosen.memory.size(); ++i) {
    v1::PredictedMemory& memory = *prediction->mutable_ranks(static_cast<int>(i))->mutable_memory();
    memory = chosen.memory[i];
    memory.set_capacity_bytes(capacity);
  }
  *prediction->mutable_memory() = Largest(chosen.memory);
  prediction->mutable_memory()->set_capacity_bytes(capacity);
}

void AddAssumption(const char* name, std::string value, const char* source,
                   v1::Prediction* prediction) {
  v1::Assumption& assumption = *prediction->add_assumptions();
  assumption.set_name(name);
  assumption.set_value(std::move(value));
  assumption.set_source(source);
}

void AddAssumptions(const JobSetting& setting, const ChosenLayout& chosen,
                    v1::Prediction* prediction) {
  AddAssumption("memory left unused",
                BytesText(static_cast<double>(chosen.set->costs->capacity_bytes() -
                                              chosen.set->costs->usable_bytes())),
                "assumed: driver context, libraries' buffers, fragmentation", prediction);
  if (setting.default_sequences) {
    AddAssumption("sequences of a step", absl::StrCat(setting.sequences),
                  "assumed: the job names neither a layout nor micro-batches", prediction);
  }
  if (chosen.set->pool.empty()) {
    AddAssumption("pools", "all, at the pace of the slowest device", "a step waits for every rank",
                  prediction);
  }
}

v1::Timeline TimelineOf(const JobSetting& setting, const ChosenLayout& chosen,
                        const RankPlacement& placement) {
  v1::Timeline timeline;
  timeline.set_job(setting.job.metadata().name());
  timeline.set_predicted(true);
  const auto& nodes = chosen.set->topology->nodes();
  const double compute = chosen.step.simulation.makespan;
  for (int i = 0; i < chosen.schedule.ranks; ++i) {
    v1::RankTimes& rank = *timeline.add_ranks();
    rank.set_rank(i);  // lane 0: ranks of a lane are neighbours
    rank.set_pipeline_rank(i);
    rank.set_node(nodes[placement.places[i].node].name);
    const schedule::SimulatedRank& times = chosen.step.simulation.ranks[i];
    for (size_t n = 0; n < times.starts.size(); ++n) {
      v1::TimedInstruction& timed = *rank.add_instructions();
      timed.set_what(schedule::ToString(chosen.schedule.lists[i][n]));
      timed.set_start_s(times.starts[n]);
      timed.set_end_s(times.ends[n]);
    }
    double begin = compute;
    for (const auto& [what, seconds] : {std::make_pair("reduce gradients", chosen.step.reduce_s),
                                        std::make_pair("update", chosen.step.optimizer_s)}) {
      if (seconds <= 0) continue;
      v1::TimedInstruction& timed = *rank.add_instructions();
      timed.set_what(what);
      timed.set_start_s(begin);
      begin += seconds;
      timed.set_end_s(begin);
    }
  }
  return timeline;
}

}  // namespace

double GpuHoursPerTrillionTokens(double devices, double step_seconds, double tokens_per_step) {
  return devices * step_seconds / kSecondsPerHour * (kTrillion / tokens_per_step);
}

absl::StatusOr<PredictedJob> FillPrediction(const JobSetting& setting, const ChosenLayout& chosen) {
  FATHOM_ASSIGN_OR_RETURN(const RankPlacement* placement,
                          chosen.set->costs->PlacementOf(chosen.layout.parallelism));
  PredictedJob result;
  v1::Prediction& prediction = result.prediction;
  prediction.set_job(setting.job.metadata().name());
  prediction.set_cluster(setting.cluster.metadata().name());
  FillParameters(setting, &prediction);
  *prediction.mutable_layout() = ToProto(chosen.layout, chosen.schedule.kind);
  const PlacementStatistics statistics =
      StatisticsOf(chosen.layout.parallelism, *placement, *chosen.set->topology);
  prediction.mutable_layout()->set_nodes(statistics.nodes);
  prediction.mutable_layout()->set_leaves_per_expert_group(statistics.leaves_per_expert_group);
  FillRates(setting, chosen, *placement, &prediction);
  FillStep(chosen.layout, chosen.step, &prediction);
  FillParametersAndOps(setting, chosen, &prediction);
  FillMemory(chosen, &prediction);
  for (const std::string& limit : StepLimits(chosen.layout, chosen.step, prediction.memory(),
                                             chosen.set->costs->usable_bytes())) {
    prediction.add_limits(limit);
  }
  AddAssumptions(setting, chosen, &prediction);
  *prediction.mutable_survivability() = SurvivabilityOf(
      chosen.layout.parallelism, setting.config.n_routed_experts,
      setting.job.spec().recovery().snapshot_every_steps(), *placement, *chosen.set->topology);
  for (const v1::DeviceProfile& profile : chosen.set->topology->spec().profiles()) {
    *prediction.add_profiles() = profile;
  }
  result.timeline = TimelineOf(setting, chosen, *placement);
  return result;
}

}  // namespace fathom::planner
