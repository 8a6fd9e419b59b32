// What a rank's training thread is at, kept so that another thread can tell while it hangs.
//
// Entering something costs a reading of the clock and two stores. The reader may see the name of
// one thing with the beginning of the next, for as long as the two stores are apart.
#ifndef FATHOM_WORKER_ENGINE_RANK_PROGRESS_H_
#define FATHOM_WORKER_ENGINE_RANK_PROGRESS_H_

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/schedule/instruction.h"

namespace fathom::engine {

class RankProgress {
 public:
  struct Reading {
    int64_t steps_done = 0;
    std::string what;  // such as "F1.3|B0.2" or "reduce gradients"
    absl::Duration since;
  };

  explicit RankProgress(const Clock* clock) : clock_(clock) { At("wait for orders"); }

  // `what` lives as long as the process: a literal.
  void At(const char* what) { Enter(reinterpret_cast<uintptr_t>(what)); }
  void At(const schedule::Instruction& instruction) {
    Enter(kInstruction | (instruction.overlapped ? kOverlapped : 0) |
          Pack(instruction.second) << kOpBits | Pack(instruction.first));
  }
  void SetStepsDone(int64_t steps) { steps_done_.store(steps, std::memory_order_relaxed); }

  // From any thread.
  int64_t steps_done() const { return steps_done_.load(std::memory_order_relaxed); }
  Reading Read() const {
    const uint64_t code = code_.load(std::memory_order_acquire);
    Reading reading;
    reading.steps_done = steps_done();
    reading.since =
        clock_->Steady() - absl::Nanoseconds(entered_ns_.load(std::memory_order_relaxed));
    reading.what = (code & kInstruction) != 0
                       ? schedule::ToString(schedule::Instruction{
                             Unpack(code), Unpack(code >> kOpBits), (code & kOverlapped) != 0})
                       : reinterpret_cast<const char*>(static_cast<uintptr_t>(code));
    return reading;
  }

 private:
  // An instruction in a word, so that it outlives the list it is from. Addresses have no top bits.
  static constexpr uint64_t kInstruction = uint64_t{1} << 63;
  static constexpr uint64_t kOverlapped = uint64_t{1} << 62;
  static constexpr int kOpBits = 31;
  static constexpr uint64_t kMicroBatchMask = (uint64_t{1} << 22) - 1;

  static uint64_t Pack(const schedule::Op& op) {
    return static_cast<uint64_t>(op.kind) << 29 | static_cast<uint64_t>(op.direction & 1) << 28 |
           static_cast<uint64_t>(op.chunk & 63) << 22 |
           (static_cast<uint64_t>(op.micro_batch) & kMicroBatchMask);
  }
  static schedule::Op Unpack(uint64_t code) {
    schedule::Op op;
    op.kind = static_cast<schedule::OpKind>(code >> 29 & 3);
    op.direction = static_cast<int>(code >> 28 & 1);
    op.chunk = static_cast<int>(code >> 22 & 63);
    op.micro_batch = static_cast<int>(code & kMicroBatchMask);
    return op;
  }

  void Enter(uint64_t code) {
    entered_ns_.store(absl::ToInt64Nanoseconds(clock_->Steady()), std::memory_order_relaxed);
    code_.store(code, std::memory_order_release);
  }

  const Clock* const clock_;
  std::atomic<uint64_t> code_{0};
  std::atomic<int64_t> entered_ns_{0};
  std::atomic<int64_t> steps_done_{0};
};

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_RANK_PROGRESS_H_
