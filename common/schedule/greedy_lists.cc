#include "common/schedule/greedy_lists.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <queue>
#include <utility>

namespace fathom::schedule {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

class Dispatcher {
 public:
  Dispatcher(const SearchProblem& problem, const GreedyPolicy& policy)
      : problem_(problem),
        policy_(policy),
        tracks_(problem.tracks()),
        batches_(problem.batches()),
        lanes_(problem.ranks() * problem.tracks()),
        ranks_(problem.ranks()),
        lists_(problem.ranks()) {
    const size_t cells = lanes_.size() * batches_;
    forward_arrivals_.assign(cells, kNever);
    backward_arrivals_.assign(cells, kNever);
    MeasurePeriod();
    for (size_t number = 0; number < lanes_.size(); ++number) MeasureLane(number);
    for (int rank = 0; rank < problem.ranks(); ++rank) {
      ranks_[rank].live_of_track.assign(tracks_, 0);
      events_.emplace(0, rank);
    }
    if (problem.one_order()) MakeOrder();
  }

  EntryLists Run() {
    while (!events_.empty()) {
      const auto [time, rank] = events_.top();
      events_.pop();
      if (ranks_[rank].free <= time) Decide(rank, time);
    }
    for (int rank = 0; rank < problem_.ranks(); ++rank) {
      if (!problem_.IsSound(rank, lists_[rank])) return {};
    }
    return std::move(lists_);
  }

 private:
  struct LaneState {
    int forwards = 0;
    int backwards = 0;
    double forward_due = 0;  // of the first micro-batch
    double backward_due = 0;
    int most_ahead = 0;
  };
  struct RankState {
    double free = 0;
    int live = 0;
    std::vector<int> live_of_track;
    size_t forward_turn = 0;  // place in the common order
    size_t backward_turn = 0;
    size_t oldest = 0;
    std::vector<uint8_t> deferred;
    size_t Deferred() const { return deferred.size() - oldest; }
  };
  struct Choice {
    int track = -1;
    double due = kNever;
  };

  void MeasurePeriod() {
    for (int rank = 0; rank < problem_.ranks(); ++rank) {
      double work = 0;
      for (int track = 0; track < tracks_; ++track) {
        const SearchProblem::Lane& lane = problem_.LaneOf(rank, track);
        work += lane.forward + lane.backward_input + lane.weight;
      }
      period_ = std::max(period_, work);
    }
  }

  // When the first micro-batch would come by if it met no other.
  void MeasureLane(size_t number) {
    LaneState& state = lanes_[number];
    double head = 0;
    for (int at = static_cast<int>(number); problem_.lane(at).before >= 0;) {
      head += problem_.lane(at).before_delay;
      at = problem_.lane(at).before;
      head += problem_.lane(at).forward;
    }
    double trip = problem_.lane(number).forward;
    for (int at = static_cast<int>(number); problem_.lane(at).after >= 0;) {
      trip += 2 * problem_.lane(at).after_delay;
      at = problem_.lane(at).after;
      trip += problem_.lane(at).forward + problem_.lane(at).backward_input;
    }
    const auto shift = [&](const std::vector<double>& of) { return of.empty() ? 0 : of[number]; };
    state.forward_due = head + period_ * (shift(policy_.forward_shift) - policy_.forward_sooner);
    state.backward_due = head + trip + period_ * shift(policy_.backward_shift);
    const double needed = period_ > 0 ? trip / period_ + 1 : 1;
    state.most_ahead = policy_.ahead > 0
                           ? std::max(1, static_cast<int>(std::ceil(policy_.ahead * needed)))
                           : batches_;
  }

  // A group of micro-batches runs through one chunk after the other; backwards the other way.
  void MakeOrder() {
    const int group = policy_.group > 0 ? policy_.group : problem_.ranks();
    for (int first = 0; first < batches_; first += group) {
      const int count = std::min(group, batches_ - first);
      for (int track = 0; track < tracks_; ++track) {
        forward_order_.insert(forward_order_.end(), count, track);
        backward_order_.insert(backward_order_.end(), count, tracks_ - 1 - track);
      }
    }
  }

  // Leaves room for what must follow a forward before anything is released: the later chunks of a
  // direction, or a micro-batch that comes the other way.
  bool Fits(int rank, int track, int spare = 0) const {
    const ActivationLimits& limits = problem_.limits();
    if (limits.count == 0 && limits.bytes == 0) return true;
    const RankState& state = ranks_[rank];
    if (problem_.directions() == 2) {
      const double other = problem_.LaneOf(rank, 1 - track).bytes;
      const double own = problem_.LaneOf(rank, track).bytes;
      const int of_other = state.live_of_track[1 - track];
      const int of_own = state.live_of_track[track] + 1;
      return (limits.count == 0 || of_own + std::max(of_other, 1) + spare <= limits.count) &&
             (limits.bytes == 0 ||
              (of_own + spare) * own + std::max(of_other, 1) * other <= limits.bytes);
    }
    // Of chunks up to each, with the later ones empty but for one micro-batch.
    int live = 1 + spare;
    double bytes = live * problem_.LaneOf(rank, track).bytes;
    double later = 0;
    for (int chunk = 0; chunk < tracks_; ++chunk) later += problem_.LaneOf(rank, chunk).bytes;
    for (int chunk = 0; chunk < tracks_; ++chunk) {
      const double each = problem_.LaneOf(rank, chunk).bytes;
      live += state.live_of_track[chunk];
      bytes += state.live_of_track[chunk] * each;
      later -= each;
      if (chunk < track) continue;
      if (limits.count > 0 && live + tracks_ - 1 - chunk > limits.count) return false;
      if (limits.bytes > 0 && bytes + later > limits.bytes) return false;
    }
    return true;
  }

  // The next forward and backward of a track; `soon` becomes the first known arrival after `time`.
  void LookForward(int rank, int track, double time, Choice& best, double& soon) const {
    const int number = rank * tracks_ + track;
    const LaneState& state = lanes_[number];
    if (state.forwards == batches_) return;
    if (state.forwards - state.backwards >= state.most_ahead) return;
    const bool first = problem_.lane(number).before < 0;
    const double arrival =
        first ? 0 : forward_arrivals_[static_cast<size_t>(number) * batches_ + state.forwards];
    if (arrival == kNever || !Fits(rank, track)) return;
    if (arrival > time) {
      soon = std::min(soon, arrival);
      return;
    }
    const double due = state.forward_due + state.forwards * period_;
    if (due < best.due) best = {track, due};
  }

  void LookBackward(int rank, int track, double time, Choice& best, double& soon) const {
    const int number = rank * tracks_ + track;
    const LaneState& state = lanes_[number];
    if (state.backwards == state.forwards) return;
    const bool last = problem_.lane(number).after < 0;
    const double arrival =
        last ? 0 : backward_arrivals_[static_cast<size_t>(number) * batches_ + state.backwards];
    if (arrival > time) {
      soon = std::min(soon, arrival);
      return;
    }
    const double due = state.backward_due + state.backwards * period_;
    if (due < best.due) best = {track, due};
  }

  void Decide(int rank, double time) {
    const RankState& state = ranks_[rank];
    Choice forward;
    Choice backward;
    double forward_soon = kNever;
    double backward_soon = kNever;
    if (problem_.one_order()) {
      if (state.forward_turn < forward_order_.size()) {
        LookForward(rank, forward_order_[state.forward_turn], time, forward, forward_soon);
      }
      if (state.backward_turn < backward_order_.size()) {
        LookBackward(rank, backward_order_[state.backward_turn], time, backward, backward_soon);
      }
    } else {
      for (int track = 0; track < tracks_; ++track) {
        LookForward(rank, track, time, forward, forward_soon);
        LookBackward(rank, track, time, backward, backward_soon);
      }
    }
    const bool pairs = policy_.pairs && problem_.pairs_pay();
    if (pairs && forward.track >= 0 && backward.track >= 0 &&
        problem_.PairSaves(rank, forward.track, backward.track) > 0) {
      return Start(rank, time,
                   {Entry::kPair, static_cast<uint8_t>(forward.track),
                    static_cast<uint8_t>(backward.track)});
    }
    if (policy_.room_for_pair && forward.track >= 0 && !Fits(rank, forward.track, 1)) {
      forward = {};
    }
    if (pairs && policy_.patience > 0 &&
        Waits(rank, time, forward, backward, std::min(forward_soon, backward_soon))) {
      return;
    }
    const bool full = state.Deferred() > static_cast<size_t>(policy_.keep_back);
    if (backward.track >= 0 && backward.due <= forward.due) {
      return Start(rank, time, BackwardEntry(rank, backward.track));
    }
    if (forward.track >= 0 && !full) {
      return Start(rank, time, {Entry::kForward, static_cast<uint8_t>(forward.track), 0});
    }
    if (backward.track >= 0) return Start(rank, time, BackwardEntry(rank, backward.track));
    if (state.Deferred() == 0) return;
    const double takes = problem_.LaneOf(rank, state.deferred[state.oldest]).weight;
    const double soon = std::min(forward_soon, backward_soon);
    if (full || time + takes * (1 - policy_.weight_delays) <= soon) {
      Start(rank, time, {Entry::kWeight, 0, 0});
    }
  }

  // Whether the other half of a pair comes soon enough to wait for it.
  bool Waits(int rank, double time, const Choice& forward, const Choice& backward,
             double soon) const {
    if ((forward.track >= 0) == (backward.track >= 0) || soon == kNever) return false;
    const int ready = std::max(forward.track, backward.track);
    double saves = 0;
    for (int track = 0; track < tracks_; ++track) {
      saves = std::max(saves, forward.track >= 0 ? problem_.PairSaves(rank, ready, track)
                                                 : problem_.PairSaves(rank, track, ready));
    }
    return soon - time < policy_.patience * saves;
  }

  Entry BackwardEntry(int rank, int track) const {
    const int index = lanes_[rank * tracks_ + track].backwards;
    const bool at_end = index < problem_.ranks() || index >= batches_ - problem_.ranks();
    const bool split = policy_.split == GreedyPolicy::Split::kAlways ||
                       (policy_.split == GreedyPolicy::Split::kEnds && at_end);
    return {split ? Entry::kBackwardInput : Entry::kBackward, 0, static_cast<uint8_t>(track)};
  }

  void Start(int rank, double time, const Entry& entry) {
    RankState& state = ranks_[rank];
    lists_[rank].push_back(entry);
    double end = time;
    if (entry.kind == Entry::kPair) {
      end += problem_.PairCost(rank, entry.forward, entry.backward);
    } else if (entry.kind == Entry::kForward) {
      end += problem_.LaneOf(rank, entry.forward).forward;
    } else if (entry.kind == Entry::kBackward) {
      end += problem_.LaneOf(rank, entry.backward).backward;
    } else if (entry.kind == Entry::kBackwardInput) {
      end += problem_.LaneOf(rank, entry.backward).backward_input;
      state.deferred.push_back(entry.backward);
    } else {
      const int track = state.deferred[state.oldest++];
      end += problem_.LaneOf(rank, track).weight;
      --state.live_of_track[track];
    }
    if (entry.HasForward()) EndForward(rank, entry.forward, end);
    if (entry.HasBackward()) EndBackward(rank, entry, end);
    state.free = end;
    events_.emplace(end, rank);
  }

  void EndForward(int rank, int track, double end) {
    const int number = rank * tracks_ + track;
    const SearchProblem::Lane& lane = problem_.lane(number);
    const int batch = lanes_[number].forwards++;
    ++ranks_[rank].live_of_track[track];
    ++ranks_[rank].forward_turn;
    if (lane.after < 0) return;
    const SearchProblem::Lane& target = problem_.lane(lane.after);
    forward_arrivals_[static_cast<size_t>(lane.after) * batches_ + batch] =
        end + target.before_delay;
    events_.emplace(end + target.before_delay, target.rank);
  }

  void EndBackward(int rank, const Entry& entry, double end) {
    const int number = rank * tracks_ + entry.backward;
    const SearchProblem::Lane& lane = problem_.lane(number);
    const int batch = lanes_[number].backwards++;
    ++ranks_[rank].backward_turn;
    if (entry.kind != Entry::kBackwardInput) --ranks_[rank].live_of_track[entry.backward];
    if (lane.before < 0) return;
    const SearchProblem::Lane& target = problem_.lane(lane.before);
    backward_arrivals_[static_cast<size_t>(lane.before) * batches_ + batch] =
        end + target.after_delay;
    events_.emplace(end + target.after_delay, target.rank);
  }

  using Event = std::pair<double, int>;  // time, rank

  const SearchProblem& problem_;
  const GreedyPolicy& policy_;
  const int tracks_;
  const int batches_;
  double period_ = 0;  // of a micro-batch of every track on the slowest rank
  std::vector<LaneState> lanes_;
  std::vector<RankState> ranks_;
  EntryLists lists_;
  std::vector<double> forward_arrivals_;  // by lane, then micro-batch
  std::vector<double> backward_arrivals_;
  std::vector<int> forward_order_;  // tracks
  std::vector<int> backward_order_;
  std::priority_queue<Event, std::vector<Event>, std::greater<Event>> events_;
};

}  // namespace

GreedyPolicy RandomPolicy(const SearchProblem& problem, RandomSource& random) {
  using Split = GreedyPolicy::Split;
  const auto pick = [&](auto... of) {
    const double values[] = {static_cast<double>(of)...};
    return values[random.Below(sizeof...(of))];
  };
  GreedyPolicy policy;
  policy.split = static_cast<Split>(
      static_cast<int>(problem.pairs_pay() ? pick(0, 1, 1, 2) : pick(0, 1, 2, 2, 2, 2)));
  policy.forward_sooner = pick(0, 0, 0.3, 0.6, 1, 2, -0.3, -1, 8);
  policy.ahead = pick(0, 0, 0.75, 1, 1.25, 1.5, 2);
  policy.weight_delays = pick(0, 0.25, 0.5, 1, 1);
  policy.keep_back = static_cast<int>(pick(0, 1, 2, problem.ranks() / 2, problem.ranks(), 1 << 30));
  policy.room_for_pair = problem.pairs_pay() && random.Below(3) > 0;
  policy.patience = problem.pairs_pay() ? pick(0, 0, 0.5, 1, 2) : 0;
  if (problem.one_order()) policy.group = static_cast<int>(pick(0, 0, 0, 1, 2, 3));
  const double noise = pick(0, 0, 0.1, 0.3, 0.6);
  if (noise > 0) {
    const int lanes = problem.ranks() * problem.tracks();
    for (int lane = 0; lane < lanes; ++lane) {
      policy.forward_shift.push_back(noise * (2 * random.Unit() - 1));
      policy.backward_shift.push_back(noise * (2 * random.Unit() - 1));
    }
  }
  return policy;
}

EntryLists GreedyLists(const SearchProblem& problem, const GreedyPolicy& policy) {
  return Dispatcher(problem, policy).Run();
}

}  // namespace fathom::schedule
