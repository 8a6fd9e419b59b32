#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "common/schedule/dualpipe.h"
#include "common/schedule/event_simulator.h"
#include "common/schedule/instruction.h"
#include "common/schedule/pipeline_messages.h"
#include "common/schedule/schedule_check.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fathom::schedule {
namespace {

using ::testing::HasSubstr;

const std::vector<StageCosts> kUnitCosts = {{}};

std::vector<int> BatchCounts(int ranks) {
  return {2 * ranks, 2 * ranks + 2, 3 * ranks, 4 * ranks + 6};
}

// As the public DualPipe code runs it.
TEST(DualPipeTest, FourRanksEightBatches_RankZeroRunsThePublishedList) {
  const Schedule schedule = DualPipe(4, 8).value();
  EXPECT_EQ(
      ToString(schedule.lists[0]),
      "F0.0 F0.1 F0.2 F1.0 Bi1.0 W F1.1 [F0.3|B1.1] [F1.2|B0.0] B1.2 [F1.3|B0.1] B1.3 Bi0.2 W "
      "Bi0.3 W");
  EXPECT_EQ(schedule.stages, 4);
  EXPECT_EQ(schedule.directions, 2);
  EXPECT_EQ(BatchesPerDirection(schedule), 4);
}

TEST(DualPipeTest, MiddleRank_RunsItsFirstPairApart) {
  const Schedule schedule = DualPipe(4, 8).value();
  EXPECT_EQ(
      ToString(schedule.lists[1]),
      "F0.0 F1.0 F0.1 F1.1 F0.2 B1.0 [F1.2|B0.0] [F0.3|B1.1] [F1.3|B0.1] B1.2 B0.2 Bi1.3 Bi0.3 "
      "W W");
}

TEST(DualPipeTest, MirrorRank_RunsTheSameWithDirectionsSwapped) {
  for (int ranks : {2, 4, 6, 16}) {
    const Schedule schedule = DualPipe(ranks, 2 * ranks).value();
    for (int rank = 0; rank < ranks / 2; ++rank) {
      std::vector<Instruction> mirrored = schedule.lists[ranks - 1 - rank];
      for (Instruction& instruction : mirrored) {
        instruction.first.direction = 1 - instruction.first.direction;
        if (instruction.overlapped) instruction.second.direction = 1 - instruction.second.direction;
      }
      EXPECT_EQ(mirrored, schedule.lists[rank]) << ranks << " ranks, rank " << rank;
    }
  }
}

TEST(DualPipeTest, StagesOfARank_AreItsOwnAndTheMirrors) {
  const Schedule schedule = DualPipe(6, 12).value();
  EXPECT_EQ(StageOf(schedule, 1, 0), 1);
  EXPECT_EQ(StageOf(schedule, 1, 1), 4);
  EXPECT_EQ(RankOf(schedule, 4, 1), 1);
  EXPECT_EQ(RankOf(schedule, 4, 0), 4);
}

TEST(DualPipeTest, BadShape_IsRefused) {
  const std::vector<std::pair<int, int>> shapes = {{0, 8}, {1, 2}, {-2, 8}, {3, 8}, {4, 7},
                                                   {4, 6}, {4, 9}, {4, -8}, {4, 0}};
  for (auto [ranks, batches] : shapes) {
    const absl::Status status = DualPipe(ranks, batches).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << ranks << " " << batches;
    EXPECT_THAT(std::string(status.message()), HasSubstr("at least"));
  }
  for (auto [ranks, batches] :
       std::vector<std::pair<int, int>>{{1 << 30, 1 << 30}, {2, 2'000'000'000}}) {
    EXPECT_EQ(DualPipe(ranks, batches).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(ForwardOnly(ranks, batches).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_THAT(std::string(Sequential(2'000'000'000).status().message()), HasSubstr("at most"));
}

TEST(SequentialTest, OneRank_AlternatesForwardAndBackward) {
  const Schedule schedule = Sequential(2).value();
  EXPECT_EQ(ToString(schedule.lists[0]), "F0.0 B0.0 F0.1 B0.1");
  EXPECT_TRUE(CheckSchedule(schedule, 1).ok());
  EXPECT_EQ(MaxInFlight(schedule), 0);
  EXPECT_EQ(Simulate(schedule, kUnitCosts).value().makespan, 6);
  EXPECT_FALSE(Sequential(0).ok());
  EXPECT_FALSE(Sequential(-1).ok());
}

TEST(ForwardOnlyTest, EveryShape_IsSoundAndTight) {
  for (int ranks = 2; ranks <= 16; ranks += 2) {
    for (int batches : {2, 4, ranks, 2 * ranks + 2, 5 * ranks}) {
      const Schedule schedule = ForwardOnly(ranks, batches + batches % 2).value();
      EXPECT_TRUE(CheckSchedule(schedule, 1).ok()) << CheckSchedule(schedule, 1);
      // The last micro-batch of either direction still has to cross: the best there is.
      EXPECT_LE(Simulate(schedule, kUnitCosts).value().makespan, batches + ranks);
    }
  }
  EXPECT_TRUE(CheckSchedule(ForwardOnly(1, 3).value()).ok());
  EXPECT_FALSE(ForwardOnly(1, 0).ok());
  EXPECT_FALSE(ForwardOnly(3, 4).ok());
  EXPECT_FALSE(ForwardOnly(4, 3).ok());
}

TEST(CheckScheduleTest, EveryDualPipe_Passes) {
  for (int ranks = 2; ranks <= 16; ranks += 2) {
    for (int batches : BatchCounts(ranks)) {
      const Schedule schedule = DualPipe(ranks, batches).value();
      EXPECT_TRUE(CheckSchedule(schedule).ok()) << CheckSchedule(schedule);
      const int slots = MaxInFlight(schedule);
      EXPECT_GE(slots, 1);
      EXPECT_LE(slots, ranks + 1);
      EXPECT_TRUE(CheckSchedule(schedule, slots).ok()) << CheckSchedule(schedule, slots);
      // Ranks may then wait for room, but never for ever.
      EXPECT_TRUE(CheckSchedule(schedule, 1).ok()) << CheckSchedule(schedule, 1);
    }
  }
}

// Every mutation of one place is refused, or leaves a list that means the same.
TEST(CheckScheduleTest, DroppedOrDoubledInstruction_IsRefused) {
  for (int ranks : {2, 4, 6}) {
    const Schedule good = DualPipe(ranks, 2 * ranks + 2).value();
    for (int rank = 0; rank < ranks; ++rank) {
      for (size_t i = 0; i < good.lists[rank].size(); ++i) {
        Schedule dropped = good;
        auto& list = dropped.lists[rank];
        list.erase(list.begin() + i);
        EXPECT_FALSE(CheckSchedule(dropped).ok()) << ranks << " " << rank << " " << i;
        Schedule doubled = good;
        doubled.lists[rank].insert(doubled.lists[rank].begin() + i, good.lists[rank][i]);
        EXPECT_FALSE(CheckSchedule(doubled).ok()) << ranks << " " << rank << " " << i;
      }
    }
  }
}

// Whether lists can be run at all, by another way than the validator's: one node for each
// instruction, an edge for each dependency, and no cycle among them.
bool HasNoCycle(const Schedule& schedule) {
  using Key = std::tuple<bool, int, int, int>;  // backward, direction, stage, micro-batch
  std::map<Key, int> node_of;
  std::vector<std::vector<int>> after;
  std::vector<std::pair<int, Key>> needs;
  for (int rank = 0; rank < schedule.ranks; ++rank) {
    for (size_t i = 0; i < schedule.lists[rank].size(); ++i) {
      const Instruction& instruction = schedule.lists[rank][i];
      const int node = static_cast<int>(after.size());
      after.emplace_back();
      if (i > 0) after[node - 1].push_back(node);
      std::vector<Op> ops = {instruction.first};
      if (instruction.overlapped) ops.push_back(instruction.second);
      for (const Op& op : ops) {
        if (op.kind == OpKind::kWeight) continue;
        const bool backward = op.kind != OpKind::kForward;
        const int stage = StageOf(schedule, rank, op.direction);
        node_of[{backward, op.direction, stage, op.micro_batch}] = node;
        const int source = backward ? stage + 1 : stage - 1;
        if (source >= 0 && source < schedule.stages) {
          needs.push_back({node, {backward, op.direction, source, op.micro_batch}});
        }
        if (backward) needs.push_back({node, {false, op.direction, stage, op.micro_batch}});
      }
    }
  }
  std::vector<int> waiting(after.size(), 0);
  for (const auto& [node, key] : needs) after[node_of.at(key)].push_back(node);
  for (const auto& targets : after) {
    for (int target : targets) ++waiting[target];
  }
  std::vector<int> ready;
  for (size_t node = 0; node < after.size(); ++node) {
    if (waiting[node] == 0) ready.push_back(static_cast<int>(node));
  }
  size_t done = 0;
  for (; done < ready.size(); ++done) {
    for (int target : after[ready[done]]) {
      if (--waiting[target] == 0) ready.push_back(target);
    }
  }
  return done == after.size();
}

// Whether two neighbours touch the same counter or the FIFO, so that their order is fixed.
bool OrderIsFixed(const Instruction& a, const Instruction& b) {
  auto ops = [](const Instruction& x) {
    return x.overlapped ? std::vector<Op>{x.first, x.second} : std::vector<Op>{x.first};
  };
  for (const Op& x : ops(a)) {
    for (const Op& y : ops(b)) {
      const bool weight = x.kind == OpKind::kWeight || y.kind == OpKind::kWeight;
      const bool backward_x = x.kind != OpKind::kForward;
      const bool backward_y = y.kind != OpKind::kForward;
      if (!weight && x.direction == y.direction && backward_x == backward_y) return true;
      if (weight && x.direction == y.direction && x.micro_batch == y.micro_batch) return true;
      if (x.kind == y.kind && (weight || x.kind == OpKind::kBackwardInput)) return true;
    }
  }
  return false;
}

TEST(CheckScheduleTest, SwappedNeighbours_AreAcceptedExactlyWhenTheyCanRun) {
  for (int ranks : {2, 4, 6, 8}) {
    const Schedule good = DualPipe(ranks, 2 * ranks).value();
    int refused = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      for (size_t i = 0; i + 1 < good.lists[rank].size(); ++i) {
        Schedule swapped = good;
        auto& list = swapped.lists[rank];
        std::swap(list[i], list[i + 1]);
        const bool sound = !OrderIsFixed(list[i], list[i + 1]) && HasNoCycle(swapped);
        EXPECT_EQ(CheckSchedule(swapped).ok(), sound)
            << ranks << " ranks, rank " << rank << ", instruction " << i << ": "
            << ToString(list[i]) << " " << ToString(list[i + 1]) << " " << CheckSchedule(swapped);
        refused += !sound;
      }
    }
    EXPECT_GE(refused, 2 * ranks);
  }
}

TEST(ReplayTest, MessageTakenOutOfOrder_IsNamed) {
  Schedule schedule = ForwardOnly(2, 4).value();
  schedule.lists[1][1].first.micro_batch = 1;  // F0.1 before F0.0
  const absl::Status status = Replay(schedule, 0, [](int, int, const Messages&) {});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(
      std::string(status.message()),
      HasSubstr("activation F0.1 from rank 0 to rank 1 is to be taken, but the oldest sent is "
                "activation F0.0"));
}

TEST(CheckScheduleTest, ChangedOp_IsRefused) {
  const Schedule good = DualPipe(4, 8).value();
  for (int rank = 0; rank < 4; ++rank) {
    for (size_t i = 0; i < good.lists[rank].size(); ++i) {
      for (int change = 0; change < 4; ++change) {
        Schedule bad = good;
        Op& op = bad.lists[rank][i].first;
        if (change == 0) op.micro_batch += 1;
        if (change == 1) op.direction = 1 - op.direction;
        if (change == 2) op.direction = 2;
        if (change == 3) op.kind = OpKind((int(op.kind) + 1) % 4);
        EXPECT_FALSE(CheckSchedule(bad).ok()) << rank << " " << i << " " << change;
      }
    }
  }
}

TEST(CheckScheduleTest, BadList_SaysWhereAndWhy) {
  auto message = [](const Schedule& schedule) {
    return std::string(CheckSchedule(schedule).message());
  };
  const Schedule good = DualPipe(4, 8).value();
  Schedule bad = good;
  bad.lists[0].pop_back();
  EXPECT_THAT(message(bad), HasSubstr("rank 0: 1 deferred weight gradients are never run"));
  bad = good;
  std::swap(bad.lists[2][0], bad.lists[2][2]);
  EXPECT_THAT(message(bad), HasSubstr("rank 2, instruction 0 (F1.1): micro-batch 0"));
  bad = good;
  bad.lists[1].insert(bad.lists[1].begin(), bad.lists[1][5]);
  EXPECT_THAT(message(bad), HasSubstr("rank 1, instruction 0 (B1.0): its forward has not run"));
  bad = good;
  bad.lists[0][7].second.kind = OpKind::kBackwardInput;
  EXPECT_THAT(message(bad), HasSubstr("an overlapped pair is"));
  bad = good;
  bad.lists[1].back().first.micro_batch = 2;
  EXPECT_THAT(message(bad), HasSubstr("the oldest deferred is"));
  bad = good;
  bad.lists[0].push_back(good.lists[0].back());
  EXPECT_THAT(message(bad), HasSubstr("no weight gradient is deferred"));
  bad = good;
  bad.lists.pop_back();
  EXPECT_THAT(message(bad), HasSubstr("3 lists for 4 ranks"));
  bad = good;
  bad.micro_batches = 9;
  EXPECT_THAT(message(bad), HasSubstr("9 micro-batches do not divide"));
  bad = good;
  bad.stages = 8;
  EXPECT_THAT(message(bad), HasSubstr("8 stages for 4 ranks"));
  bad = good;
  bad.directions = 3;
  EXPECT_THAT(message(bad), HasSubstr("3 directions"));
  EXPECT_THAT(message(Schedule()), HasSubstr("0 ranks"));
}

TEST(CheckScheduleTest, RanksThatWaitForEachOther_AreADeadlock) {
  // Both first want the direction that the other has yet to send; each list alone is in order.
  Schedule schedule = ForwardOnly(2, 2).value();
  for (auto& list : schedule.lists) std::swap(list[0], list[1]);
  const absl::Status status = CheckSchedule(schedule);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(
      std::string(status.message()),
      HasSubstr("rank 0 at instruction 0 (F1.0) waits to receive activation F1.0 from rank 1"));
}

TEST(CheckScheduleTest, SendersAheadOfFullChannels_AreADeadlock) {
  // Rank 0 sends all before it takes any, and so does rank 1: fine while channels hold everything.
  Schedule schedule = ForwardOnly(2, 8).value();
  for (int rank : {0, 1}) {
    auto& list = schedule.lists[rank];
    list.clear();
    for (int direction : {rank, 1 - rank}) {
      for (int m = 0; m < 4; ++m) {
        Instruction instruction;
        instruction.first = {OpKind::kForward, direction, m};
        list.push_back(instruction);
      }
    }
  }
  EXPECT_TRUE(CheckSchedule(schedule).ok());
  EXPECT_EQ(MaxInFlight(schedule), 4);
  EXPECT_TRUE(CheckSchedule(schedule, 4).ok());
  const absl::Status status = CheckSchedule(schedule, 3);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("waits for room to send"));
}

TEST(SimulateTest, FourRanksEightBatches_TakesTwentySix) {
  const Simulation simulation = Simulate(DualPipe(4, 8).value(), kUnitCosts).value();
  EXPECT_EQ(simulation.makespan, 26);
  for (const SimulatedRank& rank : simulation.ranks) {
    EXPECT_EQ(rank.idle, 2);
    EXPECT_EQ(rank.busy, 24);
    EXPECT_EQ(rank.peak_live, 5);
    EXPECT_EQ(rank.starts.size(), rank.ends.size());
  }
}

TEST(SimulateTest, EqualCosts_IdleAsTheFormulaSays) {
  for (int ranks = 2; ranks <= 32; ranks += 2) {
    for (int batches : BatchCounts(ranks)) {
      const Simulation simulation = Simulate(DualPipe(ranks, batches).value(), kUnitCosts).value();
      const double bubble = (ranks / 2 - 1) * (3 + 2 - 3 * 1);  // (P/2 - 1)(FB + B - 3W)
      EXPECT_EQ(simulation.makespan, 3 * batches + bubble) << ranks << " " << batches;
      for (const SimulatedRank& rank : simulation.ranks) {
        EXPECT_EQ(rank.idle, bubble);
        EXPECT_LE(rank.peak_live, ranks + 1);
      }
    }
  }
}

TEST(SimulateTest, OverlapThatHidesWork_ShortensTheStep) {
  StageCosts costs;
  costs.overlapped = 2.5;
  const Schedule schedule = DualPipe(8, 32).value();
  const Simulation faster = Simulate(schedule, {costs}).value();
  const Simulation plain = Simulate(schedule, kUnitCosts).value();
  EXPECT_LT(faster.makespan, plain.makespan);
  EXPECT_GT(Simulate(schedule, kUnitCosts, 0.5).value().makespan, plain.makespan);
}

TEST(SimulateTest, SlowStage_GovernsItsRankAndMirror) {
  const Schedule schedule = DualPipe(4, 8).value();
  std::vector<StageCosts> costs(4);
  costs[1] = {2, 4, 2, 2, 6};
  const Simulation simulation = Simulate(schedule, costs).value();
  // Ranks 1 and 2 hold stage 1 and its mirror: per pair of micro-batches 3 + 6.
  EXPECT_EQ(simulation.ranks[1].busy, 4 * 9);
  EXPECT_EQ(simulation.ranks[2].busy, 4 * 9);
  EXPECT_EQ(simulation.ranks[0].busy, 24);
  EXPECT_GE(simulation.makespan, 36);
}

TEST(SimulateTest, BadCosts_AreRefused) {
  const Schedule schedule = DualPipe(4, 8).value();
  EXPECT_FALSE(Simulate(schedule, {}).ok());
  EXPECT_FALSE(Simulate(schedule, std::vector<StageCosts>(3)).ok());
  StageCosts bad;
  bad.weight = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(Simulate(schedule, {bad}).ok());
  bad.weight = -1;
  EXPECT_FALSE(Simulate(schedule, {bad}).ok());
  EXPECT_FALSE(Simulate(schedule, kUnitCosts, INFINITY).ok());
  Schedule broken = schedule;
  broken.lists[0].pop_back();
  EXPECT_FALSE(Simulate(broken, kUnitCosts).ok());
}

TEST(MessagesTest, OverlappedPair_TakesForwardFirst) {
  const Schedule schedule = DualPipe(4, 8).value();
  const Messages messages = MessagesOf(schedule, 1, schedule.lists[1][6]);  // [F1.2|B0.0]
  ASSERT_EQ(messages.receives.size(), 2);
  EXPECT_EQ(ToString(messages.receives[0]), "activation F1.2 from rank 2 to rank 1");
  EXPECT_EQ(ToString(messages.receives[1]), "gradient B0.0 from rank 2 to rank 1");
  ASSERT_EQ(messages.sends.size(), 2);
  EXPECT_EQ(ToString(messages.sends[0]), "activation F1.2 from rank 1 to rank 0");
  EXPECT_EQ(ToString(messages.sends[1]), "gradient B0.0 from rank 1 to rank 0");
}

}  // namespace
}  // namespace fathom::schedule
