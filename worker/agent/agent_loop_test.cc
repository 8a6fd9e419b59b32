#include "worker/agent/agent_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/eventfd.h>
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

using ::testing::HasSubstr;
using ::testing::Not;

constexpr absl::Duration kGrace = absl::Seconds(5);  // by the manual clock
constexpr absl::Duration kLong = absl::Seconds(30);  // a test that waits this long has failed

// A daemon without its network: the loop in a thread of its own, started ranks that follow the
// script in their checkpoint directory (test_rank.cc), and the newest report.
class AgentLoopTest : public ::testing::Test {
 protected:
  void SetUp() override {
    AgentOptions core;
    core.node.set_name("n0");
    core.node.set_address("127.0.0.1");
    for (int i = 0; i < 2; ++i) core.node.add_devices()->set_index(i);
    core.incarnation = 1;
    core.stop_grace = kGrace;
    core.check_plan = [](const v1::Plan&) { return absl::OkStatus(); };
    AgentLoopOptions options;
    options.rank_binary =
        absl::StrCat(std::getenv("TEST_SRCDIR"), "/fathom/worker/agent/test_rank");
    options.stop_fd = stop_.get();
    options.publish = [this](const v1::NodeReport& report, bool) {
      absl::MutexLock lock(&mutex_);
      report_ = report;
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

  // One job of as many ranks as there are scripts; rank i on device i.
  void Desire(uint64_t epoch, const std::vector<std::string>& scripts, bool peers = false) {
    v1::DesiredState desired;
    desired.set_version(++version_);
    for (size_t i = 0; i < scripts.size(); ++i) {
      // A job per rank, so that each has a script of its own.
      v1::DesiredJob* job = desired.add_jobs();
      job->mutable_plan()->set_job(absl::StrCat("job-", i));
      job->mutable_plan()->set_epoch(epoch);
      v1::RankAssignment* rank = job->mutable_plan()->add_ranks();
      rank->set_node("n0");
      rank->set_device(static_cast<int32_t>(i));
      job->add_ranks(0);
      job->set_checkpoint_directory(scripts[i]);
      if (peers) job->add_peers()->set_endpoint("here");
    }
    loop_->Desire(desired);
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
  v1::NodeReport report_;  // guarded by mutex_

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

TEST_F(AgentLoopTest, NewEpoch_ReplacesARankThatIgnoresTheStop) {
  Desire(1, {"listen;hang", "listen;stop"});
  const v1::RankStatus old = AwaitState(0, v1::RANK_STATE_LISTENING);
  AwaitState(1, v1::RANK_STATE_LISTENING);
  Desire(2, {"listen;stop", "listen;stop"});
  AwaitState(1, v1::RANK_STATE_LISTENING, 2);
  EXPECT_THAT(AwaitState(0, v1::RANK_STATE_STARTING, 2).message(), HasSubstr("waits for device 0"));
  LetGracePass(2, {"listen;stop", "listen;stop"});
  const v1::RankStatus fresh = AwaitState(0, v1::RANK_STATE_LISTENING, 2);
  EXPECT_NE(fresh.pid(), old.pid());
  EXPECT_EQ(::kill(static_cast<pid_t>(old.pid()), 0), -1) << "killed and reaped";
  EXPECT_THAT(registry_.Text(), HasSubstr("fathom_worker_rank_starts_total 4"));
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
