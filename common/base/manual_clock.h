// A clock that moves only when a test moves it. Safe to read from several threads.
#ifndef FATHOM_COMMON_BASE_MANUAL_CLOCK_H_
#define FATHOM_COMMON_BASE_MANUAL_CLOCK_H_

#include <mutex>

#include "common/base/clock.h"

namespace fathom {

class ManualClock final : public Clock {
 public:
  explicit ManualClock(absl::Time wall = absl::FromUnixSeconds(1'700'000'000)) : wall_(wall) {}

  absl::Time Wall() const override {
    std::lock_guard lock(mutex_);
    return wall_;
  }
  absl::Duration Steady() const override {
    std::lock_guard lock(mutex_);
    return steady_;
  }
  void Advance(absl::Duration by) {
    std::lock_guard lock(mutex_);
    wall_ += by;
    steady_ += by;
  }
  // What an administrator or NTP may do: only the wall clock moves.
  void JumpWall(absl::Duration by) {
    std::lock_guard lock(mutex_);
    wall_ += by;
  }

 private:
  mutable std::mutex mutex_;
  absl::Time wall_;                              // guarded by mutex_
  absl::Duration steady_ = absl::Seconds(1000);  // guarded by mutex_
};

}  // namespace fathom

#endif  // FATHOM_COMMON_BASE_MANUAL_CLOCK_H_
