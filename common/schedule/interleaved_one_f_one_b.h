// Interleaved 1F1B (arXiv 2104.04473, section 2.2): every rank holds several shorter stages, a lap
// of the ranks apart. Micro-batches go in groups of P; a group runs through one chunk after the
// other. Bubbles last as long as one chunk's work instead of the whole rank's, for more activations
// and more messages.
#ifndef FATHOM_COMMON_SCHEDULE_INTERLEAVED_ONE_F_ONE_B_H_
#define FATHOM_COMMON_SCHEDULE_INTERLEAVED_ONE_F_ONE_B_H_

#include "absl/status/statusor.h"
#include "common/schedule/instruction.h"

namespace fathom::schedule {

// INVALID_ARGUMENT unless P >= 2, chunks >= 2 and M is a multiple of P, and as CheckScheduleSize
// says.
absl::StatusOr<Schedule> InterleavedOneFOneB(int ranks, int micro_batches, int chunks);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_INTERLEAVED_ONE_F_ONE_B_H_
