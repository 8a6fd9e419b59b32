#include "worker/health/health_monitor.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/real_clock.h"
#include "common/metrics/metric_registry.h"
#include "worker/health/echo_server.h"
#include "worker/health/health_metrics.h"
#include "worker/health/node_watch.h"

namespace fathom::health {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kLong = absl::Seconds(30);  // a test that waits this long has failed

constexpr char kHang[] = "exec tail -f /dev/null";

std::string TempFolder() {
  std::string path = absl::StrCat(::testing::TempDir(), "/monitor.XXXXXX");
  return ::mkdtemp(path.data());
}

std::string Preflight() {
  return absl::StrCat(std::getenv("TEST_SRCDIR"), "/fathom/worker/health/fathom-preflight");
}

// A program in place of fathom-preflight.
std::string Script(const std::string& folder, const std::string& body) {
  const std::string path = folder + "/script";
  std::ofstream(path) << "#!/bin/sh\n" << body << "\n";
  ::chmod(path.c_str(), 0755);
  return path;
}

std::string ReadAll(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

class ChildRunTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::string> Run(const std::string& body, ChildRunOptions options) {
    return runner_.Run(Script(folder_, body), {}, options);
  }

  const std::string folder_ = TempFolder();
  RealClock clock_;
  ChildRunner runner_{&clock_};
};

TEST_F(ChildRunTest, ChildThatEnds_HandsBackItsOutput) {
  EXPECT_EQ(Run("echo one; echo two", {.time = kLong}).value(), "one\ntwo\n");
  EXPECT_EQ(Run("echo failed; exit 1", {.time = kLong}).value(), "failed\n");
}

TEST_F(ChildRunTest, LargeOutput_ArrivesWhole) {
  const auto output = Run("head -c 300000 /dev/zero", {.time = kLong});
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_EQ(output->size(), 300'000u);
}

TEST_F(ChildRunTest, ChildThatHangs_IsKilledAtItsDeadline) {
  const auto output =
      Run(absl::StrCat("echo $$ > ", folder_, "/pid; ", kHang), {.time = absl::Seconds(1)});
  EXPECT_EQ(output.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(output.status().message()), HasSubstr("was killed"));
  const std::string pid = ReadAll(folder_ + "/pid");
  ASSERT_FALSE(pid.empty());
  EXPECT_EQ(::kill(std::stoi(pid), 0), -1);
}

TEST_F(ChildRunTest, GrandchildThatHoldsThePipe_DoesNotHoldTheRun) {
  const auto output = Run(absl::StrCat("(", kHang, ") & echo done"), {.time = kLong});
  EXPECT_EQ(output.value(), "done\n");
}

TEST_F(ChildRunTest, EndlessOutput_IsCutOffWithItsChild) {
  const auto output = Run("exec yes", {.time = kLong, .max_output_bytes = 100'000});
  EXPECT_EQ(output.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST_F(ChildRunTest, Cancel_BreaksOff) {
  const UniqueFd cancel(::eventfd(1, EFD_CLOEXEC));
  const auto output = Run(kHang, {.time = kLong, .cancel_fd = cancel.get()});
  EXPECT_EQ(output.status().code(), absl::StatusCode::kCancelled);
}

TEST_F(ChildRunTest, BadEnds_SayHow) {
  EXPECT_THAT(std::string(Run("exit 3", {.time = kLong}).status().message()),
              HasSubstr("exited with 3"));
  EXPECT_THAT(std::string(Run("kill -SEGV $$", {.time = kLong}).status().message()),
              HasSubstr("killed by signal 11"));
  const auto missing = runner_.Run("/nowhere/fathom-preflight", {}, {});
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("/nowhere/fathom-preflight"));
}

TEST_F(ChildRunTest, Child_InheritsNeitherDescriptorsNorEnvironment) {
  // Not close-on-exec, and with a number that no shell uses by itself.
  const UniqueFd secret(::fcntl(STDIN_FILENO, F_DUPFD, 100));
  ASSERT_GE(secret.get(), 100);
  ::setenv("FATHOM_SECRET", "x", 1);
  const auto output =
      Run("ls /proc/$$/fd | tr '\\n' ' '; echo \"[$FATHOM_SECRET]\"", {.time = kLong});
  ::unsetenv("FATHOM_SECRET");
  ASSERT_TRUE(output.ok()) << output.status();
  EXPECT_THAT(*output, ::testing::StartsWith("0 1 "));
  EXPECT_EQ(output->find(absl::StrCat(" ", secret.get(), " ")), std::string::npos) << *output;
  EXPECT_THAT(*output, HasSubstr("[]"));
}

class HealthMonitorTest : public ::testing::Test {
 protected:
  void Start(const std::string& binary, absl::Duration preflight_time = kLong,
             absl::Duration probe_time = kLong) {
    HealthMonitorOptions options;
    options.preflight_binary = binary;
    options.state_directory = folder_;
    options.system_root = folder_ + "/";
    options.probe_interval = absl::Milliseconds(20);
    options.probe_time = probe_time;
    options.preflight_time = preflight_time;
    options.extra_arguments = {"--memory-mb=1", "--disk-mb=1"};
    options.on_preflight = [this](const v1::PreflightReport& report, absl::Duration) {
      absl::MutexLock lock(&mutex_);
      reports_.push_back(report);
    };
    options.on_health = [this](const v1::NodeHealth& health) {
      absl::MutexLock lock(&mutex_);
      healths_.push_back(health);
    };
    options.clock = &clock_;
    auto monitor = HealthMonitor::Start(std::move(options));
    ASSERT_TRUE(monitor.ok()) << monitor.status();
    monitor_ = *std::move(monitor);
  }

  // The first report with this id.
  v1::PreflightReport AwaitReport(const std::string& id) {
    v1::PreflightReport found;
    const auto there = [this, &id, &found]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      for (const v1::PreflightReport& report : reports_) {
        if (report.id() == id) found = report;
      }
      return found.id() == id;
    };
    absl::MutexLock lock(&mutex_);
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&there), kLong)) << id;
    return found;
  }

  template <typename Fits>
  v1::NodeHealth AwaitHealth(Fits fits) {
    const auto there = [this, &fits]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      return !healths_.empty() && fits(healths_.back());
    };
    absl::MutexLock lock(&mutex_);
    EXPECT_TRUE(mutex_.AwaitWithTimeout(absl::Condition(&there), kLong));
    return healths_.empty() ? v1::NodeHealth() : healths_.back();
  }

  void WriteFile(const std::string& path, const std::string& content) {
    const std::filesystem::path file = folder_ + "/" + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << content;
  }

  static v1::PreflightRequest Request(const std::string& id) {
    v1::PreflightRequest request;
    request.set_id(id);
    return request;
  }

  const std::string folder_ = TempFolder();
  RealClock clock_;
  absl::Mutex mutex_;
  std::vector<v1::PreflightReport> reports_;  // guarded by mutex_
  std::vector<v1::NodeHealth> healths_;       // guarded by mutex_
  std::unique_ptr<HealthMonitor> monitor_;    // last, so that it ends first
};

TEST_F(HealthMonitorTest, Start_RunsThePreflightAndThenProbes) {
  Start(Preflight());
  const v1::PreflightReport report = AwaitReport("start");
  EXPECT_TRUE(report.passed()) << report.verdict();
  EXPECT_GE(report.checks_size(), 8);
  const v1::NodeHealth health = AwaitHealth([](const v1::NodeHealth&) { return true; });
  EXPECT_EQ(health.probe_error(), "");
}

TEST_F(HealthMonitorTest, NewRequest_MeasuresLinksAndHoldsToThresholds) {
  auto echo = EchoServer::Start({.clock = &clock_});
  ASSERT_TRUE(echo.ok());
  Start(Preflight());
  v1::PreflightRequest request = Request("on demand");
  request.add_peers()->set_node("n1");
  request.mutable_peers(0)->set_endpoint((*echo)->endpoint());
  v1::PreflightThreshold* threshold = request.add_thresholds();
  threshold->set_check("link_latency");
  threshold->set_at_most(true);
  threshold->set_value(1e-6);
  monitor_->Request(request);
  const v1::PreflightReport report = AwaitReport("on demand");
  EXPECT_FALSE(report.passed());
  EXPECT_THAT(report.verdict(), HasSubstr("link_latency of n1"));
}

TEST_F(HealthMonitorTest, RepeatedRequest_RunsOnce) {
  Start(Preflight());
  AwaitReport("start");
  monitor_->Request(Request("a"));
  AwaitReport("a");
  monitor_->Request(Request("a"));
  monitor_->Request(Request("b"));
  AwaitReport("b");
  absl::MutexLock lock(&mutex_);
  EXPECT_EQ(reports_.size(), 3u);
}

TEST_F(HealthMonitorTest, PreflightThatHangs_IsAReportThatFailed) {
  Start(Script(folder_, kHang), absl::Milliseconds(200), absl::Milliseconds(200));
  const v1::PreflightReport report = AwaitReport("start");
  EXPECT_FALSE(report.passed());
  EXPECT_THAT(report.verdict(), HasSubstr("could not be checked"));
  EXPECT_THAT(report.verdict(), HasSubstr("did not end within 200ms"));
  // And the daemon goes on.
  monitor_->Request(Request("again"));
  EXPECT_FALSE(AwaitReport("again").passed());
}

TEST_F(HealthMonitorTest, ProgramThatIsMissingOrSpeaksNonsense_FailsAndSaysSo) {
  Start("/nowhere/fathom-preflight");
  EXPECT_THAT(AwaitReport("start").verdict(), HasSubstr("/nowhere/fathom-preflight"));
  monitor_.reset();
  reports_.clear();
  Start(Script(folder_, "echo nonsense"));
  EXPECT_THAT(AwaitReport("start").verdict(), HasSubstr("is no fathom.v1.PreflightReport"));
}

TEST_F(HealthMonitorTest, ProbeThatHangs_IsKilledAndTheNextOneTells) {
  const std::string port = "sys/class/infiniband/mlx5_0/ports/1/";
  WriteFile(port + "state", "4: ACTIVE\n");
  const std::string counter = folder_ + "/" + port + "counters/symbol_error";
  std::filesystem::create_directories(folder_ + "/" + port + "counters");
  ASSERT_EQ(::mkfifo(counter.c_str(), 0644), 0);  // opening it waits for a writer for ever
  Start(Preflight(), kLong, absl::Milliseconds(500));
  const v1::NodeHealth failed =
      AwaitHealth([](const v1::NodeHealth& health) { return !health.probe_error().empty(); });
  EXPECT_THAT(failed.probe_error(), HasSubstr("did not end within 500ms"));
  std::filesystem::remove(counter);
  WriteFile(port + "counters/symbol_error", "5\n");
  const v1::NodeHealth mended =
      AwaitHealth([](const v1::NodeHealth& health) { return health.probe_error().empty(); });
  ASSERT_EQ(mended.signals_size(), 1);
  EXPECT_EQ(mended.signals(0).name(), "symbol_error");
}

TEST_F(HealthMonitorTest, RisingErrors_AreFatalUntilAPreflightPassed) {
  WriteFile("sys/devices/system/edac/mc/mc0/ue_count", "0\n");
  Start(Preflight());
  AwaitHealth([](const v1::NodeHealth&) { return true; });
  WriteFile("sys/devices/system/edac/mc/mc0/ue_count", "3\n");
  const v1::NodeHealth bad = AwaitHealth([](const v1::NodeHealth& health) {
    return health.signals_size() == 1 && health.signals(0).severity() == v1::SEVERITY_FATAL;
  });
  EXPECT_THAT(bad.signals(0).message(), HasSubstr("rose by 3 to 3"));
  monitor_->Request(Request("mended"));
  EXPECT_TRUE(AwaitReport("mended").passed());
  AwaitHealth([](const v1::NodeHealth& health) {
    return health.signals_size() == 1 && health.signals(0).severity() == v1::SEVERITY_OK;
  });
}

TEST_F(HealthMonitorTest, StopDuringAPreflight_EndsAtOnceWithoutAReport) {
  Start(Script(folder_, kHang));
  monitor_.reset();
  absl::MutexLock lock(&mutex_);
  EXPECT_TRUE(reports_.empty());
  EXPECT_TRUE(healths_.empty());
}

TEST(HealthMetricsTest, FaultsThatGo_CountNothing) {
  MetricRegistry registry;
  HealthMetrics metrics(&registry);
  v1::NodeHealth health;
  for (const v1::Severity severity :
       {v1::SEVERITY_OK, v1::SEVERITY_WARNING, v1::SEVERITY_FATAL, v1::SEVERITY_FATAL}) {
    v1::HealthSignal* signal = health.add_signals();
    signal->set_source("ecc");
    signal->set_severity(severity);
  }
  metrics.ShowHealth(health);
  EXPECT_THAT(registry.Text(),
              HasSubstr("fathom_worker_health_signals{severity=\"fatal\",source=\"ecc\"} 2"));
  health.clear_signals();
  health.set_probe_error("hung");
  metrics.ShowHealth(health);
  EXPECT_THAT(registry.Text(),
              HasSubstr("fathom_worker_health_signals{severity=\"fatal\",source=\"ecc\"} 0"));
  EXPECT_THAT(registry.Text(), HasSubstr("fathom_worker_health_probe_failures_total 1"));
}

TEST(NodeWatchTest, Begin_ReportsLogsAndCounts) {
  RealClock clock;
  MetricRegistry registry;
  absl::Mutex mutex;
  std::vector<std::string> lines;  // guarded by mutex
  v1::PreflightReport report;      // guarded by mutex
  int healths = 0;                 // guarded by mutex
  auto watch = NodeWatch::Create({.preflight_binary = Preflight(),
                                  .state_directory = TempFolder(),
                                  .address = "127.0.0.1",
                                  .log =
                                      [&](const std::string& line) {
                                        absl::MutexLock lock(&mutex);
                                        lines.push_back(line);
                                      },
                                  .registry = &registry,
                                  .clock = &clock});
  ASSERT_TRUE(watch.ok()) << watch.status();
  EXPECT_THAT((*watch)->echo_endpoint(), ::testing::StartsWith("127.0.0.1:"));
  const absl::Status begun = (*watch)->Begin(
      [&](const v1::PreflightReport& newest) {
        absl::MutexLock lock(&mutex);
        report = newest;
      },
      [&](const v1::NodeHealth&) {
        absl::MutexLock lock(&mutex);
        ++healths;
      });
  ASSERT_TRUE(begun.ok()) << begun;
  {
    const auto there = [&]() ABSL_NO_THREAD_SAFETY_ANALYSIS { return healths > 0; };
    absl::MutexLock lock(&mutex);
    ASSERT_TRUE(mutex.AwaitWithTimeout(absl::Condition(&there), kLong));
    EXPECT_EQ(report.id(), "start");
    ASSERT_FALSE(lines.empty());
    EXPECT_THAT(lines[0], HasSubstr("preflight start took "));
  }
  (*watch)->Stop();
  EXPECT_THAT(registry.Text(), HasSubstr("fathom_worker_preflight_passed 1"));
  EXPECT_THAT(registry.Text(), HasSubstr("fathom_worker_preflights_total{result=\"passed\"} 1"));
}

TEST(NodeWatchTest, AddressThatIsNotThisMachines_IsRefused) {
  RealClock clock;
  MetricRegistry registry;
  const auto watch = NodeWatch::Create(
      {.address = "192.0.2.1", .log = nullptr, .registry = &registry, .clock = &clock});
  EXPECT_THAT(std::string(watch.status().message()), HasSubstr("echo service"));
}

}  // namespace
}  // namespace fathom::health
