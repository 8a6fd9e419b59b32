#include "common/plan/buddy.h"

#include <map>
#include <random>
#include <set>
#include <string>

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

}  // namespace
}  // namespace fathom::plan
