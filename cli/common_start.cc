#include "cli/common_start.h"

#include <algorithm>
#include <cstdint>
#include <limits>

namespace fathom::cli {

v1::Timeline WithCommonStart(v1::Timeline timeline) {
  uint64_t first = std::numeric_limits<int64_t>::max();
  uint64_t last = 0;
  double longest_s = 0;
  for (const v1::RankTimes& rank : timeline.ranks()) {
    const auto begin = static_cast<uint64_t>(std::max<int64_t>(0, rank.begin_us()));
    first = std::min(first, begin);
    last = std::max(last, begin);
    for (const v1::TimedInstruction& instruction : rank.instructions()) {
      longest_s = std::max(longest_s, instruction.end_s());
    }
  }
  const bool known =
      first > 0 && last > first && static_cast<double>(last - first) * 1e-6 <= longest_s;
  if (!known) return timeline;
  for (v1::RankTimes& rank : *timeline.mutable_ranks()) {
    const double shift = static_cast<double>(static_cast<uint64_t>(rank.begin_us()) - first) * 1e-6;
    rank.set_begin_us(static_cast<int64_t>(first));
    for (v1::TimedInstruction& instruction : *rank.mutable_instructions()) {
      instruction.set_start_s(instruction.start_s() + shift);
      instruction.set_end_s(instruction.end_s() + shift);
    }
  }
  return timeline;
}

}  // namespace fathom::cli
