// What the search for a schedule works on: every number of a request by the place where it is
// needed, and lists as short codes without micro-batches, which their order implies.
#ifndef FATHOM_COMMON_SCHEDULE_SEARCH_PROBLEM_H_
#define FATHOM_COMMON_SCHEDULE_SEARCH_PROBLEM_H_

#include <cstdint>
#include <vector>

#include "common/schedule/instruction.h"
#include "common/schedule/step_costs.h"

namespace fathom::schedule {

// An instruction. A track is one way of a micro-batch through a rank: a direction and a chunk. The
// n-th forward of a track is micro-batch n's, and so for backwards; W is the oldest deferred.
struct Entry {
  enum Kind : uint8_t { kForward, kBackward, kBackwardInput, kWeight, kPair };
  Kind kind = kForward;
  uint8_t forward = 0;   // track, of kForward and kPair
  uint8_t backward = 0;  // track, of kBackward, kBackwardInput and kPair

  bool HasForward() const { return kind == kForward || kind == kPair; }
  bool HasBackward() const { return kind == kBackward || kind == kBackwardInput || kind == kPair; }
  friend bool operator==(const Entry&, const Entry&) = default;
};
using EntryList = std::vector<Entry>;
using EntryLists = std::vector<EntryList>;  // of each rank

inline constexpr int kMaxSearchTracks = 64;  // on a rank

// `limit` of 0: there is none.
struct ActivationLimits {
  int count = 0;
  double bytes = 0;
  std::vector<double> bytes_of_stage;  // of each stage; empty: all 0
};

class SearchProblem {
 public:
  // Of one track on one rank; its number is rank * tracks() + track.
  struct Lane {
    int rank = 0;
    int track = 0;
    int stage = 0;
    double forward = 0;
    double backward = 0;
    double backward_input = 0;
    double weight = 0;
    double bytes = 0;
    double forward_least = 0;  // alone or in a pair, whichever is quicker
    double backward_least = 0;
    int before = -1;  // lane of the stage before, which sends activations; -1: this is the first
    int after = -1;   // lane of the stage after, which sends gradients; -1: this is the last
    double before_delay = 0;
    double after_delay = 0;
  };

  // `shape`: a schedule whose lists don't matter, of at most kMaxSearchTracks. Costs and limits are
  // sound for it.
  SearchProblem(const Schedule& shape, const StepCosts& costs, const ActivationLimits& limits);

  int ranks() const { return shape_.ranks; }
  int tracks() const { return tracks_; }
  int batches() const { return batches_; }  // of each track
  int stages() const { return shape_.stages; }
  int directions() const { return shape_.directions; }
  const Lane& lane(int number) const { return lanes_[number]; }
  const Lane& LaneOf(int rank, int track) const { return lanes_[rank * tracks_ + track]; }
  double PairCost(int rank, int forward, int backward) const {
    return pairs_[(rank * tracks_ + forward) * tracks_ + backward];
  }
  // What running the two as a pair saves; may be below 0.
  double PairSaves(int rank, int forward, int backward) const;
  bool pairs_pay() const { return pairs_pay_; }
  // Several tracks share a channel between ranks, so that all ranks must run forwards in one order,
  // and backwards in one.
  bool one_order() const { return one_order_; }
  const ActivationLimits& limits() const { return limits_; }

  // Whether micro-batches are in order, backwards after forwards, W after Bi, all are there, and
  // activations within limits.
  bool IsSound(int rank, const EntryList& list) const;

  // No lists are quicker.
  double LowerBound() const;

  EntryLists FromSchedule(const Schedule& schedule) const;
  Schedule ToSchedule(const char* kind, const EntryLists& lists) const;

 private:
  // Least times around a lane's op: from the step's start to its forward, from the forward's end to
  // its backward, and from the backward's end until the first stage has run its own.
  struct Way {
    double before = 0;
    double turn = 0;
    double after = 0;
  };
  Way WayOf(const Lane& lane) const;
  // Most that pairs can save on a rank: each, and all together.
  struct PairBound {
    double each = 0;
    double all = 0;
  };
  PairBound BoundOfPairs(int rank) const;
  double RankBound(int rank) const;

  const Schedule shape_;
  const ActivationLimits limits_;
  int tracks_ = 0;
  int batches_ = 0;
  bool pairs_pay_ = false;
  bool one_order_ = false;
  std::vector<Lane> lanes_;
  std::vector<double> pairs_;  // (lane of the forward) * tracks + track of the backward
};

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_SEARCH_PROBLEM_H_
