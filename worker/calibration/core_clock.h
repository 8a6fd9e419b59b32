// The time that a core spent on this thread, and on this process: what work takes, whoever else
// wants the core meanwhile.
#ifndef FATHOM_WORKER_CALIBRATION_CORE_CLOCK_H_
#define FATHOM_WORKER_CALIBRATION_CORE_CLOCK_H_

#include "common/base/clock.h"

namespace fathom::calibration {

// Steady() is that of the calling thread: durations mean something within one thread only.
class CoreClock final : public Clock {
 public:
  // `wall` outlives the clock.
  explicit CoreClock(const Clock* wall) : wall_(wall) {}
  absl::Time Wall() const override { return wall_->Wall(); }
  absl::Duration Steady() const override;

 private:
  const Clock* const wall_;
};

// Of all threads that the process has had.
double ProcessCoreSeconds();

}  // namespace fathom::calibration

#endif  // FATHOM_WORKER_CALIBRATION_CORE_CLOCK_H_
