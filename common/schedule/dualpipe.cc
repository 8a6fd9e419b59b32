#include "common/schedule/dualpipe.h"

#include <algorithm>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/schedule/dualpipe_steps.h"
#include "common/schedule/rank_list.h"

namespace fathom::schedule {
namespace {

// Phase 0 is the direction whose micro-batches reach this rank first, so both halves of the
// pipeline run the same steps.
RankList Phases(int ranks, int rank, int per_direction) {
  const int first = rank >= ranks / 2 ? 1 : 0;
  return RankList({{first, 0}, {1 - first, 0}}, per_direction);
}

std::vector<Instruction> DualPipeRank(int ranks, int rank, int per_direction) {
  RankList list = Phases(ranks, rank, per_direction);
  AppendDualPipe(ranks / 2, std::min(rank, ranks - 1 - rank), per_direction, list);
  return list.Finish();
}

// Phase 0 runs alone until phase 1 has come across the pipeline; then they take turns.
std::vector<Instruction> ForwardRank(int ranks, int rank, int per_direction) {
  const int depth = std::min(rank, ranks - 1 - rank);
  const int ahead = std::min(per_direction, ranks - 1 - 2 * depth);
  RankList list = Phases(ranks, rank, per_direction);
  for (int i = 0; i < ahead; ++i) list.Forward(0);
  for (int i = 0; i < per_direction; ++i) {
    list.Forward(1);
    if (ahead + i < per_direction) list.Forward(0);
  }
  return list.Finish(/*with_backward=*/false);
}

absl::Status CheckBidirectional(int ranks, int micro_batches, int64_t min_micro_batches) {
  if (ranks < 2 || ranks % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "pipeline ranks: ", ranks, "; two directions need an even number of at least 2"));
  }
  if (micro_batches < min_micro_batches || micro_batches % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("micro-batches: ", micro_batches, " on ", ranks,
                                                   " pipeline ranks; choose an even number of at "
                                                   "least ",
                                                   min_micro_batches));
  }
  return CheckScheduleSize(ranks, micro_batches);
}

absl::Status CheckSequential(int micro_batches) {
  if (micro_batches >= 1) return CheckScheduleSize(1, micro_batches);
  return absl::InvalidArgumentError(
      absl::StrCat("micro-batches: ", micro_batches, "; choose at least 1"));
}

Schedule Bidirectional(const char* kind, int ranks, int micro_batches) {
  Schedule schedule;
  schedule.kind = kind;
  schedule.ranks = ranks;
  schedule.micro_batches = micro_batches;
  schedule.directions = 2;
  schedule.stages = ranks;
  return schedule;
}

Schedule OneRank(const char* kind, int micro_batches, bool with_backward) {
  Schedule schedule;
  schedule.kind = kind;
  schedule.ranks = 1;
  schedule.micro_batches = micro_batches;
  schedule.directions = 1;
  schedule.stages = 1;
  schedule.lists.resize(1);
  for (int m = 0; m < micro_batches; ++m) {
    Instruction instruction;
    instruction.first = {OpKind::kForward, 0, m};
    schedule.lists[0].push_back(instruction);
    if (!with_backward) continue;
    instruction.first.kind = OpKind::kBackward;
    schedule.lists[0].push_back(instruction);
  }
  return schedule;
}

}  // namespace

absl::StatusOr<Schedule> DualPipe(int ranks, int micro_batches) {
  const absl::Status status = CheckBidirectional(ranks, micro_batches, 2 * int64_t{ranks});
  if (!status.ok()) return status;
  Schedule schedule = Bidirectional("dualpipe", ranks, micro_batches);
  for (int rank = 0; rank < ranks; ++rank) {
    schedule.lists.push_back(DualPipeRank(ranks, rank, micro_batches / 2));
  }
  return schedule;
}

absl::StatusOr<Schedule> Sequential(int micro_batches) {
  const absl::Status status = CheckSequential(micro_batches);
  if (!status.ok()) return status;
  return OneRank("sequential", micro_batches, /*with_backward=*/true);
}

absl::StatusOr<Schedule> ForwardOnly(int ranks, int micro_batches) {
  if (ranks == 1) {
    const absl::Status status = CheckSequential(micro_batches);
    if (!status.ok()) return status;
    return OneRank(kForwardOnlyKind, micro_batches, /*with_backward=*/false);
  }
  const absl::Status status = CheckBidirectional(ranks, micro_batches, 2);
  if (!status.ok()) return status;
  Schedule schedule = Bidirectional(kForwardOnlyKind, ranks, micro_batches);
  for (int rank = 0; rank < ranks; ++rank) {
    schedule.lists.push_back(ForwardRank(ranks, rank, micro_batches / 2));
  }
  return schedule;
}

}  // namespace fathom::schedule
