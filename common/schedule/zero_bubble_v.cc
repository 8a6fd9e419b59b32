#include "common/schedule/zero_bubble_v.h"

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "common/schedule/rank_list.h"

namespace fathom::schedule {
namespace {

std::vector<Instruction> ZbVRank(int ranks, int rank, int micro_batches) {
  RankList list({{0, 0}, {0, 1}}, micro_batches);
  auto backward = [&](int chunk) {
    list.BackwardInput(chunk);
    list.Weight();
  };
  // Fill: as many forwards as go down and come back before this rank's first one on the way up.
  for (int i = 0; i < 2 * (ranks - rank) - 1; ++i) list.Forward(0);
  for (int i = 0; i < rank; ++i) {
    list.Forward(1);
    list.Forward(0);
  }
  for (int i = 0; i < ranks - rank; ++i) {
    list.Forward(1);
    backward(1);
  }
  // Steady: each round one micro-batch down, one up, and the backwards of two others.
  while (list.forwards(1) < micro_batches) {
    if (list.forwards(0) < micro_batches) list.Forward(0);
    backward(0);
    list.Forward(1);
    backward(1);
  }
  // Empty: input gradients first, since other ranks wait for them.
  for (int i = 0; i < rank; ++i) {
    list.BackwardInput(0);
    list.BackwardInput(1);
  }
  for (int i = 0; i < ranks - rank; ++i) backward(0);
  while (list.deferred() > 0) list.Weight();
  return list.Finish();
}

}  // namespace

absl::StatusOr<Schedule> ZbV(int ranks, int micro_batches) {
  FATHOM_RETURN_IF_ERROR(CheckScheduleSize(ranks, micro_batches, 2));
  if (micro_batches < 2 * int64_t{ranks}) {
    return absl::InvalidArgumentError(absl::StrCat("micro-batches: ", micro_batches, " on ", ranks,
                                                   " pipeline ranks; choose at least ",
                                                   2 * int64_t{ranks}));
  }
  Schedule schedule = OneWaySchedule("zbv", ranks, micro_batches, 2, Placement::kV);
  for (int rank = 0; rank < ranks; ++rank) {
    schedule.lists.push_back(ZbVRank(ranks, rank, micro_batches));
  }
  return schedule;
}

}  // namespace fathom::schedule
