#include "common/schedule/compiled_schedule.h"

#include <algorithm>
#include <cstddef>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "common/base/check.h"
#include "common/base/status_util.h"
#include "common/schedule/pipeline_messages.h"
#include "common/schedule/schedule_check.h"

namespace fathom::schedule {

class CompiledSchedule::Builder {
 public:
  Builder(const Schedule& schedule, CompiledSchedule& target)
      : schedule_(schedule), target_(target), per_direction_(BatchesPerDirection(schedule)) {
    target_.stages_ = schedule.stages;
    target_.begins_.push_back(0);
    for (const auto& list : schedule.lists) {
      target_.begins_.push_back(target_.begins_.back() + static_cast<int>(list.size()));
    }
    target_.nodes_.reserve(target_.begins_.back());
    const size_t cells = static_cast<size_t>(schedule.stages) * schedule.micro_batches;
    forwards_.assign(cells, -1);
    backwards_.assign(cells, -1);
  }

  // In an order in which an instruction comes after all that it waits for.
  void Add(int rank, int index) {
    const Instruction& instruction = schedule_.lists[rank][index];
    const int stage =
        StageOf(schedule_, rank, instruction.first.direction, instruction.first.chunk);
    Node node;
    node.rank = rank;
    node.id = target_.begins_[rank] + index;
    Connect(instruction.first, stage, 0, node);
    int backward_stage = -1;
    if (instruction.overlapped) {
      const Op& second = instruction.second;
      backward_stage = StageOf(schedule_, rank, second.direction, second.chunk);
      Connect(second, backward_stage, 1, node);
    }
    node.cost_class = ClassOf(instruction.first.kind, stage, backward_stage);
    target_.nodes_.push_back(node);
  }

  void AddHolds() {
    target_.holds_.resize(schedule_.ranks);
    target_.peaks_.resize(schedule_.ranks);
    for (int rank = 0; rank < schedule_.ranks; ++rank) {
      int live = 0;
      auto change = [&](const Op& op, int by) {
        target_.holds_[rank].push_back({StageOf(schedule_, rank, op.direction, op.chunk), by});
        live += by;
        target_.peaks_[rank] = std::max(target_.peaks_[rank], live);
      };
      for (const Instruction& instruction : schedule_.lists[rank]) {
        const Op& first = instruction.first;
        if (first.kind == OpKind::kForward) change(first, 1);
        if (first.kind == OpKind::kBackward || first.kind == OpKind::kWeight) change(first, -1);
        if (instruction.overlapped) change(instruction.second, -1);
      }
    }
  }

 private:
  size_t CellOf(const Op& op, int stage) const {
    return (static_cast<size_t>(op.direction) * schedule_.stages + stage) * per_direction_ +
           op.micro_batch;
  }

  void Connect(const Op& op, int stage, int which, Node& node) {
    if (op.kind == OpKind::kWeight) return;
    const bool forward = op.kind == OpKind::kForward;
    std::vector<int>& senders = forward ? forwards_ : backwards_;
    senders[CellOf(op, stage)] = node.id;
    const int source = forward ? stage - 1 : stage + 1;
    if (source < 0 || source >= schedule_.stages) return;
    node.waits[which] = senders[CellOf(op, source)];
    node.remote[which] = RankOf(schedule_, source, op.direction) != node.rank;
    FATHOM_CHECK(node.waits[which] >= 0) << "stage " << source << " ran nothing to send";
  }

  int ClassOf(OpKind kind, int stage, int backward_stage) {
    const auto [found, fresh] = classes_.try_emplace(std::tuple(kind, stage, backward_stage),
                                                     static_cast<int>(target_.classes_.size()));
    if (fresh) target_.classes_.push_back({kind, backward_stage >= 0, stage, backward_stage});
    return found->second;
  }

  const Schedule& schedule_;
  CompiledSchedule& target_;
  const int per_direction_;
  std::vector<int> forwards_;  // id of the instruction that ran it, by CellOf
  std::vector<int> backwards_;
  absl::flat_hash_map<std::tuple<OpKind, int, int>, int> classes_;
};

struct CompiledSchedule::Timing {
  std::vector<double> costs;   // of each class
  std::vector<double> starts;  // of each instruction
  std::vector<double> ends;
  std::vector<double> finish;  // of each rank
  double makespan = 0;
};

absl::StatusOr<CompiledSchedule> CompiledSchedule::Make(const Schedule& schedule) {
  FATHOM_RETURN_IF_ERROR(CheckScheduleLists(schedule));
  CompiledSchedule compiled;
  Builder builder(schedule, compiled);
  FATHOM_RETURN_IF_ERROR(
      Replay(schedule, 0, [&](int rank, int index, const Messages&) { builder.Add(rank, index); }));
  builder.AddHolds();
  return compiled;
}

absl::Status CompiledSchedule::Run(const StepCosts& costs, Timing& timing) const {
  FATHOM_RETURN_IF_ERROR(CheckStepCosts(costs, stages_));
  for (const Class& c : classes_) {
    timing.costs.push_back(c.overlapped ? PairCostOf(costs, stages_, c.stage, c.backward_stage)
                                        : CostOf(costs, c.kind, c.stage));
  }
  timing.starts.resize(nodes_.size());
  timing.ends.resize(nodes_.size());
  timing.finish.assign(ranks(), 0);
  for (const Node& node : nodes_) {
    double start = timing.finish[node.rank];
    for (int i = 0; i < 2; ++i) {
      if (node.waits[i] < 0) continue;
      start =
          std::max(start, timing.ends[node.waits[i]] + (node.remote[i] ? costs.message_time : 0));
    }
    const double end = start + timing.costs[node.cost_class];
    timing.starts[node.id] = start;
    timing.ends[node.id] = end;
    timing.finish[node.rank] = end;
  }
  for (double finish : timing.finish) timing.makespan = std::max(timing.makespan, finish);
  return absl::OkStatus();
}

absl::StatusOr<Simulation> CompiledSchedule::Simulate(const StepCosts& costs) const {
  Timing timing;
  FATHOM_RETURN_IF_ERROR(Run(costs, timing));
  Simulation result;
  result.makespan = timing.makespan;
  result.ranks.resize(ranks());
  for (const Node& node : nodes_) {
    result.ranks[node.rank].busy += timing.costs[node.cost_class];
  }
  for (int rank = 0; rank < ranks(); ++rank) {
    SimulatedRank& simulated = result.ranks[rank];
    simulated.finish = timing.finish[rank];
    simulated.idle = result.makespan - simulated.busy;
    simulated.peak_live = peaks_[rank];
    const auto slice = [&](const std::vector<double>& all) {
      return std::vector<double>(all.begin() + begins_[rank], all.begin() + begins_[rank + 1]);
    };
    simulated.starts = slice(timing.starts);
    simulated.ends = slice(timing.ends);
  }
  return result;
}

absl::StatusOr<double> CompiledSchedule::Makespan(const StepCosts& costs) const {
  Timing timing;
  FATHOM_RETURN_IF_ERROR(Run(costs, timing));
  return timing.makespan;
}

double CompiledSchedule::PeakHeld(int rank, const std::vector<double>& of_stage) const {
  FATHOM_CHECK(of_stage.size() == static_cast<size_t>(stages_)) << of_stage.size();
  double held = 0;
  double peak = 0;
  for (const Hold& hold : holds_[rank]) {
    held += hold.change * of_stage[hold.stage];
    peak = std::max(peak, held);
  }
  return peak;
}

}  // namespace fathom::schedule
