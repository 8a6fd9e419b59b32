// Zero-bubble schedules of one chunk per rank (arXiv 2401.10241, section 2): 1F1B whose backwards
// give the gradient for the input at once and keep back that for the weights, to fill the bubbles
// with it.
#ifndef FATHOM_COMMON_SCHEDULE_ZERO_BUBBLE_H_
#define FATHOM_COMMON_SCHEDULE_ZERO_BUBBLE_H_

#include "absl/status/statusor.h"
#include "common/schedule/instruction.h"

namespace fathom::schedule {

// Both: INVALID_ARGUMENT as CheckScheduleSize says.

// ZB1P, also called ZB-H1: activations of at most P micro-batches on every rank, as the first rank
// of 1F1B has; a third of its bubble at F = Bi = W.
absl::StatusOr<Schedule> Zb1p(int ranks, int micro_batches);

// ZB2P, also called ZB-H2: activations of at most 2P - 1 micro-batches; no bubble at F = Bi = W but
// the ranks' beginning and ending one after the other.
absl::StatusOr<Schedule> Zb2p(int ranks, int micro_batches);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_ZERO_BUBBLE_H_
