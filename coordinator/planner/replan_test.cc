#include "coordinator/planner/replan.h"

#include <algorithm>
#include <random>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/plan/job_resolve.h"
#include "common/plan/plan_check.h"
#include "common/plan/plan_layout.h"
#include "coordinator/planner/planner.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fathom::planner {
namespace {

using ::testing::HasSubstr;

v1::JobSpec Spec(int pipeline, int expert, int replicas, int64_t micro_batches) {
  v1::Job job;
  job.set_api_version("fathom/v1");
  job.set_kind("Job");
  job.mutable_spec()->mutable_model()->set_preset("tiny");
  job.mutable_spec()->mutable_data()->set_token_file("/data/tokens");
  job.mutable_spec()->mutable_parallelism()->set_pipeline(pipeline);
  job.mutable_spec()->mutable_parallelism()->set_expert(expert);
  job.mutable_spec()->mutable_parallelism()->set_replicas(replicas);
  job.mutable_spec()->mutable_training()->set_micro_batches(micro_batches);
  return plan::ResolveJob(job).value().spec();
}

ReplanNode NodeOf(const std::string& name, int devices, bool spare = false) {
  ReplanNode node;
  node.capacity.name = name;
  for (int d = 0; d < devices; ++d) node.capacity.free_devices.push_back(d);
  node.spare = spare;
  return node;
}

// A job on nodes n0, n1, ... of `devices` devices each, and what is asked when something changes.
struct Case {
  Case(v1::JobSpec asked, int nodes, int devices) : spec(std::move(asked)) {
    std::vector<NodeCapacity> capacities;
    for (int i = 0; i < nodes; ++i) {
      request.nodes.push_back(NodeOf(absl::StrCat("n", i), devices));
      capacities.push_back(request.nodes.back().capacity);
    }
    previous = MakePlan("job", 1, spec, capacities).value();
    request.previous = &previous;
    request.asked = &spec;
    request.epoch = 2;
  }

  void Lose(const std::string& name) {
    std::erase_if(request.nodes, [&](const ReplanNode& n) { return n.capacity.name == name; });
  }

  int Moved(const v1::Plan& plan) const {
    int moved = 0;
    for (int i = 0; i < plan.ranks_size(); ++i) {
      moved += plan.ranks(i).node() != previous.ranks(i).node() ||
               plan.ranks(i).device() != previous.ranks(i).device();
    }
    return moved;
  }

  v1::JobSpec spec;
  v1::Plan previous;
  ReplanRequest request;
};

TEST(ReplanTest, NodeLost_ItsRanksMoveAsABlockToTheClosestFittingSpare) {
  Case c(Spec(2, 4, 1, 4), 2, 4);
  c.Lose("n1");
  c.request.nodes.push_back(NodeOf("free", 8));
  c.request.nodes.push_back(NodeOf("large", 6, true));
  c.request.nodes.push_back(NodeOf("small", 4, true));
  const auto plan = Replan(c.request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(c.Moved(*plan), 4);
  for (const v1::RankAssignment& rank : plan->ranks()) {
    const std::string& was = c.previous.ranks(rank.rank()).node();
    EXPECT_EQ(rank.node(), was == "n1" ? "small" : was);
  }
  EXPECT_EQ(plan->epoch(), 2u);
  EXPECT_TRUE(plan::CheckPlan(*plan).ok());
}

TEST(ReplanTest, NamedSuccessor_GoesBeforeSpares) {
  Case c(Spec(2, 4, 1, 4), 2, 4);
  c.request.vacate = {"n1"};
  c.request.nodes.push_back(NodeOf("spare", 4, true));
  c.request.nodes.push_back(NodeOf("named", 6));
  c.request.successor["n1"] = "named";
  const auto plan = Replan(c.request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(std::count_if(plan->ranks().begin(), plan->ranks().end(),
                          [](const auto& rank) { return rank.node() == "named"; }),
            4);
}

TEST(ReplanTest, NoNodeFitsWhole_SpreadAwayFromMirrors) {
  Case c(Spec(2, 2, 1, 4), 2, 2);
  c.Lose("n1");
  c.request.nodes[0] = NodeOf("n0", 4);  // would put mirrors together
  c.request.nodes.push_back(NodeOf("x", 1));
  c.request.nodes.push_back(NodeOf("y", 1));
  const auto plan = Replan(c.request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  std::multiset<std::string> nodes;
  for (const v1::RankAssignment& rank : plan->ranks()) nodes.insert(rank.node());
  EXPECT_EQ(nodes.count("n0"), 4u) << "a block stays whole where one node has room";
  c.request.nodes[0] = NodeOf("n0", 3);
  const auto spread = Replan(c.request);
  ASSERT_TRUE(spread.ok()) << spread.status();
  for (int lane = 0; lane < 2; ++lane) {
    EXPECT_NE(spread->ranks(2 * lane).node(), spread->ranks(2 * lane + 1).node());
  }
}

TEST(ReplanTest, NothingFits_SaysHowManyAreMissing) {
  Case c(Spec(2, 4, 1, 4), 2, 4);
  c.Lose("n1");
  c.request.nodes.push_back(NodeOf("x", 3));
  const auto plan = Replan(c.request);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(plan.status().message(), HasSubstr("1 missing"));
}

// The windows a step reads are those of all lanes' micro-batches, by their number in the step.
std::set<int64_t> SamplesOf(const v1::Plan& plan) {
  std::set<int64_t> samples;
  const int directions = plan.spec().parallelism().pipeline() > 1 ? 2 : 1;
  const int64_t each = plan.spec().training().micro_batches() / directions;
  for (int lane = 0; lane < plan::LaneCount(plan); ++lane) {
    for (int direction = 0; direction < directions; ++direction) {
      for (int64_t m = 0; m < each; ++m) {
        EXPECT_TRUE(samples.insert(plan::MicroBatchIndex(plan, lane, direction, m)).second);
      }
    }
  }
  return samples;
}

TEST(ReshapeTest, NodeLost_SurvivingReplicasKeepDevicesAndAStepKeepsItsSamples) {
  Case c(Spec(2, 2, 4, 6), 4, 4);
  c.Lose("n1");
  const auto plan = Reshape(c.request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_TRUE(plan::CheckPlan(*plan).ok()) << plan::CheckPlan(*plan);
  EXPECT_EQ(plan->spec().parallelism().replicas(), 3);
  EXPECT_EQ(plan->spec().training().micro_batches(), 8);
  EXPECT_EQ(SamplesOf(*plan), SamplesOf(c.previous));
}

TEST(ReshapeTest, MicroBatchesDontDivide_FewerReplicas) {
  const v1::JobSpec spec = Spec(2, 1, 4, 4);
  EXPECT_EQ(MicroBatchesWith(spec, 3), 0) << "16 by 3";
  EXPECT_EQ(MicroBatchesWith(spec, 2), 8);
  EXPECT_EQ(MicroBatchesWith(spec, 1), 16);
  Case c(spec, 4, 2);
  c.Lose("n3");
  const auto plan = Reshape(c.request);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->spec().parallelism().replicas(), 2);
}

TEST(ReshapeTest, DevicesReturn_AllReplicasAgainAndTheSpecIsTheOneAsked) {
  Case c(Spec(2, 2, 2, 4), 2, 4);
  const std::vector<ReplanNode> all = c.request.nodes;
  c.Lose("n1");
  const v1::Plan shed = Reshape(c.request).value();
  ASSERT_EQ(shed.spec().parallelism().replicas(), 1);
  c.request.previous = &shed;
  c.request.nodes = all;
  const v1::Plan grown = Reshape(c.request).value();
  EXPECT_EQ(grown.spec().SerializeAsString(), c.spec.SerializeAsString());
  for (int i = 0; i < shed.ranks_size(); ++i) {
    EXPECT_EQ(grown.ranks(i).node(), shed.ranks(i).node());
    EXPECT_EQ(grown.ranks(i).device(), shed.ranks(i).device());
  }
  EXPECT_TRUE(plan::CheckPlan(grown).ok());
}

// Whatever is lost: ranks that can stay do, no device is used twice, samples stay the same.
TEST(ReplanPropertyTest, RandomLosses_SurvivorsStayAndEveryRankHasAPlace) {
  int shed = 0;
  int refused = 0;
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    std::mt19937_64 random(seed);
    const auto pick = [&](int count) { return static_cast<int>(random() % count); };
    const int pipeline = std::vector<int>{1, 2, 4}[pick(3)];
    const int expert = 1 << pick(3);
    const int replicas = 1 + pick(4);
    const int64_t micro_batches = 2 * pipeline * (1 + pick(3));
    const int devices = 1 + pick(8);
    const int ranks = pipeline * expert * replicas;
    Case c(Spec(pipeline, expert, replicas, micro_batches), (ranks + devices - 1) / devices + 1,
           devices);
    for (int losses = 1 + pick(2); losses > 0; --losses) {
      c.request.vacate.insert(absl::StrCat("n", pick(static_cast<int>(c.request.nodes.size()))));
    }
    if (pick(2) == 0) c.request.nodes.push_back(NodeOf("spare", 1 + pick(8), true));
    for (const bool reshape : {false, true}) {
      const auto plan = reshape ? Reshape(c.request) : Replan(c.request);
      if (!plan.ok()) {
        ASSERT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
        ++refused;
        continue;
      }
      ASSERT_TRUE(plan::CheckPlan(*plan).ok()) << "seed " << seed << plan::CheckPlan(*plan);
      ASSERT_EQ(SamplesOf(*plan), SamplesOf(c.previous)) << "seed " << seed;
      for (const v1::RankAssignment& rank : plan->ranks()) {
        ASSERT_FALSE(c.request.vacate.contains(rank.node())) << "seed " << seed;
      }
      shed += plan->spec().parallelism().replicas() < replicas;
      if (reshape) continue;
      for (const v1::RankAssignment& was : c.previous.ranks()) {
        if (c.request.vacate.contains(was.node())) continue;
        ASSERT_EQ(plan->ranks(was.rank()).node(), was.node()) << "seed " << seed;
        ASSERT_EQ(plan->ranks(was.rank()).device(), was.device()) << "seed " << seed;
      }
    }
  }
  EXPECT_GT(shed, 10);
  EXPECT_GT(refused, 10);
}

}  // namespace
}  // namespace fathom::planner
