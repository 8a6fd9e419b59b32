// Two hundred cases over placements, sizes, stage times, messages and memory on which the searched
// schedule is held to the named ones.
#ifndef FATHOM_COMMON_SCHEDULE_SEARCH_GRID_H_
#define FATHOM_COMMON_SCHEDULE_SEARCH_GRID_H_

#include <string>

#include "common/schedule/searched_schedule.h"

namespace fathom::schedule {

inline constexpr int kGridCases = 200;

// Its memory is enough for at least one of the named schedules. Effort is kQuickEffort.
SearchRequest GridCase(int index);

// How the stages of a case differ, in words: "even", "heavy last stage", ...
std::string GridProfile(int index);
// "loop", "loop, 2 chunks", "v" or "bidirectional".
std::string GridPlacement(int index);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_SEARCH_GRID_H_
