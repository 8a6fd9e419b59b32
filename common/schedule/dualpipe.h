// DualPipe (arXiv 2412.19437, section 3.2.1): micro-batches enter from both ends
// of the pipeline, every rank holds stage r and its mirror P-1-r, and forwards of one direction run
// overlapped with backwards of the other.
#ifndef FATHOM_COMMON_SCHEDULE_DUALPIPE_H_
#define FATHOM_COMMON_SCHEDULE_DUALPIPE_H_

#include "absl/status/statusor.h"
#include "common/schedule/instruction.h"

namespace fathom::schedule {

// All three: INVALID_ARGUMENT also when P * M exceeds kMaxScheduleCells.

// INVALID_ARGUMENT unless P is even and at least 2, M is even and M >= 2P.
absl::StatusOr<Schedule> DualPipe(int ranks, int micro_batches);

// One rank, one stage: F0.0 B0.0 F0.1 B0.1 ... INVALID_ARGUMENT unless M >= 1.
absl::StatusOr<Schedule> Sequential(int micro_batches);

// Forwards alone, for validation: both directions for P >= 2 (P even, M even), one for P = 1.
absl::StatusOr<Schedule> ForwardOnly(int ranks, int micro_batches);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_DUALPIPE_H_
