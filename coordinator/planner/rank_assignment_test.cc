#include "coordinator/planner/rank_assignment.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/plan/plan_layout.h"
#include "gtest/gtest.h"

namespace fathom::planner {
namespace {

v1::Parallelism Shape(int pipeline, int expert, int replicas) {
  v1::Parallelism shape;
  shape.set_pipeline(pipeline);
  shape.set_expert(expert);
  shape.set_replicas(replicas);
  return shape;
}

struct Size {
  int nodes = 0;
  int devices = 0;
  int nodes_per_leaf = 0;
  int nodes_per_domain = 0;
};

std::vector<NodeCapacity> Cluster(const Size& size) {
  std::vector<NodeCapacity> nodes(static_cast<size_t>(size.nodes));
  for (int i = 0; i < size.nodes; ++i) {
    NodeCapacity& node = nodes[static_cast<size_t>(i)];
    node.name = absl::StrCat("n", i);
    for (int d = 0; d < size.devices; ++d) node.free_devices.push_back(d);
    if (size.nodes_per_leaf > 0) node.leaf = absl::StrCat("leaf", i / size.nodes_per_leaf);
    if (size.nodes_per_domain > 0) {
      node.failure_domain = absl::StrCat("row", i / size.nodes_per_domain);
    }
  }
  return nodes;
}

struct Outcome {
  int leaves_per_group = 0;
  int nodes_per_group = 0;
  int same_node = 0;
  int same_domain = 0;
  int same_leaf = 0;
  size_t nodes = 0;
  size_t leaves = 0;
};

Outcome OutcomeOf(const v1::Parallelism& shape, const std::vector<NodeCapacity>& nodes,
                  const std::vector<v1::RankAssignment>& ranks) {
  std::map<std::string, const NodeCapacity*> by_name;
  for (const NodeCapacity& node : nodes) by_name[node.name] = &node;
  Outcome outcome;
  std::set<std::string> used;
  std::set<std::string> leaves;
  std::set<std::pair<std::string, int>> devices;
  std::map<std::pair<int, int>, std::set<std::string>> group_leaves;
  std::map<std::pair<int, int>, std::set<std::string>> group_nodes;
  for (const v1::RankAssignment& rank : ranks) {
    EXPECT_TRUE(devices.emplace(rank.node(), rank.device()).second) << rank.rank();
    const NodeCapacity& own = *by_name.at(rank.node());
    EXPECT_EQ(std::count(own.free_devices.begin(), own.free_devices.end(), rank.device()), 1);
    used.insert(own.name);
    leaves.insert(own.leaf);
    group_leaves[{rank.replica(), rank.pipeline_rank()}].insert(own.leaf);
    group_nodes[{rank.replica(), rank.pipeline_rank()}].insert(own.name);
    const int mirror_at = shape.pipeline() - 1 - rank.pipeline_rank();
    if (mirror_at <= rank.pipeline_rank()) continue;
    const int other = plan::RankAt(shape, rank.replica(), rank.expert_rank(), mirror_at);
    const NodeCapacity& mirror = *by_name.at(ranks[static_cast<size_t>(other)].node());
    outcome.same_node += own.name == mirror.name;
    outcome.same_domain +=
        !own.failure_domain.empty() && own.failure_domain == mirror.failure_domain;
    outcome.same_leaf += !own.leaf.empty() && own.leaf == mirror.leaf;
  }
  for (const auto& [group, set] : group_leaves) {
    outcome.leaves_per_group = std::max(outcome.leaves_per_group, static_cast<int>(set.size()));
  }
  for (const auto& [group, set] : group_nodes) {
    outcome.nodes_per_group = std::max(outcome.nodes_per_group, static_cast<int>(set.size()));
  }
  outcome.nodes = used.size();
  outcome.leaves = leaves.size();
  return outcome;
}

Outcome Assigned(const v1::Parallelism& shape, const std::vector<NodeCapacity>& nodes) {
  const auto ranks = AssignRanks(shape, nodes);
  EXPECT_TRUE(ranks.ok()) << ranks.status();
  return OutcomeOf(shape, nodes, *ranks);
}

TEST(AssignRanksTest, ReferenceCluster_GroupsUnderOneLeafAndMirrorsUnderOthers) {
  for (const int per_leaf : {8, 16, 32, 64}) {
    const Outcome outcome = Assigned(Shape(16, 64, 2), Cluster({256, 8, per_leaf, per_leaf}));
    EXPECT_EQ(outcome.leaves_per_group, 1) << per_leaf;
    EXPECT_EQ(outcome.nodes_per_group, 8) << per_leaf;
    EXPECT_EQ(outcome.same_node, 0) << per_leaf;
    EXPECT_EQ(outcome.same_domain, 0) << per_leaf;
    EXPECT_EQ(outcome.same_leaf, 0) << per_leaf;
  }
}

TEST(AssignRanksTest, NodesInterleavedOverLeaves_GroupsAreStillUnderOne) {
  std::vector<NodeCapacity> nodes = Cluster({64, 8, 0, 0});
  for (int i = 0; i < 64; ++i) {
    nodes[static_cast<size_t>(i)].leaf = absl::StrCat("leaf", i % 4);
    nodes[static_cast<size_t>(i)].failure_domain = absl::StrCat("row", i % 8);
  }
  const Outcome outcome = Assigned(Shape(8, 64, 1), nodes);
  EXPECT_EQ(outcome.leaves_per_group, 1);
  EXPECT_EQ(outcome.same_leaf, 0);
  EXPECT_EQ(outcome.same_domain, 0);
}

TEST(AssignRanksTest, SmallGroups_StayOnNodesAndMirrorsGoUnderOtherLeaves) {
  for (const int expert : {1, 2, 4, 8}) {
    const Outcome outcome = Assigned(Shape(8, expert, 512 / 8 / expert), Cluster({64, 8, 16, 4}));
    EXPECT_EQ(outcome.nodes_per_group, 1) << expert;
    EXPECT_EQ(outcome.same_domain, 0) << expert;
    EXPECT_EQ(outcome.same_leaf, 0) << expert;
  }
}

TEST(AssignRanksTest, DomainWithMostNodes_IsUsedAgainstAllOthers) {
  // Two nodes in each of two domains and four in a third: pairs must all use the third.
  std::vector<NodeCapacity> nodes = Cluster({8, 1, 0, 0});
  for (int i = 0; i < 8; ++i) {
    nodes[static_cast<size_t>(i)].failure_domain = i < 2 ? "a" : i < 4 ? "b" : "c";
  }
  EXPECT_EQ(Assigned(Shape(8, 1, 1), nodes).same_domain, 0);
}

TEST(AssignRanksTest, JobSmallerThanTheCluster_TakesFewLeavesAndNoMoreNodesThanItNeeds) {
  const Outcome outcome = Assigned(Shape(4, 64, 1), Cluster({256, 8, 32, 32}));
  EXPECT_EQ(outcome.nodes, 32u);
  EXPECT_EQ(outcome.leaves, 2u);
  EXPECT_EQ(outcome.leaves_per_group, 1);
  EXPECT_EQ(outcome.same_leaf, 0);
}

TEST(AssignRanksTest, LeafTooSmallForAGroup_AsFewLeavesAsItTakes) {
  // Leaves of 6 nodes, groups of 8 nodes.
  const Outcome outcome = Assigned(Shape(2, 64, 1), Cluster({24, 8, 6, 6}));
  EXPECT_EQ(outcome.leaves_per_group, 2);
  EXPECT_EQ(outcome.same_node, 0);
  EXPECT_EQ(outcome.same_leaf, 0);
}

TEST(AssignRanksTest, OneLeaf_DomainsAreStillKeptApart) {
  const Outcome outcome = Assigned(Shape(4, 16, 1), Cluster({8, 8, 8, 4}));
  EXPECT_EQ(outcome.leaves_per_group, 1);
  EXPECT_EQ(outcome.same_domain, 0);
}

TEST(AssignRanksTest, RandomClusters_EveryRankHasADeviceAndGroupsSpanNoMoreThanWithoutLeaves) {
  int better = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    std::mt19937_64 random(seed);
    const auto pick = [&](int count) { return static_cast<int>(random() % count); };
    const v1::Parallelism shape =
        Shape(std::vector<int>{1, 2, 4, 6}[pick(4)], 1 << pick(5), 1 + pick(3));
    const int64_t needed = int64_t{shape.pipeline()} * shape.expert() * shape.replicas();
    std::vector<NodeCapacity> nodes;
    for (int64_t free = 0; free < needed + pick(8);) {
      NodeCapacity& node = nodes.emplace_back();
      node.name = absl::StrCat("n", nodes.size());
      for (int d = 0; d < 8; ++d) {
        if (pick(8) > 0) node.free_devices.push_back(d);
      }
      free += static_cast<int64_t>(node.free_devices.size());
      if (pick(6) > 0) node.leaf = absl::StrCat("leaf", pick(4));
      if (pick(6) > 0) node.failure_domain = absl::StrCat("row", pick(5));
    }
    const auto ranks = AssignRanks(shape, nodes);
    ASSERT_TRUE(ranks.ok()) << "seed " << seed << " " << ranks.status();
    const Outcome known = OutcomeOf(shape, nodes, *ranks);
    std::vector<NodeCapacity> blind = nodes;
    for (NodeCapacity& node : blind) node.leaf.clear();
    const Outcome unknown = OutcomeOf(shape, nodes, AssignRanks(shape, blind).value());
    ASSERT_LE(known.same_node, unknown.same_node) << "seed " << seed;
    better += known.leaves_per_group < unknown.leaves_per_group;
  }
  EXPECT_GT(better, 30);
}

// 32,768 ranks: what the test's time is spent on is the planning.
TEST(AssignRanksTest, SixteenTimesTheReference_IsPlannedAsWell) {
  for (const int expert : {1, 8, 64}) {
    const Outcome outcome =
        Assigned(Shape(16, expert, 32768 / 16 / expert), Cluster({4096, 8, 32, 4}));
    EXPECT_EQ(outcome.nodes, 4096u) << expert;
    EXPECT_EQ(outcome.leaves_per_group, 1) << expert;
    EXPECT_EQ(outcome.same_node + outcome.same_domain + outcome.same_leaf, 0) << expert;
  }
}

TEST(AssignRanksTest, ManyRanksUnderOneLeaf_MirrorsAreOnOtherNodesAndInOtherDomains) {
  const Outcome outcome = Assigned(Shape(16, 1, 2048), Cluster({4096, 8, 4096, 4}));
  EXPECT_EQ(outcome.same_node + outcome.same_domain, 0);
}

}  // namespace
}  // namespace fathom::planner
