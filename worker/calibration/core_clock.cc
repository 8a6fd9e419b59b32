#include "worker/calibration/core_clock.h"

#include <ctime>

#include "absl/time/time.h"
#include "common/base/check.h"

namespace fathom::calibration {
namespace {

absl::Duration Read(clockid_t clock) {
  timespec time{};
  FATHOM_CHECK(clock_gettime(clock, &time) == 0) << "clock " << clock;
  return absl::DurationFromTimespec(time);
}

}  // namespace

absl::Duration CoreClock::Steady() const { return Read(CLOCK_THREAD_CPUTIME_ID); }

double ProcessCoreSeconds() { return absl::ToDoubleSeconds(Read(CLOCK_PROCESS_CPUTIME_ID)); }

}  // namespace fathom::calibration
