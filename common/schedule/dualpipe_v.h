// DualPipeV: DualPipe cut in half. P ranks hold 2P stages in the shape of a V, so that forwards on
// the way down overlap with backwards on the way up; micro-batches come and go at rank 0 alone.
#ifndef FATHOM_COMMON_SCHEDULE_DUALPIPE_V_H_
#define FATHOM_COMMON_SCHEDULE_DUALPIPE_V_H_

#include "absl/status/statusor.h"
#include "common/schedule/instruction.h"

namespace fathom::schedule {

// INVALID_ARGUMENT unless M >= 2P, and as CheckScheduleSize says.
absl::StatusOr<Schedule> DualPipeV(int ranks, int micro_batches);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_DUALPIPE_V_H_
