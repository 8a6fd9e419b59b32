#include "common/base/real_clock.h"

#include <chrono>

#include "absl/time/clock.h"

namespace fathom {

absl::Time RealClock::Wall() const { return absl::Now(); }

absl::Duration RealClock::Steady() const {
  return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace fathom
