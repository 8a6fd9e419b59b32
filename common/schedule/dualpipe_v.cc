#include "common/schedule/dualpipe_v.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "common/schedule/dualpipe_steps.h"
#include "common/schedule/rank_list.h"

namespace fathom::schedule {

absl::StatusOr<Schedule> DualPipeV(int ranks, int micro_batches) {
  FATHOM_RETURN_IF_ERROR(CheckScheduleSize(ranks, micro_batches, 2));
  if (micro_batches < 2 * int64_t{ranks}) {
    return absl::InvalidArgumentError(absl::StrCat("micro-batches: ", micro_batches, " on ", ranks,
                                                   " pipeline ranks; choose at least ",
                                                   2 * int64_t{ranks}));
  }
  Schedule schedule = OneWaySchedule("dualpipev", ranks, micro_batches, 2, Placement::kV);
  for (int rank = 0; rank < ranks; ++rank) {
    RankList list({{0, 0}, {0, 1}}, micro_batches);
    AppendDualPipe(ranks, rank, micro_batches, list);
    schedule.lists.push_back(list.Finish());
  }
  return schedule;
}

}  // namespace fathom::schedule
