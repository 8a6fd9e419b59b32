// The best layout of a job on so many devices: the least step time among those that fit memory.
//
// It goes through every shape (layout_space), recomputation and schedule. What can't fit is left
// out by the bytes of its state alone; what can't win, by its arithmetic alone: no rank ends before
// its own work and the first micro-batch's way to it. The rest is simulated. Stages are split by
// predicted times, and those of the winner improved layer by layer.
//
// A layout that ranks can't run yet is told of but not taken, unless its schedule is asked for.
// Pure, one thread, deterministic.
#ifndef FATHOM_COORDINATOR_PLANNER_SEARCH_LAYOUT_SEARCH_H_
#define FATHOM_COORDINATOR_PLANNER_SEARCH_LAYOUT_SEARCH_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/planner/search/costed_layout.h"
#include "coordinator/planner/search/layout_space.h"

namespace fathom::planner {

struct SearchRequest {
  SpaceLimits space;
  LayoutShape base;          // what all have: sequence length, imbalance, snapshots
  int64_t usable_bytes = 0;  // of a device's memory
  std::string schedule;      // only this kind, run by ranks or not; empty: all
  int candidates = 8;        // at most, in SearchResult.others
};

struct SearchResult {
  std::optional<CostedLayout> best;  // none: nothing fits
  // The best of each other shape, and of each schedule of the best one's; by time, what doesn't fit
  // last.
  std::vector<CostedLayout> others;
  int64_t considered = 0;
  int64_t infeasible = 0;    // by memory
  bool leaves_idle = false;  // no layout that fits uses every device
};

// Codes of the cost functions; INVALID_ARGUMENT: no such schedule.
absl::StatusOr<SearchResult> SearchLayouts(const SearchRequest& request,
                                           const CostFunctions& costs);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_SEARCH_LAYOUT_SEARCH_H_
