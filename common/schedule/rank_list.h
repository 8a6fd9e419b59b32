// Writing down one rank's list of a schedule: counts the micro-batches, and keeps the FIFO of
// deferred weight gradients, so that what writes a schedule only says which op comes next.
#ifndef FATHOM_COMMON_SCHEDULE_RANK_LIST_H_
#define FATHOM_COMMON_SCHEDULE_RANK_LIST_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "absl/status/status.h"
#include "common/schedule/instruction.h"

namespace fathom::schedule {

class RankList {
 public:
  // One way of a micro-batch through this rank; methods name it by its place among `tracks`.
  struct Track {
    int direction = 0;
    int chunk = 0;
  };

  // Each track has as many micro-batches.
  RankList(std::vector<Track> tracks, int micro_batches);

  // The next micro-batch of a track.
  void Forward(int track);
  void Backward(int track);
  void BackwardInput(int track);
  void Overlapped(int forward_track, int backward_track);
  // The oldest deferred weight gradient; there must be one.
  void Weight();

  int forwards(int track) const { return forwards_[track]; }
  int backwards(int track) const { return backwards_[track]; }
  size_t deferred() const { return deferred_.size(); }

  // The list, of which all must have been written: every forward, every backward unless there are
  // none at all, every W.
  std::vector<Instruction> Finish(bool with_backward = true);

 private:
  Op Next(OpKind kind, int track, std::vector<int>& counts);
  void Add(const Op& op);

  const std::vector<Track> tracks_;
  const int micro_batches_;
  std::vector<int> forwards_;
  std::vector<int> backwards_;
  std::deque<Op> deferred_;
  std::vector<Instruction> list_;
};

// INVALID_ARGUMENT: less than one rank or micro-batch, more ranks than kMaxScheduleRanks, or more
// stages * micro-batches than kMaxScheduleCells.
absl::Status CheckScheduleSize(int ranks, int micro_batches, int chunks = 1);

// One direction, no lists yet.
Schedule OneWaySchedule(const char* kind, int ranks, int micro_batches, int chunks = 1,
                        Placement placement = Placement::kLoop);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_RANK_LIST_H_
