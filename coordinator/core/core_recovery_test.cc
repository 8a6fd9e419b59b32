// Failures with survivors, holds, drains, changes at a boundary, replicas shed and grown back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/plan/job_resolve.h"
#include "common/plan/plan_check.h"
#include "coordinator/core/core_test_cluster.h"
#include "coordinator/planner/planner.h"

namespace fathom {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

v1::RecoveryRecord LastRecovery(const v1::JobStatus& status) {
  return status.recoveries(status.recoveries_size() - 1);
}

void Hold(TestCluster* cluster, const std::string& job, int32_t rank, const std::string& blamed) {
  v1::RankStatus& status = cluster->Rank(job, rank);
  status.set_state(v1::RANK_STATE_HELD);
  status.set_message(absl::StrCat("UNAVAILABLE: node ", blamed, " closed the connection"));
  status.set_blamed_node(blamed);
}

// --- At once ---

TEST(SurvivorsTest, NodeLost_OnlyItsRanksMoveAndAtOnce) {
  TestCluster cluster;
  for (const char* name : {"a", "b", "c"}) cluster.AddNode(name, 2);
  cluster.AddNode("s1", 2, true);
  cluster.AddNode("s2", 4, true);
  const std::string job = cluster.Submit(6);
  cluster.Settle();
  ASSERT_EQ(cluster.Placement(job), "a0 a1 b0 b1 c0 c1");
  cluster.StepTo(job, 10);
  cluster.nodes["b"].up = false;
  for (int i = 0; i < 6; ++i) {
    cluster.Advance(1000);
    cluster.ReportAll();
  }
  EXPECT_EQ(cluster.Job(job).plan().epoch(), 2u) << "no rank had to stop first";
  EXPECT_EQ(cluster.Placement(job), "a0 a1 s10 s11 c0 c1") << "the spare that fits most closely";
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), "RUNNING");
  cluster.StepTo(job, 11);
  const v1::JobStatus status = cluster.Job(job);
  ASSERT_EQ(status.recoveries_size(), 1);
  const v1::RecoveryRecord& recovery = status.recoveries(0);
  EXPECT_EQ(recovery.cause(), "node_lost");
  EXPECT_EQ(recovery.node(), "b");
  EXPECT_TRUE(recovery.finished());
  EXPECT_FALSE(recovery.planned());
  EXPECT_THAT(recovery.lost_nodes(), ElementsAre("b"));
  EXPECT_THAT(recovery.joined_nodes(), ElementsAre("s1"));
  EXPECT_NEAR(recovery.detect(), 6.0, 0.01);
}

TEST(SurvivorsTest, RankExits_SameDeviceAgainInAFreshProcess) {
  TestCluster cluster;
  cluster.AddNode("a", 1);
  cluster.AddNode("b", 1);
  cluster.AddNode("s", 1, true);
  const std::string job = cluster.Submit(2);
  cluster.Settle();
  cluster.Rank(job, 1).set_state(v1::RANK_STATE_FAILED);
  cluster.Rank(job, 1).set_message("INTERNAL: killed by signal 9");
  cluster.Report(cluster.nodes["b"]);
  EXPECT_EQ(cluster.Placement(job), "a0 b0");
  EXPECT_EQ(cluster.Job(job).epoch(), 2u);
  EXPECT_EQ(LastRecovery(cluster.Job(job)).cause(), "rank_failed");
}

TEST(SurvivorsTest, NoPlace_OldEpochIsHeldUntilThereIsOne) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 1);
  cluster.AddNode("b", 1);
  const std::string job = cluster.Submit(2);
  cluster.Settle();
  cluster.nodes["b"].up = false;
  for (int i = 0; i < 6; ++i) {
    cluster.Advance(1000);
    cluster.ReportAll();
  }
  ASSERT_EQ(a.desired.jobs_size(), 1);
  EXPECT_TRUE(a.desired.jobs(0).hold());
  EXPECT_EQ(a.desired.jobs(0).plan().epoch(), 1u);
  cluster.Settle();
  EXPECT_EQ(a.ranks.begin()->second.state(), v1::RANK_STATE_HELD) << "it keeps its memory";
  EXPECT_THAT(cluster.Job(job).reason(), HasSubstr("1 missing"));
  cluster.AddNode("c", 1);
  EXPECT_EQ(cluster.Placement(job), "a0 c0");
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), "RUNNING");
}

TEST(BlameTest, HeldRanks_WaitForTheCulpritsOwnWord) {
  TestCluster cluster;
  for (const char* name : {"a", "b", "c"}) cluster.AddNode(name, 1);
  const std::string job = cluster.Submit(3);
  cluster.Settle();
  Hold(&cluster, job, 0, "b");
  cluster.Report(cluster.nodes["a"]);
  EXPECT_EQ(cluster.State(job), "RUNNING");
  cluster.Rank(job, 1).set_state(v1::RANK_STATE_FAILED);
  cluster.Rank(job, 1).set_message("INTERNAL: out of memory");
  cluster.Report(cluster.nodes["b"]);
  EXPECT_EQ(cluster.State(job), "RECOVERING");
  EXPECT_THAT(cluster.Job(job).reason(), HasSubstr("rank 1 on node b failed: INTERNAL"));
}

TEST(BlameTest, StreamClosedAndPeersCantReachIt_LostAtOnce) {
  TestCluster cluster;
  for (const char* name : {"a", "b", "c"}) cluster.AddNode(name, 1);
  cluster.AddNode("s", 1, true);
  const std::string job = cluster.Submit(3);
  cluster.Settle();
  Hold(&cluster, job, 0, "b");
  cluster.core->StreamClosed(NodeName("b"), 1, cluster.now);
  cluster.Commit();
  EXPECT_EQ(cluster.State(job), "RUNNING") << "a closed stream alone is no reason";
  cluster.nodes["b"].up = false;
  cluster.Report(cluster.nodes["a"]);
  EXPECT_EQ(cluster.State(job), "RECOVERING");
  EXPECT_EQ(LastRecovery(cluster.Job(job)).cause(), "node_lost");
  EXPECT_EQ(cluster.Placement(job), "a0 s0 c0");
}

TEST(BlameTest, BlamedNodeReportsAgain_IsNotLost) {
  TestCluster cluster;
  for (const char* name : {"a", "b", "c"}) cluster.AddNode(name, 1);
  const std::string job = cluster.Submit(3);
  cluster.Settle();
  cluster.core->StreamClosed(NodeName("b"), 1, cluster.now);
  cluster.Report(cluster.nodes["b"]);
  Hold(&cluster, job, 0, "b");
  cluster.Report(cluster.nodes["a"]);
  cluster.Advance(400);
  EXPECT_THAT(cluster.Events("NodeLost"), IsEmpty());
  EXPECT_EQ(LastRecovery(cluster.Job(job)).cause(), "link_lost");
}

TEST(BlameTest, LinkFault_SamePlacementOnceThenTheWorseNodeIsReplaced) {
  TestCluster cluster;
  for (const char* name : {"a", "b", "c"}) cluster.AddNode(name, 1);
  cluster.AddNode("s", 1, true);
  const std::string job = cluster.Submit(3);
  cluster.Settle();
  const auto fault = [&] {
    Hold(&cluster, job, 0, "c");
    Hold(&cluster, job, 1, "c");
    cluster.ReportAll();
    cluster.Advance(299);
    EXPECT_EQ(cluster.State(job), "RUNNING");
    cluster.Advance(1);
    EXPECT_EQ(cluster.State(job), "RECOVERING");
  };
  fault();
  EXPECT_EQ(cluster.Placement(job), "a0 b0 c0");
  EXPECT_EQ(cluster.Job(job).epoch(), 2u);
  cluster.Settle();
  cluster.StepTo(job, 10);
  fault();
  EXPECT_EQ(cluster.Placement(job), "a0 b0 s0");
  EXPECT_EQ(cluster.Job(job).epoch(), 3u);
  EXPECT_THAT(cluster.Events("NodeDraining"), SizeIs(1));
}

TEST(BlameTest, MostNodesSilent_NoEpochIsEndedMeanwhile) {
  TestCluster cluster;
  for (const char* name : {"a", "b", "c", "d"}) cluster.AddNode(name, 1);
  const std::string job = cluster.Submit(4);
  cluster.Settle();
  Hold(&cluster, job, 0, "b");
  for (const char* name : {"b", "c", "d"}) cluster.nodes[name].up = false;
  for (int i = 0; i < 6; ++i) cluster.Advance(500);
  cluster.Report(cluster.nodes["a"]);
  cluster.Advance(500);
  EXPECT_EQ(cluster.State(job), "RUNNING");
  EXPECT_THAT(cluster.Events("NodeLost"), IsEmpty());
}

// --- Replicas ---

TEST(ReplicasTest, NodeLostWithoutSpare_OneReplicaIsShedAndGrowsBackAtABoundary) {
  TestCluster cluster;
  for (const char* name : {"a", "b", "c"}) cluster.AddNode(name, 2);
  const std::string job = cluster.Submit(6, "", 100, 3);
  cluster.Settle();
  cluster.StepTo(job, 10);
  cluster.nodes["a"].up = false;
  for (int i = 0; i < 6; ++i) {
    cluster.Advance(1000);
    cluster.ReportAll();
  }
  EXPECT_EQ(cluster.Placement(job), "c0 c1 b0 b1") << "replica 1 keeps its number";
  EXPECT_EQ(cluster.Job(job).replicas_shed(), 1);
  EXPECT_EQ(cluster.Job(job).plan().spec().training().micro_batches(), 18) << "36 in all";
  EXPECT_EQ(cluster.Job(job).job().spec().parallelism().replicas(), 3) << "as the user asked";
  cluster.Settle();
  cluster.StepTo(job, 12);
  cluster.nodes["a"].up = true;
  cluster.Settle();
  EXPECT_FALSE(cluster.Job(job).has_next_plan()) << "not so soon after the last change";
  for (int i = 0; i < 10; ++i) {
    cluster.Advance(1000);
    cluster.ReportAll();
  }
  EXPECT_TRUE(cluster.Job(job).has_next_plan());
  EXPECT_EQ(cluster.State(job), "RUNNING") << "it trains on meanwhile";
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), "RUNNING");
  cluster.StepTo(job, 13);
  EXPECT_EQ(cluster.Job(job).replicas_shed(), 0);
  EXPECT_EQ(cluster.Job(job).plan().spec().training().micro_batches(), 12);
  EXPECT_EQ(LastRecovery(cluster.Job(job)).cause(), "grow");
  EXPECT_TRUE(LastRecovery(cluster.Job(job)).planned());
  EXPECT_TRUE(LastRecovery(cluster.Job(job)).finished());
  EXPECT_EQ(cluster.Job(job).restarts(), 1) << "a planned change is none";
}

// --- Drain ---

TEST(DrainTest, Spare_TakesTheRanksWhileTrainingGoesOn) {
  TestCluster cluster;
  cluster.AddNode("a", 2);
  TestNode& b = cluster.AddNode("b", 2);
  TestNode& s = cluster.AddNode("s", 2, true);
  const std::string job = cluster.Submit(4);
  cluster.Settle();
  cluster.StepTo(job, 10);
  const v1::DrainNodeResponse response = cluster.Drain("b");
  ASSERT_EQ(response.jobs_size(), 1);
  EXPECT_EQ(response.jobs(0).ranks(), 2);
  EXPECT_THAT(response.jobs(0).to(), ElementsAre("s"));
  ASSERT_TRUE(cluster.Job(job).has_next_plan());
  EXPECT_EQ(cluster.Job(job).epoch(), 1u);
  ASSERT_EQ(b.desired.jobs_size(), 2) << "told of the epoch that leaves it";
  EXPECT_EQ(b.desired.jobs(0).ranks_size(), 2);
  EXPECT_EQ(b.desired.jobs(1).ranks_size(), 0);
  ASSERT_EQ(s.desired.jobs_size(), 1);
  EXPECT_EQ(s.desired.jobs(0).plan().epoch(), 2u);
  s.Obey();
  cluster.Report(s);
  EXPECT_EQ(s.desired.jobs(0).peers_size(), 0) << "not before all of them listen";
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), "RUNNING");
  EXPECT_EQ(cluster.Placement(job), "a0 a1 s0 s1");
  EXPECT_EQ(cluster.Job(job).restarts(), 0);
  EXPECT_THAT(cluster.Events("NodeDrained"), SizeIs(1));
  EXPECT_EQ(b.desired.jobs_size(), 0);
  cluster.Advance(1000);
  EXPECT_THAT(cluster.Events("NodeDrained"), SizeIs(1)) << "said once";
  cluster.StepTo(job, 11);
  const v1::RecoveryRecord recovery = LastRecovery(cluster.Job(job));
  EXPECT_EQ(recovery.cause(), "drain");
  EXPECT_EQ(recovery.node(), "b");
  EXPECT_EQ(recovery.steps_redone(), 10 - 0) << "the fake ranks tell no step they resumed from";
  const std::string next = cluster.Submit(2);
  cluster.Settle();
  EXPECT_EQ(cluster.State(next), "PENDING") << "nothing new on a drained node";
}

TEST(DrainTest, NamedReplacement_TakesThemAndRefusesWhatItCant) {
  TestCluster cluster;
  cluster.AddNode("a", 2);
  cluster.AddNode("b", 2);
  cluster.AddNode("c", 2);
  cluster.AddNode("s", 1, true);
  const std::string job = cluster.Submit(2);
  cluster.Settle();
  v1::DrainNodeRequest request;
  request.set_node("a");
  request.set_replacement("s");
  EXPECT_EQ(cluster.core->Drain(request, cluster.now).status().code(),
            absl::StatusCode::kFailedPrecondition);
  request.set_replacement("c");
  request.set_dry_run(true);
  const auto dry = cluster.core->Drain(request, cluster.now);
  ASSERT_TRUE(dry.ok()) << dry.status();
  EXPECT_THAT(dry->jobs(0).to(), ElementsAre("c"));
  EXPECT_TRUE(cluster.core->records().empty());
  request.set_dry_run(false);
  request.set_request_id("x");
  ASSERT_TRUE(cluster.core->Drain(request, cluster.now).ok());
  cluster.Commit();
  ASSERT_TRUE(cluster.core->Drain(request, cluster.now).ok()) << "the same request again";
  EXPECT_TRUE(cluster.core->records().empty());
  request.set_request_id("y");
  EXPECT_EQ(cluster.core->Drain(request, cluster.now).status().code(),
            absl::StatusCode::kFailedPrecondition);
  request.set_node("nowhere");
  request.set_request_id("");
  EXPECT_EQ(cluster.core->Drain(request, cluster.now).status().code(), absl::StatusCode::kNotFound);
  cluster.Settle();
  EXPECT_EQ(cluster.Placement(job), "c0 c1");
  EXPECT_EQ(LastRecovery(cluster.Job(job)).cause(), "replace");
}

TEST(DrainTest, NoPlace_WaitsSaysSoAndGoesOnceThereIsOne) {
  TestCluster cluster;
  cluster.AddNode("a", 1);
  cluster.AddNode("b", 1);
  const std::string job = cluster.Submit(2);
  cluster.Settle();
  EXPECT_THAT(cluster.Drain("b").note(), HasSubstr("no place is free"));
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), "RUNNING");
  EXPECT_THAT(cluster.core->DrainObstacle(NodeName("b")), HasSubstr("1 missing"));
  EXPECT_THAT(cluster.core->ListNodes().nodes(1).reason(), HasSubstr("1 missing"));
  cluster.AddNode("c", 1);
  cluster.Settle();
  EXPECT_EQ(cluster.Placement(job), "a0 c0");
  EXPECT_EQ(cluster.core->DrainObstacle(NodeName("b")), "");
}

TEST(DrainTest, DeadlinePassed_RanksAreGivenUp) {
  TestCluster cluster;
  cluster.AddNode("a", 1);
  cluster.AddNode("b", 1);
  const std::string job = cluster.Submit(2, "", 100, 2);
  cluster.Settle();
  cluster.Drain("b", "", 3);
  cluster.Settle();
  EXPECT_EQ(cluster.Placement(job), "a0 b0");
  for (int i = 0; i < 3; ++i) {
    cluster.Advance(1000);
    cluster.ReportAll();
  }
  EXPECT_EQ(cluster.Placement(job), "a0") << "one replica is shed";
  EXPECT_EQ(LastRecovery(cluster.Job(job)).cause(), "drain");
  cluster.Settle();
  EXPECT_THAT(cluster.Events("NodeDrained"), SizeIs(1));
}

TEST(DrainTest, Undrain_CancelsWhatIsNotSwitchedYet) {
  TestCluster cluster;
  cluster.AddNode("a", 1);
  cluster.AddNode("b", 1);
  cluster.AddNode("s", 1, true);
  const std::string job = cluster.Submit(2);
  cluster.Settle();
  cluster.Drain("b");
  ASSERT_TRUE(cluster.Job(job).has_next_plan());
  v1::UndrainNodeRequest request;
  request.set_node("b");
  ASSERT_TRUE(cluster.core->Undrain(request, cluster.now).ok());
  cluster.Commit();
  EXPECT_FALSE(cluster.Job(job).has_next_plan());
  EXPECT_EQ(cluster.Job(job).recoveries_size(), 0);
  EXPECT_EQ(cluster.core->Undrain(request, cluster.now).status().code(),
            absl::StatusCode::kFailedPrecondition);
  cluster.Settle();
  EXPECT_EQ(cluster.Placement(job), "a0 b0");
  cluster.Drain("b");
  EXPECT_EQ(cluster.Job(job).next_plan().epoch(), 3u) << "numbers are never used again";
}

TEST(DrainTest, ReplacementDrainedOrLostMeanwhile_AnotherIsChosen) {
  for (const bool lost : {false, true}) {
    TestCluster cluster;
    cluster.AddNode("a", 1);
    cluster.AddNode("b", 1);
    cluster.AddNode("s1", 1, true);
    cluster.AddNode("s2", 1, true);
    const std::string job = cluster.Submit(2);
    cluster.Settle();
    cluster.Drain("b", "s1");
    ASSERT_EQ(cluster.Job(job).next_plan().ranks(1).node(), "s1");
    if (lost) {
      cluster.nodes["s1"].up = false;
      for (int i = 0; i < 6; ++i) {
        cluster.Advance(1000);
        cluster.ReportAll();
      }
    } else {
      cluster.Drain("s1");
    }
    EXPECT_EQ(cluster.Job(job).next_plan().ranks(1).node(), "s2");
    EXPECT_EQ(cluster.Job(job).next_plan().epoch(), 3u);
    cluster.Settle();
    EXPECT_EQ(cluster.Placement(job), "a0 s20");
    EXPECT_EQ(cluster.Job(job).restarts(), 0);
  }
}

TEST(DrainTest, PresentEpochFailsMeanwhile_TheNextOneIsTakenAtOnce) {
  TestCluster cluster;
  cluster.AddNode("a", 1);
  cluster.AddNode("b", 1);
  cluster.AddNode("s", 1, true);
  const std::string job = cluster.Submit(2);
  cluster.Settle();
  cluster.Drain("b");
  cluster.Rank(job, 1).set_state(v1::RANK_STATE_FAILED);
  cluster.Report(cluster.nodes["b"]);
  EXPECT_EQ(cluster.Job(job).epoch(), 2u);
  EXPECT_EQ(cluster.Placement(job), "a0 s0");
  EXPECT_EQ(cluster.Job(job).restarts(), 1);
  EXPECT_EQ(LastRecovery(cluster.Job(job)).cause(), "rank_failed");
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), "RUNNING");
}

TEST(DrainTest, DuringARecovery_TheNewPlanLeavesTheNodeOut) {
  TestCluster cluster;
  for (const char* name : {"a", "b", "c"}) cluster.AddNode(name, 1);
  const std::string job = cluster.Submit(3);
  cluster.Settle();
  cluster.nodes["c"].up = false;
  for (int i = 0; i < 6; ++i) {
    cluster.Advance(1000);
    cluster.ReportAll();
  }
  cluster.Drain("b");
  EXPECT_THAT(cluster.core->DrainObstacle(NodeName("b")), HasSubstr("RECOVERING"));
  cluster.AddNode("wide", 2);
  EXPECT_EQ(cluster.Placement(job), "a0 wide0 wide1");
  cluster.Settle();
  EXPECT_THAT(cluster.Events("NodeDrained"), SizeIs(1));
}

TEST(DrainTest, CoordinatorRestart_ChangeGoesOn) {
  TestCluster cluster;
  cluster.AddNode("a", 1);
  cluster.AddNode("b", 1);
  cluster.AddNode("s", 1, true);
  const std::string job = cluster.Submit(2);
  cluster.Settle();
  cluster.Drain("b");
  cluster.RestartCoordinator();
  EXPECT_TRUE(cluster.Job(job).has_next_plan());
  cluster.Settle();
  EXPECT_EQ(cluster.Placement(job), "a0 s0");
  EXPECT_EQ(cluster.State(job), "RUNNING");
  EXPECT_THAT(cluster.Events("NodeDrained"), SizeIs(1));
}

TEST(NodeCommandsTest, CordonAndPreflight_CloseANodeToNewRanks) {
  TestCluster cluster;
  cluster.AddNode("a", 1);
  v1::CordonNodeRequest cordon;
  cordon.set_node("a");
  cordon.set_reason("noisy");
  ASSERT_TRUE(cluster.core->Cordon(cordon, cluster.now).ok());
  cluster.Commit();
  const std::string job = cluster.Submit(1);
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), "PENDING");
  EXPECT_THAT(cluster.core->ListNodes().nodes(0).reason(), HasSubstr("cordoned (noisy)"));
  v1::PreflightNodeRequest preflight;
  preflight.set_node("a");
  const auto id = cluster.core->Preflight(preflight, cluster.now);
  ASSERT_TRUE(id.ok()) << id.status();
  cluster.Commit();
  EXPECT_EQ(cluster.nodes["a"].desired.preflight().id(), id->id());
  v1::UndrainNodeRequest undrain;
  undrain.set_node("a");
  ASSERT_TRUE(cluster.core->Undrain(undrain, cluster.now).ok());
  cluster.Commit();
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), "RUNNING");
  EXPECT_EQ(cluster.core->Preflight(preflight, cluster.now).status().code(),
            absl::StatusCode::kFailedPrecondition)
      << "it has ranks";
}

// --- Logs of older versions ---

PlanningFunctions CheckedPlanning() {
  PlanningFunctions planning = SimplePlanning();
  planning.resolve = [](const v1::Job& job) { return plan::ResolveJob(job); };
  planning.check_plan = plan::CheckPlan;
  planning.make_plan = [](const std::string& job, uint64_t epoch, const v1::JobSpec& spec,
                          const std::vector<FreeNode>& nodes) {
    std::vector<planner::NodeCapacity> capacities;
    for (const FreeNode& node : nodes) {
      planner::NodeCapacity& capacity = capacities.emplace_back();
      capacity.name = node.name;
      capacity.free_devices = {node.free_devices.begin(), node.free_devices.end()};
    }
    return planner::MakePlan(job, epoch, spec, capacities);
  };
  return planning;
}

TEST(OldLogTest, JobsWithoutLaterFields_GetDefaultsAndANextPlanThatPassesTheCheck) {
  CoreOptions options;
  options.checkpoint_root = "/state/checkpoints";
  options.planning = CheckedPlanning();
  TestNode a;
  a.name = "a";
  a.devices = 2;
  TestNode b = a;
  b.name = "b";
  Moment now{1'700'000'000'000, 1000};
  std::vector<v1::Record> log;
  std::string job;
  {
    CoordinatorCore core(options);
    ASSERT_TRUE(core.Report(a.Report(), now).ok());
    v1::SubmitJobRequest request = TestCluster::JobOf(2, "old", 100, 2);
    request.mutable_job()->set_api_version("fathom/v1");
    request.mutable_job()->set_kind("Job");
    const auto response = core.Submit(request, {}, now);
    ASSERT_TRUE(response.ok()) << response.status();
    job = response->id();
    log = core.records();
  }
  int plans = 0;
  for (v1::Record& record : log) {
    v1::JobSpec* spec = nullptr;
    if (record.has_submitted()) spec = record.mutable_submitted()->mutable_job()->mutable_spec();
    if (record.job_change().has_plan()) {
      spec = record.mutable_job_change()->mutable_plan()->mutable_spec();
      ++plans;
    }
    if (spec == nullptr) continue;
    spec->clear_scheduling();
    spec->clear_recovery();
    ASSERT_FALSE(plan::CheckResolvedSpec(*spec).ok()) << "as an older version wrote it";
  }
  ASSERT_EQ(plans, 1);

  CoordinatorCore core(options);
  for (const v1::Record& record : log) ASSERT_TRUE(core.Replay(record).ok());
  const auto replayed = core.state().Find(JobId(job));
  EXPECT_TRUE(plan::CheckResolvedSpec(replayed->job->spec()).ok());
  EXPECT_TRUE(plan::CheckPlan(*replayed->plan).ok());
  core.Tick(now);
  ASSERT_TRUE(core.Report(b.Report(), now).ok());
  core.Commit();
  for (int i = 0; i < 7; ++i) {  // node a never comes back
    now.wall_ms += 1000;
    now.steady_ms += 1000;
    ASSERT_TRUE(core.Report(b.Report(), now).ok());
    core.Tick(now);
    core.Commit();
  }
  const auto after = core.state().Find(JobId(job));
  ASSERT_TRUE(after->HasCurrentPlan()) << core.WaitingReason(JobId(job));
  EXPECT_EQ(after->epoch, 2u);
  EXPECT_EQ(after->plan->ranks(0).node(), "b");
  EXPECT_TRUE(after->plan->spec().recovery().verify_weights());
}

}  // namespace
}  // namespace fathom
