// The search by itself, over costs that are made up here: what it finds is what trying everything
// finds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "common/schedule/dualpipe.h"
#include "coordinator/planner/search/layout_search.h"
#include "coordinator/planner/search/layout_space.h"
#include "coordinator/planner/search/loss_reason.h"
#include "coordinator/planner/search/pair_split.h"
#include "coordinator/planner/search/schedule_form.h"

namespace fathom::planner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Every way of cutting `layers` into `stages` runs of which only the first and last may be empty.
std::vector<std::vector<int64_t>> AllSplits(int64_t layers, int stages) {
  if (stages == 1) return {{layers}};
  std::vector<std::vector<int64_t>> splits;
  std::vector<int64_t> split(stages);
  std::function<void(int, int64_t)> fill = [&](int stage, int64_t left) {
    if (stage == stages - 1) {
      split[stage] = left;
      splits.push_back(split);
      return;
    }
    for (int64_t n = stage == 0 ? 0 : 1; n <= left; ++n) {
      split[stage] = n;
      fill(stage + 1, left - n);
    }
  };
  fill(0, layers);
  return splits;
}

double PairValue(const LayerCosts& costs, const std::vector<int64_t>& split, double* squares) {
  std::vector<double> stages(split.size());
  size_t layer = 0;
  for (size_t i = 0; i < split.size(); ++i) {
    for (int64_t n = 0; n < split[i]; ++n) stages[i] += costs.layers[layer++];
  }
  stages.front() += costs.embedding;
  stages.back() += costs.head;
  *squares = 0;
  for (double stage : stages) *squares += stage * stage;
  return LongestPair(costs, split);
}

TEST(PairSplit, AnyCosts_NoSplitHasAShorterLongestPairOrMoreEvenStages) {
  const std::vector<LayerCosts> cases = {
      {{1, 1, 1, 1, 1, 1}, 0, 0},          {{1, 1, 1, 1, 1, 1, 1, 1, 1}, 0.2, 3.5},
      {{0.4, 0.4, 0.4, 1, 1, 1, 1}, 0, 2}, {{5, 1, 1, 1, 1, 1, 1, 7}, 1, 1},
      {{3, 1, 4, 1, 5, 9, 2, 6}, 0.5, 2},
  };
  for (const LayerCosts& costs : cases) {
    for (int stages : {2, 4, 6}) {
      SCOPED_TRACE(testing::Message() << costs.layers.size() << " layers, " << stages);
      const auto found = SplitPairs(costs, stages);
      ASSERT_TRUE(found.ok()) << found.status();
      double best = 1e9;
      double best_squares = 1e9;
      for (const auto& split : AllSplits(costs.layers.size(), stages)) {
        double squares = 0;
        const double value = PairValue(costs, split, &squares);
        if (value < best - 1e-9) {
          best = value;
          best_squares = squares;
        } else if (value < best + 1e-9) {
          best_squares = std::min(best_squares, squares);
        }
      }
      double squares = 0;
      EXPECT_NEAR(PairValue(costs, *found, &squares), best, 1e-9);
      EXPECT_NEAR(squares, best_squares, 1e-9);
    }
  }
}

TEST(PairSplit, OddOrTooManyStages_AreRefused) {
  const LayerCosts costs{{1, 1, 1, 1}, 0, 0};
  EXPECT_THAT(std::string(SplitPairs(costs, 3).status().message()), HasSubstr("even"));
  EXPECT_THAT(std::string(SplitPairs(costs, 6).status().message()), HasSubstr("4 layers"));
}

TEST(LayoutSpace, EveryShape_KeepsTheSequencesAndFillsThePipeline) {
  const SpaceLimits limits{61, 256, 2048, 15360, 4096};
  const std::vector<Shape> shapes = FullShapes(limits);
  bool published = false;
  for (const Shape& shape : shapes) {
    const v1::Parallelism& grid = shape.parallelism;
    EXPECT_EQ(shape.ranks(), 2048);
    EXPECT_EQ(shape.micro_batches * shape.micro_batch_sequences * grid.expert() * grid.replicas(),
              15360);
    EXPECT_EQ(256 % grid.expert(), 0);
    if (grid.pipeline() > 1) {
      EXPECT_EQ(grid.pipeline() % 2, 0);
      EXPECT_EQ(shape.micro_batches % 2, 0);
      EXPECT_GE(shape.micro_batches, 2 * grid.pipeline());
    }
    published |= grid.pipeline() == 16 && grid.expert() == 64 && grid.replicas() == 2 &&
                 shape.micro_batches == 120 && shape.micro_batch_sequences == 1;
  }
  EXPECT_TRUE(published);
}

TEST(LayoutSpace, NearestShapes_StartWithTheOneAskedForAndGoOutwards) {
  const SpaceLimits limits{8, 8, 16, 64, 32};
  Shape to;
  to.parallelism.set_pipeline(4);
  to.parallelism.set_expert(2);
  to.parallelism.set_replicas(2);
  to.micro_batches = 16;
  to.micro_batch_sequences = 1;
  const std::vector<Shape> shapes = NearestShapes(limits, to);
  ASSERT_FALSE(shapes.empty());
  EXPECT_EQ(ToString(shapes[0].parallelism), "PP4 x EP2 x DP2");
  EXPECT_EQ(shapes[0].micro_batches, 16);
  for (const Shape& shape : shapes) EXPECT_LE(shape.ranks(), 16);
  for (const Shape& shape : NearestShapesOfAnyBatch(limits, to)) {
    EXPECT_GE(shape.micro_batches, to.micro_batches);
    if (shape.parallelism.pipeline() > 1) {
      EXPECT_EQ(shape.micro_batches % 2, 0);
    }
  }
}

TEST(LayoutSpace, DevicesThatNoGridFills_ArePartlyUsed) {
  const SpaceLimits limits{8, 8, 7, 64, 32};
  for (const Shape& shape : PartialShapes(limits)) EXPECT_LT(shape.ranks(), 7);
  EXPECT_FALSE(PartialShapes(limits).empty());
}

// A made-up machine: exchange gets dearer with the expert group, large micro-batches are cheaper a
// sequence, memory is by the formulas below.
struct Machine {
  int64_t layers = 6;
  int64_t experts = 8;
  int64_t bytes_per_layer = 16;
  int64_t bytes_per_activation = 1;
  double exchange = 0.1;
  double update = 2;

  CostsByLayer Layers(const LayoutShape& layout) const {
    const double size = static_cast<double>(layout.micro_batch_sequences);
    const double slow = 1 + exchange * std::log2(layout.parallelism.expert()) + 0.2 / size;
    const double again = layout.recomputation == model::Recomputation::kFull        ? 1
                         : layout.recomputation == model::Recomputation::kSelective ? 0.2
                                                                                    : 0;
    auto part = [&](double work) {
      PartCosts costs;
      costs.costs.forward = work * size * slow;
      costs.costs.backward_input = work * size * (slow + again);
      costs.costs.weight = work * size;
      costs.costs.backward = costs.costs.backward_input + costs.costs.weight;
      costs.compute_s = work * size * (3 + again);
      costs.communication_s = work * size * exchange;
      costs.costs.overlapped = work * size * (3 + again + 0.05 * slow);
      return costs;
    };
    CostsByLayer costs;
    costs.embedding = part(0.1);
    for (int64_t i = 0; i < layers; ++i) costs.layers.push_back(part(i < 2 ? 0.6 : 1));
    costs.head = part(0.7);
    return costs;
  }

  absl::StatusOr<StepTimes> Step(const LayoutShape& layout,
                                 const schedule::Schedule& schedule) const {
    std::vector<schedule::StageCosts> stages;
    StepTimes step;
    for (const PartCosts& part : StagesOf(Layers(layout), layout.stage_layers)) {
      stages.push_back(part.costs);
      step.stages.push_back({part.costs, part.compute_s, part.communication_s, {}});
    }
    auto simulation = schedule::Simulate(schedule, stages, 0.01);
    if (!simulation.ok()) return simulation.status();
    step.seconds = simulation->makespan + update / layout.parallelism.replicas();
    step.breakdown.set_overlapped_s(simulation->ranks[0].busy);
    step.breakdown.set_bubble_s(simulation->ranks[0].idle);
    step.breakdown.set_optimizer_s(update / layout.parallelism.replicas());
    step.simulation = *std::move(simulation);
    return step;
  }

  int64_t State(const LayoutShape& layout, const ScheduleForm& form) const {
    return bytes_per_layer * layers / layout.parallelism.expert() * form.directions /
           layout.parallelism.pipeline();
  }

  absl::StatusOr<v1::PredictedMemory> Memory(const LayoutShape& layout,
                                             const schedule::Schedule& schedule) const {
    int64_t peak = 0;
    for (int rank = 0; rank < schedule.ranks; ++rank) {
      int64_t held = 0;
      std::set<int> stages;
      for (int direction = 0; direction < schedule.directions; ++direction) {
        for (int chunk = 0; chunk < schedule.chunks; ++chunk) {
          stages.insert(schedule::StageOf(schedule, rank, direction, chunk));
        }
      }
      for (int stage : stages) held += layout.stage_layers[stage];
      const int64_t kept = layout.recomputation == model::Recomputation::kNone   ? 3
                           : layout.recomputation == model::Recomputation::kFull ? 1
                                                                                 : 2;
      const int64_t live = std::min<int64_t>(schedule.micro_batches, 2 * schedule.ranks);
      peak = std::max(peak, bytes_per_layer * held / layout.parallelism.expert() +
                                bytes_per_activation * kept * live * held *
                                    layout.micro_batch_sequences / schedule.ranks);
    }
    v1::PredictedMemory memory;
    memory.set_peak_bytes(peak);
    return memory;
  }

  CostFunctions Functions() const {
    CostFunctions functions;
    functions.layers = [this](const LayoutShape& l) { return Layers(l); };
    functions.step = [this](const LayoutShape& l, const schedule::Schedule& s) {
      return Step(l, s);
    };
    functions.memory = [this](const LayoutShape& l, const schedule::Schedule& s) {
      return Memory(l, s);
    };
    functions.least_bytes = [this](const LayoutShape& l, const ScheduleForm& f) {
      return State(l, f);
    };
    functions.nodes_of_group = [](const v1::Parallelism& p) { return (p.expert() + 7) / 8; };
    return functions;
  }
};

SearchRequest RequestFor(const Machine& machine, int devices, int64_t sequences, int64_t bytes) {
  SearchRequest request;
  request.space = {machine.layers, machine.experts, devices, sequences, 32};
  request.base.sequence_length = 32;
  request.usable_bytes = bytes;
  request.candidates = 6;
  return request;
}

// The least step time over every shape, split and, where `forms` has more than what ranks run,
// schedule and recomputation.
double BruteForce(const SearchRequest& request, const CostFunctions& costs,
                  const std::vector<ScheduleForm>& forms,
                  const std::vector<model::Recomputation>& recomputations) {
  double best = 1e30;
  for (const Shape& shape : FullShapes(request.space)) {
    const int pipeline = shape.parallelism.pipeline();
    for (const ScheduleForm& form :
         pipeline == 1 ? std::vector<ScheduleForm>{SequentialForm()} : forms) {
      if (form.stages(pipeline) > request.space.layers) continue;
      const auto schedule = MakeFormSchedule(form, pipeline, shape.micro_batches, {});
      if (!schedule.ok()) continue;
      for (model::Recomputation recomputation : recomputations) {
        LayoutShape layout = WithShape(request.base, shape, recomputation);
        for (auto& split : AllSplits(request.space.layers, form.stages(pipeline))) {
          layout.stage_layers = split;
          const auto costed = CostLayout(layout, *schedule, request.usable_bytes, costs);
          EXPECT_TRUE(costed.ok()) << costed.status();
          if (costed->fits) best = std::min(best, costed->seconds);
        }
      }
    }
  }
  return best;
}

TEST(LayoutSearch, SmallClusters_FindWhatTryingEverythingFinds) {
  int layouts_found = 0;
  for (double exchange : {0.02, 0.3}) {
    for (int devices : {4, 8, 12, 16}) {
      for (int64_t bytes : {30, 60, 1000}) {
        Machine machine;
        machine.exchange = exchange;
        const SearchRequest request = RequestFor(machine, devices, 96, bytes);
        const CostFunctions costs = machine.Functions();
        const auto found = SearchLayouts(request, costs);
        ASSERT_TRUE(found.ok()) << found.status();
        const double best = BruteForce(request, costs, {*FindScheduleForm("dualpipe")},
                                       {model::Recomputation::kSelective});
        SCOPED_TRACE(testing::Message()
                     << devices << " devices of " << bytes << ", exchange " << exchange);
        if (best > 1e29) {
          EXPECT_TRUE(!found->best.has_value() || found->leaves_idle);
          continue;
        }
        ++layouts_found;
        ASSERT_TRUE(found->best.has_value());
        EXPECT_TRUE(found->best->run_by_ranks);
        EXPECT_NEAR(found->best->seconds, best, 1e-9 * best);
        EXPECT_LE(found->best->peak_bytes, bytes);
      }
    }
  }
  EXPECT_GE(layouts_found, 12);
}

TEST(LayoutSearch, AskedForAScheduleThatRanksDontRun_FindsItsBestOverAllRecomputations) {
  const Machine machine;
  SearchRequest request = RequestFor(machine, 4, 48, 70);
  request.schedule = "zb1p";
  const CostFunctions costs = machine.Functions();
  const auto found = SearchLayouts(request, costs);
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_TRUE(found->best.has_value());
  const double best = BruteForce(
      request, costs, {*FindScheduleForm("zb1p")},
      {model::Recomputation::kNone, model::Recomputation::kSelective, model::Recomputation::kFull});
  EXPECT_NEAR(found->best->seconds, best, 1e-9 * best);
  EXPECT_EQ(request.schedule, "zb1p");
  EXPECT_FALSE(SearchLayouts(
                   [&] {
                     auto r = request;
                     r.schedule = "zigzag";
                     return r;
                   }(),
                   costs)
                   .ok());
}

TEST(LayoutSearch, BoundOfEveryLayout_IsNoMoreThanItsSimulatedTime) {
  const Machine machine;
  const auto forms = ScheduleForms();
  ASSERT_TRUE(forms.ok()) << forms.status();
  EXPECT_GE(forms->size(), 6u);
  int checked = 0;
  for (const ScheduleForm& form : *forms) {
    for (int pipeline : {2, 4}) {
      LayoutShape layout;
      layout.parallelism.set_pipeline(pipeline);
      layout.parallelism.set_expert(2);
      layout.parallelism.set_replicas(1);
      layout.micro_batches = 4 * pipeline;
      layout.sequence_length = 32;
      if (form.stages(pipeline) > machine.layers) continue;
      const CostsByLayer costs = machine.Layers(layout);
      for (const auto& split : AllSplits(machine.layers, form.stages(pipeline))) {
        layout.stage_layers = split;
        const auto schedule = MakeFormSchedule(form, pipeline, layout.micro_batches, {});
        ASSERT_TRUE(schedule.ok()) << schedule.status();
        const auto step = machine.Step(layout, *schedule);
        ASSERT_TRUE(step.ok()) << step.status();
        const double bound =
            LeastSeconds(StagesOf(costs, split), form, pipeline, layout.micro_batches);
        EXPECT_LE(bound, step->simulation.makespan + 1e-9) << form.kind << " P=" << pipeline;
        EXPECT_GT(bound, 0.5 * step->simulation.makespan) << form.kind << " P=" << pipeline;
        ++checked;
      }
    }
  }
  EXPECT_GT(checked, 50);
}

TEST(LayoutSearch, RunnersUp_AreOtherGridsByTimeAndSayWhyTheyLost) {
  const Machine machine;
  const SearchRequest request = RequestFor(machine, 16, 192, 60);
  const auto found = SearchLayouts(request, machine.Functions());
  ASSERT_TRUE(found.ok()) << found.status();
  ASSERT_TRUE(found->best.has_value());
  ASSERT_FALSE(found->others.empty());
  EXPECT_LE(found->others.size(), 6u);
  double before = 0;
  bool large = false;
  for (const CostedLayout& other : found->others) {
    EXPECT_FALSE(other.why.empty());
    if (!other.fits) {
      large = true;
      EXPECT_GT(other.peak_bytes, 60);
      EXPECT_THAT(other.why, HasSubstr("needs "));
      continue;
    }
    EXPECT_FALSE(large) << "one that fits after one that doesn't";
    EXPECT_GE(other.seconds, before);
    before = other.seconds;
    if (!other.run_by_ranks) {
      EXPECT_THAT(other.why, HasSubstr("not yet run by ranks"));
    }
  }
  EXPECT_GT(found->considered, found->infeasible);
}

TEST(LayoutSearch, NothingFitsInMemory_SaysWhatCameNearest) {
  const Machine machine;
  const auto found = SearchLayouts(RequestFor(machine, 4, 48, 3), machine.Functions());
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_FALSE(found->best.has_value());
  ASSERT_FALSE(found->others.empty());
  for (size_t i = 1; i < found->others.size(); ++i) {
    EXPECT_LE(found->others[i - 1].peak_bytes, found->others[i].peak_bytes);
  }
}

TEST(LossReason, EachCause_IsNamed) {
  CostedLayout best;
  best.fits = best.run_by_ranks = true;
  best.seconds = 20;
  best.breakdown.set_overlapped_s(18);
  best.breakdown.set_bubble_s(1.6);
  best.breakdown.set_optimizer_s(0.4);
  CostedLayout loser = best;
  loser.layout.micro_batches = 60;
  loser.layout.parallelism.set_pipeline(32);
  loser.seconds = 24;
  loser.breakdown.set_bubble_s(4.32);
  EXPECT_EQ(WhyItLost(loser, &best, 0, 8), "bubble 18.0% against 8.0%: M=60 for P=32");
  loser.breakdown.set_bubble_s(1.6);
  loser.breakdown.set_overlapped_s(22);
  loser.communication_over_compute = 1.4;
  EXPECT_EQ(WhyItLost(loser, &best, 0, 16),
            "expert group spans 16 nodes: exchange 1.40x compute against 0.00x");
  loser.fits = false;
  loser.peak_bytes = 93'000'000'000;
  EXPECT_EQ(WhyItLost(loser, &best, 80'000'000'000, 8), "needs 93.0 GB of 80.0 GB");
}

}  // namespace
}  // namespace fathom::planner
