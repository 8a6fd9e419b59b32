#include "common/schedule/search_problem.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <deque>
#include <limits>

#include "common/base/check.h"

namespace fathom::schedule {

SearchProblem::SearchProblem(const Schedule& shape, const StepCosts& costs,
                             const ActivationLimits& limits)
    : shape_(shape),
      limits_(limits),
      tracks_(shape.directions * shape.chunks),
      batches_(BatchesPerDirection(shape)),
      one_order_(shape.placement == Placement::kLoop && shape.chunks > 1) {
  FATHOM_CHECK(tracks_ <= kMaxSearchTracks) << tracks_;
  for (int rank = 0; rank < shape.ranks; ++rank) {
    for (int track = 0; track < tracks_; ++track) {
      const int direction = track / shape.chunks;
      Lane lane;
      lane.rank = rank;
      lane.track = track;
      lane.stage = StageOf(shape, rank, direction, track % shape.chunks);
      lane.forward = CostOf(costs, OpKind::kForward, lane.stage);
      lane.backward = CostOf(costs, OpKind::kBackward, lane.stage);
      lane.backward_input = CostOf(costs, OpKind::kBackwardInput, lane.stage);
      lane.weight = CostOf(costs, OpKind::kWeight, lane.stage);
      if (!limits.bytes_of_stage.empty()) lane.bytes = limits.bytes_of_stage[lane.stage];
      auto neighbour = [&](int stage, int& number, double& delay) {
        if (stage < 0 || stage >= shape.stages) return;
        const int peer = RankOf(shape, stage, direction);
        number = peer * tracks_ + direction * shape.chunks + ChunkOf(shape, stage);
        delay = peer == rank ? 0 : costs.message_time;
      };
      neighbour(lane.stage - 1, lane.before, lane.before_delay);
      neighbour(lane.stage + 1, lane.after, lane.after_delay);
      lanes_.push_back(lane);
    }
  }
  for (Lane& lane : lanes_) {
    lane.forward_least = lane.forward;
    lane.backward_least = std::min(lane.backward, lane.backward_input);
  }
  for (Lane& forward : lanes_) {
    for (int track = 0; track < tracks_; ++track) {
      Lane& backward = lanes_[forward.rank * tracks_ + track];
      const double cost = PairCostOf(costs, shape.stages, forward.stage, backward.stage);
      pairs_.push_back(cost);
      pairs_pay_ |= cost < forward.forward + backward.backward;
      forward.forward_least = std::min(forward.forward_least, cost);
      backward.backward_least = std::min(backward.backward_least, cost);
    }
  }
}

double SearchProblem::PairSaves(int rank, int forward, int backward) const {
  const Lane& back = LaneOf(rank, backward);
  return LaneOf(rank, forward).forward +
         std::min(back.backward, back.backward_input + back.weight) -
         PairCost(rank, forward, backward);
}

bool SearchProblem::IsSound(int rank, const EntryList& list) const {
  std::array<int, kMaxSearchTracks> forwards{};
  std::array<int, kMaxSearchTracks> backwards{};
  // Tracks of the deferred, oldest first.
  std::vector<uint8_t> deferred;
  size_t oldest = 0;
  int live = 0;
  double held = 0;
  const auto release = [&](int track) {
    --live;
    held -= LaneOf(rank, track).bytes;
  };
  for (const Entry& entry : list) {
    if (entry.HasBackward()) {
      int& done = backwards[entry.backward];
      if (done == batches_ || done >= forwards[entry.backward]) return false;
      ++done;
      if (entry.kind == Entry::kBackwardInput) deferred.push_back(entry.backward);
    }
    if (entry.HasForward()) {
      if (++forwards[entry.forward] > batches_) return false;
      ++live;
      held += LaneOf(rank, entry.forward).bytes;
      if (limits_.count > 0 && live > limits_.count) return false;
      if (limits_.bytes > 0 && held > limits_.bytes) return false;
    }
    if (entry.kind == Entry::kBackward || entry.kind == Entry::kPair) release(entry.backward);
    if (entry.kind == Entry::kWeight) {
      if (oldest == deferred.size()) return false;
      release(deferred[oldest++]);
    }
  }
  for (int track = 0; track < tracks_; ++track) {
    if (forwards[track] != batches_ || backwards[track] != batches_) return false;
  }
  return oldest == deferred.size();
}

SearchProblem::Way SearchProblem::WayOf(const Lane& lane) const {
  Way way;
  for (const Lane* at = &lane; at->before >= 0; at = &lanes_[at->before]) {
    const Lane& source = lanes_[at->before];
    way.before += source.forward_least + at->before_delay;
    way.after += source.backward_least + at->before_delay;
  }
  for (const Lane* at = &lane; at->after >= 0; at = &lanes_[at->after]) {
    const Lane& source = lanes_[at->after];
    way.turn += source.forward_least + source.backward_least + 2 * at->after_delay;
  }
  return way;
}

double SearchProblem::RankBound(int rank) const {
  constexpr double kNever = std::numeric_limits<double>::infinity();
  double head = kNever;            // until the rank's first forward
  double first_backward = kNever;  // until its first backward
  double tail = kNever;            // after its last input gradient
  double last_forward = kNever;    // after its last forward
  double work = 0;
  double inputs = 0;  // work without weight gradients
  double forward = 0;
  double backward = 0;
  for (int track = 0; track < tracks_; ++track) {
    const Lane& lane = LaneOf(rank, track);
    const Way way = WayOf(lane);
    const double full = std::min(lane.backward, lane.backward_input + lane.weight);
    head = std::min(head, way.before);
    first_backward = std::min(first_backward, way.before + lane.forward_least + way.turn);
    tail = std::min(tail, way.after);
    last_forward = std::min(last_forward, way.turn + lane.backward_least + way.after);
    work += batches_ * (lane.forward + full);
    inputs += batches_ * (lane.forward + std::min(lane.backward_input, lane.backward));
    forward = std::max(forward, lane.forward);
    backward = std::max(backward, std::max(lane.backward, lane.backward_input + lane.weight));
  }
  const PairBound pairs = BoundOfPairs(rank);
  if (pairs.each <= 0) return head + std::max(work, inputs + tail);
  // Until the first backward, forwards can only run alone, and after the last forward, backwards.
  // Either the rank idles there, or as many backwards as forwards miss their pair.
  const double lonely_forwards = first_backward - head;
  const double most = static_cast<double>(batches_) * tracks_;
  const auto takes = [&](double alone) {
    alone = std::clamp(alone, 0.0, most);
    return std::max(lonely_forwards - alone * forward, 0.0) +
           std::max(last_forward - alone * backward, 0.0) -
           std::min(pairs.all, (most - alone) * pairs.each);
  };
  // Convex and made of straight pieces: least where two of them meet.
  double least = std::min({takes(0), takes(most), takes(most - pairs.all / pairs.each)});
  if (forward > 0) least = std::min(least, takes(lonely_forwards / forward));
  if (backward > 0) least = std::min(least, takes(last_forward / backward));
  return head + work + least;
}

SearchProblem::PairBound SearchProblem::BoundOfPairs(int rank) const {
  const auto saves = [&](int forward, int backward) {
    return std::max(PairSaves(rank, forward, backward), 0.0);
  };
  PairBound bound;
  double by_forward = 0;
  double by_backward = 0;
  for (int track = 0; track < tracks_; ++track) {
    double as_forward = 0;
    double as_backward = 0;
    for (int other = 0; other < tracks_; ++other) {
      as_forward = std::max(as_forward, saves(track, other));
      as_backward = std::max(as_backward, saves(other, track));
    }
    bound.each = std::max(bound.each, as_forward);
    by_forward += as_forward;
    by_backward += as_backward;
  }
  bound.all = std::min(by_forward, by_backward);
  // Of two tracks either each pairs with itself or both with the other, or something between.
  if (tracks_ == 2) {
    bound.all = std::max(saves(0, 0) + saves(1, 1), saves(0, 1) + saves(1, 0));
  }
  bound.all *= batches_;
  return bound;
}

double SearchProblem::LowerBound() const {
  double bound = 0;
  for (int rank = 0; rank < ranks(); ++rank) bound = std::max(bound, RankBound(rank));
  // One micro-batch there and back.
  for (int track = 0; track < tracks_; ++track) {
    for (int rank = 0; rank < ranks(); ++rank) {
      const Lane* lane = &LaneOf(rank, track);
      if (lane->before >= 0) continue;
      double path = 0;
      for (;; lane = &lanes_[lane->after]) {
        path += lane->forward_least + lane->backward_least + 2 * lane->after_delay;
        if (lane->after < 0) break;
      }
      bound = std::max(bound, path);
    }
  }
  return bound;
}

EntryLists SearchProblem::FromSchedule(const Schedule& schedule) const {
  EntryLists lists(schedule.lists.size());
  auto track = [&](const Op& op) {
    return static_cast<uint8_t>(op.direction * shape_.chunks + op.chunk);
  };
  for (size_t rank = 0; rank < lists.size(); ++rank) {
    for (const Instruction& instruction : schedule.lists[rank]) {
      Entry entry;
      if (instruction.overlapped) {
        entry = {Entry::kPair, track(instruction.first), track(instruction.second)};
      } else {
        switch (instruction.first.kind) {
          case OpKind::kForward:
            entry = {Entry::kForward, track(instruction.first), 0};
            break;
          case OpKind::kBackward:
            entry = {Entry::kBackward, 0, track(instruction.first)};
            break;
          case OpKind::kBackwardInput:
            entry = {Entry::kBackwardInput, 0, track(instruction.first)};
            break;
          case OpKind::kWeight:
            entry = {Entry::kWeight, 0, 0};
            break;
        }
      }
      lists[rank].push_back(entry);
    }
  }
  return lists;
}

Schedule SearchProblem::ToSchedule(const char* kind, const EntryLists& lists) const {
  Schedule schedule = shape_;
  schedule.kind = kind;
  schedule.lists.assign(lists.size(), {});
  for (size_t rank = 0; rank < lists.size(); ++rank) {
    std::array<int, kMaxSearchTracks> forwards{};
    std::array<int, kMaxSearchTracks> backwards{};
    std::deque<Op> deferred;
    auto op = [&](OpKind op_kind, int track, std::array<int, kMaxSearchTracks>& counts) {
      return Op{op_kind, track / shape_.chunks, counts[track]++, track % shape_.chunks};
    };
    for (const Entry& entry : lists[rank]) {
      Instruction instruction;
      switch (entry.kind) {
        case Entry::kForward:
          instruction.first = op(OpKind::kForward, entry.forward, forwards);
          break;
        case Entry::kBackward:
          instruction.first = op(OpKind::kBackward, entry.backward, backwards);
          break;
        case Entry::kBackwardInput:
          instruction.first = op(OpKind::kBackwardInput, entry.backward, backwards);
          deferred.push_back(instruction.first);
          break;
        case Entry::kWeight:
          FATHOM_CHECK(!deferred.empty()) << "W without a Bi on rank " << rank;
          instruction.first = deferred.front();
          instruction.first.kind = OpKind::kWeight;
          deferred.pop_front();
          break;
        case Entry::kPair:
          instruction.first = op(OpKind::kForward, entry.forward, forwards);
          instruction.second = op(OpKind::kBackward, entry.backward, backwards);
          instruction.overlapped = true;
          break;
      }
      schedule.lists[rank].push_back(instruction);
    }
  }
  return schedule;
}

}  // namespace fathom::schedule
