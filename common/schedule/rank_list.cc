#include "common/schedule/rank_list.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace fathom::schedule {

RankList::RankList(std::vector<Track> tracks, int micro_batches)
    : tracks_(std::move(tracks)),
      micro_batches_(micro_batches),
      forwards_(tracks_.size(), 0),
      backwards_(tracks_.size(), 0) {}

void RankList::Forward(int track) { Add(Next(OpKind::kForward, track, forwards_)); }

void RankList::Backward(int track) { Add(Next(OpKind::kBackward, track, backwards_)); }

void RankList::BackwardInput(int track) {
  const Op op = Next(OpKind::kBackwardInput, track, backwards_);
  Add(op);
  deferred_.push_back(op);
}

void RankList::Overlapped(int forward_track, int backward_track) {
  Instruction instruction;
  instruction.first = Next(OpKind::kForward, forward_track, forwards_);
  instruction.second = Next(OpKind::kBackward, backward_track, backwards_);
  instruction.overlapped = true;
  list_.push_back(instruction);
}

void RankList::Weight() {
  FATHOM_CHECK(!deferred_.empty()) << "no deferred weight gradient after " << list_.size();
  Op op = deferred_.front();
  deferred_.pop_front();
  op.kind = OpKind::kWeight;
  Add(op);
}

std::vector<Instruction> RankList::Finish(bool with_backward) {
  const int backwards = with_backward ? micro_batches_ : 0;
  for (size_t track = 0; track < tracks_.size(); ++track) {
    FATHOM_CHECK(forwards_[track] == micro_batches_) << forwards_[track];
    FATHOM_CHECK(backwards_[track] == backwards) << backwards_[track];
  }
  FATHOM_CHECK(deferred_.empty()) << deferred_.size();
  return std::move(list_);
}

Op RankList::Next(OpKind kind, int track, std::vector<int>& counts) {
  return {kind, tracks_[track].direction, counts[track]++, tracks_[track].chunk};
}

void RankList::Add(const Op& op) {
  Instruction instruction;
  instruction.first = op;
  list_.push_back(instruction);
}

absl::Status CheckScheduleSize(int ranks, int micro_batches, int chunks) {
  if (ranks < 1 || ranks > kMaxScheduleRanks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "pipeline ranks: ", ranks, "; choose at least 1 and at most ", kMaxScheduleRanks));
  }
  if (chunks < 1 || chunks > kMaxScheduleCells / ranks) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunks: ", chunks, " on ", ranks,
                     " pipeline ranks; choose at least 1 and at most ", kMaxScheduleCells / ranks));
  }
  const int64_t stages = int64_t{ranks} * chunks;
  if (micro_batches < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("micro-batches: ", micro_batches, "; choose at least 1"));
  }
  if (micro_batches > kMaxScheduleCells / stages) {
    return absl::InvalidArgumentError(absl::StrCat("micro-batches: ", micro_batches, " on ", ranks,
                                                   " pipeline ranks; choose at most ",
                                                   kMaxScheduleCells / stages));
  }
  return absl::OkStatus();
}

Schedule OneWaySchedule(const char* kind, int ranks, int micro_batches, int chunks,
                        Placement placement) {
  Schedule schedule;
  schedule.kind = kind;
  schedule.ranks = ranks;
  schedule.micro_batches = micro_batches;
  schedule.chunks = chunks;
  schedule.stages = ranks * chunks;
  schedule.placement = placement;
  return schedule;
}

}  // namespace fathom::schedule
