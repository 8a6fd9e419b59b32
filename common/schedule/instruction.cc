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

// Whether this pass over the ranks goes from the last to the first.
bool GoesBackUp(const Schedule& schedule, int direction, int chunk) {
  return direction == 1 || (schedule.placement == Placement::kV && chunk % 2 == 1);
}

}  // namespace

std::string ToString(const Op& op) {
  // The FIFO says which entry a W runs.
  if (op.kind == OpKind::kWeight) return Letter(op.kind);
  // Two directions have one chunk each, so one number tells both.
  return absl::StrCat(Letter(op.kind), op.direction + op.chunk, ".", op.micro_batch);
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

int StageOf(const Schedule& schedule, int rank, int direction, int chunk) {
  FATHOM_CHECK(rank >= 0 && rank < schedule.ranks) << rank;
  FATHOM_CHECK(direction >= 0 && direction < schedule.directions) << direction;
  FATHOM_CHECK(chunk >= 0 && chunk < schedule.chunks) << chunk;
  const int place = GoesBackUp(schedule, direction, chunk) ? schedule.ranks - 1 - rank : rank;
  return chunk * schedule.ranks + place;
}

int RankOf(const Schedule& schedule, int stage, int direction) {
  FATHOM_CHECK(direction >= 0 && direction < schedule.directions) << direction;
  const int chunk = ChunkOf(schedule, stage);
  const int place = stage % schedule.ranks;
  return GoesBackUp(schedule, direction, chunk) ? schedule.ranks - 1 - place : place;
}

int ChunkOf(const Schedule& schedule, int stage) {
  FATHOM_CHECK(stage >= 0 && stage < schedule.stages) << stage;
  return stage / schedule.ranks;
}

int BatchesPerDirection(const Schedule& schedule) {
  return schedule.micro_batches / schedule.directions;
}

}  // namespace fathom::schedule
