#include "common/schedule/zero_bubble.h"

#include <algorithm>
#include <vector>

#include "common/base/status_util.h"
#include "common/schedule/rank_list.h"

namespace fathom::schedule {
namespace {

// `ahead` forwards first; then one backward, a weight gradient when more than `kept_back` wait, one
// forward. Activations: at most ahead + kept_back.
std::vector<Instruction> ZeroBubbleRank(int micro_batches, int ahead, size_t kept_back) {
  RankList list({{0, 0}}, micro_batches);
  for (int i = 0; i < std::min(ahead, micro_batches); ++i) list.Forward(0);
  for (int i = 0; i < micro_batches; ++i) {
    list.BackwardInput(0);
    if (list.deferred() > kept_back) list.Weight();
    if (list.forwards(0) < micro_batches) list.Forward(0);
  }
  while (list.deferred() > 0) list.Weight();
  return list.Finish();
}

}  // namespace

absl::StatusOr<Schedule> Zb1p(int ranks, int micro_batches) {
  FATHOM_RETURN_IF_ERROR(CheckScheduleSize(ranks, micro_batches));
  Schedule schedule = OneWaySchedule("zb1p", ranks, micro_batches);
  for (int rank = 0; rank < ranks; ++rank) {
    schedule.lists.push_back(ZeroBubbleRank(micro_batches, ranks - rank, rank));
  }
  return schedule;
}

absl::StatusOr<Schedule> Zb2p(int ranks, int micro_batches) {
  FATHOM_RETURN_IF_ERROR(CheckScheduleSize(ranks, micro_batches));
  Schedule schedule = OneWaySchedule("zb2p", ranks, micro_batches);
  for (int rank = 0; rank < ranks; ++rank) {
    schedule.lists.push_back(ZeroBubbleRank(micro_batches, 2 * (ranks - rank) - 1, 2 * rank));
  }
  return schedule;
}

}  // namespace fathom::schedule
