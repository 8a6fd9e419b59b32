#include "common/schedule/event_simulator.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "common/schedule/pipeline_messages.h"
#include "common/schedule/schedule_check.h"

namespace fathom::schedule {
namespace {

bool IsTime(double value) { return std::isfinite(value) && value >= 0; }

absl::Status CheckCosts(const Schedule& schedule, const std::vector<StageCosts>& stages,
                        double message_time) {
  if (stages.size() != 1 && stages.size() != static_cast<size_t>(schedule.stages)) {
    return absl::InvalidArgumentError(absl::StrCat("costs of ", stages.size(), " stages for ",
                                                   schedule.stages,
                                                   "; give one for each, or one for all"));
  }
  for (size_t i = 0; i < stages.size(); ++i) {
    const StageCosts& c = stages[i];
    for (double cost : {c.forward, c.backward, c.backward_input, c.weight, c.overlapped}) {
      if (!IsTime(cost)) {
        return absl::InvalidArgumentError(
            absl::StrCat("a cost of stage ", i, " is ", cost, "; give a number of at least 0"));
      }
    }
  }
  if (!IsTime(message_time)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the message time is ", message_time, "; give a number of at least 0"));
  }
  return absl::OkStatus();
}

double CostOf(const Op& op, const StageCosts& costs) {
  switch (op.kind) {
    case OpKind::kForward:
      return costs.forward;
    case OpKind::kBackward:
      return costs.backward;
    case OpKind::kBackwardInput:
      return costs.backward_input;
    case OpKind::kWeight:
      return costs.weight;
  }
  return 0;
}

double Saved(const StageCosts& costs) { return costs.forward + costs.backward - costs.overlapped; }

int PeakLive(const std::vector<Instruction>& list) {
  int peak = 0;
  int live = 0;
  for (const Instruction& instruction : list) {
    const OpKind kind = instruction.first.kind;
    if (kind == OpKind::kForward) peak = std::max(peak, ++live);
    if (kind == OpKind::kBackward || kind == OpKind::kWeight || instruction.overlapped) --live;
  }
  return peak;
}

}  // namespace

absl::StatusOr<Simulation> Simulate(const Schedule& schedule, const std::vector<StageCosts>& stages,
                                    double message_time) {
  FATHOM_RETURN_IF_ERROR(CheckSchedule(schedule));
  FATHOM_RETURN_IF_ERROR(CheckCosts(schedule, stages, message_time));
  auto costs_of = [&](int rank, const Op& op) -> const StageCosts& {
    return stages[stages.size() == 1 ? 0 : StageOf(schedule, rank, op.direction, op.chunk)];
  };
  Simulation result;
  result.ranks.resize(schedule.ranks);
  std::map<Channel, std::deque<double>> arrivals;
  FATHOM_RETURN_IF_ERROR(Replay(schedule, 0, [&](int rank, int index, const Messages& messages) {
    SimulatedRank& state = result.ranks[rank];
    const Instruction& instruction = schedule.lists[rank][index];
    double start = state.finish;
    for (const Message& message : messages.receives) {
      auto& queue = arrivals[message.channel];
      start = std::max(start, queue.front());
      queue.pop_front();
    }
    const StageCosts& first = costs_of(rank, instruction.first);
    double cost = CostOf(instruction.first, first);
    if (instruction.overlapped) {
      const StageCosts& second = costs_of(rank, instruction.second);
      cost += CostOf(instruction.second, second) - (Saved(first) + Saved(second)) / 2;
      cost = std::max(cost, 0.0);
    }
    state.starts.push_back(start);
    state.ends.push_back(start + cost);
    state.busy += cost;
    state.finish = start + cost;
    for (const Message& message : messages.sends) {
      const bool local = message.channel.from == message.channel.to;
      arrivals[message.channel].push_back(state.finish + (local ? 0 : message_time));
    }
  }));
  for (const SimulatedRank& rank : result.ranks) {
    result.makespan = std::max(result.makespan, rank.finish);
  }
  for (int rank = 0; rank < schedule.ranks; ++rank) {
    result.ranks[rank].idle = result.makespan - result.ranks[rank].busy;
    result.ranks[rank].peak_live = PeakLive(schedule.lists[rank]);
  }
  return result;
}

}  // namespace fathom::schedule
