// Times lists of a SearchProblem, again and again, without building anything: what the search
// spends its effort on.
#ifndef FATHOM_COMMON_SCHEDULE_LIST_TIMING_H_
#define FATHOM_COMMON_SCHEDULE_LIST_TIMING_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/schedule/search_problem.h"

namespace fathom::schedule {

class ListTiming {
 public:
  explicit ListTiming(const SearchProblem& problem);

  // The makespan, or infinity if ranks would wait for each other for ever. Each list IsSound.
  double Run(const EntryLists& lists);

  // Of the last run, which must have had an end.
  double finish(int rank) const { return ranks_[rank].free; }
  double start(int rank, size_t index) const { return starts_[rank][index]; }
  double end(int rank, size_t index) const { return ends_[rank][index]; }
  // A longest chain of instructions that wait for nothing but each other, (rank, index), last
  // first; it is as long as the makespan.
  void CriticalPath(const EntryLists& lists, std::vector<std::pair<int, int>>& path) const;

 private:
  struct Rank {
    int next = 0;
    double free = 0;
    size_t oldest = 0;              // of deferred
    std::vector<uint8_t> deferred;  // tracks
  };
  // Advances a rank by one; false: it has to wait, or is done.
  bool Advance(int rank, const EntryList& list);
  bool Arrived(std::vector<double>& ends, int cell, double delay, int rank, double& start);
  void Publish(std::vector<double>& ends, int cell, double end);

  const SearchProblem& problem_;
  std::vector<Rank> ranks_;
  std::vector<int> forwards_;  // done, by lane
  std::vector<int> backwards_;
  // By lane * batches + micro-batch; kUnknown, or below it the rank that waits for it.
  std::vector<double> forward_ends_;
  std::vector<double> backward_ends_;
  std::vector<int> forward_places_;  // index in its rank's list
  std::vector<int> backward_places_;
  std::vector<std::vector<double>> starts_;
  std::vector<std::vector<double>> ends_;
  std::vector<int> awake_;
};

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_LIST_TIMING_H_
