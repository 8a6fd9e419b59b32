#include "coordinator/planner/expectation/plan_expectation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "common/cluster/device_profiles.h"
#include "common/plan/job_resolve.h"
#include "coordinator/planner/expectation/nodes_as_cluster.h"
#include "coordinator/planner/planner.h"

namespace fathom::planner {
namespace {

using ::testing::HasSubstr;

v1::Node NodeOf(const std::string& name, const std::string& kind, int devices) {
  v1::Node node;
  node.set_name(name);
  for (int i = 0; i < devices; ++i) {
    v1::Device& device = *node.add_devices();
    device.set_index(i);
    device.set_kind(kind);
  }
  return node;
}

v1::Plan PlanOn(const std::vector<v1::Node>& nodes, int pipeline, int expert, int replicas) {
  v1::Job job;
  job.set_api_version("fathom/v1");
  job.set_kind("Job");
  job.mutable_metadata()->set_name("small");
  v1::JobSpec& spec = *job.mutable_spec();
  spec.mutable_model()->set_preset("deepseek-v3");
  spec.mutable_model()->set_num_hidden_layers(8);
  spec.mutable_data()->set_token_file("/data/tokens");
  spec.set_precision("fp8");
  spec.mutable_parallelism()->set_pipeline(pipeline);
  spec.mutable_parallelism()->set_expert(expert);
  spec.mutable_parallelism()->set_replicas(replicas);
  const auto resolved = plan::ResolveJob(job);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  std::vector<NodeCapacity> capacities;
  for (const v1::Node& node : nodes) {
    NodeCapacity& capacity = capacities.emplace_back();
    capacity.name = node.name();
    for (const v1::Device& device : node.devices()) {
      capacity.free_devices.push_back(device.index());
    }
  }
  const auto plan = MakePlan("small-1", 1, resolved->spec(), capacities);
  EXPECT_TRUE(plan.ok()) << plan.status();
  return plan.ok() ? *plan : v1::Plan();
}

TEST(ClusterOfNodesTest, EveryNode_KeepsItsPlaceAndLeaf) {
  std::vector<v1::Node> nodes;
  for (int i = 0; i < 6; ++i) {
    nodes.push_back(NodeOf(absl::StrCat("n", i), i < 4 ? "h800" : "h20", 8));
    nodes.back().set_leaf(i % 2 == 0 ? "even" : "odd");
  }
  const auto cluster = ClusterOfNodes(nodes, {});
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  const auto& placed = cluster->topology.nodes();
  ASSERT_EQ(placed.size(), 6u);
  for (int i = 0; i < 6; ++i) {
    const int index = cluster->index_of.at(absl::StrCat("n", i));
    EXPECT_EQ(cluster->topology.profile_of(index).kind(), i < 4 ? "h800" : "h20");
    for (int other = 0; other < 6; ++other) {
      EXPECT_EQ(placed[index].leaf == placed[cluster->index_of.at(absl::StrCat("n", other))].leaf,
                i % 2 == other % 2);
    }
  }
}

TEST(ClusterOfNodesTest, DaemonsOfOneMachine_ShareItsCores) {
  std::vector<v1::Node> nodes = {NodeOf("a", "cpu", 2), NodeOf("b", "cpu", 2),
                                 NodeOf("c", "cpu", 2)};
  for (v1::Node& node : nodes) {
    node.set_machine(node.name() == "c" ? "other" : "laptop");
    node.set_cores(2);
  }
  const auto cluster = ClusterOfNodes(nodes, {});
  ASSERT_TRUE(cluster.ok()) << cluster.status();
  const auto pool = [&](const char* name) {
    return cluster->topology.nodes()[cluster->index_of.at(name)].pool;
  };
  EXPECT_EQ(pool("a"), pool("b"));
  EXPECT_NE(pool("a"), pool("c"));
  EXPECT_EQ(cluster->topology.pool_of(cluster->index_of.at("a")).shared_cores(), 2);
}

TEST(ClusterOfNodesTest, UnknownDevice_IsNamed) {
  const auto cluster = ClusterOfNodes({NodeOf("a", "abacus", 2)}, {});
  EXPECT_EQ(cluster.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(cluster.status().message()), HasSubstr("abacus"));
}

TEST(ExpectPlanTest, Step_AddsUpAndPacesItsRanks) {
  const std::vector<v1::Node> nodes = {NodeOf("a", "h800", 8), NodeOf("b", "h800", 8)};
  const v1::Plan plan = PlanOn(nodes, 2, 8, 1);
  const auto expected = ExpectPlan(plan, nodes, {});
  ASSERT_TRUE(expected.ok()) << expected.status();
  const v1::StepBreakdown& parts = expected->step().breakdown();
  EXPECT_NEAR(parts.forward_s() + parts.backward_s() + parts.weight_s() + parts.overlapped_s() +
                  parts.bubble_s() + parts.reduce_s() + parts.optimizer_s() + parts.other_s(),
              expected->step().seconds(), 1e-9);
  EXPECT_EQ(expected->stages_size(), 2);
  ASSERT_EQ(expected->ranks_size(), 2);
  for (const v1::PredictedRank& rank : expected->ranks()) {
    EXPECT_GT(rank.busy_s(), 0);
    EXPECT_LE(rank.busy_s() + rank.idle_s(), expected->step().seconds() * (1 + 1e-9));
  }
}

TEST(ExpectPlanTest, SlowerDevices_TakeLonger) {
  const std::vector<v1::Node> quick = {NodeOf("a", "h800", 8), NodeOf("b", "h800", 8)};
  std::vector<v1::Node> slow = {NodeOf("a", "h800", 8), NodeOf("b", "h20", 8)};
  const v1::Plan plan = PlanOn(quick, 2, 8, 1);
  const auto as_planned = ExpectPlan(plan, quick, {});
  const auto mixed = ExpectPlan(plan, slow, {});
  ASSERT_TRUE(as_planned.ok() && mixed.ok()) << as_planned.status() << mixed.status();
  EXPECT_GT(mixed->step().seconds(), as_planned->step().seconds());
}

TEST(ExpectPlanTest, UnmeasuredProcessor_SaysHowToMeasureIt) {
  const std::vector<v1::Node> nodes = {NodeOf("a", "cpu", 16)};
  const auto expected = ExpectPlan(PlanOn(nodes, 2, 8, 1), nodes, {});
  EXPECT_EQ(expected.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(expected.status().message()), HasSubstr("fathomctl profile"));
}

TEST(ExpectPlanTest, NodeThatHasNotReported_IsNamed) {
  const std::vector<v1::Node> nodes = {NodeOf("a", "h800", 8), NodeOf("b", "h800", 8)};
  const v1::Plan plan = PlanOn(nodes, 2, 8, 1);
  const auto expected = ExpectPlan(plan, {nodes[0]}, {});
  EXPECT_THAT(std::string(expected.status().message()), HasSubstr("node b"));
}

}  // namespace
}  // namespace fathom::planner
