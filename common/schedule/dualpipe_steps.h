// The eight steps that DualPipe and DualPipeV share: two streams of micro-batches meet on a rank,
// and forwards of one run overlapped with backwards of the other.
#ifndef FATHOM_COMMON_SCHEDULE_DUALPIPE_STEPS_H_
#define FATHOM_COMMON_SCHEDULE_DUALPIPE_STEPS_H_

#include "common/schedule/rank_list.h"

namespace fathom::schedule {

// Writes a rank's list. Track 0 of `list` is the stream that reaches the rank first. `half`: ranks
// from an end of the streams to where they meet; `depth`: this rank's distance from that end, below
// `half`. The tracks have at least 2 * half - depth - 1 micro-batches each.
void AppendDualPipe(int half, int depth, int micro_batches, RankList& list);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_DUALPIPE_STEPS_H_
