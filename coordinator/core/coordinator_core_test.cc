// What the core decides, one condition per test.
#include "coordinator/core/coordinator_core.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "coordinator/core/core_test_cluster.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::vector<std::string> EventKinds(const TestCluster& cluster, const std::string& job) {
  v1::ListEventsRequest request;
  request.set_job(job);
  std::vector<std::string> kinds;
  const v1::ListEventsResponse response = cluster.core->ListEvents(request);
  for (const v1::Event& event : response.events()) {
    kinds.push_back(event.kind());
  }
  return kinds;
}

// --- Submitting ---

TEST(SubmitTest, NameGivenOrNot_IdsAreUniqueAndReadable) {
  TestCluster cluster;
  EXPECT_EQ(cluster.Submit(1), "tiny-1");
  EXPECT_EQ(cluster.Submit(1, "mine"), "mine-2");
  EXPECT_EQ(cluster.Job("tiny-1").name(), "tiny-1");
  EXPECT_EQ(cluster.Job("mine").id(), "mine-2");
  EXPECT_EQ(cluster.Job("mine").job().spec().checkpoint().directory(), "/state/checkpoints/mine-2");
  EXPECT_EQ(cluster.Job("mine").user(), "ada");
}

TEST(SubmitTest, BadJob_RefusedAndNothingRecorded) {
  TestCluster cluster;
  v1::SubmitJobRequest request = TestCluster::JobOf(1);
  request.mutable_job()->mutable_spec()->mutable_data()->clear_token_file();
  EXPECT_EQ(cluster.core->Submit(request, {}, cluster.now).status().message(),
            "spec.data.token_file: give a token file");
  for (const char* name : {"Upper", "1st", "a_b", "-a"}) {
    const auto refused = cluster.core->Submit(TestCluster::JobOf(1, name), {}, cluster.now);
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kInvalidArgument) << name;
  }
  const auto large =
      cluster.core->Submit(TestCluster::JobOf(limits::kMaxRanksPerJob + 1), {}, cluster.now);
  EXPECT_THAT(std::string(large.status().message()), HasSubstr("at most 8192"));
  EXPECT_TRUE(cluster.core->records().empty());
}

TEST(SubmitTest, NameOfAnUnfinishedJob_AlreadyExistsUntilItEnds) {
  TestCluster cluster;
  cluster.Submit(1, "mine");
  const auto again = cluster.core->Submit(TestCluster::JobOf(1, "mine"), {}, cluster.now);
  EXPECT_EQ(again.status().code(), absl::StatusCode::kAlreadyExists);
  v1::CancelJobRequest cancel;
  cancel.set_name("mine");
  ASSERT_TRUE(cluster.core->Cancel(cancel, cluster.now).ok());
  cluster.Commit();
  EXPECT_EQ(cluster.Submit(1, "mine"), "mine-2");
  EXPECT_EQ(cluster.Job("mine").id(), "mine-2") << "a name stands for its newest job";
}

TEST(SubmitTest, SameRequestIdTwice_AppliedOnceEvenAcrossARestart) {
  TestCluster cluster;
  v1::SubmitJobRequest request = TestCluster::JobOf(1, "mine");
  request.set_request_id("r1");
  ASSERT_TRUE(cluster.core->Submit(request, {}, cluster.now).ok());
  cluster.Commit();
  cluster.RestartCoordinator();
  const auto again = cluster.core->Submit(request, {}, cluster.now);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->id(), "mine-1");
  EXPECT_EQ(cluster.core->state().jobs().size(), 1u);
  v1::CancelJobRequest cancel;
  cancel.set_name("mine");
  cancel.set_request_id("r1");
  EXPECT_EQ(cluster.core->Cancel(cancel, cluster.now).status().code(),
            absl::StatusCode::kInvalidArgument);
  cancel.set_request_id("r2");
  EXPECT_TRUE(cluster.core->Cancel(cancel, cluster.now).ok());
  EXPECT_TRUE(cluster.core->Cancel(cancel, cluster.now).ok());
}

TEST(SubmitTest, DryRun_PlansAndChangesNothing) {
  TestCluster cluster;
  cluster.AddNode("a", 2);
  const std::string before = cluster.core->state().Fingerprint();
  v1::SubmitJobRequest request = TestCluster::JobOf(2);
  request.set_dry_run(true);
  const auto fits = cluster.core->Submit(request, {}, cluster.now);
  ASSERT_TRUE(fits.ok());
  EXPECT_EQ(fits->plan().ranks_size(), 2);
  EXPECT_EQ(fits->note(), "");
  request = TestCluster::JobOf(5);
  request.set_dry_run(true);
  const auto too_large = cluster.core->Submit(request, {}, cluster.now);
  EXPECT_THAT(too_large->note(), HasSubstr("needs 5 devices, the cluster has 2: 3 missing"));
  EXPECT_FALSE(too_large->has_plan());
  EXPECT_EQ(cluster.core->state().Fingerprint(), before);
}

TEST(SubmitTest, DefaultNameTaken_NextNumberIsUsed) {
  TestCluster cluster;
  EXPECT_EQ(cluster.Submit(1, "tiny-2"), "tiny-2-1");
  EXPECT_EQ(cluster.Submit(1), "tiny-3");
  EXPECT_EQ(cluster.Submit(1), "tiny-4");
  EXPECT_EQ(cluster.Replayed(), cluster.core->state().Fingerprint());
}

TEST(SubmitTest, JobThatNoClusterCouldRun_RefusedNotQueued) {
  TestCluster cluster;
  v1::SubmitJobRequest request = TestCluster::JobOf(1);
  request.mutable_job()->mutable_spec()->mutable_parallelism()->set_pipeline(kUnplannablePipeline);
  EXPECT_EQ(cluster.core->Submit(request, {}, cluster.now).status().message(),
            "spec.parallelism.pipeline: no model has so many layers");
  v1::ResumePoint late;
  late.set_manifest("/m.json");
  late.set_step(101);
  EXPECT_THAT(
      std::string(
          cluster.core->Submit(TestCluster::JobOf(1), late, cluster.now).status().message()),
      HasSubstr("the checkpoint is of step 101, but the job ends at step 100"));
  EXPECT_TRUE(cluster.core->records().empty());
}

TEST(SubmitTest, ResumeFrom_IsWhereTheFirstEpochBegins) {
  TestCluster cluster;
  cluster.AddNode("a", 1);
  v1::ResumePoint point;
  point.set_manifest("/m.json");
  point.set_step(40);
  ASSERT_TRUE(cluster.core->Submit(TestCluster::JobOf(1), point, cluster.now).ok());
  cluster.Commit();
  EXPECT_EQ(cluster.Job("tiny-1").plan().resume().step(), 40);
}

TEST(SubmitTest, QueueFull_ResourceExhausted) {
  TestCluster cluster;
  for (int i = 0; i < limits::kMaxUnfinishedJobs; ++i) {
    ASSERT_TRUE(cluster.core->Submit(TestCluster::JobOf(1), {}, cluster.now).ok());
  }
  EXPECT_EQ(cluster.core->Submit(TestCluster::JobOf(1), {}, cluster.now).status().code(),
            absl::StatusCode::kResourceExhausted);
}

// --- The queue ---

TEST(QueueTest, NoDevices_WaitsWithTheNumberMissing) {
  TestCluster cluster;
  const std::string job = cluster.Submit(8);
  EXPECT_EQ(cluster.State(job), "PENDING");
  EXPECT_THAT(cluster.Job(job).reason(),
              StartsWith("needs 8 devices, the cluster has 0: 8 missing"));
  cluster.AddNode("a", 6);
  EXPECT_THAT(cluster.Job(job).reason(),
              StartsWith("needs 8 devices, the cluster has 6: 2 missing"));
  cluster.AddNode("b", 6);
  EXPECT_EQ(cluster.State(job), "STARTING");
}

TEST(QueueTest, SmallJobBehindLargeOne_WaitsItsTurn) {
  TestCluster cluster;
  cluster.AddNode("a", 4);
  const std::string running = cluster.Submit(2);
  const std::string large = cluster.Submit(4);
  const std::string small = cluster.Submit(1);
  cluster.Settle();
  EXPECT_EQ(cluster.State(running), "RUNNING");
  EXPECT_EQ(cluster.Job(large).reason(),
            "needs 4 devices, 2 of 4 are free: 2 missing until others are done");
  EXPECT_THAT(cluster.Job(small).reason(), StartsWith("behind tiny-2"));
  cluster.Finish(running);
  cluster.Settle();
  EXPECT_EQ(cluster.State(large), "RUNNING");
  EXPECT_EQ(cluster.State(small), "PENDING");
}

TEST(QueueTest, SpareNode_IsNoPlaceForANewJob) {
  TestCluster cluster;
  cluster.AddNode("spare", 4, true);
  const std::string job = cluster.Submit(2);
  EXPECT_EQ(cluster.State(job), "PENDING");
  EXPECT_THAT(cluster.Job(job).reason(), HasSubstr("the cluster has 0"));
}

// --- A job's life ---

TEST(LifeTest, GangStart_PeersOnlyOnceAllListen) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 1);
  TestNode& b = cluster.AddNode("b", 1);
  const std::string job = cluster.Submit(2);
  EXPECT_EQ(cluster.State(job), "STARTING");
  ASSERT_EQ(a.desired.jobs_size(), 1);
  EXPECT_THAT(a.desired.jobs(0).ranks(), ::testing::ElementsAre(0));
  EXPECT_EQ(a.desired.jobs(0).peers_size(), 0);
  const uint64_t version = a.desired.version();
  a.Obey();
  cluster.Report(a);
  EXPECT_EQ(a.desired.jobs(0).peers_size(), 0);
  b.Obey();
  cluster.Report(b);
  ASSERT_EQ(a.desired.jobs(0).peers_size(), 2);
  EXPECT_EQ(a.desired.jobs(0).peers(1).endpoint(), "b:7001");
  EXPECT_GT(a.desired.version(), version);
  EXPECT_EQ(cluster.State(job), "STARTING");
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), "RUNNING");
  EXPECT_GT(cluster.Job(job).started_ms(), 0);
}

TEST(LifeTest, AllFinished_CompletedWithTheWeightsHash) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 2);
  const std::string job = cluster.Submit(2);
  cluster.Settle();
  cluster.StepTo(job, 100);
  cluster.Checkpoint(job, 100);
  cluster.Rank(job, 1).set_state(v1::RANK_STATE_FINISHED);
  cluster.ReportAll();
  EXPECT_EQ(cluster.State(job), "RUNNING");
  cluster.Finish(job);
  const v1::JobStatus status = cluster.Job(job);
  EXPECT_EQ(status.state(), v1::JOB_STATE_COMPLETED);
  EXPECT_EQ(status.weights_sha256(), "abc123");
  EXPECT_EQ(status.last_step().step(), 100);
  EXPECT_EQ(status.checkpoint().step(), 100);
  EXPECT_EQ(status.eta_s(), 0);
  EXPECT_EQ(a.desired.jobs_size(), 0);
  EXPECT_THAT(EventKinds(cluster, job),
              ::testing::ElementsAre("JobSubmitted", "PlanMade", "JobStateChanged",
                                     "CheckpointDurable", "JobStateChanged"));
  cluster.RestartCoordinator();
  EXPECT_EQ(cluster.Job(job).last_step().step(), 100);
}

TEST(LifeTest, ShortJob_MayFinishBeforeItIsSeenTraining) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 1);
  const std::string job = cluster.Submit(1);
  a.Obey();
  cluster.Finish(job);
  EXPECT_EQ(cluster.State(job), "COMPLETED");
}

TEST(LifeTest, Steps_GiveSpeedAndTimeLeft) {
  TestCluster cluster;
  cluster.AddNode("a", 1);
  const std::string job = cluster.Submit(1);
  cluster.Settle();
  EXPECT_LT(cluster.Job(job).eta_s(), 0);
  for (int step = 1; step <= 10; ++step) {
    cluster.Advance(500);
    cluster.StepTo(job, step);
  }
  EXPECT_DOUBLE_EQ(cluster.Job(job).tokens_per_second(), 2000);
  EXPECT_DOUBLE_EQ(cluster.Job(job).eta_s(), 45);
  cluster.Finish(job);
  cluster.RestartCoordinator();
  EXPECT_DOUBLE_EQ(cluster.Job(job).tokens_per_second(), 2000) << "kept for who asks later";
}

TEST(LifeTest, Cancel_StopsRanksAndKeepsTheirDevicesUntilTheyAreGone) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 2);
  const std::string job = cluster.Submit(2);
  cluster.Settle();
  v1::CancelJobRequest cancel;
  cancel.set_name(job);
  cancel.set_actor("ada");
  cancel.set_reason("a typo");
  ASSERT_TRUE(cluster.core->Cancel(cancel, cluster.now).ok());
  cluster.Commit();
  EXPECT_EQ(cluster.State(job), "CANCELLED");
  EXPECT_EQ(cluster.Job(job).reason(), "cancelled by ada: a typo");
  EXPECT_EQ(a.desired.jobs_size(), 0);
  const std::string next = cluster.Submit(2);
  cluster.Report(a);
  EXPECT_EQ(cluster.State(next), "PENDING") << "its processes are still there";
  a.Obey();
  cluster.Report(a);
  EXPECT_EQ(cluster.State(next), "STARTING");
  const auto twice = cluster.core->Cancel(cancel, cluster.now);
  EXPECT_EQ(twice.status().code(), absl::StatusCode::kFailedPrecondition);
  cancel.set_name("nobody");
  EXPECT_EQ(cluster.core->Cancel(cancel, cluster.now).status().code(), absl::StatusCode::kNotFound);
}

// --- Failure and recovery ---

TEST(RecoveryTest, RankFails_NewEpochResumesFromTheNewestCheckpoint) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 1);
  TestNode& b = cluster.AddNode("b", 1);
  const std::string job = cluster.Submit(2);
  cluster.Settle();
  cluster.StepTo(job, 30);
  cluster.Checkpoint(job, 20);
  cluster.Rank(job, 1).set_state(v1::RANK_STATE_FAILED);
  cluster.Rank(job, 1).set_message("INTERNAL: out of luck");
  cluster.Report(b);
  EXPECT_EQ(cluster.State(job), "RECOVERING");
  EXPECT_EQ(cluster.Job(job).epoch(), 2u);
  EXPECT_THAT(cluster.Job(job).reason(),
              HasSubstr("epoch 1 ended: rank 1 on node b failed: INTERNAL: out of luck"));
  ASSERT_EQ(a.desired.jobs_size(), 1);
  EXPECT_EQ(a.desired.jobs(0).plan().epoch(), 2u) << "the old epoch is over at once";
  EXPECT_EQ(cluster.Placement(job), "a0 b0") << "every rank stays on its device";
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), "RUNNING");
  const v1::JobStatus status = cluster.Job(job);
  EXPECT_EQ(status.plan().epoch(), 2u);
  EXPECT_EQ(status.plan().resume().step(), 20);
  EXPECT_THAT(status.plan().resume().manifest(), HasSubstr("/20/"));
  EXPECT_EQ(status.restarts(), 1);
}

TEST(RecoveryTest, NodeLost_SpareTakesItsPlace) {
  TestCluster cluster;
  cluster.AddNode("a", 1);
  TestNode& b = cluster.AddNode("b", 1);
  cluster.AddNode("z-spare", 1, true);
  const std::string job = cluster.Submit(2);
  cluster.Settle();
  b.up = false;
  for (int i = 0; i < 5; ++i) {
    cluster.Advance(1000);
    cluster.ReportAll();
  }
  EXPECT_EQ(cluster.State(job), "RUNNING");
  cluster.Advance(1000);
  EXPECT_EQ(cluster.State(job), "RECOVERING");
  EXPECT_THAT(cluster.Job(job).reason(), HasSubstr("node b was lost: no report for 6.0 s"));
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), "RUNNING");
  EXPECT_EQ(cluster.Job(job).plan().ranks(1).node(), "z-spare");
  EXPECT_FALSE(cluster.Job(job).plan().has_resume()) << "without a checkpoint, from the start";
}

TEST(RecoveryTest, NoReplacement_WaitsAndSaysSoUntilTheNodeReturns) {
  TestCluster cluster;
  cluster.AddNode("a", 1);
  TestNode& b = cluster.AddNode("b", 1);
  const std::string job = cluster.Submit(2);
  cluster.Settle();
  const std::string behind = cluster.Submit(1);
  b.up = false;
  for (int i = 0; i < 6; ++i) {
    cluster.Advance(1000);
    cluster.ReportAll();
  }
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), "RECOVERING");
  EXPECT_THAT(cluster.Job(job).reason(),
              HasSubstr("needs 2 devices, the cluster has 1: 1 missing"));
  EXPECT_THAT(cluster.Job(behind).reason(), StartsWith("behind tiny-1"));
  b.up = true;
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), "RUNNING");
  EXPECT_EQ(cluster.Job(job).epoch(), 2u);
}

TEST(RecoveryTest, ThreeRestartsWithoutProgress_FailsWithTheRanksOwnMessage) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 1);
  const std::string job = cluster.Submit(1);
  for (int restart = 0; restart <= 3; ++restart) {
    cluster.Settle();
    ASSERT_EQ(cluster.State(job), "RUNNING") << restart;
    cluster.Rank(job, 0).set_state(v1::RANK_STATE_FAILED);
    cluster.Rank(job, 0).set_message("INTERNAL: NaN in layer 3");
    cluster.Report(a);
  }
  EXPECT_EQ(cluster.State(job), "FAILED");
  EXPECT_THAT(cluster.Job(job).reason(),
              StartsWith("gave up after 3 restarts without progress: rank 0 on node a failed: "
                         "INTERNAL: NaN in layer 3; before that: rank_failed (rank 0"));
}

TEST(RecoveryTest, ProgressBetweenFailures_IsNeverGivenUp) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 1);
  const std::string job = cluster.Submit(1);
  for (int restart = 0; restart < 10; ++restart) {
    cluster.Settle();
    ASSERT_EQ(cluster.State(job), "RUNNING") << restart;
    cluster.StepTo(job, restart + 1);
    cluster.Rank(job, 0).set_state(v1::RANK_STATE_FAILED);
    cluster.Report(a);
  }
  EXPECT_EQ(cluster.State(job), "RECOVERING");
  EXPECT_EQ(cluster.Job(job).restarts(), 10);
}

TEST(RecoveryTest, InputError_FailsAtOnce) {
  for (const char* code : {"INVALID_ARGUMENT", "NOT_FOUND", "DATA_LOSS"}) {
    TestCluster cluster;
    TestNode& a = cluster.AddNode("a", 1);
    const std::string job = cluster.Submit(1);
    a.Obey();
    cluster.Rank(job, 0).set_state(v1::RANK_STATE_FAILED);
    cluster.Rank(job, 0).set_message(absl::StrCat(code, ": token file /data/x is cut off"));
    cluster.Report(a);
    EXPECT_EQ(cluster.State(job), "FAILED") << code;
    EXPECT_THAT(cluster.Job(job).reason(), HasSubstr("token file /data/x is cut off"));
    EXPECT_EQ(cluster.Job(job).restarts(), 0);
  }
}

TEST(RecoveryTest, InputErrorReportedAfterAPeersComplaint_StillFailsTheJob) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 1);
  TestNode& b = cluster.AddNode("b", 1);
  const std::string job = cluster.Submit(2);
  cluster.Settle();
  v1::RankStatus& culprit = cluster.Rank(job, 1);
  cluster.Rank(job, 0).set_state(v1::RANK_STATE_FAILED);
  cluster.Rank(job, 0).set_message("UNAVAILABLE: rank 1 closed its connection");
  cluster.Report(a);
  EXPECT_EQ(cluster.State(job), "RUNNING") << "whoever merely lost a peer is not to blame";
  culprit.set_state(v1::RANK_STATE_FAILED);
  culprit.set_message("DATA_LOSS: the token file's checksum is wrong");
  cluster.Report(b);
  EXPECT_EQ(cluster.State(job), "FAILED");
  EXPECT_THAT(cluster.Job(job).reason(), HasSubstr("DATA_LOSS"));
}

TEST(RecoveryTest, GangNeverComplete_StartTimesOutNamingTheLaggard) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 1);
  cluster.AddNode("b", 1);
  v1::SubmitJobRequest request = TestCluster::JobOf(2);
  request.mutable_job()->mutable_spec()->mutable_restart()->set_start_timeout_s(10);
  request.mutable_job()->mutable_spec()->mutable_restart()->set_max_restarts_without_progress(0);
  const auto response = cluster.core->Submit(request, {}, cluster.now);
  ASSERT_TRUE(response.ok());
  cluster.Commit();
  a.Obey();
  for (int i = 0; i < 10; ++i) {
    cluster.Advance(1000);
    cluster.ReportAll();
  }
  EXPECT_EQ(cluster.State(response->id()), "STARTING");
  cluster.Advance(1000);
  EXPECT_EQ(cluster.State(response->id()), "FAILED");
  EXPECT_THAT(cluster.Job(response->id()).reason(),
              HasSubstr("not all ranks were training within 10 s (restart.start_timeout_s): rank 1 "
                        "on node b has not started"));
}

TEST(RecoveryTest, ReportsOfAnOldEpoch_AreFenced) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 1);
  const std::string job = cluster.Submit(1);
  cluster.Settle();
  v1::RankStatus old = cluster.Rank(job, 0);
  cluster.Rank(job, 0).set_state(v1::RANK_STATE_FAILED);
  cluster.Report(a);
  cluster.Settle();
  ASSERT_EQ(cluster.Job(job).epoch(), 2u);
  old.set_state(v1::RANK_STATE_FINISHED);
  old.set_weights_sha256("stale");
  a.ranks[{job, 1, 0}] = old;
  cluster.Report(a);
  EXPECT_EQ(cluster.State(job), "RUNNING");
  v1::NodeReport future = a.Report();
  future.mutable_ranks(0)->set_epoch(9);
  ASSERT_TRUE(cluster.core->Report(a.Report(), cluster.now).ok());
  EXPECT_EQ(cluster.Job(job).epoch(), 2u);
}

TEST(RecoveryTest, RankVanishesFromItsNodesReport_CountsAsFailed) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 1);
  const std::string job = cluster.Submit(1);
  cluster.Settle();
  a.ranks.clear();
  a.incarnation = 2;
  cluster.Report(a);
  EXPECT_EQ(cluster.State(job), "RECOVERING");
  EXPECT_THAT(cluster.Job(job).reason(), HasSubstr("its node's daemon restarted without it"));
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), "RUNNING");
}

// --- Nodes ---

TEST(NodeTest, OlderIncarnation_FailedPrecondition) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 1);
  a.incarnation = 5;
  cluster.Report(a);
  a.incarnation = 4;
  EXPECT_EQ(cluster.core->Report(a.Report(), cluster.now).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(NodeTest, NonsenseReports_InvalidArgument) {
  TestCluster cluster;
  TestNode good;
  good.name = "a";
  good.devices = 2;
  std::vector<v1::NodeReport> bad(6, good.Report());
  bad[0].mutable_node()->clear_name();
  bad[1].mutable_node()->set_name("a b");
  bad[2].mutable_node()->clear_devices();
  bad[3].mutable_node()->mutable_devices(1)->set_index(0);
  bad[4].set_incarnation(0);
  for (int i = 0; i <= limits::kMaxDevicesPerNode; ++i) bad[5].mutable_node()->add_devices();
  for (const v1::NodeReport& report : bad) {
    EXPECT_EQ(cluster.core->Report(report, cluster.now).code(), absl::StatusCode::kInvalidArgument)
        << report.ShortDebugString();
  }
  EXPECT_EQ(cluster.core->ListNodes().nodes_size(), 0);
}

TEST(NodeTest, CoordinatorStoodStill_NobodyIsLost) {
  TestCluster cluster;
  cluster.AddNode("a", 1);
  const std::string job = cluster.Submit(1);
  cluster.Settle();
  cluster.Advance(3'600'000);
  EXPECT_EQ(cluster.State(job), "RUNNING");
}

TEST(NodeTest, MostNodesSilentAtOnce_GetThreeLeases) {
  TestCluster cluster;
  for (const char* name : {"a", "b", "c", "d"}) cluster.AddNode(name, 1);
  for (const char* name : {"a", "b", "c"}) cluster.nodes[name].up = false;
  const auto lost = [&] {
    int count = 0;
    const v1::ListNodesResponse response = cluster.core->ListNodes();
    for (const v1::NodeStatus& node : response.nodes()) {
      count += node.state() == v1::NODE_STATE_LOST;
    }
    return count;
  };
  for (int i = 0; i < 15; ++i) {
    cluster.Advance(1000);
    cluster.ReportAll();
  }
  EXPECT_EQ(lost(), 0);
  cluster.Advance(1000);
  EXPECT_EQ(lost(), 3);
}

// --- Restart of the coordinator, and a log that refuses ---

TEST(RestartTest, RanksRunThroughIt_NothingIsStoppedOrStarted) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 1);
  TestNode& b = cluster.AddNode("b", 1);
  const std::string job = cluster.Submit(2);
  const std::string queued = cluster.Submit(2);
  cluster.Settle();
  cluster.StepTo(job, 10);
  const size_t records = cluster.log.size();
  cluster.RestartCoordinator();
  EXPECT_EQ(cluster.State(job), "RUNNING");
  EXPECT_EQ(cluster.State(queued), "PENDING");
  cluster.Report(a);
  const v1::DesiredState desired = cluster.core->DesiredFor(NodeName("a"));
  ASSERT_EQ(desired.jobs_size(), 1);
  EXPECT_THAT(desired.jobs(0).ranks(), ::testing::ElementsAre(0));
  EXPECT_EQ(desired.jobs(0).plan().SerializeAsString(),
            a.desired.jobs(0).plan().SerializeAsString());
  cluster.Report(b);
  EXPECT_EQ(cluster.State(job), "RUNNING");
  EXPECT_EQ(cluster.Job(job).epoch(), 1u);
  EXPECT_EQ(cluster.Job(job).last_step().step(), 10);
  EXPECT_EQ(cluster.log.size(), records + 2) << "only that two nodes are up";
}

TEST(RestartTest, NodeGoneMeanwhile_ItsLeaseRunsFromTheRestart) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 1);
  TestNode& b = cluster.AddNode("b", 1);
  const std::string job = cluster.Submit(2);
  cluster.Settle();
  cluster.RestartCoordinator();
  b.up = false;
  for (int i = 0; i < 5; ++i) {
    cluster.Report(a);
    EXPECT_EQ(cluster.State(job), "RUNNING");
    cluster.Advance(1000);
  }
  cluster.Report(a);
  cluster.Advance(1000);
  EXPECT_EQ(cluster.State(job), "RECOVERING");
}

TEST(RestartTest, RankGoneMeanwhile_IsNoticedInTheFirstReport) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 1);
  const std::string job = cluster.Submit(1);
  cluster.Settle();
  cluster.RestartCoordinator();
  a.ranks.clear();
  cluster.Report(a);
  EXPECT_EQ(cluster.State(job), "RECOVERING");
}

TEST(LogTest, RefusedCommand_ChangesNothing) {
  TestCluster cluster;
  cluster.AddNode("a", 1);
  const std::string before = cluster.core->state().Fingerprint();
  cluster.log_refuses = true;
  ASSERT_TRUE(cluster.core->Submit(TestCluster::JobOf(1), {}, cluster.now).ok());
  EXPECT_FALSE(cluster.Commit());
  EXPECT_EQ(cluster.core->state().Fingerprint(), before);
  EXPECT_EQ(cluster.nodes["a"].desired.jobs_size(), 0);
  cluster.log_refuses = false;
  EXPECT_EQ(cluster.Submit(1), "tiny-1");
}

TEST(LogTest, RefusedFailure_IsDecidedAgainAtTheNextTick) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 1);
  const std::string job = cluster.Submit(1);
  cluster.Settle();
  cluster.log_refuses = true;
  cluster.Rank(job, 0).set_state(v1::RANK_STATE_FAILED);
  cluster.Report(a);
  EXPECT_EQ(cluster.State(job), "RUNNING");
  EXPECT_EQ(cluster.core->DesiredFor(NodeName("a")).jobs_size(), 1);
  cluster.log_refuses = false;
  cluster.Advance(100);
  EXPECT_EQ(cluster.State(job), "RECOVERING");
}

TEST(LogTest, RefusedRecovery_NodesKeepTheOldPlanMeanwhile) {
  TestCluster cluster;
  TestNode& a = cluster.AddNode("a", 1);
  cluster.AddNode("b", 1);
  const std::string job = cluster.Submit(1);
  cluster.Settle();
  cluster.log_refuses = true;
  a.up = false;
  for (int i = 0; i < 8; ++i) {
    cluster.Advance(1000);
    cluster.ReportAll();
  }
  EXPECT_EQ(cluster.State(job), "RUNNING");
  const v1::DesiredState desired = cluster.core->DesiredFor(NodeName("a"));
  ASSERT_EQ(desired.jobs_size(), 1);
  EXPECT_EQ(desired.jobs(0).plan().epoch(), 1u);
  EXPECT_THAT(desired.jobs(0).ranks(), ::testing::ElementsAre(0));
  EXPECT_EQ(cluster.core->DesiredFor(NodeName("b")).jobs_size(), 0);
  cluster.log_refuses = false;
  cluster.Advance(100);
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), "RUNNING");
  EXPECT_EQ(cluster.Job(job).plan().ranks(0).node(), "b");
}

TEST(LogTest, RecordsThatDoNotFit_DataLoss) {
  TestCluster cluster;
  cluster.AddNode("a", 1);
  const std::string job = cluster.Submit(1);
  cluster.Settle();
  cluster.Finish(job);
  for (size_t skipped = 0; skipped + 1 < cluster.log.size(); ++skipped) {
    DurableState state;
    absl::Status status;
    for (size_t i = 0; i < cluster.log.size() && status.ok(); ++i) {
      if (i != skipped) status = state.Apply(cluster.log[i]);
    }
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << "without record " << skipped + 1;
  }
  DurableState state;
  for (const v1::Record& record : cluster.log) ASSERT_TRUE(state.Apply(record).ok());
  v1::Record late = cluster.log.back();
  late.set_sequence(late.sequence() + 1);
  EXPECT_EQ(state.Apply(late).code(), absl::StatusCode::kDataLoss) << "final states are final";
}

TEST(ScaleTest, ReferenceCluster_2048RanksStartAndSurviveALostNode) {
  TestCluster cluster;
  for (int i = 0; i < 256; ++i) cluster.AddNode(absl::StrCat("n", 1000 + i), 8);
  cluster.AddNode("spare", 8, true);
  const std::string job = cluster.Submit(2048);
  cluster.Settle();
  ASSERT_EQ(cluster.State(job), "RUNNING");
  const v1::DesiredState desired = cluster.core->DesiredFor(NodeName("n1000"));
  EXPECT_EQ(desired.jobs(0).peers_size(), 2048);
  EXPECT_LT(desired.ByteSizeLong(), static_cast<size_t>(limits::kMaxGrpcMessageBytes));
  cluster.nodes["n1100"].up = false;
  for (int i = 0; i < 6; ++i) {
    cluster.Advance(1000);
    cluster.ReportAll();
  }
  cluster.Settle();
  EXPECT_EQ(cluster.State(job), "RUNNING");
  EXPECT_EQ(cluster.Job(job).epoch(), 2u);
}

TEST(EventsTest, AfterAndLimit_SelectTheNewest) {
  TestCluster cluster;
  for (int i = 0; i < 5; ++i) cluster.Submit(1);
  v1::ListEventsRequest request;
  request.set_limit(2);
  auto events = cluster.core->ListEvents(request);
  ASSERT_EQ(events.events_size(), 2);
  EXPECT_EQ(events.events(0).job(), "tiny-4");
  EXPECT_EQ(events.events(1).actor(), "ada");
  request.set_after(events.events(0).sequence());
  request.set_limit(0);
  EXPECT_EQ(cluster.core->ListEvents(request).events_size(), 1);
}

TEST(JobStateTest, FinalStates_AllowNothing) {
  const int last = v1::JobState_ARRAYSIZE;
  int allowed = 0;
  for (int from = 0; from < last; ++from) {
    for (int to = 0; to < last; ++to) {
      const bool may = MayChange(static_cast<v1::JobState>(from), static_cast<v1::JobState>(to));
      allowed += may;
      EXPECT_FALSE(may && IsFinal(static_cast<v1::JobState>(from))) << from << " to " << to;
    }
  }
  EXPECT_GT(allowed, 10);
}

}  // namespace
}  // namespace fathom
