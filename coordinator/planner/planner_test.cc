#include "coordinator/planner/planner.h"

#include <algorithm>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/plan/job_resolve.h"
#include "common/plan/plan_check.h"
#include "common/plan/plan_layout.h"
#include "coordinator/planner/stage_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fathom::planner {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

v1::JobSpec Spec(const std::string& preset, int pipeline, int expert, int replicas) {
  v1::Job job;
  job.set_api_version("fathom/v1");
  job.set_kind("Job");
  job.mutable_spec()->mutable_model()->set_preset(preset);
  job.mutable_spec()->mutable_data()->set_token_file("/data/tokens");
  job.mutable_spec()->mutable_parallelism()->set_pipeline(pipeline);
  job.mutable_spec()->mutable_parallelism()->set_expert(expert);
  job.mutable_spec()->mutable_parallelism()->set_replicas(replicas);
  return plan::ResolveJob(job).value().spec();
}

std::vector<NodeCapacity> Cluster(int nodes, int devices) {
  std::vector<NodeCapacity> cluster(nodes);
  for (int i = 0; i < nodes; ++i) {
    cluster[i].name = absl::StrCat("node", i);
    for (int d = 0; d < devices; ++d) cluster[i].free_devices.push_back(d);
  }
  return cluster;
}

int MirrorsOnOneNode(const v1::Plan& plan) {
  int count = 0;
  const int pipeline = plan.spec().parallelism().pipeline();
  for (const auto& rank : plan.ranks()) {
    const int mirror = rank.rank() - 2 * rank.pipeline_rank() + pipeline - 1;
    count += mirror > rank.rank() && plan.ranks(mirror).node() == rank.node();
  }
  return count;
}

size_t NodesOf(const v1::Plan& plan, const std::vector<int>& ranks) {
  std::set<std::string> nodes;
  for (int rank : ranks) nodes.insert(plan.ranks(rank).node());
  return nodes.size();
}

// Longest stage over every split there is.
double LongestByTrying(const LayerCosts& costs, int stages, int first_layer, int stage) {
  const int layers = static_cast<int>(costs.layers.size());
  const bool last = stage == stages - 1;
  double own = stage == 0 ? costs.embedding : 0;
  if (last) own += costs.head;
  if (last) {
    for (int i = first_layer; i < layers; ++i) own += costs.layers[i];
    return own;
  }
  double best = std::numeric_limits<double>::infinity();
  for (int end = first_layer; end <= layers; ++end) {
    if (end > first_layer) own += costs.layers[end - 1];
    if (end == first_layer && stage > 0) continue;
    best = std::min(best, std::max(own, LongestByTrying(costs, stages, end, stage + 1)));
  }
  return best;
}

TEST(SplitLayersTest, AnyCosts_ReachTheShortestLongestStage) {
  std::mt19937 random(20240817);
  for (int round = 0; round < 200; ++round) {
    LayerCosts costs;
    const int layers = 1 + static_cast<int>(random() % 9);
    for (int i = 0; i < layers; ++i) costs.layers.push_back(1 + random() % 5);
    costs.embedding = random() % 3;
    costs.head = random() % 8;
    const int stages = 1 + static_cast<int>(random() % layers);
    const std::vector<int64_t> counts = SplitLayers(costs, stages).value();
    ASSERT_EQ(counts.size(), stages);
    double longest = 0;
    int at = 0;
    for (int stage = 0; stage < stages; ++stage) {
      double own = stage == 0 ? costs.embedding : 0;
      if (stage == stages - 1) own += costs.head;
      EXPECT_TRUE(counts[stage] > 0 || stage == 0 || stage == stages - 1);
      for (int64_t i = 0; i < counts[stage]; ++i) own += costs.layers[at++];
      longest = std::max(longest, own);
    }
    EXPECT_EQ(at, layers);
    EXPECT_EQ(longest, LongestByTrying(costs, stages, 0, 0)) << "round " << round;
  }
}

TEST(SplitLayersTest, EqualLayers_AreSpreadEvenly) {
  LayerCosts costs;
  costs.layers.assign(10, 1);
  std::vector<int64_t> counts = SplitLayers(costs, 4).value();
  std::sort(counts.begin(), counts.end());
  EXPECT_THAT(counts, ElementsAre(2, 2, 3, 3));
  costs.head = 2.5;
  EXPECT_THAT(SplitLayers(costs, 2).value(), ElementsAre(6, 4));
  EXPECT_FALSE(SplitLayers(costs, 11).ok());
  EXPECT_FALSE(SplitLayers(costs, 0).ok());
}

TEST(SplitStagesTest, DeepSeekV3On16Ranks_LoadsTheLastStageLess) {
  const auto config = model::ResolveModel(Spec("deepseek-v3", 16, 64, 1).model()).value();
  const auto stages = SplitStages(config, 4096, 16).value();
  int64_t next = 0;
  for (const v1::Stage& stage : stages) {
    EXPECT_EQ(stage.first_layer(), next);
    next += stage.layer_count();
    EXPECT_LE(stage.layer_count(), 5);
  }
  EXPECT_EQ(next, 61);
  // Head and MTP cost more than a layer each.
  EXPECT_LT(stages.back().layer_count(), stages[5].layer_count());
}

TEST(MakePlanTest, EveryShapeOnEveryCluster_IsSoundOrRefusedForRoom) {
  for (int pipeline : {1, 2, 4, 6, 8}) {
    for (int expert : {1, 2, 4, 8}) {
      for (int replicas : {1, 2, 3}) {
        const v1::JobSpec spec = Spec("toy", pipeline, expert, replicas);
        for (auto [nodes, devices] :
             std::vector<std::pair<int, int>>{{1, 64}, {4, 8}, {16, 4}, {13, 7}, {64, 1}}) {
          const auto plan = MakePlan("job-1", 3, spec, Cluster(nodes, devices));
          if (nodes * devices < pipeline * expert * replicas) {
            EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
            continue;
          }
          ASSERT_TRUE(plan.ok()) << plan.status();
          EXPECT_TRUE(plan::CheckPlan(*plan).ok());
          EXPECT_EQ(plan->epoch(), 3);
          const int groups = pipeline * replicas;
          if (pipeline > 1 && nodes * std::min(devices / expert, groups / 2) >= groups) {
            EXPECT_EQ(MirrorsOnOneNode(*plan), 0) << nodes << " x " << devices;
          }
          for (int rank = 0; rank < plan->ranks_size(); ++rank) {
            if (nodes * (devices / expert) < pipeline * replicas) break;
            EXPECT_EQ(NodesOf(*plan, plan::ExpertGroup(*plan, rank)), 1);
          }
          const auto again = MakePlan("job-1", 3, spec, Cluster(nodes, devices));
          EXPECT_EQ(again->SerializeAsString(), plan->SerializeAsString());
        }
      }
    }
  }
}

TEST(MakePlanTest, FewDevices_SaysHowManyAreMissing) {
  const auto plan = MakePlan("job-7", 1, Spec("toy", 4, 2, 2), Cluster(3, 5));
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  const std::string message(plan.status().message());
  EXPECT_THAT(message, HasSubstr("job-7"));
  EXPECT_THAT(message, HasSubstr("needs 16 devices (pipeline 4 x expert 2 x replicas 2)"));
  EXPECT_THAT(message, HasSubstr("15 are free on 3 nodes"));
  EXPECT_EQ(MakePlan("job-7", 1, Spec("toy", 1, 1, 1), {}).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(MakePlanTest, Experts_AreInEqualRuns) {
  const v1::Plan plan = MakePlan("j", 1, Spec("toy", 1, 4, 1), Cluster(1, 4)).value();
  EXPECT_THAT(plan.expert_owner(), ElementsAre(0, 0, 1, 1, 2, 2, 3, 3));
  EXPECT_THAT(plan::ExpertsOf(plan, 2), ElementsAre(4, 5));
}

TEST(MakePlanTest, ReferenceCluster_KeepsMirrorsApart) {
  // 16 x 64 x 2 on 256 nodes of 8: expert groups on 8 nodes each, nothing shared.
  const v1::Plan plan = MakePlan("big", 1, Spec("deepseek-v3", 16, 64, 2), Cluster(256, 8)).value();
  EXPECT_EQ(plan.ranks_size(), 2048);
  EXPECT_EQ(MirrorsOnOneNode(plan), 0);
  for (int rank = 0; rank < plan.ranks_size(); rank += 37) {
    EXPECT_EQ(NodesOf(plan, plan::ExpertGroup(plan, rank)), 8);
  }
}

TEST(MakePlanTest, UnevenNodes_StillKeepMirrorsApart) {
  std::vector<NodeCapacity> nodes = Cluster(3, 4);
  nodes[0].free_devices = {6, 1};
  nodes[1].free_devices = {3, 0};
  const v1::Plan plan = MakePlan("j", 1, Spec("toy", 8, 1, 1), nodes).value();
  EXPECT_EQ(MirrorsOnOneNode(plan), 0);
}

TEST(MakePlanTest, GroupsThatSpanSharedNodes_AreTurnedApart) {
  // Two groups of 6 on nodes of 4: both have ranks on one node, but not mirrors.
  const v1::Plan plan = MakePlan(
                            "j", 1,
                            [] {
                              v1::JobSpec spec = Spec("toy", 2, 1, 1);
                              spec.mutable_model()->set_n_routed_experts(12);
                              spec.mutable_parallelism()->set_expert(6);
                              return spec;
                            }(),
                            Cluster(3, 4))
                            .value();
  EXPECT_EQ(MirrorsOnOneNode(plan), 0);
}

TEST(MakePlanTest, RoomOnFewNodes_LeavesTheOthersFree) {
  const v1::Plan plan = MakePlan("j", 1, Spec("toy", 8, 1, 1), Cluster(100, 4)).value();
  EXPECT_EQ(NodesOf(plan, plan::AllRanks(plan)), 2);
  EXPECT_EQ(MirrorsOnOneNode(plan), 0);
  const v1::Plan lone = MakePlan("j", 1, Spec("toy", 1, 4, 1), Cluster(100, 4)).value();
  EXPECT_EQ(NodesOf(lone, plan::AllRanks(lone)), 1);
}

TEST(MakePlanTest, FailureDomains_KeepMirrorsApart) {
  std::vector<NodeCapacity> nodes = Cluster(8, 4);
  std::map<std::string, std::string> domain_of;
  for (size_t i = 0; i < nodes.size(); ++i) {
    nodes[i].failure_domain = i < 4 ? "rack-a" : "rack-b";
    domain_of[nodes[i].name] = nodes[i].failure_domain;
  }
  const v1::Plan plan = MakePlan("j", 1, Spec("toy", 4, 4, 1), nodes).value();
  for (const auto& rank : plan.ranks()) {
    const int mirror = rank.rank() - 2 * rank.pipeline_rank() + 3;
    EXPECT_NE(domain_of[rank.node()], domain_of[plan.ranks(mirror).node()]) << rank.rank();
  }
}

TEST(MakePlanTest, DevicesInAnyOrder_AreTakenLowestFirst) {
  std::vector<NodeCapacity> nodes = Cluster(1, 0);
  nodes[0].free_devices = {7, 2, 5};
  const v1::Plan plan = MakePlan("j", 1, Spec("toy", 2, 1, 1), nodes).value();
  EXPECT_EQ(plan.ranks(0).device(), 2);
  EXPECT_EQ(plan.ranks(1).device(), 5);
}

TEST(MakePlanTest, ContradictingInput_IsRefused) {
  const v1::JobSpec spec = Spec("toy", 1, 1, 1);
  auto code = [&](const v1::JobSpec& job, std::vector<NodeCapacity> nodes) {
    return MakePlan("j", 1, job, nodes).status().code();
  };
  std::vector<NodeCapacity> nodes = Cluster(2, 2);
  nodes[1].name = "node0";
  EXPECT_EQ(code(spec, nodes), absl::StatusCode::kInvalidArgument);
  nodes[1].name = "";
  EXPECT_EQ(code(spec, nodes), absl::StatusCode::kInvalidArgument);
  nodes = Cluster(1, 2);
  nodes[0].free_devices = {1, 1};
  EXPECT_EQ(code(spec, nodes), absl::StatusCode::kInvalidArgument);
  nodes[0].free_devices = {-1};
  EXPECT_EQ(code(spec, nodes), absl::StatusCode::kInvalidArgument);
  v1::JobSpec open = spec;
  open.clear_precision();
  EXPECT_EQ(code(open, Cluster(1, 1)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakePlan("j", 0, spec, Cluster(1, 1)).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace fathom::planner
