#include "worker/agent/agent_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/manual_clock.h"
#include "common/metrics/metric_registry.h"

namespace fathom {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kGrace = absl::Seconds(5);  // by the manual clock
constexpr absl::Duration kLong = absl::Seconds(30);  // a test that waits this long has failed

// A daemon without its network: the loop in a thread of its own, started ranks that follow the
// script in their checkpoint directory (scripted_rank.h), and the newest report.
class AgentLoopTest : public ::testing::Test {
 protected:
  void SetUp() override { StartLoop(false); }

  void StartLoop(bool spare) {
    AgentOptions core;
    core.node.set_name("n0");
    core.node.set_address("127.0.0.1");
    for (int i = 0; i < 2; ++i) core.node.add_devices()->set_index(i);
    core.incarnation = 1;
    core.spare = spare;
    core.stop_grace = kGrace;
    core.check_plan = [](const v1::Plan&) { return absl::OkStatus(); };
    AgentLoopOptions options;
    options.rank_binary =
        absl::StrCat(std::getenv("TEST_SRCDIR"), "/fathom/worker/agent/test_rank");
    options.stop_fd = stop_.get();
    options.publish = [this](const v1::NodeReport& report, bool urgent) {
      absl::MutexLock lock(&mutex_);
      report_ = report;
      urgent_ = urgent;
    };
    options.on_preflight = [this](const v1::PreflightRequest& request) {
      absl::MutexLock lock(&mutex_);
      preflights_.push_back(request.id());
    };
    options.rank_logs = &logs_;
    options.clock = &clock_;
    options.metrics = &metrics_;
    options.log = &log_;
    loop_ = std::make_unique<AgentLoop>(std::move(options), core);
    thread_ = std::thread([this] { result_ = loop_->Run(); });
  }

  void TearDown() override {
    if (thread_.joinable()) Stop();
  }

  void Stop() {
    AskToEnd();
    Join();
  }

  void AskToEnd() {
    const uint64_t one = 1;
    ASSERT_EQ(::write(stop_.get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  }

  void Join() {
    thread_.join();
    EXPECT_TRUE(result_.ok()) << result_;
  }

  // Rank 0 of job-<i>, on device i, with a script of its own.
  static v1::DesiredJob JobOf(size_t i, uint64_t epoch, const std::string& script,
                              bool peers = false) {
    v1::DesiredJob job;
    job.mutable_plan()->set_job(absl::StrCat("job-", i));
    job.mutable_plan()->set_epoch(epoch);
    v1::RankAssignment* rank = job.mutable_plan()->add_ranks();
    rank->set_node("n0");
    rank->set_device(static_cast<int32_t>(i));
    job.add_ranks(0);
    job.set_checkpoint_directory(script);
    if (peers) job.add_peers()->set_endpoint("here");
    return job;
  }

  void Desire(const std::vector<v1::DesiredJob>& jobs) {
    v1::DesiredState desired;
    desired.set_version(++version_);
    for (const v1::DesiredJob& job : jobs) *desired.add_jobs() = job;
    loop_->Desire(desired);
  }

  // A job per script.
  void Desire(uint64_t epoch, const std::vector<std::string>& scripts, bool peers = false) {
    std::vector<v1::DesiredJob> jobs;
    for (size_t i = 0; i < scripts.size(); ++i) {
      jobs.push_back(JobOf(i, epoch, scripts[i], peers));
    }
    Desire(jobs);
  }

  // The loop looks at the time when something happens, such as the same desired state once more.
  void LetGracePass(uint64_t epoch, const std::vector<std::string>& scripts) {
    clock_.Advance(kGrace);
    Desire(epoch, scripts);
  }

  // The report that first satisfies the condition.
  v1::NodeReport Await(const std::string& what,
                       const std::function<bool(const v1::NodeReport&)>& condition) {
    absl::MutexLock lock(&mutex_);
    const auto reached = [&] { return condition(report_); };
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&reached), kLong))
        << what << "; at the end: " << report_.ShortDebugString();
    return report_;
  }

  // Rank 0 of job-<i> in a state.
  v1::RankStatus AwaitState(int i, v1::RankState state, uint64_t epoch = 1) {
    const std::string job = absl::StrCat("job-", i);
    v1::RankStatus found;
    Await(absl::StrCat(job, " in ", v1::RankState_Name(state)), [&](const v1::NodeReport& report) {
      for (const v1::RankStatus& rank : report.ranks()) {
        if (rank.job() != job || rank.epoch() != epoch || rank.state() != state) continue;
        found = rank;
        return true;
      }
      return false;
    });
    return found;
  }

  static std::string TempFolder() {
    std::string path = absl::StrCat(::testing::TempDir(), "/loop.XXXXXX");
    return ::mkdtemp(path.data());
  }

  ManualClock clock_;
  const DaemonLog log_{&clock_, stderr};
  const RankLogs logs_{TempFolder()};
  MetricRegistry registry_;
  AgentMetrics metrics_{&registry_};
  const UniqueFd stop_{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  uint64_t version_ = 0;

  absl::Mutex mutex_;
  // Guarded by mutex_.
  v1::NodeReport report_;
  bool urgent_ = false;
  std::vector<std::string> preflights_;

  std::unique_ptr<AgentLoop> loop_;
  std::thread thread_;
  absl::Status result_;
};

TEST_F(AgentLoopTest, WantedRank_LivesItsWholeLife) {
  Desire(1, {"listen;peers;train;step:4;checkpoint:4;finish"});
  const v1::RankStatus listening = AwaitState(0, v1::RANK_STATE_LISTENING);
  EXPECT_EQ(listening.endpoint(), absl::StrCat("127.0.0.1:", listening.pid()));
  Desire(1, {"listen;peers;train;step:4;checkpoint:4;finish"}, true);
  const v1::RankStatus finished = AwaitState(0, v1::RANK_STATE_FINISHED);
  EXPECT_EQ(finished.weights_sha256(), "f00d");
  EXPECT_EQ(finished.last_step().step(), 4);
  EXPECT_EQ(finished.checkpoint().step(), 4);
  Desire(1, {});
  Await("forgotten", [](const v1::NodeReport& report) { return report.ranks_size() == 0; });
}

TEST_F(AgentLoopTest, CrashedRank_IsReportedWithSignalAndLog) {
  Desire(1, {absl::StrCat("listen;print:about to fall;signal:", SIGUSR2)});
  const v1::RankStatus failed = AwaitState(0, v1::RANK_STATE_FAILED);
  EXPECT_THAT(failed.message(), HasSubstr("SIGUSR2"));
  EXPECT_THAT(failed.message(), HasSubstr("its log ends with:\nabout to fall"));
  EXPECT_EQ(failed.endpoint(), absl::StrCat("127.0.0.1:", failed.pid()))
      << "what it said before is kept";
}

TEST_F(AgentLoopTest, RankKilledFromOutside_IsNoticed) {
  Desire(1, {"listen;hang"});
  const v1::RankStatus listening = AwaitState(0, v1::RANK_STATE_LISTENING);
  ASSERT_EQ(::kill(static_cast<pid_t>(listening.pid()), SIGKILL), 0);
  EXPECT_THAT(AwaitState(0, v1::RANK_STATE_FAILED).message(), HasSubstr("SIGKILL"));
}

TEST_F(AgentLoopTest, RankThatReportsFailure_IsReportedInItsOwnWords) {
  Desire(1, {"listen;fail:UNAVAILABLE: rank 3 is gone;exit:1"});
  EXPECT_EQ(AwaitState(0, v1::RANK_STATE_FAILED).message(), "UNAVAILABLE: rank 3 is gone");
}

TEST_F(AgentLoopTest, RankThatSpeaksGibberish_IsKilled) {
  Desire(1, {"listen;garbage;hang"});
  const v1::RankStatus failed = AwaitState(0, v1::RANK_STATE_FAILED);
  EXPECT_THAT(failed.message(), HasSubstr("does not speak this protocol"));
  Stop();  // returns only once no process is left
}

TEST_F(AgentLoopTest, NewEpoch_IsTakenByTheSameProcessOrByAFreshOneIfThatDoesNotObey) {
  Desire(1, {"listen;hang", "listen;start;listen;stop"});
  const v1::RankStatus deaf = AwaitState(0, v1::RANK_STATE_LISTENING);
  const v1::RankStatus obedient = AwaitState(1, v1::RANK_STATE_LISTENING);
  Desire(2, {"listen;stop", "listen;stop"});
  EXPECT_EQ(AwaitState(1, v1::RANK_STATE_LISTENING, 2).pid(), obedient.pid());
  EXPECT_EQ(AwaitState(0, v1::RANK_STATE_STARTING, 2).pid(), deaf.pid());
  LetGracePass(2, {"listen;stop", "listen;stop"});
  const v1::RankStatus fresh = AwaitState(0, v1::RANK_STATE_LISTENING, 2);
  EXPECT_NE(fresh.pid(), deaf.pid());
  EXPECT_EQ(::kill(static_cast<pid_t>(deaf.pid()), 0), -1) << "killed and reaped";
  EXPECT_THAT(registry_.Text(), HasSubstr("fathom_worker_rank_starts_total 3"));
  EXPECT_THAT(registry_.Text(), HasSubstr("fathom_worker_rank_moves_total{at=\"once\"} 1"));
}

TEST_F(AgentLoopTest, LaterEpochBesideTheEarlier_IsJoinedAtABoundaryWithAnotherLog) {
  const std::string script =
      "listen;peers;train;print:of one;start;listen;peers;load;print:of two;train;step:9;stop";
  Desire({JobOf(0, 1, script, true)});
  const v1::RankStatus training = AwaitState(0, v1::RANK_STATE_TRAINING);
  Desire({JobOf(0, 1, script, true), JobOf(0, 2, script)});
  AwaitState(0, v1::RANK_STATE_LISTENING, 2);
  AwaitState(0, v1::RANK_STATE_TRAINING);
  Desire({JobOf(0, 1, script, true), JobOf(0, 2, script, true)});
  EXPECT_EQ(AwaitState(0, v1::RANK_STATE_TRAINING, 2).pid(), training.pid());
  AwaitState(0, v1::RANK_STATE_MOVED);
  Desire({JobOf(0, 2, script, true)});
  const v1::NodeReport report = Await("step 9", [](const v1::NodeReport& r) {
    return r.ranks_size() == 1 && r.ranks(0).last_step().step() == 9;
  });
  EXPECT_EQ(report.ranks(0).timeline().first_step_ms(), clock_.WallMs());
  EXPECT_THAT(registry_.Text(), HasSubstr("fathom_worker_rank_moves_total{at=\"boundary\"} 1"));
  EXPECT_EQ(logs_.Tail({JobId("job-0"), 1, 0}), "of one");
  EXPECT_EQ(logs_.Tail({JobId("job-0"), 2, 0}), "of two");
}

TEST_F(AgentLoopTest, HeldRank_IsReportedAtOnceAndShownAsSuch) {
  v1::DesiredJob job = JobOf(0, 1, "listen;train;hold;held:told to;stop");
  Desire({job});
  AwaitState(0, v1::RANK_STATE_TRAINING);
  job.set_hold(true);
  Desire({job});
  EXPECT_EQ(AwaitState(0, v1::RANK_STATE_HELD).message(), "told to");
  {
    absl::MutexLock lock(&mutex_);
    EXPECT_TRUE(urgent_);
  }
  metrics_.Refresh();
  EXPECT_THAT(registry_.Text(), HasSubstr("fathom_worker_ranks{state=\"held\"} 1"));
}

TEST_F(AgentLoopTest, ParkedRank_EndsAsParked) {
  v1::DesiredJob job = JobOf(0, 1, "listen;train;park;parked:4");
  job.set_park(true);
  Desire({job});
  EXPECT_EQ(AwaitState(0, v1::RANK_STATE_PARKED).held_step(), 4);
  EXPECT_THAT(registry_.Text(), HasSubstr("fathom_worker_rank_exits_total{how=\"parked\"} 1"));
}

TEST_F(AgentLoopTest, Diagnosis_ComesFromTheRankOrElseFromTheKernel) {
  std::vector<v1::DesiredJob> jobs = {JobOf(0, 1, absl::StrCat("listen;step:3;signal:", SIGSTOP)),
                                      JobOf(1, 1, "listen;diagnose;answer:B0.2;stop")};
  Desire(jobs);
  const pid_t stopped = static_cast<pid_t>(AwaitState(0, v1::RANK_STATE_LISTENING).pid());
  siginfo_t info;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(stopped), &info, WSTOPPED | WNOWAIT), 0);
  for (v1::DesiredJob& job : jobs) job.set_diagnose(6);
  Desire(jobs);
  const auto told = [](const v1::NodeReport& report, int rank) {
    return report.ranks_size() == 2 && report.ranks(rank).diagnosis().token() == 6;
  };
  const v1::NodeReport first = Await("answer", [&](const auto& r) { return told(r, 1); });
  EXPECT_EQ(first.ranks(1).diagnosis().instruction(), "B0.2");
  EXPECT_FALSE(first.ranks(0).has_diagnosis());
  clock_.Advance(absl::Seconds(2));
  Desire(jobs);
  const v1::NodeReport second = Await("inspection", [&](const auto& r) { return told(r, 0); });
  EXPECT_EQ(second.ranks(0).diagnosis().process(), "stopped by a signal");
  EXPECT_EQ(second.ranks(0).diagnosis().step(), 4);
  ASSERT_EQ(::kill(stopped, SIGKILL), 0);  // a stop would wait for the clock
}

TEST_F(AgentLoopTest, StoppedProcess_IsReplacedWhenItsJobGoesOn) {
  Desire(1, {absl::StrCat("listen;signal:", SIGSTOP)});
  const v1::RankStatus old = AwaitState(0, v1::RANK_STATE_LISTENING);
  Desire(2, {"listen;stop"});
  AwaitState(0, v1::RANK_STATE_STARTING, 2);
  LetGracePass(2, {"listen;stop"});
  EXPECT_NE(AwaitState(0, v1::RANK_STATE_LISTENING, 2).pid(), old.pid());
}

TEST_F(AgentLoopTest, SpareNode_HasAProcessReadyForItsRank) {
  Stop();
  uint64_t stops;
  ASSERT_GT(::read(stop_.get(), &stops, sizeof(stops)), 0);
  StartLoop(true);
  Await("up", [](const v1::NodeReport& report) { return report.spare(); });
  metrics_.Refresh();
  EXPECT_THAT(registry_.Text(), HasSubstr("fathom_worker_idle_processes 2"));
  EXPECT_THAT(registry_.Text(), HasSubstr("fathom_worker_rank_starts_total 2"));
  Desire(3, {"listen;print:mine;train;stop"});
  AwaitState(0, v1::RANK_STATE_TRAINING, 3);
  EXPECT_EQ(logs_.Tail({JobId("job-0"), 3, 0}), "mine");
  metrics_.Refresh();
  EXPECT_THAT(registry_.Text(), HasSubstr("fathom_worker_idle_processes 1"));
  EXPECT_THAT(registry_.Text(), HasSubstr("fathom_worker_rank_starts_total 2"));
}

TEST_F(AgentLoopTest, HealthAndPreflight_AreReportedAndRequestsHandedOutOnce) {
  v1::NodeHealth health;
  health.add_signals()->set_severity(v1::SEVERITY_FATAL);
  loop_->SetHealth(health);
  v1::PreflightReport preflight;
  preflight.set_id("p1");
  loop_->SetPreflight(preflight);
  const v1::NodeReport report = Await("preflight", [](const v1::NodeReport& r) {
    return r.preflight().id() == "p1" && r.health().signals_size() == 1;
  });
  EXPECT_EQ(report.health().signals(0).severity(), v1::SEVERITY_FATAL);
  v1::DesiredState desired;
  for (const char* id : {"q1", "q1", "q2"}) {
    desired.set_version(++version_);
    desired.mutable_preflight()->set_id(id);
    loop_->Desire(desired);
    Await("acted", [this](const v1::NodeReport& r) { return r.desired_version() == version_; });
  }
  absl::MutexLock lock(&mutex_);
  EXPECT_THAT(preflights_, ElementsAre("q1", "q2"));
}

TEST_F(AgentLoopTest, BinaryThatIsNotThere_FailsTheRankWithTheReason) {
  Stop();
  AgentLoopOptions options;
  options.rank_binary = "/nowhere/fathom-rank";
  const UniqueFd stop(::eventfd(0, EFD_CLOEXEC));
  options.stop_fd = stop.get();
  options.publish = [&stop, this](const v1::NodeReport& report, bool) {
    absl::MutexLock lock(&mutex_);
    report_ = report;
    const uint64_t one = 1;
    if (report.ranks_size() == 1) {
      EXPECT_GT(::write(stop.get(), &one, sizeof(one)), 0);
    }
  };
  options.rank_logs = &logs_;
  options.clock = &clock_;
  options.metrics = &metrics_;
  options.log = &log_;
  AgentOptions core;
  core.node.set_name("n0");
  core.node.add_devices();
  core.check_plan = [](const v1::Plan&) { return absl::OkStatus(); };
  loop_ = std::make_unique<AgentLoop>(std::move(options), core);
  Desire(1, {""});
  EXPECT_TRUE(loop_->Run().ok());
  ASSERT_EQ(report_.ranks_size(), 1);
  EXPECT_EQ(report_.ranks(0).state(), v1::RANK_STATE_FAILED);
  EXPECT_THAT(report_.ranks(0).message(), HasSubstr("/nowhere/fathom-rank"));
}

TEST_F(AgentLoopTest, AskedToEnd_StopsItsRanksAndSaysSo) {
  Desire(1, {"listen;stop;print:goodbye", "listen;hang"});
  AwaitState(0, v1::RANK_STATE_LISTENING);
  AwaitState(1, v1::RANK_STATE_LISTENING);
  AskToEnd();
  AwaitState(0, v1::RANK_STATE_STOPPED);
  LetGracePass(1, {"listen;stop;print:goodbye", "listen;hang"});
  Join();
  ASSERT_EQ(report_.ranks_size(), 2);
  for (const v1::RankStatus& rank : report_.ranks()) {
    EXPECT_EQ(rank.state(), v1::RANK_STATE_STOPPED) << rank.ShortDebugString();
    EXPECT_THAT(rank.message(), HasSubstr("daemon of node n0 was asked to end"));
    EXPECT_EQ(::kill(static_cast<pid_t>(rank.pid()), 0), -1);
  }
  EXPECT_THAT(report_.ranks(0).message(), HasSubstr("exited with 0"));
  EXPECT_THAT(report_.ranks(1).message(), HasSubstr("killed"));
  EXPECT_EQ(logs_.Tail({JobId("job-0"), 1, 0}), "goodbye");
}

TEST_F(AgentLoopTest, Metrics_ShowStatesStepsAndExits) {
  Desire(1, {"listen;train;step:7;stop", "exit:3"});
  Await("step 7", [](const v1::NodeReport& report) {
    return report.ranks_size() == 2 && report.ranks(0).last_step().step() == 7 &&
           report.ranks(1).state() == v1::RANK_STATE_FAILED;
  });
  metrics_.Refresh();
  const std::string text = registry_.Text();
  EXPECT_THAT(text, HasSubstr("fathom_worker_devices 2"));
  EXPECT_THAT(text, HasSubstr("fathom_worker_ranks{state=\"training\"} 1"));
  EXPECT_THAT(text, HasSubstr("fathom_worker_ranks{state=\"failed\"} 1"));
  EXPECT_THAT(text, HasSubstr("fathom_worker_rank_exits_total{how=\"failed\"} 1"));
  EXPECT_THAT(text, HasSubstr("fathom_rank_step{job=\"job-0\",rank=\"0\"} 7"));
  EXPECT_THAT(
      text, HasSubstr("fathom_rank_part_seconds{job=\"job-0\",part=\"forward\",rank=\"0\"} 0.25"));
  EXPECT_THAT(text, HasSubstr("fathom_rank_resident_memory_bytes{job=\"job-0\",rank=\"0\"}"));
  Desire(1, {});
  Await("forgotten", [](const v1::NodeReport& report) { return report.ranks_size() == 0; });
  metrics_.Refresh();
  EXPECT_THAT(registry_.Text(), Not(HasSubstr("job-0")));
}

TEST(AgentMetricsTest, StreamToTheCoordinator_IsShownAndCounted) {
  MetricRegistry registry;
  AgentMetrics metrics(&registry);
  EXPECT_THAT(registry.Text(), HasSubstr("fathom_worker_coordinator_connected 0"));
  metrics.StreamState(true);
  metrics.ReportSent();
  EXPECT_THAT(registry.Text(), HasSubstr("fathom_worker_coordinator_connected 1"));
  metrics.StreamState(false);
  metrics.StreamState(true);
  EXPECT_THAT(registry.Text(), HasSubstr("fathom_worker_reconnects_total 2"));
  EXPECT_THAT(registry.Text(), HasSubstr("fathom_worker_reports_total 1"));
}

}  // namespace
}  // namespace fathom
