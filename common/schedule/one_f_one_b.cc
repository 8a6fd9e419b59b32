#include "common/schedule/one_f_one_b.h"

#include <algorithm>

#include "common/base/status_util.h"
#include "common/schedule/rank_list.h"

namespace fathom::schedule {

absl::StatusOr<Schedule> OneFOneB(int ranks, int micro_batches) {
  FATHOM_RETURN_IF_ERROR(CheckScheduleSize(ranks, micro_batches));
  Schedule schedule = OneWaySchedule("1f1b", ranks, micro_batches);
  for (int rank = 0; rank < ranks; ++rank) {
    RankList list({{0, 0}}, micro_batches);
    const int ahead = std::min(micro_batches, ranks - rank);
    for (int i = 0; i < ahead; ++i) list.Forward(0);
    for (int i = 0; i < micro_batches; ++i) {
      list.Backward(0);
      if (list.forwards(0) < micro_batches) list.Forward(0);
    }
    schedule.lists.push_back(list.Finish());
  }
  return schedule;
}

}  // namespace fathom::schedule
