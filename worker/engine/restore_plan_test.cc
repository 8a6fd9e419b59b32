// Layouts and restore plans on random grids, with copies lost at random.
#include "worker/engine/restore_plan.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/model/parameter_layout.h"
#include "common/plan/buddy.h"
#include "gtest/gtest.h"
#include "worker/engine/rank_threads.h"

namespace fathom::engine {
namespace {

v1::Plan PlanOf(int pipeline, int expert, int replicas, int ranks_per_node,
                const std::string& precision = "fp32") {
  v1::JobSpec spec = ToySpec("/unused");
  spec.set_precision(precision);
  spec.mutable_parallelism()->set_pipeline(pipeline);
  spec.mutable_parallelism()->set_expert(expert);
  spec.mutable_parallelism()->set_replicas(replicas);
  JobSetting setting;
  setting.ranks_per_node = ranks_per_node;
  return PlanFor(spec, setting);
}

std::shared_ptr<const StateLayout> LayoutOf(const v1::Plan& plan) {
  auto layout = StateLayout::FromPlan(plan);
  EXPECT_TRUE(layout.ok()) << layout.status();
  return *layout;
}

TEST(StateLayout, ShardsOfEveryGrid_HoldEveryElementOnceAndBiasesWhole) {
  for (const auto& [pipeline, expert, replicas] :
       {std::tuple(1, 1, 1), std::tuple(2, 1, 1), std::tuple(2, 2, 1), std::tuple(4, 2, 2),
        std::tuple(1, 4, 2), std::tuple(2, 4, 3)}) {
    for (const char* precision : {"fp32", "fp8"}) {
      const v1::Plan plan = PlanOf(pipeline, expert, replicas, 2, precision);
      const auto layout = LayoutOf(plan);
      ASSERT_EQ(layout->shards(), plan.ranks_size());
      std::map<std::string, std::vector<std::pair<int64_t, int64_t>>> have;
      for (int shard = 0; shard < layout->shards(); ++shard) {
        const int64_t bytes = layout->ShardBytes(shard);
        std::vector<std::pair<int64_t, int64_t>> places;
        for (const StatePiece& piece : layout->Pieces(shard)) {
          have[piece.tensor].push_back({piece.begin, piece.end});
          places.push_back(
              {piece.offset, piece.offset + (piece.end - piece.begin) * piece.element_bytes});
        }
        std::sort(places.begin(), places.end());
        for (size_t i = 0; i < places.size(); ++i) {
          EXPECT_LE(places[i].second, i + 1 < places.size() ? places[i + 1].first : bytes);
        }
      }
      const auto model = model::ResolveModel(plan.spec().model());
      ASSERT_TRUE(model.ok());
      size_t arrays = 0;
      for (const model::ParameterSpec& spec : model::AllParameters(*model)) {
        const bool bias = spec.kind == model::ParameterKind::kRouterBias;
        for (const char* suffix : {"", "#m", "#v"}) {
          if (bias && suffix[0] != '\0') continue;
          std::vector<std::pair<int64_t, int64_t>>& ranges = have[spec.name + suffix];
          ++arrays;
          std::sort(ranges.begin(), ranges.end());
          int64_t at = 0;
          for (const auto& [begin, end] : ranges) {
            EXPECT_EQ(begin, bias ? 0 : at) << spec.name << suffix;
            at = end;
          }
          EXPECT_EQ(at, spec.size()) << spec.name << suffix;
        }
      }
      EXPECT_EQ(have.size(), arrays);
    }
  }
}

TEST(StateLayout, Key_IsTheLayoutAndNothingElse) {
  const v1::Plan plan = PlanOf(2, 2, 2, 2);
  v1::Plan elsewhere = PlanOf(2, 2, 2, 1);
  elsewhere.set_epoch(9);
  elsewhere.mutable_spec()->mutable_training()->set_micro_batches(64);
  EXPECT_EQ(LayoutOf(plan)->key(), LayoutOf(elsewhere)->key());
  const auto parsed = StateLayout::Parse(LayoutOf(plan)->key());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ((*parsed)->key(), LayoutOf(plan)->key());
  EXPECT_EQ((*parsed)->ShardBytes(3), LayoutOf(plan)->ShardBytes(3));
  const v1::Plan fewer = PlanOf(2, 2, 1, 2);
  EXPECT_NE(LayoutOf(plan)->key(), LayoutOf(fewer)->key());
  EXPECT_EQ(LayoutOf(plan)->family(), LayoutOf(fewer)->family());
  EXPECT_NE(LayoutOf(plan)->family(), LayoutOf(PlanOf(2, 2, 2, 2, "fp8"))->family());
  std::swap(*elsewhere.mutable_expert_owner()->Mutable(0),
            *elsewhere.mutable_expert_owner()->Mutable(elsewhere.expert_owner_size() - 1));
  EXPECT_NE(LayoutOf(plan)->key(), LayoutOf(elsewhere)->key());
  EXPECT_FALSE(StateLayout::Parse("\xff\xff").ok());
}

TEST(History, OfAbandonedFutures_KeepsWhatDecides) {
  const std::vector<RestorePoint> history =
      MergeHistory({{3, 8}, {1, 0}, {2, 10}, {3, 8}, {5, 12}});
  EXPECT_EQ(history, (std::vector<RestorePoint>{{1, 0}, {3, 8}, {5, 12}}));
  EXPECT_TRUE(OnHistory(history, 1, 8));
  EXPECT_FALSE(OnHistory(history, 2, 9));
  EXPECT_TRUE(OnHistory(history, 3, 12));
  EXPECT_FALSE(OnHistory(history, 4, 13));
  EXPECT_TRUE(OnHistory(history, 5, 99));
  std::vector<RestorePoint> many;
  for (uint64_t epoch = 1; epoch <= 3 * kRestorePointsMax; ++epoch) {
    many.push_back({epoch, static_cast<int64_t>(epoch)});
  }
  const std::vector<RestorePoint> kept = MergeHistory(many);
  EXPECT_EQ(kept.size(), kRestorePointsMax);
  EXPECT_FALSE(OnHistory(kept, 5, 1));  // nothing is known of that epoch any more
}

// A rank's memory as the engine leaves it: its own states and its ward's after these steps.
Inventory InventoryOf(const v1::Plan& plan, const std::shared_ptr<const StateLayout>& layout,
                      int rank, const std::vector<int64_t>& own, const std::vector<int64_t>& ward) {
  Inventory inventory;
  for (const int64_t step : own) inventory.push_back({layout, rank, step, 1, 1, true, false});
  const int whose = plan::WardOf(plan, rank);
  if (whose < 0) return inventory;
  for (const int64_t step : ward) inventory.push_back({layout, whose, step, 1, 1, false, false});
  return inventory;
}

// Every byte of every target piece is written once, from the bytes of the same tensor's elements.
void ExpectExact(const RestoreQuestion& question, const RestorePlan& plan) {
  for (int to = 0; to < question.target->shards(); ++to) {
    std::map<int64_t, std::pair<std::string, int64_t>> want;  // by byte of each element
    for (const StatePiece& piece : question.target->Pieces(to)) {
      for (int64_t i = piece.begin; i < piece.end; ++i) {
        want[piece.offset + (i - piece.begin) * piece.element_bytes] = {piece.tensor, i};
      }
    }
    std::map<int64_t, std::pair<std::string, int64_t>> got;
    for (const StateTransfer& transfer : plan.transfers) {
      if (transfer.to != to) continue;
      const StateOffer& offer = question.inventories[transfer.from][transfer.entry];
      ASSERT_EQ(offer.step, plan.step);
      ASSERT_FALSE(offer.struck);
      for (const StatePiece& piece : offer.layout->Pieces(offer.shard)) {
        for (const StateSegment& segment : transfer.segments) {
          const int64_t begin = std::max(segment.from_offset, piece.offset);
          const int64_t end =
              std::min(segment.from_offset + segment.bytes,
                       piece.offset + (piece.end - piece.begin) * piece.element_bytes);
          for (int64_t at = begin; at < end; at += piece.element_bytes) {
            const bool first =
                got.try_emplace(at - segment.from_offset + segment.to_offset, piece.tensor,
                                piece.begin + (at - piece.offset) / piece.element_bytes)
                    .second;
            ASSERT_TRUE(first) << piece.tensor << " twice for rank " << to;
          }
        }
      }
    }
    ASSERT_TRUE(got == want) << "rank " << to;
  }
}

TEST(RestorePlan, RandomDeathsThatSpareOneOfEveryPair_RestoreTheNewestCommonStep) {
  std::mt19937_64 next(11);
  const auto pick = [&](std::vector<int> from) { return from[next() % from.size()]; };
  int exact = 0;
  for (int round = 0; round < 150; ++round) {
    const std::string what = absl::StrCat("seed 11, round ", round);
    const int pipeline = pick({1, 2, 4});
    const int expert = pick({1, 2, 4});
    const int replicas = pick({1, 2, 3});
    const v1::Plan before = PlanOf(pipeline, expert, replicas, pick({1, 2, 4}));
    if (before.ranks_size() == 1) continue;
    const auto old_layout = LayoutOf(before);
    // Of each pair of a rank and its buddy one lives; those that live hold steps 6 and 7, some 8.
    std::vector<Inventory> alive;
    std::set<int> dead;
    for (int rank = 0; rank < before.ranks_size(); ++rank) {
      if (next() % 3 == 0 && dead.count(plan::BuddyOf(before, rank)) == 0 &&
          dead.count(plan::WardOf(before, rank)) == 0) {
        dead.insert(rank);
        continue;
      }
      const bool ahead = next() % 2 == 0;
      alive.push_back(InventoryOf(before, old_layout, rank,
                                  ahead ? std::vector<int64_t>{7, 8} : std::vector<int64_t>{6, 7},
                                  {6, 7}));
    }
    if (dead.empty()) continue;
    // The same grid with fresh ranks, or other numbers of replicas and ranks of an expert group.
    const v1::Plan after =
        next() % 2 == 0 ? before
                        : PlanOf(pipeline, pick({1, 2, 4}), pick({1, 2, 3}), pick({1, 2, 4}));
    RestoreQuestion question;
    question.target = LayoutOf(after);
    if (after.ranks_size() < static_cast<int>(alive.size())) continue;
    question.inventories = alive;
    question.inventories.resize(static_cast<size_t>(after.ranks_size()));
    std::shuffle(question.inventories.begin(), question.inventories.end(), next);
    for (const v1::RankAssignment& rank : after.ranks()) question.nodes.push_back(rank.node());
    const RestoreAnswer answer = PlanRestore(question);
    ASSERT_TRUE(answer.plan.has_value()) << what << ": " << answer.missing;
    EXPECT_EQ(answer.plan->step, 7) << what;
    if (question.target->shards() <= 4 && exact < 8) {
      ExpectExact(question, *answer.plan);
      ++exact;
    }
    if (HasFatalFailure()) return;
  }
  EXPECT_EQ(exact, 8);
}

TEST(RestorePlan, BothCopiesOfAShardGone_SaysWhatIsMissingOrGoesBack) {
  const v1::Plan plan = PlanOf(4, 1, 1, 1);
  const auto layout = LayoutOf(plan);
  RestoreQuestion question;
  question.target = layout;
  for (int rank = 0; rank < 4; ++rank) {
    question.inventories.push_back(InventoryOf(plan, layout, rank, {6, 7}, {6, 7}));
    question.nodes.push_back(plan.ranks(rank).node());
  }
  const int buddy = plan::BuddyOf(plan, 2);
  question.inventories[2].clear();
  for (StateOffer& offer : question.inventories[buddy]) {
    if (offer.shard == 2 && offer.step == 7) offer.struck = true;
  }
  RestoreAnswer answer = PlanRestore(question);
  ASSERT_TRUE(answer.plan.has_value());
  EXPECT_EQ(answer.plan->step, 6);
  ExpectExact(question, *answer.plan);
  question.at_least = 7;
  answer = PlanRestore(question);
  EXPECT_FALSE(answer.plan.has_value());
  EXPECT_TRUE(absl::StrContains(answer.missing, "(for rank 2)")) << answer.missing;
  question.at_least = 0;
  question.inventories[buddy].clear();
  EXPECT_FALSE(PlanRestore(question).plan.has_value());
  for (Inventory& inventory : question.inventories) inventory.clear();
  EXPECT_EQ(PlanRestore(question).missing, "");
}

TEST(RestorePlan, WholeOwnMemory_IsTakenWhereItLies) {
  const v1::Plan plan = PlanOf(2, 2, 1, 2);
  const auto layout = LayoutOf(plan);
  RestoreQuestion question;
  question.target = layout;
  for (int rank = 0; rank < 4; ++rank) {
    question.inventories.push_back(InventoryOf(plan, layout, rank, {3, 4}, {3, 4}));
    question.nodes.push_back(plan.ranks(rank).node());
  }
  const RestoreAnswer answer = PlanRestore(question);
  ASSERT_TRUE(answer.plan.has_value());
  EXPECT_EQ(answer.plan->step, 4);
  ASSERT_EQ(answer.plan->transfers.size(), 4u);
  for (const StateTransfer& transfer : answer.plan->transfers) {
    EXPECT_EQ(transfer.from, transfer.to);
    EXPECT_TRUE(transfer.whole);
    EXPECT_TRUE(question.inventories[transfer.from][transfer.entry].own);
  }
}

TEST(RestorePlan, StateOfAnAbandonedFuture_IsPassedOver) {
  const v1::Plan plan = PlanOf(2, 1, 1, 1);
  const auto layout = LayoutOf(plan);
  RestoreQuestion question;
  question.target = layout;
  for (int rank = 0; rank < 2; ++rank) {
    question.inventories.push_back(InventoryOf(plan, layout, rank, {8, 9}, {8, 9}));
    question.nodes.push_back(plan.ranks(rank).node());
  }
  question.history = {{2, 8}};
  const RestoreAnswer answer = PlanRestore(question);
  ASSERT_TRUE(answer.plan.has_value());
  EXPECT_EQ(answer.plan->step, 8);
}

}  // namespace
}  // namespace fathom::engine
