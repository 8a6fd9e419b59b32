// Why a layout lost against the best one, in a sentence.
#ifndef FATHOM_COORDINATOR_PLANNER_SEARCH_LOSS_REASON_H_
#define FATHOM_COORDINATOR_PLANNER_SEARCH_LOSS_REASON_H_

#include <string>

#include "coordinator/planner/search/costed_layout.h"

namespace fathom::planner {

// Bytes in decimal gigabytes, "93.1 GB"; smaller units where it is little.
std::string BytesText(double bytes);
// "19.93 s", "3.10 ms".
std::string SecondsText(double seconds);
std::string PercentText(double part);  // "8.1%"

// `best`: null where nothing fits.
std::string WhyItLost(const CostedLayout& loser, const CostedLayout* best, int64_t usable_bytes,
                      int nodes_of_group);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_SEARCH_LOSS_REASON_H_
