// The system's clocks. Only main targets and the shells they wire may include this.
#ifndef FATHOM_COMMON_BASE_REAL_CLOCK_H_
#define FATHOM_COMMON_BASE_REAL_CLOCK_H_

#include "common/base/clock.h"

namespace fathom {

class RealClock final : public Clock {
 public:
  absl::Time Wall() const override;
  absl::Duration Steady() const override;
};

}  // namespace fathom

#endif  // FATHOM_COMMON_BASE_REAL_CLOCK_H_
