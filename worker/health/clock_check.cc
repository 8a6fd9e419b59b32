#include "worker/health/clock_check.h"

#include <sys/timex.h>

#include "absl/strings/str_format.h"
#include "common/health/preflight_verdict.h"

namespace fathom::health {
namespace {

constexpr int kReadings = 8;

}  // namespace

std::optional<ClockSync> ReadClockSync() {
  timex state{};  // modes 0: reads only
  const int result = ::adjtimex(&state);
  if (result < 0) return std::nullopt;
  return ClockSync{result != TIME_ERROR && (state.status & STA_UNSYNC) == 0,
                   absl::Microseconds(state.maxerror)};
}

ClockReading ReadClock(const Clock& clock) {
  // Being put aside between the two must not look like a step: the closest of a few readings.
  ClockReading best;
  absl::Duration closest = absl::InfiniteDuration();
  for (int i = 0; i < kReadings; ++i) {
    const absl::Duration before = clock.Steady();
    const absl::Time wall = clock.Wall();
    const absl::Duration apart = clock.Steady() - before;
    if (apart >= closest) continue;
    closest = apart;
    best = {wall, before + apart / 2};
  }
  return best;
}

std::vector<v1::PreflightCheck> CheckClock(const ClockReading& begin, const ClockReading& end,
                                           const std::optional<ClockSync>& sync) {
  const absl::Duration step =
      absl::AbsDuration((end.wall - begin.wall) - (end.steady - begin.steady));
  v1::PreflightCheck stepped;
  stepped.set_name(std::string(kClockStep));
  stepped.set_unit("ms");
  stepped.set_value(absl::ToDoubleMilliseconds(step));
  stepped.set_threshold(absl::ToDoubleMilliseconds(kMaxClockStep));
  stepped.set_at_most(true);
  stepped.set_passed(step <= kMaxClockStep);
  if (!stepped.passed()) {
    stepped.set_message(absl::StrFormat(
        "the wall clock was set by %.1f ms within %.1f s; find out what sets it, and check again",
        absl::ToDoubleMilliseconds(step), absl::ToDoubleSeconds(end.steady - begin.steady)));
  }
  v1::PreflightCheck synced;
  synced.set_name(std::string(kClockSync));
  synced.set_unit("ms");
  synced.set_passed(true);
  if (!sync) {
    synced.set_message("warning: the kernel does not say whether its clock is synchronised");
  } else {
    synced.set_value(absl::ToDoubleMilliseconds(sync->max_error));
    if (!sync->synchronised) {
      synced.set_message("warning: the clock is not synchronised; run an NTP daemon");
    }
  }
  return {stepped, synced};
}

}  // namespace fathom::health
