// The searched schedule beside the named ones, and schedules timed with costs of stages and pairs.
#include "common/schedule/searched_schedule.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/schedule/compiled_schedule.h"
#include "common/schedule/event_simulator.h"
#include "common/schedule/instruction.h"
#include "common/schedule/named_schedules.h"
#include "common/schedule/random_source.h"
#include "common/schedule/schedule_check.h"
#include "common/schedule/search_grid.h"
#include "common/schedule/step_costs.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fathom::schedule {
namespace {

using ::testing::HasSubstr;

StageCosts Costs(double forward, double backward_input, double weight, double pair_saves = 0) {
  StageCosts costs;
  costs.forward = forward;
  costs.backward_input = backward_input;
  costs.weight = weight;
  costs.backward = backward_input + weight;
  costs.overlapped = (forward + backward_input + weight) * (1 - pair_saves);
  return costs;
}

int PeakOf(const Simulation& simulation) {
  int most = 0;
  for (const SimulatedRank& rank : simulation.ranks) most = std::max(most, rank.peak_live);
  return most;
}

// Another way to time a schedule: ends are raised until nothing waits for a later end.
double MakespanByRelaxation(const Schedule& s, const StepCosts& costs) {
  const int per_direction = BatchesPerDirection(s);
  const auto cell = [&](const Op& op, int stage) {
    return (op.direction * s.stages + stage) * per_direction + op.micro_batch;
  };
  std::vector<double> forwards(s.directions * s.stages * per_direction, 0);
  std::vector<double> backwards(forwards.size(), 0);
  double makespan = 0;
  for (bool moved = true; moved;) {
    moved = false;
    for (int rank = 0; rank < s.ranks; ++rank) {
      double free = 0;
      for (const Instruction& instruction : s.lists[rank]) {
        std::vector<Op> ops = {instruction.first};
        if (instruction.overlapped) ops.push_back(instruction.second);
        double start = free;
        double takes = 0;
        for (const Op& op : ops) {
          const int stage = StageOf(s, rank, op.direction, op.chunk);
          takes += CostOf(costs, op.kind, stage);
          if (op.kind == OpKind::kWeight) continue;
          const bool forward = op.kind == OpKind::kForward;
          const int source = forward ? stage - 1 : stage + 1;
          if (source < 0 || source >= s.stages) continue;
          const double delay = RankOf(s, source, op.direction) == rank ? 0 : costs.message_time;
          start = std::max(start, (forward ? forwards : backwards)[cell(op, source)] + delay);
        }
        if (instruction.overlapped) {
          takes = PairCostOf(costs, s.stages, StageOf(s, rank, ops[0].direction, ops[0].chunk),
                             StageOf(s, rank, ops[1].direction, ops[1].chunk));
        }
        free = start + takes;
        for (const Op& op : ops) {
          if (op.kind == OpKind::kWeight) continue;
          double& end = (op.kind == OpKind::kForward
                             ? forwards
                             : backwards)[cell(op, StageOf(s, rank, op.direction, op.chunk))];
          moved |= end < free;
          end = std::max(end, free);
        }
      }
      makespan = std::max(makespan, free);
    }
  }
  return makespan;
}

StepCosts UnevenCosts(int stages, uint64_t seed, double pair_saves, double message_time) {
  RandomSource random(seed);
  StepCosts costs;
  for (int stage = 0; stage < stages; ++stage) {
    const double size = random.Between(10, 20);
    costs.stages.push_back(Costs(size, size + random.Between(-2, 6), size - 2, pair_saves));
  }
  costs.message_time = message_time;
  return costs;
}

TEST(CompiledScheduleTest, EveryKind_IsTimedAsByRelaxation) {
  for (const std::string& kind : ScheduleKinds()) {
    const Schedule schedule = MakeSchedule(kind, 4, 12).value();
    const CompiledSchedule compiled = CompiledSchedule::Make(schedule).value();
    for (uint64_t seed : {1, 2, 3}) {
      const StepCosts costs = UnevenCosts(schedule.stages, seed, 0.25, seed - 1.0);
      const Simulation simulation = compiled.Simulate(costs).value();
      EXPECT_EQ(simulation.makespan, MakespanByRelaxation(schedule, costs)) << kind << seed;
      EXPECT_EQ(compiled.Makespan(costs).value(), simulation.makespan);
      EXPECT_EQ(Simulate(schedule, costs.stages, costs.message_time).value().makespan,
                simulation.makespan);
    }
  }
}

TEST(CompiledScheduleTest, PairsWithACostOfTheirOwn_TakeThat) {
  const Schedule schedule = MakeSchedule("dualpipe", 4, 8).value();
  const CompiledSchedule compiled = CompiledSchedule::Make(schedule).value();
  StepCosts costs{{StageCosts{}}, 0, {}};
  EXPECT_EQ(compiled.Makespan(costs).value(), 26);
  costs.pairs.assign(16, -1);  // as StageCosts says
  EXPECT_EQ(compiled.Makespan(costs).value(), 26);
  costs.pairs.assign(16, 2.5);
  costs.stages[0].overlapped = 2.5;
  const double all = compiled.Makespan(costs).value();
  costs.stages[0].overlapped = 3;
  EXPECT_EQ(compiled.Makespan(costs).value(), all);
  EXPECT_LT(all, 26);
  // Stage 1's forward with its mirror's backward alone: ranks 1 and 2 run one of them each.
  costs.pairs.assign(16, -1);
  costs.pairs[1 * 4 + 2] = 1;
  const Simulation one = compiled.Simulate(costs).value();
  EXPECT_EQ(one.ranks[0].busy, 24);
  EXPECT_EQ(one.ranks[1].busy + one.ranks[2].busy, 48 - 2 * 2);
}

TEST(CompiledScheduleTest, BadCosts_AreRefused) {
  const CompiledSchedule compiled =
      CompiledSchedule::Make(MakeSchedule("zbv", 2, 4).value()).value();
  const auto says = [&](const StepCosts& costs) {
    EXPECT_EQ(compiled.Makespan(costs).status(), compiled.Simulate(costs).status());
    return std::string(compiled.Makespan(costs).status().message());
  };
  EXPECT_THAT(says({{{}, {}}, 0, {}}), HasSubstr("costs of 2 stages for 4"));
  EXPECT_THAT(says({{{}}, -1, {}}), HasSubstr("the message time is -1"));
  EXPECT_THAT(says({{{}}, 0, {1, 2}}), HasSubstr("costs of 2 pairs for 4 stages; give none or 16"));
  EXPECT_THAT(says({{{}}, 0, std::vector<double>(16, NAN)}), HasSubstr("is nan; give a number"));
  Schedule broken = MakeSchedule("zbv", 2, 4).value();
  broken.lists[0].pop_back();
  EXPECT_FALSE(CompiledSchedule::Make(broken).ok());
}

TEST(CompiledScheduleTest, HeldBytes_FollowTheList) {
  const CompiledSchedule compiled =
      CompiledSchedule::Make(MakeSchedule("1f1b", 4, 8).value()).value();
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(compiled.PeakLive(rank), 4 - rank);
    EXPECT_EQ(compiled.PeakHeld(rank, {10, 20, 30, 40}), (4 - rank) * (rank + 1) * 10);
  }
  EXPECT_EQ(compiled.ranks(), 4);
  EXPECT_EQ(compiled.stages(), 4);
}

TEST(SearchedScheduleTest, GridOfTwoHundredCases_IsNeverSlowerThanTheBestNamedAtEqualMemory) {
  int cases = 0;
  int quicker = 0;
  double gain = 0;
  for (int index = 0; index < kGridCases; ++index) {
    const SearchRequest request = GridCase(index);
    const auto found = SearchSchedule(request);
    ASSERT_TRUE(found.ok()) << found.status();
    ASSERT_TRUE(CheckSchedule(found->schedule).ok()) << CheckSchedule(found->schedule);
    EXPECT_LE(PeakOf(found->simulation), request.max_activations);
    EXPECT_GE(found->simulation.makespan, found->bound * (1 - 1e-9)) << index;
    EXPECT_NEAR(found->simulation.makespan, MakespanByRelaxation(found->schedule, request.costs),
                1e-6);
    double best = std::numeric_limits<double>::infinity();
    for (const std::string& kind : NamedKindsOf(request.family, request.chunks)) {
      const auto named = MakeSchedule(kind, request.ranks, request.micro_batches);
      if (!named.ok()) continue;
      const CompiledSchedule compiled = CompiledSchedule::Make(*named).value();
      const Simulation simulation = compiled.Simulate(request.costs).value();
      if (PeakOf(simulation) <= request.max_activations) {
        best = std::min(best, simulation.makespan);
      }
    }
    ASSERT_TRUE(std::isfinite(best)) << index;
    EXPECT_LE(found->simulation.makespan, best) << index;
    ++cases;
    quicker += found->simulation.makespan < best * (1 - 1e-9);
    gain += 1 - found->simulation.makespan / best;
  }
  EXPECT_EQ(cases, 200);
  EXPECT_GE(quicker, 100);
  EXPECT_GE(gain / cases, 0.03);
}

TEST(SearchedScheduleTest, SameRequest_GivesTheSameLists) {
  SearchRequest request = GridCase(9);
  const SearchedSchedule first = SearchSchedule(request).value();
  const SearchedSchedule second = SearchSchedule(request).value();
  EXPECT_EQ(first.schedule.lists, second.schedule.lists);
  EXPECT_EQ(first.timed, second.timed);
  request.seed += 1;
  EXPECT_LE(SearchSchedule(request).value().simulation.makespan, first.named_makespan);
}

TEST(SearchedScheduleTest, LittleMemory_IsKeptTo) {
  for (const PlacementFamily family :
       {PlacementFamily::kLoop, PlacementFamily::kV, PlacementFamily::kBidirectional}) {
    for (int chunks : {1, 2, 3}) {
      if (chunks > 1 && family != PlacementFamily::kLoop) continue;
      const int tracks = family == PlacementFamily::kLoop ? chunks : 2;
      double before = std::numeric_limits<double>::infinity();
      for (int most : {tracks, tracks + 1, tracks + 3, 12, 0}) {
        SearchRequest request;
        request.ranks = 4;
        request.micro_batches = 6;
        request.family = family;
        request.chunks = chunks;
        request.costs.stages = {Costs(1, 1, 1)};
        request.max_activations = most;
        request.effort = 5 * kQuickEffort;
        const SearchedSchedule found = SearchSchedule(request).value();
        EXPECT_LE(PeakOf(found.simulation), most > 0 ? most : 18);
        // More memory never makes it slower by more than the search may miss.
        EXPECT_LE(found.simulation.makespan, before * 1.03) << tracks << " " << most;
        before = found.simulation.makespan;
      }
    }
  }
}

TEST(SearchedScheduleTest, Bytes_LimitEachRankByItsOwnStages) {
  SearchRequest request;
  request.ranks = 4;
  request.micro_batches = 12;
  request.family = PlacementFamily::kV;
  request.costs.stages = {Costs(1, 1, 1)};
  request.activation_bytes = {9, 1, 2, 2, 3, 3, 1, 4};
  request.max_activation_bytes = 40;
  request.effort = kQuickEffort;
  const SearchedSchedule found = SearchSchedule(request).value();
  const CompiledSchedule compiled = CompiledSchedule::Make(found.schedule).value();
  for (int rank = 0; rank < 4; ++rank) {
    EXPECT_LE(compiled.PeakHeld(rank, request.activation_bytes), 40) << rank;
  }
  // One micro-batch on each stage is enough, however its bytes add up.
  SearchRequest tight = request;
  tight.activation_bytes = {0.1, 0.3, 0.7, 0.2, 0.2, 0.7, 0.3, 0.8};
  tight.max_activation_bytes = 0.8 + 0.7;
  tight.activation_bytes[2] = tight.activation_bytes[5] = tight.max_activation_bytes / 2;
  EXPECT_TRUE(SearchSchedule(tight).ok()) << SearchSchedule(tight).status();
  // Rank 0 holds stages 0 and 7: 13 bytes.
  request.max_activation_bytes = 12;
  const absl::Status refused = SearchSchedule(request).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("of rank 0 takes 13"));
}

TEST(SearchedScheduleTest, ShapesThatNoNamedScheduleTakes_AreScheduled) {
  SearchRequest request;
  request.ranks = 4;
  request.micro_batches = 3;
  request.family = PlacementFamily::kV;
  request.costs.stages = {Costs(1, 1, 1)};
  request.effort = kQuickEffort;
  const SearchedSchedule v = SearchSchedule(request).value();
  EXPECT_EQ(v.named, "");
  // Down and up, the first backward all the way back, and its last weight gradient at least.
  EXPECT_GE(v.simulation.makespan, 16);
  EXPECT_LE(v.simulation.makespan, 16 + 3 * 2 * 3);
  request.family = PlacementFamily::kLoop;
  request.chunks = 2;
  request.micro_batches = 6;  // interleaving takes groups of 4
  EXPECT_TRUE(SearchSchedule(request).ok());
  request.ranks = 1;
  request.micro_batches = 1;
  EXPECT_EQ(SearchSchedule(request).value().simulation.makespan, 6);
}

TEST(SearchedScheduleTest, PairsThatSave_AreUsed) {
  SearchRequest request;
  request.ranks = 4;
  request.micro_batches = 24;
  request.costs.stages = {Costs(10, 10, 10, 0.2)};
  request.max_activations = 9;
  const SearchedSchedule found = SearchSchedule(request).value();
  int pairs = 0;
  for (const auto& list : found.schedule.lists) {
    pairs += std::count_if(list.begin(), list.end(), [](const auto& i) { return i.overlapped; });
  }
  EXPECT_GE(pairs, 4 * 12);
  EXPECT_LT(found.simulation.makespan, 0.92 * found.named_makespan);
}

TEST(SearchedScheduleTest, BadRequests_NameTheRule) {
  SearchRequest good;
  good.ranks = 4;
  good.micro_batches = 8;
  good.costs.stages = {StageCosts{}};
  const auto says = [&](auto change) {
    SearchRequest request = good;
    change(request);
    const absl::Status status = SearchSchedule(request).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(says([](auto& r) { r.ranks = 0; }),
              HasSubstr("pipeline ranks: 0; choose at least 1"));
  EXPECT_THAT(says([](auto& r) { r.chunks = 65; }), HasSubstr("chunks: 65; choose at most 64"));
  EXPECT_THAT(says([](auto& r) { r.costs.stages.clear(); }), HasSubstr("costs of 0 stages for 4"));
  EXPECT_THAT(says([](auto& r) { r.max_activations = -1; }), HasSubstr("at most -1 activations"));
  EXPECT_THAT(says([](auto& r) {
                r.family = PlacementFamily::kV;
                r.max_activations = 1;
              }),
              HasSubstr("allow at least 2, or 0"));
  EXPECT_THAT(says([](auto& r) {
                r.family = PlacementFamily::kBidirectional;
                r.micro_batches = 7;
              }),
              HasSubstr("an even number of either"));
  EXPECT_THAT(says([](auto& r) { r.activation_bytes = {1, 2}; }), HasSubstr("of 2 stages for 4"));
  EXPECT_THAT(says([](auto& r) { r.activation_bytes = {NAN}; }), HasSubstr("numbers of at least"));
  EXPECT_EQ(ParsePlacementFamily("Loop").value(), PlacementFamily::kLoop);
  EXPECT_THAT(std::string(ParsePlacementFamily("ring").status().message()),
              HasSubstr("there is loop, v, bidirectional"));
}

}  // namespace
}  // namespace fathom::schedule
