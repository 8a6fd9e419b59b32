// One epoch of a rank process: from its start to an end of each kind.
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "worker/engine/rank_processes.h"
#include "worker/engine/rank_threads.h"

namespace fathom::engine {
namespace {

v1::Plan PlanOfTwoRanks() {
  v1::JobSpec spec = ToySpec(WriteTestTokens(20000));
  spec.mutable_parallelism()->set_pipeline(2);
  spec.mutable_training()->set_micro_batches(4);
  spec.mutable_training()->set_validation_batches(4);
  return PlanFor(spec, {});
}

bool Failed(const v1::RankEvent& event) { return !event.failed().empty(); }
bool Listening(const v1::RankEvent& event) { return !event.listening().empty(); }

TEST(RankSession, StartedAndConnected_TellsEveryStepAndFinishesWithTheWeightsHash) {
  RankProcess a("rank 0"), b("rank 1");
  Launch(PlanOfTwoRanks(), {&a, &b}, testing::TempDir() + "/session", false);
  EXPECT_EQ(a.AwaitFinished().finished().weights_sha256().size(), 64u);
  EXPECT_TRUE(a.Join().ok());
  EXPECT_TRUE(b.Join().ok());
  EXPECT_EQ(a.Steps(), (std::vector<int64_t>{1, 2, 3}));
  const std::vector<v1::RankEvent> events = a.Events();
  ASSERT_GT(events.size(), 3u);
  EXPECT_TRUE(events[1].has_loading());
  EXPECT_EQ(events[2].training().restored().source(), "initial");
  for (const v1::RankEvent& event : events) {
    EXPECT_EQ(event.epoch(), 1u) << event.ShortDebugString();
    EXPECT_FALSE(event.has_held() || Failed(event)) << event.ShortDebugString();
  }
}

TEST(RankSession, ToldToStopWhileItWaitsForPeers_EndsWithoutAFailure) {
  RankProcess rank("rank 0");
  rank.Start(PlanOfTwoRanks(), 0, testing::TempDir(), false);
  rank.Await("listening", Listening);
  rank.Stop();
  EXPECT_TRUE(rank.Join().ok());
  EXPECT_FALSE(rank.Told(Failed));
}

TEST(RankSession, ToldToStopBeforeAnything_Ends) {
  RankProcess rank("rank 0");
  rank.Stop();
  EXPECT_TRUE(rank.Join().ok());
}

TEST(RankSession, DaemonGoneWhileItConnects_Ends) {
  const v1::Plan plan = PlanOfTwoRanks();
  RankProcess rank("rank 0");
  rank.Start(plan, 0, testing::TempDir(), false);
  v1::RankPeers peers;
  peers.set_epoch(1);
  for (int peer : {0, 1}) {
    v1::RankEndpoint* endpoint = peers.add_peers();
    endpoint->set_rank(peer);
    endpoint->set_node(plan.ranks(peer).node());
    // Rank 1 is said to be where nobody answers.
    endpoint->set_endpoint(peer == 0 ? rank.Await("listening", Listening).listening()
                                     : "127.0.0.1:1");
  }
  rank.Peers(peers);
  rank.AwaitBeing("connect");
  rank.Kill();
  EXPECT_TRUE(rank.Join().ok());
}

TEST(RankSession, HeldWhileItConnects_WaitsForAnotherEpoch) {
  const v1::Plan plan = PlanOfTwoRanks();
  RankProcess rank("rank 0");
  rank.Start(plan, 0, testing::TempDir(), false);
  rank.Await("listening", Listening);
  rank.Hold(1);
  const v1::RankHeld held = rank.AwaitHeld(1).held();
  EXPECT_EQ(held.message(), "held by the test");
  EXPECT_EQ(held.step(), 0);
  rank.AwaitBeing("wait for orders");
}

TEST(RankSession, PlanWithoutItsData_IsReportedFailedWithTheCodeFirst) {
  v1::Plan plan = PlanOfTwoRanks();
  plan.mutable_spec()->mutable_data()->set_token_file("/nowhere/tokens.bin");
  RankProcess rank("rank 0");
  rank.Start(plan, 0, testing::TempDir(), false);
  const v1::RankEvent event = rank.Await("failed", Failed);
  EXPECT_TRUE(absl::StartsWith(event.failed(), "NOT_FOUND: ")) << event.failed();
  EXPECT_TRUE(absl::StrContains(event.failed(), "/nowhere/tokens.bin")) << event.failed();
  EXPECT_FALSE(rank.Told(Listening));
  EXPECT_FALSE(rank.Join().ok());
}

TEST(RankSession, PlanThatContradictsItself_IsReportedFailed) {
  v1::Plan plan = PlanOfTwoRanks();
  plan.mutable_stages(1)->set_first_layer(5);
  RankProcess rank("rank 0");
  rank.Start(plan, 0, testing::TempDir(), false);
  rank.Await("failed", Failed);
  EXPECT_FALSE(rank.Join().ok());
}

}  // namespace
}  // namespace fathom::engine
