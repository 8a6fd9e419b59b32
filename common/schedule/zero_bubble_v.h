// ZB-V (arXiv 2401.10241, section 6): P ranks hold 2P stages in the shape of a V, and weight
// gradients are kept back where they fill a bubble. No bubble at F = Bi = W but the ranks'
// beginning and ending one after the other, with the activations of 1F1B (2P chunks of half a rank
// each).
#ifndef FATHOM_COMMON_SCHEDULE_ZERO_BUBBLE_V_H_
#define FATHOM_COMMON_SCHEDULE_ZERO_BUBBLE_V_H_

#include "absl/status/statusor.h"
#include "common/schedule/instruction.h"

namespace fathom::schedule {

// INVALID_ARGUMENT unless M >= 2P, and as CheckScheduleSize says.
absl::StatusOr<Schedule> ZbV(int ranks, int micro_batches);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_ZERO_BUBBLE_V_H_
