// Rank processes through changes of epoch: at a boundary, at once, and with some of them lost.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "worker/engine/rank_processes.h"
#include "worker/engine/rank_threads.h"

namespace fathom::engine {
namespace {

constexpr int64_t kSteps = 8;

v1::JobSpec SpecOfTwoRanks() {
  v1::JobSpec spec = ToySpec(WriteTestTokens(20000));
  spec.mutable_parallelism()->set_pipeline(2);
  spec.mutable_training()->set_micro_batches(4);
  spec.mutable_training()->set_validation_batches(4);
  spec.mutable_training()->set_steps(kSteps);
  spec.mutable_checkpoint()->set_every_steps(1000);
  return spec;
}

std::string FreshDirectory(const std::string& name) {
  const std::string directory = absl::StrCat(testing::TempDir(), "/epochs-", name);
  std::filesystem::remove_all(directory);
  return directory;
}

// Of the job that nothing disturbs.
const std::string& UndisturbedHash() {
  static const std::string hash = [] {
    JobSetting setting;
    setting.checkpoint_directory = FreshDirectory("undisturbed");
    const absl::StatusOr<JobResult> result = RunJob(SpecOfTwoRanks(), setting);
    EXPECT_TRUE(result.ok()) << result.status();
    return result.ok() ? result->weights_sha256 : "";
  }();
  return hash;
}

// Rank r on node<nodes[r]>.
v1::Plan PlanOn(const std::vector<int>& nodes, uint64_t epoch) {
  JobSetting setting;
  setting.epoch = epoch;
  setting.ranks_per_node = 1;
  v1::Plan plan = PlanFor(SpecOfTwoRanks(), setting);
  for (size_t rank = 0; rank < nodes.size(); ++rank) {
    plan.mutable_ranks(static_cast<int>(rank))->set_node(absl::StrCat("node", nodes[rank]));
  }
  return plan;
}

std::vector<int64_t> OneToLast() {
  std::vector<int64_t> steps;
  for (int64_t step = 1; step <= kSteps; ++step) steps.push_back(step);
  return steps;
}

TEST(RankEpochs, ReplacedAtABoundary_NoStepIsLostOrRedoneAndTheWeightsAreTheSame) {
  const std::string directory = FreshDirectory("boundary");
  RankProcess stays("stays"), leaves("leaves"), joins("joins");
  stays.PauseAfter(3);
  Launch(PlanOn({0, 1}, 1), {&stays, &leaves}, directory, false);
  stays.AwaitStep(2);
  const v1::Plan plan = PlanOn({0, 2}, 2);
  leaves.Start(plan, -1, directory, true);
  Launch(plan, {&stays, &joins}, directory, true);
  stays.Resume();

  EXPECT_EQ(stays.AwaitFinished().finished().weights_sha256(), UndisturbedHash());
  EXPECT_TRUE(joins.Join().ok());
  EXPECT_TRUE(leaves.Join().ok());
  EXPECT_EQ(stays.Steps(), OneToLast());
  const v1::RankEvent left = leaves.AwaitHeld(1);
  EXPECT_EQ(left.held().message(),
            absl::StrCat("left at the boundary of step ", left.held().step(), " for epoch 2"));
  std::vector<int64_t> steps = leaves.Steps();
  EXPECT_EQ(steps.back(), left.held().step());
  for (const int64_t step : joins.Steps()) steps.push_back(step);
  EXPECT_EQ(steps, OneToLast());
}

TEST(RankEpochs, RanksSwapPlacesAtABoundary_NoStepIsLostOrRedone) {
  const std::string directory = FreshDirectory("swap");
  RankProcess a("a"), b("b");
  a.PauseAfter(4);
  Launch(PlanOn({0, 1}, 1), {&a, &b}, directory, false);
  a.AwaitStep(3);
  Launch(PlanOn({1, 0}, 2), {&b, &a}, directory, true);
  a.Resume();
  EXPECT_EQ(b.AwaitFinished().finished().weights_sha256(), UndisturbedHash());
  EXPECT_TRUE(a.Join().ok());
  EXPECT_EQ(a.Steps(), OneToLast());
  EXPECT_EQ(b.Steps(), OneToLast());
}

// Killed at points all over a step: after a random event and some exchanges with another thread.
TEST(RankEpochs, OneProcessKilledAndReplaced_AtMostOneStepIsRedoneAndTheWeightsAreTheSame) {
  for (uint32_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(absl::StrCat("seed ", seed));
    std::mt19937 random(seed);
    const int victim = static_cast<int>(random() % 2);
    const auto kill_after = static_cast<int64_t>(random() % (kSteps - 1));
    const uint32_t delay = random() % 8;
    const bool near = random() % 2 == 0;
    const bool hold = random() % 2 == 0;
    const std::string directory = FreshDirectory("killed");
    std::unique_ptr<RankProcess> processes[2] = {std::make_unique<RankProcess>("rank 0"),
                                                 std::make_unique<RankProcess>("rank 1")};
    RankProcess& survivor = *processes[1 - victim];
    // The victim goes on as far as it can without the survivor, but never to the end.
    survivor.PauseAfter(std::min(kSteps, kill_after + (near ? 1 : 3)));
    Launch(PlanOn({0, 1}, 1), {processes[0].get(), processes[1].get()}, directory, false);
    survivor.Await("training", [](const v1::RankEvent& event) { return event.has_training(); });
    if (kill_after > 0) survivor.AwaitStep(kill_after);
    for (uint32_t i = 0; i < delay; ++i) survivor.Diagnose();
    processes[victim]->Kill();
    survivor.Resume();
    if (hold) {
      survivor.Hold(1);
      const int64_t step = survivor.AwaitHeld(1).held().step();
      const int64_t committed = static_cast<int64_t>(survivor.Steps().size());
      EXPECT_TRUE(step == committed || step == committed + 1) << step << " of " << committed;
    }
    processes[victim] = std::make_unique<RankProcess>("replacement");
    std::vector<int> nodes = {0, 1};
    nodes[static_cast<size_t>(victim)] = 2;
    Launch(PlanOn(nodes, 2), {processes[0].get(), processes[1].get()}, directory, false);
    EXPECT_EQ(processes[0]->AwaitFinished().finished().weights_sha256(), UndisturbedHash());
    processes[1 - victim]->Join().IgnoreError();
    const std::vector<int64_t> steps = survivor.Steps();
    EXPECT_LE(steps.size(), static_cast<size_t>(kSteps) + 1);
    for (size_t i = 1; i < steps.size(); ++i) EXPECT_GE(steps[i], steps[i - 1]) << i;
    EXPECT_TRUE(survivor.Told(
        [](const v1::RankEvent& event) { return event.epoch() == 1 && event.has_held(); }));
  }
}

TEST(RankEpochs, PeerLost_HeldWithTheBlamedNodeAndItsNewestStep) {
  const std::string directory = FreshDirectory("lost");
  RankProcess a("a"), b("b");
  a.PauseAfter(3);
  Launch(PlanOn({0, 7}, 1), {&a, &b}, directory, false);
  a.AwaitStep(2);
  b.Kill();
  a.Resume();
  const v1::RankEvent event = a.AwaitHeld(1);
  EXPECT_EQ(event.held().blamed_node(), "node7") << event.ShortDebugString();
  EXPECT_TRUE(absl::StartsWith(event.held().message(), "UNAVAILABLE: ")) << event.held().message();
  EXPECT_GE(event.held().step(), a.Steps().back());
  a.Stop();
  EXPECT_TRUE(a.Join().ok());
}

TEST(RankEpochs, Parked_ItsCheckpointGivesTheSameWeights) {
  const std::string directory = FreshDirectory("parked");
  int64_t step = 0;
  std::string manifest;
  {
    RankProcess a("a"), b("b");
    a.PauseAfter(4);
    Launch(PlanOn({0, 1}, 1), {&a, &b}, directory, false);
    a.AwaitStep(3);
    b.Park(1);  // one that is asked is enough
    b.Diagnose();
    a.Resume();
    const auto parked = [](const v1::RankEvent& event) { return event.has_parked(); };
    step = a.Await("parked", parked).parked().step();
    EXPECT_EQ(b.Await("parked", parked).parked().step(), step);
    EXPECT_TRUE(a.Join().ok());
    EXPECT_TRUE(b.Join().ok());
    EXPECT_TRUE(a.Told([&](const v1::RankEvent& event) {
      manifest = event.checkpoint().manifest();
      return event.has_checkpoint() && event.checkpoint().step() == step;
    }));
    EXPECT_GE(step, 3);
    EXPECT_LT(step, kSteps);
  }
  v1::Plan plan = PlanOn({2, 3}, 2);
  plan.mutable_resume()->set_manifest(manifest);
  plan.mutable_resume()->set_step(step);
  RankProcess c("c"), d("d");
  Launch(plan, {&c, &d}, directory, false);
  EXPECT_EQ(c.AwaitFinished().finished().weights_sha256(), UndisturbedHash());
  EXPECT_EQ(c.Steps().front(), step + 1);
}

TEST(RankEpochs, ParkedWhereNothingCanBeSaved_TheOneThatFailedSaysWhyAndTheOtherIsHeld) {
  const std::string directory = FreshDirectory("full");
  const std::string blocked = absl::StrCat(directory, "-file");
  std::ofstream(blocked) << "not a folder";
  const v1::Plan plan = PlanOn({0, 1}, 1);
  RankProcess a("a"), b("b");
  a.PauseAfter(3);
  a.Start(plan, 0, directory, false);
  b.Start(plan, 1, blocked, false);
  const auto listening = [](const v1::RankEvent& event) { return !event.listening().empty(); };
  v1::RankPeers peers;
  peers.set_epoch(1);
  int rank = 0;
  for (RankProcess* process : {&a, &b}) {
    v1::RankEndpoint* peer = peers.add_peers();
    peer->set_rank(rank);
    peer->set_node(plan.ranks(rank++).node());
    peer->set_endpoint(process->Await("listening", listening).listening());
  }
  for (RankProcess* process : {&a, &b}) process->Peers(peers);
  a.AwaitStep(2);
  a.Park(1);
  a.Diagnose();
  a.Resume();
  const v1::RankEvent failed =
      b.Await("failed", [](const v1::RankEvent& event) { return !event.failed().empty(); });
  EXPECT_TRUE(absl::StrContains(failed.failed(), blocked)) << failed.failed();
  EXPECT_FALSE(b.Join().ok());
  const v1::RankHeld held = a.AwaitHeld(1).held();
  EXPECT_TRUE(absl::StrContains(held.message(), "could not save its shard")) << held.message();
}

TEST(RankEpochs, OneDiesWhileTheOthersConnectToIt_TheNextEpochGoesOnFromTheSameStep) {
  const std::string directory = FreshDirectory("connect");
  RankProcess stays("stays"), leaves("leaves"), dies("dies"), joins("joins");
  stays.PauseAfter(3);
  Launch(PlanOn({0, 1}, 1), {&stays, &leaves}, directory, false);
  stays.AwaitStep(2);
  const v1::Plan second = PlanOn({0, 2}, 2);
  leaves.Start(second, -1, directory, true);
  const v1::RankPeers peers = StartAll(second, {&stays, &dies}, directory, true);
  dies.Kill();
  stays.Peers(peers);
  stays.Resume();
  leaves.AwaitHeld(1);
  stays.AwaitBeing("connect");
  Launch(PlanOn({0, 3}, 3), {&stays, &joins}, directory, false);
  EXPECT_EQ(stays.AwaitFinished().finished().weights_sha256(), UndisturbedHash());
  EXPECT_EQ(stays.Steps(), OneToLast());
  EXPECT_TRUE(stays.Told([](const v1::RankEvent& event) {
    return event.epoch() == 2 && event.has_held() &&
           event.held().message() == "epoch 3 takes its place";
  }));
}

TEST(RankEpochs, PresentEpochFails_PreparedOneTakesOver) {
  const std::string directory = FreshDirectory("prepared");
  RankProcess stays("stays"), dies("dies"), joins("joins");
  stays.PauseAfter(3);
  Launch(PlanOn({0, 1}, 1), {&stays, &dies}, directory, false);
  stays.AwaitStep(2);
  const v1::RankPeers peers = StartAll(PlanOn({0, 2}, 2), {&stays, &joins}, directory, true);
  dies.Kill();
  stays.Resume();
  stays.AwaitHeld(1);
  stays.Peers(peers);
  joins.Peers(peers);
  EXPECT_EQ(stays.AwaitFinished().finished().weights_sha256(), UndisturbedHash());
}

TEST(RankEpochs, NextEpochSupersededBeforeItsPeersAreKnown_AllLeaveForTheLaterOne) {
  const std::string directory = FreshDirectory("superseded");
  RankProcess a("a"), b("b");
  a.PauseAfter(2);
  Launch(PlanOn({0, 1}, 1), {&a, &b}, directory, false);
  a.AwaitStep(1);
  const v1::RankPeers old = StartAll(PlanOn({0, 1}, 2), {&a, &b}, directory, true);
  const v1::RankPeers table = StartAll(PlanOn({1, 0}, 3), {&a, &b}, directory, true);
  a.Peers(old);
  b.Peers(old);
  a.Diagnose();
  b.Diagnose();
  a.PauseAfter(5);  // the old table moves nobody after the steps 2 to 4
  a.AwaitStep(4);
  a.Peers(table);
  b.Peers(table);
  a.Resume();
  EXPECT_EQ(a.AwaitFinished().finished().weights_sha256(), UndisturbedHash());
  EXPECT_EQ(a.Steps(), OneToLast());
  for (RankProcess* process : {&a, &b}) {
    EXPECT_FALSE(process->Told([](const v1::RankEvent& event) {
      return event.epoch() == 2 && event.listening().empty();
    }));
  }
}

TEST(RankEpochs, PreparedEpochHeldAfterThePresentOneFailed_ALaterOneGoesOn) {
  const std::string directory = FreshDirectory("unwanted");
  RankProcess a("a"), b("b");
  a.PauseAfter(2);
  Launch(PlanOn({0, 1}, 1), {&a, &b}, directory, false);
  a.AwaitStep(1);
  StartAll(PlanOn({1, 0}, 2), {&a, &b}, directory, true);
  a.Kill();
  const v1::RankEvent lost = b.AwaitHeld(1);
  EXPECT_EQ(lost.held().blamed_node(), "node0");
  b.Hold(2);
  EXPECT_EQ(b.AwaitHeld(2).held().message(), "held by the test");
  RankProcess c("c");
  Launch(PlanOn({2, 1}, 5), {&c, &b}, directory, false);
  EXPECT_EQ(c.AwaitFinished().finished().weights_sha256(), UndisturbedHash());
}

TEST(RankEpochs, LeaverWhoseEpochFailsBeforeTheBoundary_IsHeldAndCanBeCalledBack) {
  const std::string directory = FreshDirectory("called-back");
  RankProcess stays("stays"), leaver("leaver"), fresh("fresh");
  stays.PauseAfter(3);
  Launch(PlanOn({0, 1}, 1), {&stays, &leaver}, directory, false);
  stays.AwaitStep(2);
  leaver.Start(PlanOn({0, 2}, 2), -1, directory, true);
  stays.Kill();
  EXPECT_EQ(leaver.AwaitHeld(1).held().blamed_node(), "node0");
  Launch(PlanOn({3, 1}, 3), {&fresh, &leaver}, directory, false);
  EXPECT_EQ(fresh.AwaitFinished().finished().weights_sha256(), UndisturbedHash());
  EXPECT_TRUE(leaver.Join().ok());
  EXPECT_GE(leaver.Steps().size(), static_cast<size_t>(kSteps));
}

TEST(RankEpochs, NextEpochThatCannotBePrepared_IsReportedFailedAtOnce) {
  const std::string directory = FreshDirectory("unusable");
  RankProcess a("a"), b("b");
  b.PauseAfter(2);
  Launch(PlanOn({0, 1}, 1), {&a, &b}, directory, false);
  a.AwaitStep(1);
  v1::Plan plan = PlanOn({0, 1}, 2);
  plan.mutable_stages(1)->set_first_layer(5);
  a.Start(plan, 0, directory, true);
  const v1::RankEvent event =
      a.Await("failed", [](const v1::RankEvent& told) { return !told.failed().empty(); });
  b.Resume();
  EXPECT_EQ(event.epoch(), 2);
  EXPECT_TRUE(absl::StartsWith(event.failed(), "INVALID_ARGUMENT: ")) << event.failed();
  EXPECT_FALSE(a.Join().ok());
  EXPECT_EQ(b.AwaitHeld(1).held().blamed_node(), "node0");
}

TEST(RankEpochs, OrdersOfThePastAndRepeatedOnes_ChangeNothing) {
  const std::string directory = FreshDirectory("stale");
  RankProcess a("a"), b("b");
  const v1::Plan plan = PlanOn({0, 1}, 5);
  const v1::RankPeers peers = StartAll(plan, {&a, &b}, directory, false);
  v1::RankPeers old = peers;
  old.set_epoch(4);
  old.mutable_peers(0)->set_endpoint("127.0.0.1:1");
  for (RankProcess* process : {&a, &b}) {
    process->Peers(old);
    process->Hold(4);
    process->Park(4);
    process->Start(PlanOn({0, 1}, 4), 0, directory, false);
    process->Peers(peers);
    process->Peers(peers);
  }
  a.AwaitStep(1);
  a.Start(plan, 0, directory, false);
  a.Start(PlanOn({0, 1}, 3), 1, directory, true);
  a.Hold(3);
  EXPECT_EQ(a.AwaitFinished().finished().weights_sha256(), UndisturbedHash());
  EXPECT_EQ(a.Steps(), OneToLast());
  for (const v1::RankEvent& event : a.Events()) {
    EXPECT_EQ(event.epoch(), 5) << event.ShortDebugString();
  }
}

TEST(RankEpochs, DiagnosedWhileAPeerHangs_ShowsWhatItWaitsInAndTheStack) {
  const std::string directory = FreshDirectory("hang");
  v1::Plan plan = PlanOn({0, 1}, 1);
  plan.mutable_spec()->mutable_training()->set_steps(100000);
  RankProcess waits("waits"), hangs("hangs");
  Launch(plan, {&waits, &hangs}, directory, false);
  hangs.StopListening();
  waits.AwaitStep(3);
  v1::RankDiagnosis diagnosis;
  do {
    diagnosis = waits.Diagnose();
    ASSERT_NE(diagnosis.token(), 0u) << "no answer";
  } while (diagnosis.seconds() < 0.5);
  EXPECT_EQ(diagnosis.step(), waits.Steps().back() + 1);
  EXPECT_TRUE(diagnosis.instruction().find_first_of("FBW") == 0 ||
              diagnosis.instruction() == "sum over ranks")
      << diagnosis.instruction();
  EXPECT_EQ(diagnosis.process(), "sleeping");
  EXPECT_TRUE(absl::StrContains(diagnosis.stack(), "TrainLoop::RunStep")) << diagnosis.stack();
}

TEST(RankEpochs, DiagnosedAllTheTime_TrainsTheSameWeights) {
  RankProcess a("a"), b("b");
  Launch(PlanOn({0, 1}, 1), {&a, &b}, FreshDirectory("watched"), false);
  while (a.Diagnose().token() != 0 && b.Diagnose().token() != 0) {
  }
  EXPECT_EQ(a.AwaitFinished().finished().weights_sha256(), UndisturbedHash());
}

// The last the ranks do together: whoever has the published checkpoint is done, whatever happens to
// the others; and whoever has not gets there from the checkpoint.
TEST(RankEpochs, PeerDiesOnceTheLastCheckpointIsPublished_RankZeroFinishesAllTheSame) {
  for (uint32_t seed = 0; seed < 4; ++seed) {
    const std::string directory = FreshDirectory("end");
    RankProcess a("a"), b("b");
    Launch(PlanOn({0, 1}, 1), {&a, &b}, directory, false);
    a.Await("checkpoint", [](const v1::RankEvent& event) { return event.has_checkpoint(); });
    b.Kill();
    EXPECT_EQ(a.AwaitFinished().finished().weights_sha256(), UndisturbedHash());
    EXPECT_TRUE(a.Join().ok());

    const std::string manifest = absl::StrCat(directory, "/step-00000008/manifest.json");
    const auto written = std::filesystem::last_write_time(manifest);
    RankProcess c("c"), d("d");
    Launch(PlanOn({2, 3}, 2), {&c, &d}, directory, false);
    EXPECT_EQ(c.AwaitFinished().finished().weights_sha256(), UndisturbedHash());
    EXPECT_EQ(c.Steps().size(), 0u);
    EXPECT_EQ(std::filesystem::last_write_time(manifest), written);
  }
}

}  // namespace
}  // namespace fathom::engine
