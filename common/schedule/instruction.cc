#include "common/schedule/instruction.h"

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace fathom::schedule {
namespace {

const char* Letter(OpKind kind) {
  switch (kind) {
    case OpKind::kForward:
      return "F";
    case OpKind::kBackward:
      return "B";
    case OpKind::kBackwardInput:
      return "Bi";
    case OpKind::kWeight:
      return "W";
  }
  return "?";
}

}  // namespace

std::string ToString(const Op& op) {
  // The FIFO says which entry a W runs.
  if (op.kind == OpKind::kWeight) return Letter(op.kind);
  return absl::StrCat(Letter(op.kind), op.direction, ".", op.micro_batch);
}

std::string ToString(const Instruction& instruction) {
  if (!instruction.overlapped) return ToString(instruction.first);
  return absl::StrCat(ToString(instruction.first), "|", ToString(instruction.second));
}

std::string ToString(const std::vector<Instruction>& list) {
  std::string text;
  for (const Instruction& instruction : list) {
    const bool overlapped = instruction.overlapped;
    absl::StrAppend(&text, text.empty() ? "" : " ", overlapped ? "[" : "", ToString(instruction),
                    overlapped ? "]" : "");
  }
  return text;
}

int StageOf(const Schedule& schedule, int rank, int direction) {
  FATHOM_CHECK(rank >= 0 && rank < schedule.ranks) << rank;
  FATHOM_CHECK(direction >= 0 && direction < schedule.directions) << direction;
  return direction == 0 ? rank : schedule.ranks - 1 - rank;
}

int RankOf(const Schedule& schedule, int stage, int direction) {
  return StageOf(schedule, stage, direction);  // the mirror of the mirror
}

int BatchesPerDirection(const Schedule& schedule) {
  return schedule.micro_batches / schedule.directions;
}

}  // namespace fathom::schedule
