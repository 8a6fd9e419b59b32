// 1F1B: after enough forwards to fill the pipeline, every rank alternates one forward and one
// backward, so that rank r holds the activations of at most P - r micro-batches.
#ifndef FATHOM_COMMON_SCHEDULE_ONE_F_ONE_B_H_
#define FATHOM_COMMON_SCHEDULE_ONE_F_ONE_B_H_

#include "absl/status/statusor.h"
#include "common/schedule/instruction.h"

namespace fathom::schedule {

// INVALID_ARGUMENT as CheckScheduleSize says.
absl::StatusOr<Schedule> OneFOneB(int ranks, int micro_batches);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_ONE_F_ONE_B_H_
