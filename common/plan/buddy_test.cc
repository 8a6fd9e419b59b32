#include "common/plan/buddy.h"

#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace fathom::plan {
namespace {

v1::Plan OnNodes(const std::vector<std::string>& nodes) {
  v1::Plan plan;
  for (const std::string& node : nodes) {
    v1::RankAssignment* rank = plan.add_ranks();
    rank->set_rank(plan.ranks_size() - 1);
    rank->set_node(node);
  }
  return plan;
}

TEST(Buddy, OneRank_HasNone) {
  const v1::Plan plan = OnNodes({"a"});
  EXPECT_EQ(BuddyOf(plan, 0), -1);
  EXPECT_EQ(WardOf(plan, 0), -1);
}

TEST(Buddy, RankAndBuddyLeave_LeavesStateBehind) {
  const auto on = [](const std::vector<std::string>& nodes) {
    v1::Plan plan = OnNodes(nodes);
    std::map<std::string, int> devices;
    for (v1::RankAssignment& rank : *plan.mutable_ranks()) {
      rank.set_device(devices[rank.node()]++);
    }
    return plan;
  };
  const v1::Plan present = on({"a", "a", "b", "b"});
  EXPECT_FALSE(LeavesStateBehind(present, present));
  EXPECT_FALSE(LeavesStateBehind(present, on({"c", "c", "b", "b"})));
  EXPECT_TRUE(LeavesStateBehind(present, on({"c", "c", "d", "d"})));
  // Of each node one device stays: rank 0's buddy is rank 2, rank 1's is rank 3.
  EXPECT_TRUE(LeavesStateBehind(present, on({"a", "b", "c", "c"})));
  EXPECT_TRUE(LeavesStateBehind(on({"a", "a"}), on({"b", "b"})));
  EXPECT_TRUE(LeavesStateBehind(on({"a"}), on({"b"})));
  EXPECT_FALSE(LeavesStateBehind(on({"a"}), on({"a"})));
}

TEST(Buddy, OneNode_IsTheNextRank) {
  const v1::Plan plan = OnNodes({"a", "a", "a"});
  EXPECT_EQ(BuddyOf(plan, 0), 1);
  EXPECT_EQ(BuddyOf(plan, 2), 0);
  EXPECT_EQ(WardOf(plan, 0), 2);
}

TEST(Buddy, RandomNodes_APermutationAcrossNodesUnlessOneHasMoreThanHalf) {
  std::mt19937_64 next(7);
  int across = 0;
  for (int round = 0; round < 2000; ++round) {
    const int ranks = 2 + static_cast<int>(next() % 24);
    const uint64_t kinds = 1 + next() % 8;
    std::vector<std::string> nodes;
    std::map<std::string, int> on_node;
    int largest = 0;
    for (int rank = 0; rank < ranks; ++rank) {
      nodes.push_back(absl::StrCat("node", next() % kinds));
      largest = std::max(largest, ++on_node[nodes.back()]);
    }
    const v1::Plan plan = OnNodes(nodes);
    std::set<int> buddies;
    for (int rank = 0; rank < ranks; ++rank) {
      const int buddy = BuddyOf(plan, rank);
      ASSERT_TRUE(buddies.insert(buddy).second) << "seed 7, round " << round;
      ASSERT_NE(buddy, rank);
      ASSERT_EQ(WardOf(plan, buddy), rank);
      if (2 * largest > ranks) continue;
      ASSERT_NE(nodes[buddy], nodes[rank]) << "seed 7, round " << round << ", rank " << rank;
      ++across;
    }
  }
  EXPECT_GT(across, 1000);
}

void SetSite(const std::string& node, const std::string& domain, const std::string& leaf,
             v1::Plan* plan) {
  v1::PlannedNode* planned = plan->add_nodes();
  planned->set_name(node);
  planned->set_failure_domain(domain);
  planned->set_leaf(leaf);
}

TEST(Buddy, FailureDomains_BuddyIsInAnother) {
  v1::Plan plan = OnNodes({"a", "b", "c", "d"});
  for (const char* node : {"a", "b"}) SetSite(node, "row-1", "", &plan);
  for (const char* node : {"c", "d"}) SetSite(node, "row-2", "", &plan);
  EXPECT_GE(BuddyOf(plan, 0), 2);
  EXPECT_GE(BuddyOf(plan, 1), 2);
  EXPECT_LT(BuddyOf(plan, 2), 2);
  EXPECT_LT(BuddyOf(plan, 3), 2);
}

TEST(Buddy, NodesOfEqualSize_KeepEachOthersState) {
  const v1::Plan plan = OnNodes({"a", "a", "b", "b", "c", "c", "d", "d"});
  for (int rank = 0; rank < 8; ++rank) EXPECT_EQ(BuddyOf(plan, BuddyOf(plan, rank)), rank);
}

TEST(Buddy, RandomSites_AnotherDomainUnlessOneHasMoreThanHalfAndAnotherLeafWhereThatGoesTogether) {
  std::mt19937_64 next(11);
  int across_domains = 0;
  int across_leaves = 0;
  for (int round = 0; round < 1000; ++round) {
    const int ranks = 2 + static_cast<int>(next() % 32);
    std::vector<std::string> nodes;
    std::map<std::string, int> in_domain;
    std::map<std::string, int> under_leaf;
    // A leaf is two domains, a domain three nodes.
    const auto domain_of = [](int node) { return absl::StrCat("row", node / 3); };
    const auto leaf_of = [](int node) { return absl::StrCat("leaf", node / 6); };
    std::vector<int> places;
    for (int rank = 0; rank < ranks; ++rank) {
      places.push_back(static_cast<int>(next() % 18));
      nodes.push_back(absl::StrCat("node", places.back()));
      ++in_domain[domain_of(places.back())];
      ++under_leaf[leaf_of(places.back())];
    }
    v1::Plan plan = OnNodes(nodes);
    for (const int node : std::set<int>(places.begin(), places.end())) {
      SetSite(absl::StrCat("node", node), domain_of(node), leaf_of(node), &plan);
    }
    const auto largest = [](const std::map<std::string, int>& counts) {
      int most = 0;
      for (const auto& [name, count] : counts) most = std::max(most, count);
      return most;
    };
    const std::vector<int> buddies = BuddiesOf(plan);
    for (int rank = 0; rank < ranks; ++rank) {
      ASSERT_EQ(buddies[rank], BuddyOf(plan, rank));
      ASSERT_EQ(WardOf(plan, buddies[rank]), rank);
      const int own = places[rank];
      const int other = places[buddies[rank]];
      if (2 * largest(under_leaf) <= ranks) {
        ASSERT_NE(leaf_of(own), leaf_of(other)) << "seed 11, round " << round;
        ++across_leaves;
      }
      if (2 * largest(in_domain) <= ranks) {
        ASSERT_NE(domain_of(own), domain_of(other)) << "seed 11, round " << round;
        ++across_domains;
      }
    }
  }
  EXPECT_GT(across_leaves, 1000);
  EXPECT_GT(across_domains, across_leaves);
}

}  // namespace
}  // namespace fathom::plan
