// Policies through the core: the queue with parks, suspension, quotas and time slices; detectors
// with what they lead to; explanations.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/core_test_cluster.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;

class PolicyTest : public ::testing::Test {
 protected:
  PolicyTest() = default;
  explicit PolicyTest(const v1::Detectors& detectors) : cluster_(detectors) {}
  using Edit = std::function<void(v1::Job&)>;

  std::string Submit(int ranks, const std::string& name, const Edit& edit = {}) {
    const auto response = TrySubmit(ranks, name, edit);
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok() ? response->id() : "";
  }
  absl::StatusOr<v1::SubmitJobResponse> TrySubmit(int ranks, const std::string& name,
                                                  const Edit& edit = {}) {
    v1::SubmitJobRequest request = TestCluster::JobOf(ranks, name, 1000);
    if (edit) edit(*request.mutable_job());
    const auto response = cluster().core->Submit(request, {}, cluster().now);
    cluster().Commit();
    return response;
  }
  static Edit Priority(int32_t priority) {
    return [=](v1::Job& job) { job.mutable_spec()->mutable_scheduling()->set_priority(priority); };
  }
  static Edit User(const std::string& user) {
    return [=](v1::Job& job) { job.mutable_metadata()->set_user(user); };
  }

  // Nodes go on reporting while time passes, and ranks that train make a step in each second.
  void Run(int seconds, bool steps = true) {
    for (int i = 0; i < seconds; ++i) {
      if (steps) StepAll();
      cluster().Advance(1000);
      cluster().ReportAll();
    }
  }
  void StepAll() {
    for (auto& [name, node] : cluster().nodes) {
      for (auto& [key, rank] : node.ranks) {
        if (rank.state() == v1::RANK_STATE_TRAINING) Step(&rank, 0.9);
      }
    }
  }
  void Step(v1::RankStatus* rank, double busy_s) {
    v1::StepReport& step = *rank->mutable_last_step();
    step.set_step(step.step() + 1);
    step.set_tokens(1000);
    step.set_seconds(1.0);
    step.set_wait_seconds(1.0 - busy_s);
    step.set_finished_ms(cluster().now.wall_ms);
    rank->mutable_timeline()->set_first_step_ms(cluster().now.wall_ms);
  }

  // Ranks that were asked to park do so, with a checkpoint of their newest step.
  void ObeyParks() {
    for (auto& [name, node] : cluster().nodes) {
      node.desired = cluster().core->DesiredFor(NodeName(name));
      for (const v1::DesiredJob& job : node.desired.jobs()) {
        if (!job.park()) continue;
        for (const int32_t number : job.ranks()) {
          v1::RankStatus& rank = node.ranks.at({job.plan().job(), job.plan().epoch(), number});
          if (rank.state() != v1::RANK_STATE_TRAINING) continue;
          rank.set_state(v1::RANK_STATE_PARKED);
          if (number != 0) continue;
          rank.mutable_checkpoint()->set_step(std::max<int64_t>(rank.last_step().step(), 1));
          rank.mutable_checkpoint()->set_manifest(absl::StrCat("/parked/", job.plan().job()));
        }
      }
    }
    cluster().ReportAll();
    cluster().Settle();
  }

  std::vector<std::string> EventsOf(const std::string& kind) {
    std::vector<std::string> messages;
    for (const v1::Event& event : cluster().core->state().events()) {
      if (event.kind() == kind) messages.push_back(event.message());
    }
    return messages;
  }
  std::string Told(const std::string& job) {
    v1::ExplainJobRequest request;
    request.set_name(job);
    const auto response = cluster().core->Explain(request);
    EXPECT_TRUE(response.ok()) << response.status();
    return response.ok()
               ? absl::StrCat(response->summary(), "\n", absl::StrJoin(response->lines(), "\n"))
               : "";
  }
  TestCluster& cluster() { return cluster_; }

 private:
  TestCluster cluster_;
};

// --- Preemption ---

TEST_F(PolicyTest, HigherPriority_ParksTheLowerStartsAndTheLowerComesBack) {
  cluster().AddNode("a", 4);
  const std::string low = Submit(4, "low");
  cluster().Settle();
  Run(30);
  const std::string high = Submit(4, "high", Priority(5));
  EXPECT_EQ(cluster().State(high), "PENDING");
  EXPECT_FALSE(cluster().Job(low).has_park()) << "it has run for 30 s only";
  Run(31);
  ASSERT_TRUE(cluster().Job(low).has_park());
  EXPECT_THAT(cluster().Job(low).park().reason(),
              HasSubstr("preempted for high-2 (priority 5 over 0)"));
  EXPECT_THAT(cluster().Job(high).reason(), HasSubstr("waits until low-1 has saved a checkpoint"));
  EXPECT_EQ(cluster().State(low), "RUNNING") << "until its state is saved";
  ObeyParks();
  EXPECT_EQ(cluster().State(low), "PENDING");
  EXPECT_EQ(cluster().State(high), "RUNNING");
  EXPECT_FALSE(cluster().Job(low).has_park());
  const int64_t saved = cluster().Job(low).checkpoint().step();
  EXPECT_GE(saved, 60);
  EXPECT_THAT(Told(low), AllOf(HasSubstr("low-1 is PENDING: needs 4 devices, 0 of 4 are free"),
                               HasSubstr("priority 0"), HasSubstr("preempted for high-2")));
  Run(200);
  EXPECT_EQ(cluster().State(high), "RUNNING") << "the lower one never takes it back";
  cluster().Finish(high);
  cluster().Settle();
  EXPECT_EQ(cluster().State(low), "RUNNING");
  EXPECT_EQ(cluster().Job(low).epoch(), 2u);
  EXPECT_EQ(cluster().Job(low).plan().resume().step(), saved);
  EXPECT_EQ(cluster().Replayed(), cluster().core->state().Fingerprint());
}

TEST_F(PolicyTest, UnwillingOrEqual_IsNotParked) {
  cluster().AddNode("a", 2);
  Submit(2, "firm",
         [](v1::Job& job) { job.mutable_spec()->mutable_scheduling()->set_preemptible(false); });
  cluster().Settle();
  const std::string high = Submit(2, "high", Priority(5));
  Run(120);
  EXPECT_EQ(cluster().State(high), "PENDING");
  EXPECT_THAT(EventsOf("JobParking"), IsEmpty());
}

TEST_F(PolicyTest, ParkThatNeverEnds_GoesBackWithTheLastCheckpoint) {
  cluster().AddNode("a", 2);
  const std::string low = Submit(2, "low", [](v1::Job& job) {
    job.mutable_spec()->mutable_restart()->set_start_timeout_s(20);
  });
  cluster().Settle();
  Run(61);
  cluster().Checkpoint(low, 40);
  const std::string high = Submit(2, "high", Priority(1));
  ASSERT_TRUE(cluster().Job(low).has_park());
  Run(20);
  EXPECT_EQ(cluster().State(low), "RUNNING");
  Run(2);
  EXPECT_EQ(cluster().State(low), "PENDING");
  EXPECT_THAT(Told(low), HasSubstr("did not save their state within 20 s "
                                   "(restart.start_timeout_s): it will go on from the checkpoint "
                                   "of step 40"));
  cluster().Settle();
  EXPECT_EQ(cluster().State(high), "RUNNING");
}

TEST_F(PolicyTest, CoordinatorRestartsWhileParking_TheParkGoesOn) {
  cluster().AddNode("a", 2);
  const std::string low = Submit(2, "low");
  cluster().Settle();
  Run(61);
  const std::string high = Submit(2, "high", Priority(1));
  ASSERT_TRUE(cluster().Job(low).has_park());
  cluster().RestartCoordinator();
  cluster().ReportAll();
  ASSERT_TRUE(cluster().Job(low).has_park());
  ObeyParks();
  EXPECT_EQ(cluster().State(low), "PENDING");
  EXPECT_EQ(cluster().State(high), "RUNNING");
}

TEST_F(PolicyTest, TimeSlices_EqualsTakeTurns) {
  cluster().AddNode("a", 2);
  const auto slice = [](v1::Job& job) {
    job.mutable_spec()->mutable_scheduling()->set_time_slice_s(20);
  };
  const std::string one = Submit(2, "one", slice);
  const std::string two = Submit(2, "two", slice);
  cluster().Settle();
  std::string turns;
  for (int i = 0; i < 6; ++i) {
    turns += cluster().State(one) == "RUNNING" ? '1' : '-';
    turns += cluster().State(two) == "RUNNING" ? '2' : '-';
    Run(21);
    ObeyParks();
  }
  EXPECT_EQ(turns, "1--21--21--2");
  EXPECT_EQ(cluster().Job(one).restarts(), 0) << "a turn is no restart";
  EXPECT_THAT(EventsOf("JobParking").front(),
              HasSubstr("its time slice of 20 s is over, and two-2 waits"));
}

TEST_F(PolicyTest, Backfill_ShortJobGoesAheadOnlyWithAnEstimate) {
  cluster().AddNode("a", 4);
  const std::string running = Submit(2, "running");
  cluster().Settle();
  Run(10);
  const std::string head = Submit(4, "head");
  const std::string unknown = Submit(1, "unknown");
  const std::string brief = Submit(1, "brief", [](v1::Job& job) {
    job.mutable_spec()->mutable_scheduling()->set_expected_hours(0.1);
  });
  const std::string lengthy = Submit(1, "lengthy", [](v1::Job& job) {
    job.mutable_spec()->mutable_scheduling()->set_expected_hours(9);
  });
  cluster().Settle();
  EXPECT_EQ(cluster().State(head), "PENDING");
  EXPECT_THAT(cluster().Job(head).reason(), HasSubstr("enough are expected in 16 min"))
      << "990 steps of a second are left";
  EXPECT_EQ(cluster().State(unknown), "PENDING");
  EXPECT_EQ(cluster().State(brief), "RUNNING");
  EXPECT_EQ(cluster().State(lengthy), "PENDING");
  EXPECT_THAT(cluster().Job(lengthy).reason(), StartsWith("behind head-2"));
}

// --- Quotas, folders ---

TEST(CoreQuotaTest, OverQuota_WaitsWithoutHoldingUpOthersTooLargeIsRefused) {
  CoreOptions options;
  options.planning = SimplePlanning();
  options.checkpoint_root = "/c";
  v1::Quota quota;
  quota.set_user("ada");
  quota.set_devices(3);
  options.quotas = {quota};
  CoordinatorCore core(options);
  const Moment now{1'700'000'000'000, 1000};
  TestNode node;
  node.name = "a";
  node.devices = 8;
  ASSERT_TRUE(core.Report(node.Report(), now).ok());
  core.Commit();
  const auto submit = [&](int ranks, const std::string& name, const std::string& user) {
    v1::SubmitJobRequest request = TestCluster::JobOf(ranks, name);
    request.mutable_job()->mutable_metadata()->set_user(user);
    const auto response = core.Submit(request, {}, now);
    core.Commit();
    return response.ok() ? response->id() : std::string(response.status().message());
  };
  EXPECT_THAT(submit(4, "large", "ada"),
              HasSubstr("asks for 4 devices, and the quota of user ada is 3"));
  const std::string first = submit(2, "first", "ada");
  const std::string second = submit(2, "second", "ada");
  const std::string other = submit(4, "other", "bob");
  const auto state = [&](const std::string& id) { return core.state().Find(JobId(id))->state; };
  EXPECT_EQ(state(first), v1::JOB_STATE_STARTING);
  EXPECT_EQ(state(second), v1::JOB_STATE_PENDING);
  EXPECT_EQ(state(other), v1::JOB_STATE_STARTING) << "not held up";
  EXPECT_THAT(core.WaitingReason(JobId(second)), HasSubstr("hold 2 of the 3 of its quota"));
  v1::CancelJobRequest cancel;
  cancel.set_name(first);
  ASSERT_TRUE(core.Cancel(cancel, now).ok());
  EXPECT_EQ(state(second), v1::JOB_STATE_STARTING);
}

TEST_F(PolicyTest, CheckpointFolderInUse_IsRefused) {
  const auto folder = [](const std::string& path) {
    return [=](v1::Job& job) { job.mutable_spec()->mutable_checkpoint()->set_directory(path); };
  };
  const std::string first = Submit(1, "first", folder("/ckpt/x"));
  const auto second = TrySubmit(1, "second", folder("/ckpt/x/"));
  EXPECT_EQ(second.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(second.status().message()),
              HasSubstr("spec.checkpoint.directory: /ckpt/x is in use by job first-1"));
  v1::CancelJobRequest cancel;
  cancel.set_name(first);
  ASSERT_TRUE(cluster().core->Cancel(cancel, cluster().now).ok());
  EXPECT_TRUE(TrySubmit(1, "second", folder("/ckpt/x")).ok());
}

// --- Suspend and resume ---

TEST_F(PolicyTest, SuspendAndResume_KeepTheStateAndApplyOnce) {
  cluster().AddNode("a", 2);
  const std::string job = Submit(2, "job");
  cluster().Settle();
  Run(5);
  v1::SuspendJobRequest suspend;
  suspend.set_name("job");
  suspend.set_actor("eve");
  suspend.set_reason("deadline elsewhere");
  suspend.set_request_id("s1");
  auto& core = *cluster().core;
  ASSERT_TRUE(core.Suspend(suspend, cluster().now).ok());
  cluster().Commit();
  EXPECT_TRUE(core.Suspend(suspend, cluster().now).ok()) << "repeated";
  suspend.set_request_id("s2");
  EXPECT_EQ(core.Suspend(suspend, cluster().now).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Told(job), HasSubstr("save a checkpoint and stay suspended"));
  ObeyParks();
  EXPECT_EQ(cluster().State(job), "SUSPENDED");
  EXPECT_THAT(cluster().Job(job).reason(),
              AllOf(HasSubstr("state of step 5 saved"), HasSubstr("suspended by eve: deadline")));
  const std::string other = Submit(2, "other");
  cluster().Settle();
  EXPECT_EQ(cluster().State(other), "RUNNING") << "its devices are free";
  v1::ResumeJobRequest resume;
  resume.set_name("job");
  resume.set_request_id("r1");
  const auto resumed = core.ResumeJob(resume, cluster().now);
  ASSERT_TRUE(resumed.ok()) << resumed.status();
  cluster().Commit();
  EXPECT_EQ(resumed->state(), v1::JOB_STATE_PENDING);
  EXPECT_TRUE(core.ResumeJob(resume, cluster().now).ok());
  resume.set_request_id("r2");
  EXPECT_EQ(core.ResumeJob(resume, cluster().now).status().code(),
            absl::StatusCode::kFailedPrecondition);
  cluster().Finish(other);
  cluster().Settle();
  EXPECT_EQ(cluster().State(job), "RUNNING");
  EXPECT_EQ(cluster().Job(job).plan().resume().step(), 5);
  EXPECT_EQ(cluster().Replayed(), core.state().Fingerprint());
}

TEST_F(PolicyTest, SuspendedWhileWaitingOrRecovering_CancelWorksInAll) {
  cluster().AddNode("a", 1);
  auto& core = *cluster().core;
  v1::SuspendJobRequest suspend;
  const std::string waiting = Submit(4, "waiting");
  const std::string behind = Submit(1, "behind");
  suspend.set_name("waiting");
  ASSERT_TRUE(core.Suspend(suspend, cluster().now).ok());
  cluster().Commit();
  EXPECT_EQ(cluster().State(waiting), "SUSPENDED");
  cluster().Settle();
  EXPECT_EQ(cluster().State(behind), "RUNNING") << "out of the queue, it blocks nobody";
  cluster().Rank(behind, 0).set_state(v1::RANK_STATE_FAILED);
  cluster().ReportAll();
  suspend.set_name("behind");
  ASSERT_TRUE(core.Suspend(suspend, cluster().now).ok());
  cluster().Commit();
  for (const std::string& id : {waiting, behind}) {
    v1::CancelJobRequest cancel;
    cancel.set_name(id);
    EXPECT_TRUE(core.Cancel(cancel, cluster().now).ok());
    cluster().Commit();
    EXPECT_EQ(cluster().State(id), "CANCELLED");
    EXPECT_EQ(core.Suspend(suspend, cluster().now).status().code(),
              absl::StatusCode::kFailedPrecondition);
  }
}

// --- Detectors ---

TEST_F(PolicyTest, StepsStandStill_RanksAreAskedThenTheCulpritIsNamedAndTheJobRecovers) {
  cluster().AddNode("a", 1);
  cluster().AddNode("b", 1);
  const std::string job = Submit(2, "job");
  cluster().Settle();
  Run(20);
  const uint64_t epoch = cluster().Job(job).epoch();
  int waited = 0;
  while (EventsOf("JobSilent").empty() && ++waited < 60) Run(1, /*steps=*/false);
  EXPECT_GE(waited, 10);
  EXPECT_LE(waited, 13);
  cluster().Settle();
  const v1::DesiredState desired = cluster().core->DesiredFor(NodeName("b"));
  ASSERT_EQ(desired.jobs(0).diagnose(), 1u);
  for (v1::RankStatus* rank : cluster().Ranks(job)) {
    v1::RankDiagnosis& diagnosis = *rank->mutable_diagnosis();
    diagnosis.set_token(1);
    diagnosis.set_instruction(rank->rank() == 1 ? "F1.3" : "reduce gradients");
    diagnosis.set_seconds(12);
    diagnosis.set_process(rank->rank() == 1 ? "running" : "sleeping");
    diagnosis.set_stack("fathom::transport::TcpWindow::Wait");
  }
  Run(3, /*steps=*/false);
  ASSERT_EQ(EventsOf("JobHung").size(), 1u);
  EXPECT_THAT(EventsOf("JobHung")[0],
              AllOf(HasSubstr("rank 1 on node b: it computes, in F1.3 for 12 s"),
                    HasSubstr("rank 0 on node a: sleeping, reduce gradients for 12.0 s")));
  ASSERT_EQ(cluster().Job(job).diagnoses_size(), 2);
  EXPECT_GT(cluster().Job(job).epoch(), epoch);
  ASSERT_FALSE(cluster().Job(job).recoveries().empty());
  EXPECT_EQ(cluster().Job(job).recoveries().rbegin()->cause(), "hang");
  EXPECT_EQ(cluster().Job(job).recoveries().rbegin()->node(), "b");
  cluster().Settle();
  EXPECT_EQ(cluster().State(job), "RUNNING");
}

TEST_F(PolicyTest, MostNodesOutOfTouch_IsNoHang) {
  for (const char* name : {"a", "b", "c"}) cluster().AddNode(name, 1);
  const std::string job = Submit(3, "job");
  cluster().Settle();
  Run(5);
  cluster().nodes["b"].up = cluster().nodes["c"].up = false;
  Run(13, /*steps=*/false);
  EXPECT_THAT(EventsOf("JobSilent"), IsEmpty()) << "nobody knows what the job did meanwhile";
  EXPECT_EQ(cluster().State(job), "RUNNING");
  cluster().nodes["b"].up = cluster().nodes["c"].up = true;
  Run(1);
  Run(9, /*steps=*/false);
  EXPECT_THAT(EventsOf("JobSilent"), IsEmpty());
  Run(3, /*steps=*/false);
  EXPECT_EQ(EventsOf("JobSilent").size(), 1u);
}

TEST_F(PolicyTest, SlowRank_IsNamedWithinThreeSteps) {
  cluster().AddNode("a", 2);
  cluster().AddNode("b", 2);
  const std::string job = Submit(4, "job");
  cluster().Settle();
  Run(10);
  EXPECT_THAT(EventsOf("StragglerDetected"), IsEmpty());
  int steps = 0;
  while (EventsOf("StragglerDetected").empty() && steps < 10) {
    ++steps;
    for (v1::RankStatus* rank : cluster().Ranks(job)) Step(rank, rank->rank() == 3 ? 0.9 : 0.3);
    cluster().ReportAll();
    cluster().Advance(100);
  }
  EXPECT_EQ(steps, 3);
  EXPECT_THAT(EventsOf("StragglerDetected")[0],
              AllOf(HasSubstr("rank 3 on node b is slow"), HasSubstr("0.900 s where 0.300 s")));
  EXPECT_EQ(cluster().State(job), "RUNNING") << "the default is to observe";
}

class ActingTest : public PolicyTest {
 protected:
  ActingTest() : PolicyTest(Acting()) {}
  static v1::Detectors Acting() {
    v1::Detectors detectors;
    detectors.set_straggler("act");
    detectors.set_health("act");
    return detectors;
  }
};

TEST_F(ActingTest, SlowRank_ItsNodeIsReplacedAtABoundaryAndTheRecoverySaysStraggler) {
  for (const char* name : {"a", "b", "c"}) cluster().AddNode(name, 2);
  const std::string job = Submit(6, "job");
  cluster().Settle();
  Run(5);
  const auto slow_steps = [&] {
    for (int i = 0; i < 4; ++i) {
      for (v1::RankStatus* rank : cluster().Ranks(job)) Step(rank, rank->rank() == 3 ? 0.9 : 0.3);
      cluster().ReportAll();
      cluster().Advance(100);
    }
  };
  slow_steps();
  EXPECT_EQ(EventsOf("StragglerDetected").size(), 1u);
  EXPECT_THAT(EventsOf("NodeDraining"), IsEmpty()) << "no other place is free";
  cluster().AddNode("s", 2, true);
  slow_steps();
  EXPECT_EQ(EventsOf("StragglerDetected").size(), 1u) << "told once";
  ASSERT_EQ(EventsOf("NodeDraining").size(), 1u);
  EXPECT_THAT(EventsOf("NodeDraining")[0], HasSubstr("straggler: rank 3 on node b is slow"));
  cluster().Settle();
  Run(1);
  EXPECT_EQ(cluster().Placement(job), "a0 a1 s0 s1 c0 c1");
  const v1::JobStatus status = cluster().Job(job);
  ASSERT_EQ(status.recoveries_size(), 1);
  EXPECT_EQ(status.recoveries(0).cause(), "straggler");
  EXPECT_EQ(status.recoveries(0).node(), "b");
  EXPECT_TRUE(status.recoveries(0).planned());
  EXPECT_TRUE(status.recoveries(0).finished());
  EXPECT_EQ(status.restarts(), 0);
}

// Two probes that say the same fatal thing about node b.
void ReportBadHealth(TestCluster* cluster) {
  for (int probe = 1; probe <= 2; ++probe) {
    v1::NodeReport report = cluster->nodes["b"].Report();
    report.mutable_health()->set_probed_ms(cluster->now.wall_ms);
    v1::HealthSignal& signal = *report.mutable_health()->add_signals();
    signal.set_source("xid");
    signal.set_subject("gpu 0");
    signal.set_name("79");
    signal.set_severity(v1::SEVERITY_FATAL);
    signal.set_message("the GPU has fallen off the bus");
    ASSERT_TRUE(cluster->core->Report(report, cluster->now).ok());
    cluster->Commit();
    cluster->Advance(1000);
  }
}

TEST_F(ActingTest, FatalHealth_NodeIsDrainedAndTheRecoverySaysHealth) {
  cluster().AddNode("a", 1);
  cluster().AddNode("b", 1);
  cluster().AddNode("s", 1, true);
  const std::string job = Submit(2, "job");
  cluster().Settle();
  Run(1);
  ReportBadHealth(&cluster());
  ASSERT_EQ(EventsOf("HealthDetected").size(), 1u);
  EXPECT_THAT(EventsOf("HealthDetected")[0], HasSubstr("fatal in 2 probes in a row: xid gpu 0 79"));
  EXPECT_THAT(Told(job), HasSubstr("health: xid gpu 0 79: the GPU has fallen off the bus"));
  cluster().Settle();
  Run(1);
  EXPECT_EQ(cluster().Placement(job), "a0 s0");
  EXPECT_EQ(cluster().Job(job).recoveries().rbegin()->cause(), "health");
  EXPECT_TRUE(cluster().Job(job).recoveries().rbegin()->planned());
}

TEST_F(PolicyTest, FatalHealthWhileObserving_IsToldAndNothingMoves) {
  cluster().AddNode("a", 1);
  cluster().AddNode("b", 1);
  cluster().AddNode("s", 1, true);
  const std::string job = Submit(2, "job");
  cluster().Settle();
  Run(1);
  ReportBadHealth(&cluster());
  EXPECT_EQ(EventsOf("HealthDetected").size(), 1u);
  EXPECT_THAT(EventsOf("NodeDraining"), IsEmpty());
  cluster().Settle();
  EXPECT_EQ(cluster().Placement(job), "a0 b0");
}

TEST_F(PolicyTest, CorruptNodeOfAnotherJobToo_BothRecoveriesSayCorruption) {
  cluster().AddNode("a", 2);
  cluster().AddNode("s", 2, true);
  const std::string one = Submit(1, "one");
  const std::string two = Submit(1, "two");
  cluster().Settle();
  Run(2);
  cluster().Rank(one, 0).set_state(v1::RANK_STATE_FAILED);
  cluster().Rank(one, 0).set_message("INTERNAL: CORRUPTION: stage 0 has another hash");
  cluster().ReportAll();
  cluster().Settle();
  for (const std::string& job : {one, two}) {
    ASSERT_FALSE(cluster().Job(job).recoveries().empty()) << job;
    EXPECT_EQ(cluster().Job(job).recoveries().rbegin()->cause(), "corruption") << job;
    EXPECT_EQ(cluster().Job(job).plan().ranks(0).node(), "s") << job;
  }
}

TEST_F(PolicyTest, RankSpeaksOfCorruption_ItsNodeIsNotUsedAgain) {
  cluster().AddNode("a", 1);
  cluster().AddNode("b", 1);
  cluster().AddNode("z-spare", 1, true);
  const std::string job = Submit(2, "job");
  cluster().Settle();
  Run(5);
  cluster().Rank(job, 1).set_state(v1::RANK_STATE_FAILED);
  cluster().Rank(job, 1).set_message("INTERNAL: CORRUPTION: stage 0 has another hash");
  cluster().ReportAll();
  cluster().Settle();
  EXPECT_EQ(cluster().State(job), "RUNNING");
  EXPECT_EQ(EventsOf("CorruptionDetected").size(), 1u);
  EXPECT_EQ(cluster().Job(job).recoveries().rbegin()->cause(), "corruption");
  EXPECT_EQ(cluster().Job(job).plan().ranks(1).node(), "z-spare");
  const auto& admin = cluster().core->state().FindNode(NodeName("b"))->admin;
  EXPECT_TRUE(admin.cordoned());
  EXPECT_EQ(admin.actor(), "coordinator");
  EXPECT_THAT(admin.reason(), HasSubstr("CORRUPTION"));
}

TEST_F(PolicyTest, WeightsOfAMinorityDiffer_ItsNodeIsGivenUp) {
  for (const char* name : {"a", "b", "c"}) cluster().AddNode(name, 1);
  cluster().AddNode("z-spare", 1, true);
  const std::string job = Submit(1, "job", [](v1::Job& submitted) {
    submitted.mutable_spec()->mutable_parallelism()->set_replicas(3);
  });
  cluster().Settle();
  ASSERT_EQ(cluster().Ranks(job).size(), 3u);
  for (v1::RankStatus* rank : cluster().Ranks(job)) {
    Step(rank, 0.9);
    rank->mutable_last_step()->set_weights_hash(rank->rank() == 2 ? 8 : 7);
  }
  cluster().ReportAll();
  cluster().Advance(100);
  ASSERT_EQ(EventsOf("CorruptionDetected").size(), 1u);
  EXPECT_THAT(EventsOf("CorruptionDetected")[0],
              HasSubstr("after step 1 the weights of rank 2 on node c differ"));
  cluster().Settle();
  EXPECT_EQ(cluster().Job(job).plan().ranks(2).node(), "z-spare");
  EXPECT_EQ(cluster().Job(job).recoveries().rbegin()->cause(), "corruption");
}

TEST_F(PolicyTest, NodeComesAndGoes_IsCordonedAtTheThirdReturn) {
  cluster().AddNode("a", 1);
  TestNode& b = cluster().AddNode("b", 1);
  for (int i = 1; i <= 3; ++i) {
    EXPECT_FALSE(cluster().core->state().FindNode(NodeName("b"))->admin.cordoned()) << i;
    b.up = false;
    Run(7);
    b.up = true;
    Run(2);
  }
  EXPECT_TRUE(cluster().core->state().FindNode(NodeName("b"))->admin.cordoned());
  EXPECT_EQ(EventsOf("FlappingDetected").size(), 1u);
  const std::string job = Submit(2, "job");
  EXPECT_THAT(Told(job), HasSubstr("node b (1 devices) takes no ranks: it is cordoned"));
}

// --- Explanations ---

TEST_F(PolicyTest, ExplainDrainWithoutAPlace_NamesNodeReasonAndWhatIsMissing) {
  cluster().AddNode("a", 2);
  cluster().AddNode("b", 2);
  const std::string job = Submit(4, "stuck");
  cluster().Settle();
  cluster().Drain("a");
  EXPECT_THAT(
      Told(job),
      AllOf(HasSubstr("node a (2 of its ranks) is being drained"),
            HasSubstr("asked by ada 0 s ago (new fan): its ranks stay: 2 devices are needed for "
                      "the ranks that were on a, 0 are free: 2 missing")));
  const std::string later = Submit(1, "later");
  EXPECT_THAT(Told(later), HasSubstr("node a (2 devices) takes no ranks: it is being drained (new "
                                     "fan)"));
  cluster().AddNode("c", 3);
  EXPECT_THAT(Told(job), AllOf(HasSubstr("epoch 2 is being prepared: a is drained; its ranks go to "
                                         "c; taken at a step boundary once all its ranks listen "
                                         "(rank 0 on node c has not started)"),
                               HasSubstr("its ranks leave with epoch 2")));
  cluster().Settle();
  EXPECT_THAT(Told(job), Not(AnyOf(HasSubstr("is being prepared"), HasSubstr("node a"))));
}

TEST_F(PolicyTest, ExplainCordonParkAndDeadline_AreNamed) {
  cluster().AddNode("a", 1);
  cluster().AddNode("b", 1);
  const std::string job = Submit(2, "job");
  cluster().Settle();
  v1::CordonNodeRequest cordon;
  cordon.set_node("b");
  cordon.set_actor("eve");
  ASSERT_TRUE(cluster().core->Cordon(cordon, cluster().now).ok());
  cluster().Commit();
  cluster().Drain("a", "", 30);
  EXPECT_THAT(Told(job), AllOf(HasSubstr("node b (1 of its ranks) is cordoned"),
                               HasSubstr("asked by eve 0 s ago: its ranks stay there"),
                               HasSubstr("1 missing; given up in 30 s")));
  v1::SuspendJobRequest suspend;
  suspend.set_name("job");
  suspend.set_actor("eve");
  ASSERT_TRUE(cluster().core->Suspend(suspend, cluster().now).ok());
  cluster().Commit();
  EXPECT_THAT(Told(job), AllOf(HasSubstr("it is to save a checkpoint and stay suspended"),
                               HasSubstr("suspended by eve"),
                               HasSubstr("0 of its 2 ranks have saved their state and ended"),
                               HasSubstr("its ranks end as the job gives its devices back")));
}

TEST_F(PolicyTest, ExplainShedReplicas_SaysWhatGrowingBackWaitsFor) {
  cluster().AddNode("a", 2);
  cluster().AddNode("b", 2);
  const std::string job = Submit(2, "job", [](v1::Job& submitted) {
    submitted.mutable_spec()->mutable_parallelism()->set_replicas(2);
  });
  cluster().Settle();
  ASSERT_EQ(cluster().Ranks(job).size(), 4u);
  cluster().nodes["b"].up = false;
  Run(7);
  cluster().Settle();
  ASSERT_EQ(cluster().State(job), "RUNNING");
  EXPECT_THAT(Told(job), AllOf(HasSubstr("it goes on with 1 of its 2 replicas"),
                               HasSubstr("to grow back it waits: its epoch has just begun")));
  Run(11);
  EXPECT_THAT(Told(job), HasSubstr("to grow back it waits: a replica takes 2 devices, 0 are free "
                                   "beside its own"));
  const std::string large = Submit(8, "large", Priority(5));
  Run(1);
  EXPECT_THAT(Told(job), HasSubstr("large-2 waits for devices and comes first"));
}

TEST_F(PolicyTest, ExplainWithoutPreflight_NamesTheClosedNodes) {
  CoreOptions options;
  options.planning = SimplePlanning();
  options.checkpoint_root = "/c";
  options.require_preflight = true;
  CoordinatorCore core(options);
  TestNode node;
  node.name = "a";
  node.devices = 1;
  ASSERT_TRUE(core.Report(node.Report(), cluster().now).ok());
  const auto job = core.Submit(TestCluster::JobOf(1, "job"), {}, cluster().now);
  ASSERT_TRUE(job.ok());
  core.Commit();
  v1::ExplainJobRequest request;
  request.set_name("job");
  const auto told = core.Explain(request);
  ASSERT_TRUE(told.ok());
  EXPECT_THAT(absl::StrJoin(told->lines(), "\n"),
              HasSubstr("node a (1 devices) takes no ranks: it has passed no preflight yet"));
}

TEST_F(PolicyTest, Explain_SaysWhoIsBeforeAndWhy) {
  cluster().AddNode("a", 2);
  cluster().AddNode("spare", 2, true);
  const std::string running = Submit(2, "running", Priority(9));
  cluster().Settle();
  const std::string first = Submit(2, "first", Priority(3));
  const std::string last = Submit(1, "last");
  const std::string told = Told(last);
  EXPECT_THAT(told, StartsWith("last-3 is PENDING: behind first-2, which waits for devices"));
  EXPECT_THAT(told, HasSubstr("before it: first-2 (2 devices) has priority 3, this one 0; it "
                              "waits: needs 2 devices, 0 of 2 are free"));
  EXPECT_THAT(told, HasSubstr("node spare (2 devices) is a spare"));
  v1::ExplainJobRequest request;
  request.set_name(last);
  const auto response = cluster().core->Explain(request);
  ASSERT_EQ(response->queue_size(), 2);
  EXPECT_EQ(response->queue(0).job(), first);
  EXPECT_EQ(response->queue(1).job(), last);
  request.set_name("nobody");
  EXPECT_EQ(cluster().core->Explain(request).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(Told(running), HasSubstr("running-1 is RUNNING"));
}

}  // namespace
}  // namespace fathom
