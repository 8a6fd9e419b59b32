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

std::atomic<bool> spinning{false};
std::atomic<bool> enough{false};

// Spins, calling nothing, above bytes that no stack of its own needs; whether they stayed the same.
[[gnu::noinline]] bool SpinAboveUntouchedBytes() {
  constexpr int kNear = 2048;
  constexpr int kFar = 16384;
  volatile auto* const frame = static_cast<volatile unsigned char*>(__builtin_frame_address(0));
  for (int i = kNear; i < kFar; ++i) frame[-i] = static_cast<unsigned char>(i);
  spinning.store(true);
  while (!enough.load(std::memory_order_relaxed)) {
  }
  bool same = true;
  for (int i = kNear; i < kFar; ++i) same = same && frame[-i] == static_cast<unsigned char>(i);
  return same;
}

namespace {

class WaitingThread {
 public:
  explicit WaitingThread(bool deaf) {
    released = false;
    thread_ = std::thread([deaf] {
      const AnswersForStack answers;
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

TEST(ThreadStack, WhatLiesBelowTheStackPointer_StaysAsItIs) {
  bool same = false;
  std::thread thread([&same] {
    const AnswersForStack answers;
    same = SpinAboveUntouchedBytes();
  });
  while (!spinning) {
  }
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(StackOfThread(thread.native_handle(), absl::Seconds(60)).ok());
  }
  enough = true;
  thread.join();
  EXPECT_TRUE(same);
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
