#include "worker/engine/thread_stack.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <mutex>
#include <thread>

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace fathom::engine {

std::mutex mutex;
std::condition_variable changed;
bool waiting = false;
bool released = false;
std::atomic<pid_t> thread_id{0};

// Not static, so that its name is known wherever the linker keeps any.
[[gnu::noinline]] void WaitHereToBeReleased() {
  std::unique_lock lock(mutex);
  thread_id = gettid();
  waiting = true;
  changed.notify_all();
  changed.wait(lock, [] { return released; });
  waiting = false;
}

namespace {

class WaitingThread {
 public:
  explicit WaitingThread(bool deaf) {
    released = false;
    thread_ = std::thread([deaf] {
      sigset_t own_signal;
      sigemptyset(&own_signal);
      sigaddset(&own_signal, SIGUSR1);
      if (deaf) pthread_sigmask(SIG_BLOCK, &own_signal, nullptr);
      WaitHereToBeReleased();
    });
    std::unique_lock lock(mutex);
    changed.wait(lock, [] { return waiting; });
  }
  ~WaitingThread() {
    {
      const std::lock_guard lock(mutex);
      released = true;
      changed.notify_all();
    }
    thread_.join();
  }
  pthread_t handle() { return thread_.native_handle(); }

 private:
  std::thread thread_;
};

TEST(ThreadStack, ThreadThatWaits_IsShownWhereItWaitsAndGoesOnWaiting) {
  InstallStackHandler();
  WaitingThread thread(/*deaf=*/false);
  for (int i = 0; i < 100; ++i) {
    const absl::StatusOr<std::string> stack = StackOfThread(thread.handle(), absl::Seconds(60));
    ASSERT_TRUE(stack.ok()) << stack.status();
    EXPECT_TRUE(absl::StrContains(*stack, "WaitHereToBeReleased")) << *stack;
  }
  const std::lock_guard lock(mutex);
  EXPECT_TRUE(waiting);
}

TEST(ThreadStack, ThreadThatDoesNotAnswer_IsGivenUpAndDisturbsNoLaterQuestion) {
  InstallStackHandler();
  {
    WaitingThread deaf(/*deaf=*/true);
    EXPECT_EQ(StackOfThread(deaf.handle(), absl::Milliseconds(10)).status().code(),
              absl::StatusCode::kDeadlineExceeded);
  }
  WaitingThread thread(/*deaf=*/false);
  const absl::StatusOr<std::string> stack = StackOfThread(thread.handle(), absl::Seconds(60));
  ASSERT_TRUE(stack.ok()) << stack.status();
  EXPECT_TRUE(absl::StrContains(*stack, "WaitHereToBeReleased")) << *stack;
}

TEST(ThreadStack, KernelState_TellsARunningThreadFromAWaitingAndAnEndedOne) {
  EXPECT_EQ(KernelStateOfThread(gettid()), "running");
  pid_t id = 0;
  {
    WaitingThread thread(/*deaf=*/false);
    id = thread_id;
    while (KernelStateOfThread(id) != "sleeping") {
    }
  }
  EXPECT_EQ(KernelStateOfThread(id), "ended");
}

}  // namespace
}  // namespace fathom::engine
