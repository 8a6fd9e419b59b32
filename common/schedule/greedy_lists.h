// Lists made by dispatching: the pipeline is played forward in time, and each rank that is free
// takes, of the work that has arrived and fits its memory, what is due first. Policies differ in
// when forwards are due beside backwards, how many run ahead, and when weight gradients fill in.
#ifndef FATHOM_COMMON_SCHEDULE_GREEDY_LISTS_H_
#define FATHOM_COMMON_SCHEDULE_GREEDY_LISTS_H_

#include <vector>

#include "common/schedule/random_source.h"
#include "common/schedule/search_problem.h"

namespace fathom::schedule {

struct GreedyPolicy {
  enum class Split { kNever, kEnds, kAlways };
  Split split = Split::kAlways;  // which backwards leave their weight gradient for later
  double forward_sooner = 0;     // forwards are due earlier by so many periods
  // In-flight micro-batches of a lane, over as many as its round trip takes; 0: what fits memory.
  double ahead = 0;
  // A weight gradient may make the next arrival wait by this share of its time.
  double weight_delays = 1;
  int keep_back = 1 << 30;  // deferred weight gradients; with more, they come before forwards
  bool pairs = true;
  bool room_for_pair = false;  // forwards alone leave memory for one in a pair
  double patience = 0;  // wait for a pair's other half up to this share of what the pair saves
  int group = 0;        // micro-batches that take turns on a chunk, where ranks need one order;
                        // 0: as many as ranks
  std::vector<double> forward_shift;  // of each lane, in periods; empty: none
  std::vector<double> backward_shift;
};

GreedyPolicy RandomPolicy(const SearchProblem& problem, RandomSource& random);

// Lists that are sound, or none at all: the policy led into a deadlock.
EntryLists GreedyLists(const SearchProblem& problem, const GreedyPolicy& policy);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_GREEDY_LISTS_H_
