// Reads what a timeline's instruction says it is: "F0.3", "Bi1.12", "W", a pair "F0.3|B1.1", or
// anything else, which is a part of the step by its name.
#ifndef FATHOM_CLI_TIMELINE_OP_H_
#define FATHOM_CLI_TIMELINE_OP_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace fathom::cli {

enum class TimelineOpKind : uint8_t { kForward, kBackward, kBackwardInput, kWeight, kOther };

struct TimelineOp {
  TimelineOpKind kind = TimelineOpKind::kOther;
  // The number before the point: the direction, or the chunk where all go one way. 0 of W.
  int way = 0;
  int64_t micro_batch = -1;
  std::string text;  // as it was written
};

// Two of an overlapped pair, else one.
std::vector<TimelineOp> ParseTimelineOps(absl::string_view what);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_TIMELINE_OP_H_
