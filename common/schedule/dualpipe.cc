#include "common/schedule/dualpipe.h"

#include <algorithm>
#include <array>
#include <deque>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace fathom::schedule {
namespace {

// Writes one rank's list. Speaks of phases: phase 0 is the direction whose micro-batches reach this
// rank first, so both halves of the pipeline run the same steps.
class RankList {
 public:
  RankList(int ranks, int rank, int per_direction)
      : swapped_(rank >= ranks / 2), per_direction_(per_direction) {}

  void Forward(int phase) { Add(NextForward(phase)); }
  void Backward(int phase) { Add(NextBackward(phase)); }

  void BackwardInput(int phase) {
    Op op = NextBackward(phase);
    op.kind = OpKind::kBackwardInput;
    Add(op);
    deferred_.push_back(op);
  }

  void Weight() {
    FATHOM_CHECK(!deferred_.empty()) << "no deferred weight gradient after " << list_.size();
    Op op = deferred_.front();
    deferred_.pop_front();
    op.kind = OpKind::kWeight;
    Add(op);
  }

  void Overlapped(int forward_phase, int backward_phase) {
    Instruction instruction;
    instruction.first = NextForward(forward_phase);
    instruction.second = NextBackward(backward_phase);
    instruction.overlapped = true;
    list_.push_back(instruction);
  }

  std::vector<Instruction> Finish(bool with_backward = true) {
    const int backwards = with_backward ? per_direction_ : 0;
    for (int phase : {0, 1}) {
      FATHOM_CHECK(forwards_[phase] == per_direction_) << forwards_[phase];
      FATHOM_CHECK(backwards_[phase] == backwards) << backwards_[phase];
    }
    FATHOM_CHECK(deferred_.empty()) << deferred_.size();
    return std::move(list_);
  }

 private:
  int Direction(int phase) const { return swapped_ ? 1 - phase : phase; }
  Op NextForward(int phase) { return {OpKind::kForward, Direction(phase), forwards_[phase]++}; }
  Op NextBackward(int phase) { return {OpKind::kBackward, Direction(phase), backwards_[phase]++}; }
  void Add(const Op& op) {
    Instruction instruction;
    instruction.first = op;
    list_.push_back(instruction);
  }

  const bool swapped_;
  const int per_direction_;
  std::array<int, 2> forwards_ = {0, 0};
  std::array<int, 2> backwards_ = {0, 0};
  std::deque<Op> deferred_;
  std::vector<Instruction> list_;
};

// The eight steps of the public DualPipe code, in their order.
std::vector<Instruction> DualPipeRank(int ranks, int rank, int per_direction) {
  const int half = ranks / 2;
  const int depth = std::min(rank, ranks - 1 - rank);  // h: distance from the nearer end
  const bool middle = depth == half - 1;
  RankList list(ranks, rank, per_direction);

  for (int i = 0; i < 2 * (half - depth - 1); ++i) list.Forward(0);
  for (int i = 0; i < depth + 1; ++i) {
    list.Forward(0);
    list.Forward(1);
  }
  for (int i = 0; i < half - depth - 1; ++i) {
    list.BackwardInput(1);
    list.Weight();
    list.Forward(1);
  }
  for (int i = 0; i < per_direction - ranks + depth + 1; ++i) {
    if (i == 0 && middle) {
      // Both ends of this pair would wait for each other's neighbour: run it apart.
      list.Forward(0);
      list.Backward(1);
    } else {
      list.Overlapped(0, 1);
    }
    list.Overlapped(1, 0);
  }
  for (int i = 0; i < half - depth - 1; ++i) {
    list.Backward(1);
    list.Overlapped(1, 0);
  }
  // Zero bubble: from here on weight gradients are kept back, to fill the end of the step.
  const int turn = (depth + 1) / 2;
  bool defer = false;
  for (int i = 0; i < depth + 1; ++i) {
    if (i == turn && depth % 2 == 1) defer = true;
    defer ? list.BackwardInput(1) : list.Backward(1);
    if (i == turn && depth % 2 == 0) defer = true;
    defer ? list.BackwardInput(0) : list.Backward(0);
  }
  for (int i = 0; i < half - depth - 1; ++i) {
    list.Weight();
    list.BackwardInput(0);
  }
  for (int i = 0; i < depth + 1; ++i) list.Weight();
  return list.Finish();
}

// Phase 0 runs alone until phase 1 has come across the pipeline; then they take turns.
std::vector<Instruction> ForwardRank(int ranks, int rank, int per_direction) {
  const int depth = std::min(rank, ranks - 1 - rank);
  const int ahead = std::min(per_direction, ranks - 1 - 2 * depth);
  RankList list(ranks, rank, per_direction);
  for (int i = 0; i < ahead; ++i) list.Forward(0);
  for (int i = 0; i < per_direction; ++i) {
    list.Forward(1);
    if (ahead + i < per_direction) list.Forward(0);
  }
  return list.Finish(/*with_backward=*/false);
}

absl::Status CheckSize(int ranks, int micro_batches) {
  if (int64_t{ranks} * micro_batches <= kMaxScheduleCells) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("micro-batches: ", micro_batches, " on ", ranks,
                                                 " pipeline ranks; choose at most ",
                                                 kMaxScheduleCells / ranks));
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
  return CheckSize(ranks, micro_batches);
}

absl::Status CheckSequential(int micro_batches) {
  if (micro_batches >= 1) return CheckSize(1, micro_batches);
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
