#include "coordinator/planner/calibration/cpu_step.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_util.h"
#include "common/calibration/op_time_names.h"
#include "common/schedule/schedule_check.h"
#include "coordinator/planner/calibration/calibrated_time.h"
#include "coordinator/planner/calibration/rank_programs.h"
#include "coordinator/planner/calibration/stage_passes.h"

namespace fathom::planner {
namespace {

using schedule::OpKind;

// Ranks that one simulation takes.
constexpr int kSharedRanksMax = 1024;

StageSetting SettingOf(const CpuJob& job) {
  StageSetting setting;
  setting.job = {job.config, job.recipe, job.parallelism, job.stage_layers};
  setting.micro_batch = job.micro_batch;
  setting.micro_batch.expert_ranks = job.parallelism.expert();
  setting.recomputation = job.recomputation;
  return setting;
}

absl::StatusOr<std::vector<StagePasses>> AllPasses(const StageSetting& setting,
                                                   const CalibratedTime& time) {
  std::vector<StagePasses> all;
  for (size_t stage = 0; stage < setting.job.stage_layers.size(); ++stage) {
    FATHOM_ASSIGN_OR_RETURN(StagePasses passes,
                            PassesOfStage(setting, static_cast<int>(stage), time));
    all.push_back(std::move(passes));
  }
  return all;
}

absl::StatusOr<std::vector<CpuStage>> StagesFrom(const CpuJob& job, std::vector<StagePasses> passes,
                                                 const CalibratedTime& time) {
  OpWork message = {calibration::kMessageShm, "", {}};
  message.sums.bytes = static_cast<double>(job.micro_batch.tokens() * job.config->hidden_size *
                                           model::BytesOf(job.recipe->activations));
  FATHOM_ASSIGN_OR_RETURN(const double message_s, time.Seconds(message));
  std::vector<CpuStage> stages;
  for (StagePasses& stage : passes) {
    CpuStage out;
    out.costs.forward = WorkOf(stage.forward);
    out.costs.backward = WorkOf(stage.backward);
    out.costs.backward_input = WorkOf(stage.backward_input);
    out.costs.weight = stage.weight.seconds;
    out.costs.overlapped = out.costs.forward + out.costs.backward;
    out.message_s = message_s;
    out.ops = std::move(stage.ops);
    stages.push_back(std::move(out));
  }
  return stages;
}

absl::Status CheckJob(const CpuJob& job, const schedule::Schedule& schedule,
                      const CpuPlaces& places) {
  const int ranks =
      job.parallelism.pipeline() * job.parallelism.expert() * job.parallelism.replicas();
  const auto invalid = [](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat("predicting a step on CPU ranks: ", what));
  };
  if (ranks < 1 || ranks > kSharedRanksMax) {
    return invalid(absl::StrCat(ranks, " ranks; from 1 to ", kSharedRanksMax, " can be simulated"));
  }
  if (places.node_of_rank.size() != static_cast<size_t>(ranks)) {
    return invalid(absl::StrCat(places.node_of_rank.size(), " places for ", ranks, " ranks"));
  }
  if (job.stage_layers.size() != static_cast<size_t>(schedule.stages) ||
      schedule.ranks != job.parallelism.pipeline()) {
    return invalid(absl::StrCat("a schedule of ", schedule.stages, " stages on ", schedule.ranks,
                                " ranks for a layout of ", job.stage_layers.size(), " on ",
                                job.parallelism.pipeline()));
  }
  for (const int node : places.node_of_rank) {
    if (node < 0 || static_cast<size_t>(node) >= places.machine_of_node.size()) {
      return invalid(absl::StrCat("a rank on node ", node, " of ", places.machine_of_node.size()));
    }
  }
  return schedule::CheckSchedule(schedule);
}

// Where a part of a rank's time goes.
double* PartOf(const schedule::Instruction& instruction, double parts[4]) {
  if (instruction.overlapped) return &parts[3];
  switch (instruction.first.kind) {
    case OpKind::kForward:
      return &parts[0];
    case OpKind::kBackward:
    case OpKind::kBackwardInput:
      return &parts[1];
    case OpKind::kWeight:
      return &parts[2];
  }
  return &parts[0];
}

v1::StepBreakdown BreakDown(const std::vector<schedule::Instruction>& list,
                            const SharedTimes::Rank& rank, double seconds) {
  v1::StepBreakdown out;
  double parts[4] = {};
  for (size_t i = 0; i < list.size(); ++i) {
    const SharedTimes::Mark& start = rank.marks[1 + 2 * i];
    const SharedTimes::Mark& end = rank.marks[2 + 2 * i];
    *PartOf(list[i], parts) += end.at - start.at - (end.waited - start.waited);
  }
  const auto span = [&](EndMark from, EndMark to) {
    return rank.marks[MarkOf(list.size(), to)].at - rank.marks[MarkOf(list.size(), from)].at;
  };
  out.set_forward_s(parts[0]);
  out.set_backward_s(parts[1]);
  out.set_weight_s(parts[2]);
  out.set_overlapped_s(parts[3]);
  out.set_reduce_s(span(EndMark::kReduce, EndMark::kOptimizer) +
                   span(EndMark::kGather, EndMark::kRefresh));
  out.set_optimizer_s(span(EndMark::kOptimizer, EndMark::kGather) +
                      span(EndMark::kRefresh, EndMark::kEnd));
  const double waited =
      rank.marks[MarkOf(list.size(), EndMark::kReduce)].waited + seconds - rank.finish;
  out.set_bubble_s(waited);
  out.set_other_s(seconds - parts[0] - parts[1] - parts[2] - parts[3] - waited - out.reduce_s() -
                  out.optimizer_s());
  return out;
}

schedule::Simulation LaneOf(const schedule::Schedule& schedule, const SharedTimes& times) {
  schedule::Simulation out;
  for (int p = 0; p < schedule.ranks; ++p) {
    const SharedTimes::Rank& rank = times.ranks[p];
    schedule::SimulatedRank lane;
    for (size_t i = 0; i < schedule.lists[p].size(); ++i) {
      const SharedTimes::Mark& start = rank.marks[1 + 2 * i];
      const SharedTimes::Mark& end = rank.marks[2 + 2 * i];
      lane.starts.push_back(start.at);
      lane.ends.push_back(end.at);
      lane.busy += end.at - start.at - (end.waited - start.waited);
      lane.finish = end.at;
    }
    out.makespan = std::max(out.makespan, lane.finish);
    out.ranks.push_back(std::move(lane));
  }
  for (schedule::SimulatedRank& rank : out.ranks) rank.idle = out.makespan - rank.busy;
  return out;
}

void FillPeaks(const schedule::Schedule& schedule, schedule::Simulation* simulation) {
  for (int p = 0; p < schedule.ranks; ++p) {
    int live = 0;
    for (const schedule::Instruction& instruction : schedule.lists[p]) {
      const OpKind kind = instruction.first.kind;
      int& peak = simulation->ranks[p].peak_live;
      if (kind == OpKind::kForward) peak = std::max(peak, ++live);
      if (kind == OpKind::kBackward || kind == OpKind::kWeight || instruction.overlapped) --live;
    }
  }
}

double GroupSlowdown(const CpuPlaces& places, const v1::OpTimes& times) {
  return places.node_of_rank.size() > 1 ? std::max(1.0, times.group_slowdown()) : 1;
}

// What the prediction rests on, and what sharing cores adds.
std::vector<v1::Assumption> AssumptionsOf(const CpuJob& job, const CpuPlaces& places,
                                          const v1::OpTimes& times, double shared_s, double alone_s,
                                          double balanced_s) {
  std::vector<v1::Assumption> out;
  const auto add = [&](const std::string& name, const std::string& value, const std::string& source,
                       double seconds) {
    v1::Assumption& assumption = out.emplace_back();
    assumption.set_name(name);
    assumption.set_value(value);
    assumption.set_source(source);
    assumption.set_adds_s(seconds);
  };
  const std::string measured = absl::StrCat("measured by fathomctl profile on ", times.machine());
  add("op times", absl::StrCat(times.ops_size(), " entries"), measured, 0);
  std::map<int, int> ranks_on;
  for (const int node : places.node_of_rank) ++ranks_on[places.machine_of_node[node]];
  for (const auto& [machine, ranks] : ranks_on) {
    const double cores = places.machines[machine].cores;
    if (ranks <= cores) continue;
    add("shared cores", absl::StrFormat("%d ranks on %g cores", ranks, cores),
        "ranks that can run share the cores equally, a rank uses one at most",
        std::max(0.0, shared_s - alone_s));
    break;
  }
  if (job.parallelism.expert() > 1 && times.expert_load_spread() > 0) {
    add("spread of experts' loads",
        absl::StrFormat("standard deviation %.2f of the mean in a micro-batch",
                        times.expert_load_spread()),
        absl::StrCat(measured, "; routing of other models and data may differ"),
        std::max(0.0, shared_s - balanced_s));
  }
  const double group = GroupSlowdown(places, times);
  if (group > 1) {
    add("waits beyond those", absl::StrFormat("%.1f%%", 100 * (group - 1)),
        absl::StrCat(measured, ": ranks that are woken don't always get a core at once"),
        shared_s * (group - 1));
  }
  return out;
}

}  // namespace

SharedMachine MachineOf(double cores, int ranks, const v1::OpTimes& times) {
  SharedMachine machine;
  machine.cores = std::max(1.0, cores);
  const double busy = times.busy_slowdown() > 0 ? times.busy_slowdown() : 1;
  const double turns = times.turns_slowdown() > 0 ? times.turns_slowdown() : 1;
  machine.slowdown = busy;
  machine.turns_slowdown = ranks > machine.cores ? turns : 1;
  return machine;
}

CpuPlaces PlacesOn(const cluster::Topology& topology, const RankPlacement& placement,
                   const v1::OpTimes& times) {
  CpuPlaces places;
  places.machine_of_node.resize(topology.nodes().size());
  std::map<int, int> machine_of_pool;
  std::vector<double> cores;
  for (size_t node = 0; node < topology.nodes().size(); ++node) {
    const v1::Pool& pool = topology.pool_of(static_cast<int>(node));
    if (pool.shared_cores() > 0) {
      const auto [at, added] =
          machine_of_pool.try_emplace(topology.nodes()[node].pool, static_cast<int>(cores.size()));
      if (added) cores.push_back(pool.shared_cores());
      places.machine_of_node[node] = at->second;
    } else {
      places.machine_of_node[node] = static_cast<int>(cores.size());
      cores.push_back(pool.cores_per_node() > 0 ? pool.cores_per_node()
                                                : topology.nodes()[node].devices);
    }
  }
  std::vector<int> ranks(cores.size());
  for (const RankPlacement::Place& place : placement.places) {
    places.node_of_rank.push_back(place.node);
    ++ranks[places.machine_of_node[place.node]];
  }
  for (size_t machine = 0; machine < cores.size(); ++machine) {
    places.machines.push_back(MachineOf(cores[machine], ranks[machine], times));
  }
  return places;
}

absl::StatusOr<std::vector<CpuStage>> CpuTimesOfStages(const CpuJob& job,
                                                       const v1::OpTimes& times) {
  const CalibratedTime time(times);
  FATHOM_ASSIGN_OR_RETURN(std::vector<StagePasses> passes, AllPasses(SettingOf(job), time));
  return StagesFrom(job, std::move(passes), time);
}

absl::StatusOr<CpuStep> PredictCpuStep(const CpuJob& job, const schedule::Schedule& schedule,
                                       const CpuPlaces& places, const v1::OpTimes& times) {
  FATHOM_RETURN_IF_ERROR(CheckJob(job, schedule, places));
  const CalibratedTime time(times);
  RankProgramSetting setting;
  setting.stages = SettingOf(job);
  setting.node_of_rank = places.node_of_rank;
  setting.snapshots = job.snapshots;
  setting.verify_weights = job.verify_weights;
  FATHOM_ASSIGN_OR_RETURN(std::vector<StagePasses> passes, AllPasses(setting.stages, time));
  setting.expert_load_spread = times.expert_load_spread();
  const auto simulate =
      [&](const std::vector<SharedMachine>& machines) -> absl::StatusOr<SharedTimes> {
    FATHOM_ASSIGN_OR_RETURN(RankPrograms programs,
                            WriteRankPrograms(setting, schedule, passes, time));
    for (size_t rank = 0; rank < programs.ranks.size(); ++rank) {
      programs.ranks[rank].machine = places.machine_of_node[places.node_of_rank[rank]];
    }
    return SimulateShared(machines, programs.ranks, programs.channels, programs.groups);
  };
  FATHOM_ASSIGN_OR_RETURN(const SharedTimes shared, simulate(places.machines));
  std::vector<SharedMachine> roomy = places.machines;
  for (SharedMachine& machine : roomy) {
    machine.cores = std::max(machine.cores, static_cast<double>(places.node_of_rank.size()));
    machine.turns_slowdown = 1;
  }
  FATHOM_ASSIGN_OR_RETURN(const SharedTimes alone, simulate(roomy));
  double balanced_s = shared.makespan;
  if (job.parallelism.expert() > 1 && setting.expert_load_spread > 0) {
    setting.expert_load_spread = 0;
    FATHOM_ASSIGN_OR_RETURN(const SharedTimes balanced, simulate(places.machines));
    balanced_s = balanced.makespan;
  }

  CpuStep step;
  FATHOM_ASSIGN_OR_RETURN(step.stages, StagesFrom(job, std::move(passes), time));
  step.seconds = shared.makespan * GroupSlowdown(places, times);
  step.core_seconds = shared.core_seconds;
  step.simulation = LaneOf(schedule, shared);
  FillPeaks(schedule, &step.simulation);
  int busiest = 0;
  for (int p = 1; p < schedule.ranks; ++p) {
    if (step.simulation.ranks[p].busy > step.simulation.ranks[busiest].busy) busiest = p;
  }
  step.breakdown = BreakDown(schedule.lists[busiest], shared.ranks[busiest], step.seconds);
  step.reduce_s = step.breakdown.reduce_s();
  step.optimizer_s = step.breakdown.optimizer_s();
  step.other_s = step.breakdown.other_s();
  step.assumptions = AssumptionsOf(job, places, times, shared.makespan, alone.makespan, balanced_s);
  return step;
}

}  // namespace fathom::planner
