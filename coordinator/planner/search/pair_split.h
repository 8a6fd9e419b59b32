// Stages for schedules whose ranks hold two: stage i and stage S-1-i (DualPipe, DualPipeV, ZB-V).
//
// A rank is paced by the sum of its two stages, so the largest such sum is made as small as runs of
// whole layers allow; among the splits that reach it, the one with the most even stages, as
// micro-batches pass all of them one after the other. Measured times go in, not operations: layers
// of few operations may wait for memory or the network.
#ifndef FATHOM_COORDINATOR_PLANNER_SEARCH_PAIR_SPLIT_H_
#define FATHOM_COORDINATOR_PLANNER_SEARCH_PAIR_SPLIT_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/planner/stage_split.h"

namespace fathom::planner {

// Above so many layers pairs are not balanced: SplitLayers alone is.
inline constexpr int kMaxPairedLayers = 256;

// Layers of each stage; `stages` even. Only a stage at an end may have none. INVALID_ARGUMENT
// unless 2 <= stages <= layers and even.
absl::StatusOr<std::vector<int64_t>> SplitPairs(const LayerCosts& costs, int stages);

// The largest sum of a stage and its mirror (of one stage, itself).
double LongestPair(const LayerCosts& costs, const std::vector<int64_t>& stage_layers);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_SEARCH_PAIR_SPLIT_H_
