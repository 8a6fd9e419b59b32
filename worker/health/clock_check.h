// Whether this machine's wall clock runs with its steady one while the preflight runs, and whether
// the kernel holds it to be synchronised (adjtimex(2), which NTP daemons set). A step breaks time
// stamps and leases of other programs; being unsynchronised is told, and passes: Fathom's own
// leases rest on the steady clock.
#ifndef FATHOM_WORKER_HEALTH_CLOCK_CHECK_H_
#define FATHOM_WORKER_HEALTH_CLOCK_CHECK_H_

#include <optional>
#include <vector>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "proto/fathom/v1/cluster.pb.h"

namespace fathom::health {

// Further apart than this over a preflight is a step: NTP slews by at most 0.5 ms a second.
inline constexpr absl::Duration kMaxClockStep = absl::Milliseconds(20);

// The kernel's opinion of its clock.
struct ClockSync {
  bool synchronised = false;
  absl::Duration max_error;  // that it allows for
};

// Nothing: the kernel does not say, as in some sandboxes.
std::optional<ClockSync> ReadClockSync();

struct ClockReading {
  absl::Time wall;
  absl::Duration steady;
};

ClockReading ReadClock(const Clock& clock);

// clock_step (ms, absolute) and clock_sync (the largest error in ms).
std::vector<v1::PreflightCheck> CheckClock(const ClockReading& begin, const ClockReading& end,
                                           const std::optional<ClockSync>& sync);

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_CLOCK_CHECK_H_
