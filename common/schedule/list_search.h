// Seeded local search on the lists of a SearchProblem (simulated annealing): instructions change
// places, weight gradients are split off and put back, pairs are formed and broken. Most moves are
// tried where the makespan comes from.
#ifndef FATHOM_COMMON_SCHEDULE_LIST_SEARCH_H_
#define FATHOM_COMMON_SCHEDULE_LIST_SEARCH_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/schedule/list_timing.h"
#include "common/schedule/random_source.h"
#include "common/schedule/search_problem.h"

namespace fathom::schedule {

class ListSearch {
 public:
  ListSearch(const SearchProblem& problem, RandomSource& random);

  // Times lists that are sound, and remembers the best ones offered. Returns their makespan.
  double Offer(const EntryLists& lists);
  // Walks from `start`, whose ranks don't deadlock, until `effort` more instructions are timed or
  // the best is no longer than `bound`. `heat`: by how many mean instructions a step may be longer
  // at first.
  void Walk(EntryLists start, int64_t effort, double heat, double bound);

  const EntryLists& best() const { return best_; }
  double best_makespan() const { return best_makespan_; }
  int64_t timed() const { return timed_; }

 private:
  // Each changes `list_`; false: there is nothing to do at that place.
  bool Swap(int index);
  bool Shift(int index);
  bool SplitOrJoin(int index);
  bool PairOrPart(int index);

  double Score(const EntryLists& lists, double& makespan);
  std::pair<int, int> PickPlace(const EntryLists& lists);
  bool Change(int rank, int index);
  bool KeepsOrder(const EntryList& before, const EntryList& after) const;

  const SearchProblem& problem_;
  RandomSource& random_;
  ListTiming timing_;
  EntryLists best_;
  double best_makespan_;
  int64_t timed_ = 0;
  // While walking.
  EntryList list_;
  std::vector<std::pair<int, int>> critical_;
};

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_LIST_SEARCH_H_
