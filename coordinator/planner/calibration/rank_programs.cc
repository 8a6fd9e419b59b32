#include "coordinator/planner/calibration/rank_programs.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string_view>
#include <tuple>
#include <utility>

#include "common/base/status_util.h"
#include "common/calibration/op_time_names.h"
#include "common/schedule/pipeline_messages.h"

namespace fathom::planner {
namespace {

using Kind = SharedAction::Kind;
using schedule::Instruction;
using schedule::Op;
using schedule::OpKind;

// Of worker/engine's collectives.
constexpr double kCollectiveSlotBytes = 256 << 10;
constexpr double kGradientBytes = 4;

struct Grid {
  int pipeline = 1;
  int expert = 1;
  int replicas = 1;

  int ranks() const { return pipeline * expert * replicas; }
  int Rank(int replica, int expert_rank, int pipeline_rank) const {
    return (replica * expert + expert_rank) * pipeline + pipeline_rank;
  }
  int PipelineRank(int rank) const { return rank % pipeline; }
  int ExpertRank(int rank) const { return rank / pipeline % expert; }
  int Replica(int rank) const { return rank / pipeline / expert; }
};

// The value that a standard normal variable stays below with this probability.
double NormalQuantile(double probability) {
  double low = -10;
  double high = 10;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    const double below = std::erfc(-middle / std::sqrt(2.0)) / 2;
    (below < probability ? low : high) = middle;
  }
  return (low + high) / 2;
}

class ProgramWriter {
 public:
  ProgramWriter(const RankProgramSetting& setting, const schedule::Schedule& schedule,
                const std::vector<StagePasses>& passes, const CalibratedTime& time)
      : setting_(setting), schedule_(schedule), passes_(passes), time_(time) {
    const v1::Parallelism& parallel = setting.stages.job.parallelism;
    grid_ = {parallel.pipeline(), parallel.expert(), parallel.replicas()};
    for (int p = 0; p < grid_.pipeline; ++p) {
      std::vector<int> stages;
      for (int direction = 0; direction < schedule.directions; ++direction) {
        for (int chunk = 0; chunk < schedule.chunks; ++chunk) {
          stages.push_back(schedule::StageOf(schedule, p, direction, chunk));
        }
      }
      std::sort(stages.begin(), stages.end());  // all ranks that hold them sum in one order
      ends_.push_back(calibration::StepEndOf(setting.stages.job, stages, schedule.directions));
    }
    excess_ = ExcessLoads(setting.stages.job.config->n_routed_experts, grid_.expert,
                          setting.expert_load_spread);
    loads_met_.resize(grid_.ranks());
  }

  absl::StatusOr<RankPrograms> Write() {
    out_.ranks.resize(grid_.ranks());
    for (int rank = 0; rank < grid_.ranks(); ++rank) WriteRank(rank);
    FATHOM_RETURN_IF_ERROR(status_);
    return std::move(out_);
  }

 private:
  void WriteRank(int rank);
  void WriteInstruction(int rank, const Instruction& instruction);
  void WriteTurn(int rank, int stage, const Turn& turn);
  void WriteSum(int rank, const std::vector<int>& members, double elements);
  void WriteGather(int rank, const std::vector<int>& members, double bytes);
  void WriteSmallSum(int rank, const std::vector<int>& members);
  void WriteEnd(int rank);

  // --- Costs ---
  double Checked(const absl::StatusOr<double>& seconds) {
    if (seconds.ok()) return *seconds;
    status_.Update(seconds.status());
    return 0;
  }
  double Cost(const char* name, double count, double bytes) {
    OpWork work = {name, "", {.count = 0}};
    work.sums.count = count;
    work.sums.bytes = bytes;
    return Checked(time_.Seconds(work));
  }
  double EndOps(int rank, std::initializer_list<std::string_view> names) {
    double seconds = 0;
    for (const model::OpCall& call : ends_[grid_.PipelineRank(rank)].ops) {
      if (std::find(names.begin(), names.end(), call.op) == names.end()) continue;
      seconds += Checked(time_.Seconds(call)) +
                 Cost(calibration::kOverhead, static_cast<double>(call.count), 0);
    }
    return seconds;
  }
  bool Near(int a, int b) const { return setting_.node_of_rank[a] == setting_.node_of_rank[b]; }
  // Both ranks' work of so many messages with so many bytes in all.
  double Message(int a, int b, double count, double bytes) {
    return Cost(Near(a, b) ? calibration::kMessageShm : calibration::kMessageTcp, count, bytes);
  }
  double Latency(int a, int b) {
    return Cost(Near(a, b) ? calibration::kLatencyShm : calibration::kLatencyTcp, 1, 0);
  }
  // Sending to and receiving from every other member: each does half of the work of each message.
  double Among(int rank, const std::vector<int>& members, double bytes_each) {
    const double count = std::max(1.0, std::ceil(bytes_each / kCollectiveSlotBytes));
    double seconds = 0;
    for (const int other : members) {
      if (other != rank) seconds += Message(rank, other, count, bytes_each);
    }
    return seconds;
  }
  double SnapshotWork(int rank);

  // --- Actions ---
  void Add(int rank, SharedAction action) { out_.ranks[rank].program.push_back(action); }
  void Work(int rank, double seconds) {
    if (seconds <= 0) return;
    std::vector<SharedAction>& program = out_.ranks[rank].program;
    if (!program.empty() && program.back().kind == Kind::kWork) {
      program.back().seconds += seconds;
    } else {
      program.push_back({.kind = Kind::kWork, .seconds = seconds});
    }
  }
  // Of a rank whose experts may get more or fewer tokens than others'. All ranks of a group get to
  // their n-th such work with the same layer and micro-batch.
  void Work(int rank, const PassAction& work) {
    double seconds = work.seconds;
    if (work.expert_seconds > 0) {
      const int place = (grid_.ExpertRank(rank) + loads_met_[rank]++) % grid_.expert;
      seconds += work.expert_seconds * excess_[place];
    }
    Work(rank, seconds);
  }
  // After it waited for others.
  void GoOn(int rank) { Work(rank, Cost(calibration::kTurn, 1, 0)); }
  void Mark(int rank, int index) { Add(rank, {.kind = Kind::kMark, .index = index}); }
  int ChannelIndex(int lane, const schedule::Channel& channel) {
    const auto [at, added] = channels_.try_emplace({lane, channel}, out_.channels);
    if (added) ++out_.channels;
    return at->second;
  }
  // One group for each list of members and each purpose.
  int GroupIndex(const std::vector<int>& members, int purpose) {
    const auto [at, added] =
        groups_.try_emplace({members, purpose}, static_cast<int>(out_.groups.size()));
    if (added) out_.groups.push_back({members});
    return at->second;
  }
  void JoinAndMeet(int rank, const std::vector<int>& members) {
    const int group = GroupIndex(members, kSums);
    Add(rank, {.kind = Kind::kJoin, .index = group, .seconds = LatencyAmong(members)});
    Add(rank, {.kind = Kind::kMeet, .index = group});
    GoOn(rank);
  }
  double LatencyAmong(const std::vector<int>& members) {
    double latency = 0;
    for (const int member : members) {
      if (member != members[0]) latency = std::max(latency, Latency(members[0], member));
    }
    return latency;
  }

  std::vector<int> ExpertGroup(int rank) const;
  std::vector<int> DenseGroup(int rank) const;
  std::vector<int> ExpertHolders(int rank) const;
  std::vector<int> World() const;

  static constexpr int kSums = -1;  // purpose; others are stage * kTokenWays + way

  const RankProgramSetting& setting_;
  const schedule::Schedule& schedule_;
  const std::vector<StagePasses>& passes_;
  const CalibratedTime& time_;
  Grid grid_;
  std::vector<calibration::StepEnd> ends_;  // by pipeline rank
  std::vector<double> excess_;              // ExcessLoads
  std::vector<int> loads_met_;              // by rank: work of experts so far
  std::map<std::pair<int, schedule::Channel>, int> channels_;
  std::map<std::pair<std::vector<int>, int>, int> groups_;
  absl::Status status_;
  RankPrograms out_;
};

std::vector<int> ProgramWriter::ExpertGroup(int rank) const {
  std::vector<int> members;
  for (int e = 0; e < grid_.expert; ++e) {
    members.push_back(grid_.Rank(grid_.Replica(rank), e, grid_.PipelineRank(rank)));
  }
  return members;
}

// Ranks that hold the same experts: the mirror's and every replica's.
std::vector<int> ProgramWriter::ExpertHolders(int rank) const {
  const int own = grid_.PipelineRank(rank);
  std::vector<int> members;
  for (int replica = 0; replica < grid_.replicas; ++replica) {
    for (int p = 0; p < grid_.pipeline; ++p) {
      if (p != own && (schedule_.directions == 1 || p != grid_.pipeline - 1 - own)) continue;
      members.push_back(grid_.Rank(replica, grid_.ExpertRank(rank), p));
    }
  }
  return members;
}

std::vector<int> ProgramWriter::DenseGroup(int rank) const {
  std::vector<int> members;
  for (int e = 0; e < grid_.expert; ++e) {
    for (const int member :
         ExpertHolders(grid_.Rank(grid_.Replica(rank), e, grid_.PipelineRank(rank)))) {
      members.push_back(member);
    }
  }
  std::sort(members.begin(), members.end());
  return members;
}

std::vector<int> ProgramWriter::World() const {
  std::vector<int> members;
  for (int rank = 0; rank < grid_.ranks(); ++rank) members.push_back(rank);
  return members;
}

// A rank's shard goes to its buddy, which is on another node where there is one; its ward's comes.
double ProgramWriter::SnapshotWork(int rank) {
  if (!setting_.snapshots || grid_.ranks() == 1) return 0;
  const auto bytes = static_cast<double>(ends_[grid_.PipelineRank(rank)].state_bytes);
  int buddy = (rank + 1) % grid_.ranks();
  for (int other = 0; other < grid_.ranks(); ++other) {
    if (!Near(rank, other)) buddy = other;
  }
  return Message(rank, buddy, std::ceil(bytes / kCollectiveSlotBytes), bytes) +
         Cost(calibration::kExchange, 0, bytes) + Cost(calibration::kHash, 0, bytes);
}

void ProgramWriter::WriteTurn(int rank, int stage, const Turn& turn) {
  const std::vector<int> members = ExpertGroup(rank);
  for (const PassAction& action : turn) {
    const int group = action.kind == PassAction::Kind::kWork
                          ? 0
                          : GroupIndex(members, stage * kTokenWays + static_cast<int>(action.way));
    switch (action.kind) {
      case PassAction::Kind::kWork:
        Work(rank, action);
        break;
      case PassAction::Kind::kPost: {
        double seconds = 0;
        for (const int other : members) {
          if (other != rank) seconds += Message(rank, other, 1, action.message_bytes);
        }
        Work(rank, seconds);
        Add(rank, {.kind = Kind::kJoin, .index = group, .seconds = LatencyAmong(members)});
        break;
      }
      case PassAction::Kind::kReceive:
        Add(rank, {.kind = Kind::kMeet, .index = group});
        if (members.size() > 1) GoOn(rank);
        break;
    }
  }
}

void ProgramWriter::WriteInstruction(int rank, const Instruction& instruction) {
  const int pipeline_rank = grid_.PipelineRank(rank);
  Work(rank, Cost(calibration::kInstruction, instruction.overlapped ? 2 : 1, 0));
  const auto stage_of = [&](const Op& op) {
    return schedule::StageOf(schedule_, pipeline_rank, op.direction, op.chunk);
  };
  const auto turns_of = [&](const Op& op) -> const Turns& {
    const StagePasses& passes = passes_[stage_of(op)];
    switch (op.kind) {
      case OpKind::kForward:
        return passes.forward;
      case OpKind::kBackward:
        return passes.backward;
      default:
        return passes.backward_input;
    }
  };
  if (instruction.first.kind == OpKind::kWeight) {
    Work(rank, passes_[stage_of(instruction.first)].weight);
    return;
  }
  const Turns& first = turns_of(instruction.first);
  if (!instruction.overlapped) {
    for (const Turn& turn : first) WriteTurn(rank, stage_of(instruction.first), turn);
    return;
  }
  const Turns& second = turns_of(instruction.second);
  for (size_t i = 0; i < std::max(first.size(), second.size()); ++i) {
    if (i < first.size()) WriteTurn(rank, stage_of(instruction.first), first[i]);
    if (i < second.size()) WriteTurn(rank, stage_of(instruction.second), second[i]);
  }
}

void ProgramWriter::WriteSum(int rank, const std::vector<int>& members, double elements) {
  if (members.size() < 2) return;
  const auto size = static_cast<double>(members.size());
  const double piece = elements * kGradientBytes / size;
  Work(rank, Among(rank, members, piece) / 2);
  JoinAndMeet(rank, members);
  Work(rank, Among(rank, members, piece) / 2 + Cost(calibration::kReduce, 0, piece * (size - 1)));
}

void ProgramWriter::WriteGather(int rank, const std::vector<int>& members, double bytes) {
  if (members.size() < 2) return;
  const auto size = static_cast<double>(members.size());
  const double piece = bytes / size;
  Work(rank, Among(rank, members, piece) / 2);
  JoinAndMeet(rank, members);
  Work(rank, Among(rank, members, piece) / 2 + Cost(calibration::kExchange, 0, piece * (size - 1)));
}

void ProgramWriter::WriteSmallSum(int rank, const std::vector<int>& members) {
  if (members.size() < 2) return;
  Work(rank, Among(rank, members, 0) / 2);
  JoinAndMeet(rank, members);
  Work(rank, Among(rank, members, 0) / 2);
}

void ProgramWriter::WriteEnd(int rank) {
  const size_t instructions = schedule_.lists[grid_.PipelineRank(rank)].size();
  const calibration::StepEnd& end = ends_[grid_.PipelineRank(rank)];
  const auto weights = static_cast<double>(end.weight_bytes);
  const auto element_bytes =
      static_cast<double>(model::BytesOf(setting_.stages.job.recipe->activations));
  const std::vector<int> dense = DenseGroup(rank);
  const std::vector<int> holders = ExpertHolders(rank);
  const auto members_of = [&](const calibration::HeldParameters& block) {
    return block.sharers == static_cast<int64_t>(dense.size()) ? dense : holders;
  };
  const double hash_weights = setting_.verify_weights ? Cost(calibration::kHash, 1, weights) : 0;
  Mark(rank, MarkOf(instructions, EndMark::kReduce));
  for (const calibration::HeldParameters& block : end.blocks) {
    WriteSum(rank, members_of(block), static_cast<double>(block.elements));
  }
  WriteSmallSum(rank, dense);
  Work(rank, hash_weights + EndOps(rank, {"SumOfSquares"}));
  WriteSmallSum(rank, World());
  Mark(rank, MarkOf(instructions, EndMark::kOptimizer));
  Work(rank, EndOps(rank, {"AdamW", "Copy"}) +
                 Cost(calibration::kHash, 1, static_cast<double>(end.state_bytes)));
  Mark(rank, MarkOf(instructions, EndMark::kGather));
  for (const calibration::HeldParameters& block : end.blocks) {
    WriteGather(rank, members_of(block), static_cast<double>(block.elements) * element_bytes);
  }
  Mark(rank, MarkOf(instructions, EndMark::kRefresh));
  Work(rank, EndOps(rank, {"Quantize", "TransposeBlocks"}) + hash_weights);
  Mark(rank, MarkOf(instructions, EndMark::kEnd));
}

void ProgramWriter::WriteRank(int rank) {
  const int pipeline_rank = grid_.PipelineRank(rank);
  const int lane = rank / grid_.pipeline;
  const std::vector<Instruction>& list = schedule_.lists[pipeline_rank];
  const double snapshot = list.empty() ? 0 : SnapshotWork(rank) / static_cast<double>(list.size());
  const double message_bytes = static_cast<double>(
      setting_.stages.micro_batch.tokens() * setting_.stages.job.config->hidden_size *
      model::BytesOf(setting_.stages.job.recipe->activations));
  const auto to_rank = [&](int other) { return lane * grid_.pipeline + other; };
  Mark(rank, 0);
  Work(rank, Cost(calibration::kStep, 1, 0) + EndOps(rank, {"Fill"}));
  for (size_t i = 0; i < list.size(); ++i) {
    const schedule::Messages messages = schedule::MessagesOf(schedule_, pipeline_rank, list[i]);
    for (const schedule::Message& message : messages.receives) {
      Add(rank, {.kind = Kind::kTake, .index = ChannelIndex(lane, message.channel)});
      if (message.channel.from == message.channel.to) continue;
      GoOn(rank);
      const int from = to_rank(message.channel.from);
      if (!Near(rank, from)) Work(rank, Message(rank, from, 1, message_bytes) / 2);
    }
    Mark(rank, 1 + 2 * static_cast<int>(i));
    WriteInstruction(rank, list[i]);
    for (const schedule::Message& message : messages.sends) {
      const bool own = message.channel.from == message.channel.to;
      const int to = to_rank(message.channel.to);
      if (!own) Work(rank, Message(rank, to, 1, message_bytes) / (Near(rank, to) ? 1 : 2));
      Add(rank, {.kind = Kind::kPost,
                 .index = ChannelIndex(lane, message.channel),
                 .seconds = own ? 0 : Latency(rank, to)});
    }
    Work(rank, snapshot);
    Mark(rank, 2 + 2 * static_cast<int>(i));
  }
  WriteEnd(rank);
}

}  // namespace

std::vector<double> ExcessLoads(int64_t experts, int ranks, double spread) {
  // Of a rank's experts together.
  const double of_rank =
      spread * std::sqrt(static_cast<double>(ranks) / static_cast<double>(experts));
  std::vector<double> excess;
  for (int i = 1; i <= ranks; ++i) {
    const double below = (i - 0.375) / (ranks + 0.25);
    const double order = (NormalQuantile(below) - NormalQuantile(1 - below)) / 2;  // symmetric
    excess.push_back(std::max(-1.0, of_rank * order));
  }
  return excess;
}

absl::StatusOr<RankPrograms> WriteRankPrograms(const RankProgramSetting& setting,
                                               const schedule::Schedule& schedule,
                                               const std::vector<StagePasses>& passes,
                                               const CalibratedTime& time) {
  return ProgramWriter(setting, schedule, passes, time).Write();
}

}  // namespace fathom::planner
