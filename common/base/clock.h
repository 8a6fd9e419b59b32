// The time, handed in: code that decides takes a Clock (or a `now`), never the system's own.
//
// Two readings, never mixed: Wall() is for people and for stamps that outlive a process; it may
// jump. Steady() is for leases and durations; it never goes back, and means nothing to another
// process.
#ifndef FATHOM_COMMON_BASE_CLOCK_H_
#define FATHOM_COMMON_BASE_CLOCK_H_

#include <cstdint>

#include "absl/time/time.h"

namespace fathom {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual absl::Time Wall() const = 0;
  // Since an arbitrary moment that stays the same within one process.
  virtual absl::Duration Steady() const = 0;

  int64_t WallMs() const { return absl::ToUnixMillis(Wall()); }
  int64_t SteadyMs() const { return absl::ToInt64Milliseconds(Steady()); }
};

}  // namespace fathom

#endif  // FATHOM_COMMON_BASE_CLOCK_H_
