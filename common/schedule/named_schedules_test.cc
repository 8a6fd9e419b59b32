// Every named schedule: sound at every shape, as tight as published, refused where it has no shape.
#include "common/schedule/named_schedules.h"

#include <algorithm>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

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

// Numbers of micro-batches that the kind takes on so many ranks, small ones and large ones.
std::vector<int> BatchCounts(const std::string& kind, int ranks) {
  if (kind == "interleaved-1f1b") return {ranks, 2 * ranks, 3 * ranks, 7 * ranks};
  if (kind == "dualpipe") return {2 * ranks, 2 * ranks + 2, 3 * ranks + ranks % 2, 4 * ranks + 6};
  if (kind == "dualpipev" || kind == "zbv") return {2 * ranks, 2 * ranks + 1, 3 * ranks, 5 * ranks};
  return {1, 2, ranks, 2 * ranks, 2 * ranks + 1, 4 * ranks + 3};
}

bool TakesRanks(const std::string& kind, int ranks) {
  if (kind == "dualpipe") return ranks % 2 == 0;
  return kind != "interleaved-1f1b" || ranks > 1;
}

double IdleOf(const Simulation& simulation) {
  double most = 0;
  for (const SimulatedRank& rank : simulation.ranks) most = std::max(most, rank.idle);
  return most;
}

int PeakOf(const Simulation& simulation) {
  int most = 0;
  for (const SimulatedRank& rank : simulation.ranks) most = std::max(most, rank.peak_live);
  return most;
}

Simulation Simulated(const std::string& kind, int ranks, int batches,
                     const std::vector<StageCosts>& costs = kUnitCosts, int chunks = 0) {
  const auto schedule = MakeSchedule(kind, ranks, batches, chunks);
  EXPECT_TRUE(schedule.ok()) << schedule.status();
  const auto simulation = Simulate(*schedule, costs);
  EXPECT_TRUE(simulation.ok()) << kind << " " << ranks << " " << batches << simulation.status();
  return *simulation;
}

TEST(NamedSchedulesTest, EveryShape_IsSound) {
  for (const std::string& kind : ScheduleKinds()) {
    for (int ranks = 1; ranks <= 17; ++ranks) {
      if (!TakesRanks(kind, ranks)) continue;
      for (int batches : BatchCounts(kind, ranks)) {
        const auto schedule = MakeSchedule(kind, ranks, batches);
        ASSERT_TRUE(schedule.ok()) << schedule.status();
        EXPECT_EQ(schedule->kind, kind);
        EXPECT_TRUE(CheckSchedule(*schedule).ok()) << CheckSchedule(*schedule);
        const int slots = MaxInFlight(*schedule);
        EXPECT_TRUE(CheckSchedule(*schedule, slots).ok()) << CheckSchedule(*schedule, slots);
      }
    }
  }
}

// Counted apart from the validator.
TEST(NamedSchedulesTest, EveryStage_RunsEachForwardAndBackwardOnce) {
  for (const std::string& kind : ScheduleKinds()) {
    const Schedule schedule = MakeSchedule(kind, 4, 12).value();
    std::map<std::tuple<OpKind, int, int, int>, int> runs;  // kind, direction, stage, micro-batch
    for (int rank = 0; rank < schedule.ranks; ++rank) {
      for (const Instruction& instruction : schedule.lists[rank]) {
        for (int half = 0; half <= (instruction.overlapped ? 1 : 0); ++half) {
          const Op& op = half == 0 ? instruction.first : instruction.second;
          const int stage = StageOf(schedule, rank, op.direction, op.chunk);
          EXPECT_EQ(RankOf(schedule, stage, op.direction), rank);
          EXPECT_EQ(ChunkOf(schedule, stage), op.chunk);
          const OpKind as = op.kind == OpKind::kBackward ? OpKind::kBackwardInput : op.kind;
          ++runs[{as, op.direction, stage, op.micro_batch}];
          if (op.kind == OpKind::kBackward) {
            ++runs[{OpKind::kWeight, op.direction, stage, op.micro_batch}];
          }
        }
      }
    }
    EXPECT_EQ(runs.size(), 3 * schedule.stages * schedule.micro_batches) << kind;
    for (const auto& [key, count] : runs) EXPECT_EQ(count, 1) << kind;
  }
}

TEST(NamedSchedulesTest, MissingInstruction_IsRefused) {
  for (const std::string& kind : ScheduleKinds()) {
    const Schedule good = MakeSchedule(kind, 4, 8).value();
    for (int rank = 0; rank < 4; ++rank) {
      for (size_t i = 0; i < good.lists[rank].size(); ++i) {
        Schedule dropped = good;
        dropped.lists[rank].erase(dropped.lists[rank].begin() + i);
        EXPECT_FALSE(CheckSchedule(dropped).ok()) << kind << " " << rank << " " << i;
      }
    }
  }
}

// facts: (P - 1)(F + B) for 1F1B, B being the full backward; (P - 1)(F + B - 2W) for ZB1P.
TEST(BubbleTest, OneFOneB_IdlesAsPublished) {
  for (const StageCosts& c : {StageCosts{}, StageCosts{3, 5, 2, 3, 8}, StageCosts{1, 4, 2, 2, 5}}) {
    for (int ranks = 1; ranks <= 32; ++ranks) {
      for (int batches : {ranks, 2 * ranks, 3 * ranks + 1, 64}) {
        const Simulation simulation = Simulated("1f1b", ranks, batches, {c});
        EXPECT_EQ(IdleOf(simulation), (ranks - 1) * (c.forward + c.backward)) << ranks;
        for (const SimulatedRank& rank : simulation.ranks) {
          EXPECT_EQ(rank.idle, IdleOf(simulation));
        }
        EXPECT_EQ(PeakOf(simulation), std::min(ranks, batches));
      }
    }
  }
}

TEST(BubbleTest, Zb1p_IdlesAsPublished) {
  for (const StageCosts& c :
       {StageCosts{}, StageCosts{3, 5, 3, 2, 8}, StageCosts{4, 7, 4, 3, 11}}) {
    for (int ranks = 1; ranks <= 32; ++ranks) {
      for (int batches : {2 * ranks, 3 * ranks + 1, 96}) {
        const Simulation simulation = Simulated("zb1p", ranks, batches, {c});
        EXPECT_EQ(IdleOf(simulation), (ranks - 1) * (c.forward + c.backward - 2 * c.weight))
            << ranks << " " << batches;
        EXPECT_EQ(PeakOf(simulation), ranks);
      }
    }
  }
}

TEST(BubbleTest, DualPipeAndDualPipeV_IdleAsPublished) {
  for (int stages = 2; stages <= 64; stages += 2) {
    for (int batches : {2 * stages, 2 * stages + 2, 4 * stages + 6}) {
      const double bubble = (stages / 2 - 1) * (3 + 2 - 3 * 1);  // (PP/2 - 1)(FB + B - 3W)
      for (const std::string kind : {"dualpipe", "dualpipev"}) {
        const int ranks = kind == "dualpipe" ? stages : stages / 2;
        if (ranks > 32) continue;
        const Simulation simulation = Simulated(kind, ranks, batches);
        EXPECT_EQ(simulation.makespan, 3 * batches * (stages / ranks) + bubble) << kind << ranks;
        for (const SimulatedRank& rank : simulation.ranks) EXPECT_EQ(rank.idle, bubble);
        EXPECT_EQ(PeakOf(simulation), stages + 1);
      }
    }
  }
}

TEST(BubbleTest, Interleaved_DividesTheBubbleByItsChunks) {
  for (int ranks = 2; ranks <= 16; ++ranks) {
    for (int chunks : {2, 3, 5}) {
      for (int batches : {ranks, 4 * ranks}) {
        const Simulation simulation =
            Simulated("interleaved-1f1b", ranks, batches, kUnitCosts, chunks);
        // In costs of one chunk; a whole rank's are so many times as much.
        EXPECT_EQ(simulation.makespan, 3 * (chunks * batches + ranks - 1));
      }
    }
  }
}

// Nobody waits between a rank's first and last instruction.
TEST(BubbleTest, Zb2pAndZbV_LeaveNoBubbleAtEqualCosts) {
  for (int ranks = 1; ranks <= 32; ++ranks) {
    for (int batches : {2 * ranks, 2 * ranks + 1, 5 * ranks}) {
      for (const std::string kind : {"zb2p", "zbv"}) {
        const Simulation simulation = Simulated(kind, ranks, batches);
        for (const SimulatedRank& rank : simulation.ranks) {
          EXPECT_EQ(rank.ends.back() - rank.starts.front(), rank.busy) << kind << " " << ranks;
        }
        EXPECT_EQ(simulation.makespan, 3 * batches * (kind == "zbv" ? 2 : 1) + ranks - 1);
        EXPECT_EQ(PeakOf(simulation), kind == "zbv" ? 2 * ranks : 2 * ranks - 1);
      }
    }
  }
}

TEST(ZeroBubbleTest, FewMicroBatches_AreNeverSlowerThanWithOneFOneB) {
  for (int ranks = 1; ranks <= 12; ++ranks) {
    for (int batches = 1; batches <= 2 * ranks; ++batches) {
      const double plain = Simulated("1f1b", ranks, batches).makespan;
      EXPECT_LE(Simulated("zb1p", ranks, batches).makespan, plain);
      EXPECT_LE(Simulated("zb2p", ranks, batches).makespan, plain);
    }
  }
}

TEST(DualPipeVTest, TurnOfTheV_IsAHandOverWithinTheRank) {
  const Schedule schedule = MakeSchedule("dualpipev", 2, 4).value();
  EXPECT_EQ(ToString(schedule.lists[0]),
            "F0.0 F0.1 F0.2 F1.0 Bi1.0 W F1.1 [F0.3|B1.1] [F1.2|B0.0] B1.2 [F1.3|B0.1] B1.3 Bi0.2 "
            "W Bi0.3 W");
  const Instruction turn = schedule.lists[1][1];  // F1.0
  EXPECT_EQ(ToString(turn), "F1.0");
  EXPECT_EQ(StageOf(schedule, 1, 0, 1), 2);
  const Messages messages = MessagesOf(schedule, 1, turn);
  ASSERT_EQ(messages.receives.size(), 1);
  EXPECT_EQ(ToString(messages.receives[0]), "activation F0.0 from rank 1 to rank 1");
  // Messages that take time don't delay what stays on the rank: of its 3 hops only 2 do.
  Schedule one = MakeSchedule("zbv", 1, 2).value();
  EXPECT_EQ(Simulate(one, kUnitCosts, 100).value().makespan, 12);
}

TEST(DualPipeVTest, TurnBeforeItsForward_IsADeadlock) {
  Schedule schedule = MakeSchedule("dualpipev", 2, 4).value();
  std::swap(schedule.lists[1][0], schedule.lists[1][1]);
  const absl::Status status = CheckSchedule(schedule);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("from rank 1 to rank 1"));
}

TEST(CheckScheduleTest, ChunksThatDoNotFit_AreNamed) {
  const Schedule good = MakeSchedule("interleaved-1f1b", 2, 4).value();
  auto message = [](const Schedule& schedule) {
    return std::string(CheckSchedule(schedule).message());
  };
  Schedule bad = good;
  bad.chunks = 3;
  EXPECT_THAT(message(bad), HasSubstr("4 stages for 2 ranks of 3 chunks"));
  bad = good;
  bad.lists[0][0].first.chunk = 2;
  EXPECT_THAT(message(bad), HasSubstr("there is no chunk 2"));
  bad = good;
  bad.directions = 2;
  EXPECT_THAT(message(bad), HasSubstr("2 chunks in two directions"));
  bad = MakeSchedule("1f1b", 2, 4).value();
  bad.placement = Placement::kV;
  EXPECT_THAT(message(bad), HasSubstr("1 chunks in the shape of a V"));
}

TEST(MakeScheduleTest, Kind_IsFoundHoweverItIsWritten) {
  for (const std::string kind : {"DualPipeV", "ZB-V", "zb_1p", "Interleaved_1F1B"}) {
    EXPECT_TRUE(MakeSchedule(kind, 2, 4).ok()) << kind;
  }
}

TEST(MakeScheduleTest, BadNumbers_NameTheRule) {
  struct Case {
    const char* kind;
    int ranks, batches, chunks;
    const char* says;
  };
  for (const Case& c : std::vector<Case>{
           {"pipedream", 4, 8, 0, "there is 1f1b, interleaved-1f1b, zb1p, zb2p, zbv, dualpipe, "},
           {"1f1b", 0, 8, 0, "1f1b: pipeline ranks: 0; choose at least 1"},
           {"1f1b", 4097, 8, 0, "at most 4096"},
           {"1f1b", 4, 0, 0, "micro-batches: 0; choose at least 1"},
           {"zb1p", 4, 2'000'000'000, 0, "choose at most 1048576"},
           {"zb2p", 4, 8, 2, "zb2p: chunks: 2; a rank has 1 chunk;"},
           {"zbv", 4, 7, 0, "zbv: micro-batches: 7 on 4 pipeline ranks; choose at least 8"},
           {"dualpipev", 4, 7, 0, "choose at least 8"},
           {"dualpipe", 3, 8, 0, "even number"},
           {"dualpipe", 4, 9, 0, "even number of at least 8"},
           {"interleaved-1f1b", 4, 9, 0, "in groups of 4: choose 12"},
           {"interleaved-1f1b", 1, 4, 0, "at least 2"},
           {"interleaved-1f1b", 4, 8, 1, "chunks: 1; interleaving needs at least 2"},
           {"interleaved-1f1b", 4, 8, 2'000'000'000, "choose at least 1 and at most 1048576"},
           {"interleaved-1f1b", 4, 8, -1, "at least 1"}}) {
    const absl::Status status = MakeSchedule(c.kind, c.ranks, c.batches, c.chunks).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.kind;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says)) << c.kind;
  }
}

}  // namespace
}  // namespace fathom::schedule
