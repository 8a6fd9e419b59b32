// The loop without gRPC: what is posted from many threads is decided once, in order, and answered
// only after it is durable. Plain enough for the thread sanitizer to see through.
#include "coordinator/service/event_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/manual_clock.h"
#include "coordinator/core/core_test_cluster.h"
#include "coordinator/store/failing_log.h"
#include "coordinator/store/memory_log.h"

namespace fathom {
namespace {

using ::testing::HasSubstr;

class EventLoopTest : public ::testing::Test {
 protected:
  void SetUp() override { Create(); }

  void Create() {
    EventLoop::Options options;
    options.clock = &clock_;
    options.log = &log_;
    options.metrics = &registry_;
    options.core.planning = SimplePlanning();
    options.say = [this](const std::string& line) {
      std::lock_guard lock(said_mutex_);
      said_.push_back(line);
    };
    auto loop = EventLoop::Create(std::move(options));
    ASSERT_TRUE(loop.ok()) << loop.status();
    loop_ = *std::move(loop);
  }

  // The id, once durable.
  absl::StatusOr<std::string> Submit(const std::string& name = "") {
    auto id = std::make_shared<absl::StatusOr<std::string>>(absl::UnknownError(""));
    auto answer = std::make_shared<std::promise<absl::StatusOr<std::string>>>();
    const bool posted = loop_->Post(
        "submit",
        [id, name](CoordinatorCore& core, Moment now) {
          const auto response = core.Submit(TestCluster::JobOf(1, name), {}, now);
          *id = response.ok() ? absl::StatusOr<std::string>(response->id()) : response.status();
        },
        [id, answer](const absl::Status& durable, const CoordinatorCore&) {
          if (durable.ok()) return answer->set_value(*id);
          // A copy of its own: Debian's Abseil counts references unseen by the thread sanitizer.
          answer->set_value(absl::Status(durable.code(), std::string(durable.message())));
        });
    if (!posted) return absl::UnavailableError("not posted");
    return answer->get_future().get();
  }

  int CountJobs() {
    int count = -1;
    EXPECT_TRUE(loop_
                    ->Ask([&count](const CoordinatorCore& core, Moment) {
                      count = static_cast<int>(core.state().jobs().size());
                    })
                    .ok());
    return count;
  }

  ManualClock clock_;
  MemoryLog memory_;
  FailingLog log_{&memory_};
  MetricRegistry registry_;
  std::mutex said_mutex_;
  std::vector<std::string> said_;
  std::unique_ptr<EventLoop> loop_;
};

TEST_F(EventLoopTest, ManyThreads_EachCommandAppliedOnceAndReplayed) {
  loop_->Start();
  constexpr int kThreads = 8;
  constexpr int kEach = 25;
  std::vector<std::thread> threads;
  std::atomic<int> accepted = 0;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this, t, &accepted] {
      for (int i = 0; i < kEach; ++i) {
        accepted += Submit(absl::StrCat("t", t, "-", i)).ok();
        accepted += Submit(absl::StrCat("t", t, "-", i)).ok();  // the name is taken
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(accepted, kThreads * kEach);
  EXPECT_EQ(CountJobs(), kThreads * kEach);
  loop_->Stop();
  Create();
  loop_->Start();
  EXPECT_EQ(CountJobs(), kThreads * kEach);
}

TEST_F(EventLoopTest, WaitingTogether_CommittedTogether) {
  std::vector<std::future<bool>> answers;
  for (int i = 0; i < 10; ++i) {
    auto answer = std::make_shared<std::promise<bool>>();
    answers.push_back(answer->get_future());
    ASSERT_TRUE(loop_->Post(
        "submit",
        [](CoordinatorCore& core, Moment now) {
          EXPECT_TRUE(core.Submit(TestCluster::JobOf(1), {}, now).ok());
        },
        [answer](const absl::Status& durable, const CoordinatorCore& core) {
          answer->set_value(durable.ok() && core.state().jobs().size() == 10);
        }));
  }
  loop_->Start();
  for (std::future<bool>& answer : answers) EXPECT_TRUE(answer.get());
  EXPECT_THAT(registry_.Text(), HasSubstr("fathom_log_append_seconds_count 1\n"));
  EXPECT_THAT(registry_.Text(), HasSubstr("fathom_log_records_total 10\n"));
}

TEST_F(EventLoopTest, EventInNoHurry_IsHandledBeforeALaterOneInAHurry) {
  loop_->Start();
  std::vector<int> order;  // only on the loop's thread, until the promise
  std::promise<void> done;
  ASSERT_TRUE(loop_->PostUnhurried(
      "report", nullptr,
      [&order](const absl::Status&, const CoordinatorCore&) { order.push_back(1); }));
  ASSERT_TRUE(loop_->Post("query", nullptr, [&](const absl::Status&, const CoordinatorCore&) {
    order.push_back(2);
    done.set_value();
  }));
  done.get_future().wait();
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
  // Alone it is handled as well.
  std::promise<void> alone;
  ASSERT_TRUE(loop_->PostUnhurried(
      "report", nullptr,
      [&alone](const absl::Status&, const CoordinatorCore&) { alone.set_value(); }));
  EXPECT_EQ(alone.get_future().wait_for(std::chrono::seconds(30)), std::future_status::ready);
}

TEST_F(EventLoopTest, LogRefuses_WholeBatchIsRefusedAndSaidOnce) {
  loop_->Start();
  log_.FailWith(absl::ResourceExhaustedError("disk full"));
  for (int i = 0; i < 3; ++i) {
    const auto refused = Submit();
    EXPECT_EQ(refused.status().code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(refused.status().message()), HasSubstr("disk full"));
  }
  EXPECT_EQ(CountJobs(), 0);
  log_.FailWith(absl::OkStatus());
  EXPECT_EQ(Submit().value(), "tiny-1");
  loop_->Stop();
  ASSERT_EQ(said_.size(), 2u);
  EXPECT_THAT(said_[0], HasSubstr("commands are refused until this is mended: disk full"));
  EXPECT_THAT(said_[1], HasSubstr("takes records again"));
}

TEST_F(EventLoopTest, Hook_RunsAfterTheCommitWithTheChangedNodes) {
  std::promise<std::string> changed_node;
  std::atomic<bool> told = false;
  loop_->AddHook([&](const CoordinatorCore& core, const std::vector<NodeName>& changed) {
    if (changed.empty() || told.exchange(true)) return;
    EXPECT_EQ(core.DesiredFor(changed[0]).jobs_size(), 1);
    changed_node.set_value(changed[0].value());
  });
  loop_->Start();
  TestNode node;
  node.name = "a";
  node.devices = 1;
  ASSERT_TRUE(loop_->Post(
      "report",
      [node](CoordinatorCore& core, Moment now) {
        EXPECT_TRUE(core.Report(node.Report(), now).ok());
      },
      nullptr));
  ASSERT_TRUE(Submit().ok());
  EXPECT_EQ(changed_node.get_future().get(), "a");
}

TEST_F(EventLoopTest, QueueFullOrStopped_RefusesAtOnce) {
  std::atomic<int> handled = 0;
  const auto count = [&handled](const absl::Status&, const CoordinatorCore&) { ++handled; };
  for (int i = 0; i < limits::kMaxPendingEvents; ++i) {
    ASSERT_TRUE(loop_->Post("query", nullptr, count));
  }
  EXPECT_FALSE(loop_->Post("query", nullptr, count));
  EXPECT_EQ(loop_->pending(), limits::kMaxPendingEvents);
  loop_->Start();
  loop_->Stop();
  EXPECT_EQ(handled, limits::kMaxPendingEvents) << "what was taken is answered";
  EXPECT_FALSE(loop_->Post("query", nullptr, count));
  EXPECT_EQ(loop_->Ask([](const CoordinatorCore&, Moment) {}).code(),
            absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace fathom
