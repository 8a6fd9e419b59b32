#include "coordinator/planner/survivability.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/cluster/cluster_description.h"
#include "common/plan/buddy.h"
#include "common/plan/plan_layout.h"
#include "coordinator/planner/topology_placement.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fathom::planner {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

v1::Parallelism Shape(int pipeline, int expert, int replicas) {
  v1::Parallelism shape;
  shape.set_pipeline(pipeline);
  shape.set_expert(expert);
  shape.set_replicas(replicas);
  return shape;
}

// --- A described cluster ---

struct PoolOf {
  std::string device = "h800";
  int nodes = 256;
  int spares = 0;
  int nodes_per_leaf = 0;
  int nodes_per_failure_domain = 0;
};

cluster::Topology TopologyOf(const std::vector<PoolOf>& pools) {
  v1::ClusterDescription given;
  given.set_api_version("fathom/v1");
  given.set_kind("Cluster");
  given.mutable_metadata()->set_name("test");
  for (const PoolOf& one : pools) {
    v1::Pool* pool = given.mutable_spec()->add_pools();
    pool->set_name(absl::StrCat("pool", given.spec().pools_size()));
    pool->set_device(one.device);
    pool->set_nodes(one.nodes);
    pool->set_spares(one.spares);
    pool->set_nodes_per_leaf(one.nodes_per_leaf);
    pool->set_nodes_per_failure_domain(one.nodes_per_failure_domain);
  }
  const auto resolved = cluster::ResolveCluster(given);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  return cluster::Topology(resolved->spec());
}

TEST(PlaceLayoutTest, ReferenceCluster_GroupsUnderOneLeafMirrorsUnderOthers) {
  const cluster::Topology topology = TopologyOf({{}});
  const v1::Parallelism shape = Shape(16, 64, 2);
  const RankPlacement placement = PlaceLayout(shape, topology).value();
  ASSERT_EQ(placement.places.size(), 2048u);
  const PlacementStatistics statistics = StatisticsOf(shape, placement, topology);
  EXPECT_EQ(statistics.nodes, 256);
  EXPECT_EQ(statistics.leaves_per_expert_group, 1);
  EXPECT_EQ(statistics.nodes_per_expert_group, 8);
  EXPECT_EQ(statistics.mirrors_on_one_leaf, 0);
  EXPECT_EQ(statistics.mirrors_on_one_node, 0);
  EXPECT_EQ(statistics.mirrors_in_one_failure_domain, 0);
}

TEST(PlaceLayoutTest, OneLeaf_StatisticsSaySo) {
  const cluster::Topology topology = TopologyOf({{"h800", 4, 0, 4, 1}});
  const v1::Parallelism shape = Shape(2, 16, 1);
  const PlacementStatistics statistics =
      StatisticsOf(shape, PlaceLayout(shape, topology).value(), topology);
  EXPECT_EQ(statistics.mirrors_on_one_leaf, 1);
  EXPECT_EQ(statistics.mirrors_on_one_node, 0);
  EXPECT_EQ(statistics.leaves_per_expert_group, 1);
}

TEST(PlaceLayoutTest, SeveralPools_OneWhereItFitsAndElseAll) {
  const cluster::Topology topology = TopologyOf({{"h20", 4}, {"h800", 8}});
  const auto pools = [&](const v1::Parallelism& shape) {
    std::set<int> used;
    const RankPlacement placement = PlaceLayout(shape, topology).value();
    for (const RankPlacement::Place& place : placement.places) {
      used.insert(topology.nodes()[static_cast<size_t>(place.node)].pool);
    }
    return used;
  };
  EXPECT_EQ(pools(Shape(2, 16, 1)), (std::set<int>{0}));
  EXPECT_EQ(pools(Shape(2, 32, 1)), (std::set<int>{1}));
  EXPECT_EQ(pools(Shape(2, 48, 1)), (std::set<int>{0, 1}));
}

TEST(PlaceLayoutTest, Spares_AreNotUsedAndTooFewDevicesAreNamed) {
  const cluster::Topology topology = TopologyOf({{"h800", 5, 1}});
  const RankPlacement placement = PlaceLayout(Shape(2, 16, 1), topology).value();
  for (const RankPlacement::Place& place : placement.places) {
    EXPECT_FALSE(topology.nodes()[static_cast<size_t>(place.node)].spare);
  }
  const auto refused = PlaceLayout(Shape(2, 20, 1), topology);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr("32 are free"));
  EXPECT_EQ(PlaceLayout(Shape(2, 0, 1), topology).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(PlaceLayoutTest, ScaleUpDomainsOfSeveralNodes_HoldWholeGroups) {
  const cluster::Topology topology = TopologyOf({{"gb200-nvl72", 72}});
  const int devices = topology.nodes().front().devices;
  const v1::Parallelism shape = Shape(4, 64, 1);
  const RankPlacement placement = PlaceLayout(shape, topology).value();
  ASSERT_LT(devices, 64);
  for (int p = 0; p < 4; ++p) {
    std::set<int> domains;
    for (int e = 0; e < 64; ++e) {
      const auto& place = placement.places[static_cast<size_t>(plan::RankAt(shape, 0, e, p))];
      domains.insert(topology.nodes()[static_cast<size_t>(place.node)].scale_up_domain);
    }
    EXPECT_EQ(domains.size(), 1u) << p;
  }
}

TEST(SurvivabilityTest, ReferenceLayout_SurvivesAnyNodeLeafAndDomain) {
  const cluster::Topology topology = TopologyOf({{"h800", 256, 0, 32, 8}});
  const v1::Parallelism shape = Shape(16, 64, 2);
  const RankPlacement placement = PlaceLayout(shape, topology).value();
  const v1::Survivability survivability = SurvivabilityOf(shape, 256, 1, placement, topology);
  EXPECT_TRUE(survivability.any_node());
  EXPECT_TRUE(survivability.any_leaf());
  EXPECT_TRUE(survivability.any_failure_domain());
  EXPECT_THAT(survivability.what(), IsEmpty());
  // Each node's ranks are kept by one other, and keep that one's: half as many pairs as nodes.
  EXPECT_EQ(survivability.fatal_pair_count(), 128);
  EXPECT_EQ(survivability.fatal_pairs_size(), 64);
  EXPECT_THAT(survivability.fatal_pairs(0).holds(), HasSubstr("experts 0-"));
  EXPECT_THAT(survivability.fatal_pairs(0).holds(), HasSubstr("of stages "));
}

TEST(SurvivabilityTest, NoSnapshots_NothingIsSurvivedAndItSaysWhy) {
  const cluster::Topology topology = TopologyOf({{"h800", 8, 0, 4, 2}});
  const v1::Parallelism shape = Shape(4, 16, 1);
  const v1::Survivability survivability =
      SurvivabilityOf(shape, 64, 0, PlaceLayout(shape, topology).value(), topology);
  EXPECT_FALSE(survivability.any_node());
  EXPECT_FALSE(survivability.any_leaf());
  EXPECT_FALSE(survivability.any_failure_domain());
  EXPECT_EQ(survivability.fatal_pair_count(), 0) << "one node is enough";
  EXPECT_THAT(survivability.what(), HasSubstr("snapshot_every_steps is 0"));
}

TEST(SurvivabilityTest, OneLeafOfTwoDomains_AnyDomainButNotTheLeaf) {
  const cluster::Topology topology = TopologyOf({{"h800", 4, 0, 4, 2}});
  const v1::Parallelism shape = Shape(2, 16, 1);
  const v1::Survivability survivability =
      SurvivabilityOf(shape, 64, 1, PlaceLayout(shape, topology).value(), topology);
  EXPECT_TRUE(survivability.any_node());
  EXPECT_TRUE(survivability.any_failure_domain());
  EXPECT_FALSE(survivability.any_leaf());
  EXPECT_THAT(survivability.what(), HasSubstr("under one leaf, such as leaf-0"));
}

// --- Against the definition ---

// A random plan: any ranks on any nodes, leaves and domains known or not.
v1::Plan RandomPlan(std::mt19937_64* random) {
  const auto pick = [&](int count) { return static_cast<int>((*random)() % count); };
  v1::Plan plan;
  v1::Parallelism* shape = plan.mutable_spec()->mutable_parallelism();
  *shape = Shape(std::vector<int>{1, 2, 4}[pick(3)], 1 << pick(3), 1 + pick(3));
  plan.mutable_spec()->mutable_recovery()->set_snapshot_every_steps(pick(5) > 0);
  for (int expert = 0; expert < 8; ++expert) plan.add_expert_owner(expert * shape->expert() / 8);
  const int ranks = shape->pipeline() * shape->expert() * shape->replicas();
  const int nodes = 1 + pick(7);
  std::set<std::string> used;
  std::map<std::string, int> next_device;
  for (int rank = 0; rank < ranks; ++rank) {
    v1::RankAssignment* at = plan.add_ranks();
    at->set_rank(rank);
    at->set_node(absl::StrCat("n", pick(4) > 0 ? rank * nodes / ranks : pick(nodes)));
    at->set_device(next_device[at->node()]++);
    at->set_pipeline_rank(rank % shape->pipeline());
    at->set_expert_rank(rank / shape->pipeline() % shape->expert());
    at->set_replica(rank / shape->pipeline() / shape->expert());
    used.insert(at->node());
  }
  const bool all_known = pick(3) > 0;
  for (const std::string& name : used) {
    if (!all_known && pick(6) == 0) continue;
    v1::PlannedNode* node = plan.add_nodes();
    node->set_name(name);
    if (all_known || pick(6) > 0) node->set_leaf(absl::StrCat("leaf", pick(3)));
    if (all_known || pick(6) > 0) node->set_failure_domain(absl::StrCat("row", pick(4)));
  }
  return plan;
}

// Holders of every piece of state, by name of the piece, as docs/recovery.md has it: shards on
// their rank and its buddy; weights on all ranks that hold them, or made from all their masters.
class Definition {
 public:
  explicit Definition(const v1::Plan& plan) : plan_(plan) {}

  bool Survives(const std::set<std::string>& lost) const {
    const int ranks = plan_.ranks_size();
    std::vector<bool> shard(static_cast<size_t>(ranks));
    for (int rank = 0; rank < ranks; ++rank) {
      const int buddy = plan::BuddyOf(plan_, rank);
      const bool snapshots = plan_.spec().recovery().snapshot_every_steps() > 0 && buddy >= 0;
      shard[rank] = Lives(rank, lost) || (snapshots && Lives(buddy, lost));
      if (!shard[rank]) return false;
    }
    for (int rank = 0; rank < ranks; ++rank) {
      for (const std::vector<int>& group :
           {plan::DenseGroup(plan_, rank), plan::ExpertOwnerGroup(plan_, rank)}) {
        const bool weights =
            std::any_of(group.begin(), group.end(), [&](int one) { return Lives(one, lost); });
        const bool masters =
            std::all_of(group.begin(), group.end(), [&](int one) { return shard[one]; });
        if (!weights && !masters) return false;
      }
    }
    return true;
  }

 private:
  bool Lives(int rank, const std::set<std::string>& lost) const {
    return !lost.contains(plan_.ranks(rank).node());
  }
  const v1::Plan& plan_;
};

TEST(SurvivabilityPropertyTest, RandomPlans_AgreeWithTryingEveryOneAndTwoNodes) {
  int fatal = 0;
  int not_any_node = 0;
  int any_leaf = 0;
  for (uint64_t seed = 1; seed <= 400; ++seed) {
    std::mt19937_64 random(seed);
    const v1::Plan plan = RandomPlan(&random);
    const Definition definition(plan);
    const v1::Survivability found = SurvivabilityOf(plan);
    std::map<std::string, std::set<std::string>> leaves;
    std::map<std::string, std::set<std::string>> domains;
    std::set<std::string> nodes;
    std::map<std::string, const v1::PlannedNode*> known;
    for (const v1::PlannedNode& node : plan.nodes()) known[node.name()] = &node;
    bool leaves_known = true;
    for (const v1::RankAssignment& rank : plan.ranks()) {
      const v1::PlannedNode* node = known.contains(rank.node()) ? known[rank.node()] : nullptr;
      nodes.insert(rank.node());
      const bool has_leaf = node != nullptr && !node->leaf().empty();
      const bool has_domain = node != nullptr && !node->failure_domain().empty();
      leaves_known = leaves_known && has_leaf;
      leaves[has_leaf ? node->leaf() : rank.node()].insert(rank.node());
      domains[has_domain ? node->failure_domain() : rank.node()].insert(rank.node());
    }
    const auto all = [&](const std::map<std::string, std::set<std::string>>& sets) {
      return std::all_of(sets.begin(), sets.end(),
                         [&](const auto& one) { return definition.Survives(one.second); });
    };
    std::set<std::string> alone;
    for (const std::string& node : nodes) {
      if (!definition.Survives({node})) alone.insert(node);
    }
    ASSERT_EQ(found.any_node(), alone.empty()) << "seed " << seed;
    ASSERT_EQ(found.any_leaf(), leaves_known && all(leaves)) << "seed " << seed;
    ASSERT_EQ(found.any_failure_domain(), all(domains)) << "seed " << seed;
    ASSERT_EQ(found.what().empty(),
              found.any_node() && found.any_leaf() && found.any_failure_domain())
        << "seed " << seed;
    std::set<std::pair<std::string, std::string>> listed;
    for (const v1::NodePair& pair : found.fatal_pairs()) {
      listed.insert(std::minmax(pair.first(), pair.second()));
      ASSERT_FALSE(pair.holds().empty());
      ASSERT_FALSE(LostWith(plan, {pair.first(), pair.second()}).empty()) << "seed " << seed;
    }
    ASSERT_EQ(static_cast<int64_t>(listed.size()), found.fatal_pair_count()) << "seed " << seed;
    for (const std::string& a : nodes) {
      for (const std::string& b : nodes) {
        if (a >= b) continue;
        const bool survives = definition.Survives({a, b});
        ASSERT_EQ(LostWith(plan, {a, b}).empty(), survives) << "seed " << seed;
        if (alone.contains(a) || alone.contains(b)) continue;
        ASSERT_EQ(listed.contains({a, b}), !survives) << "seed " << seed << " " << a << " " << b;
        fatal += !survives;
      }
    }
    not_any_node += !found.any_node();
    any_leaf += found.any_leaf();
  }
  EXPECT_GT(fatal, 200);
  EXPECT_GT(not_any_node, 50);
  EXPECT_GT(any_leaf, 10);
}

TEST(BuddyPlacementTest, DescribedClusters_BuddiesAreInOtherDomainsAndUnderOtherLeaves) {
  for (const auto& [per_leaf, per_domain] :
       std::vector<std::pair<int, int>>{{32, 8}, {16, 32}, {8, 8}, {64, 4}}) {
    const cluster::Topology topology = TopologyOf({{"h800", 256, 0, per_leaf, per_domain}});
    const v1::Parallelism shape = Shape(16, 64, 2);
    const v1::Survivability found =
        SurvivabilityOf(shape, 256, 1, PlaceLayout(shape, topology).value(), topology);
    EXPECT_TRUE(found.any_leaf() && found.any_failure_domain())
        << per_leaf << " " << per_domain << ": " << found.what();
  }
}

}  // namespace
}  // namespace fathom::planner
