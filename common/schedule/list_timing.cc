#include "common/schedule/list_timing.h"

#include <algorithm>
#include <limits>

namespace fathom::schedule {
namespace {

constexpr double kUnknown = -1;

}  // namespace

ListTiming::ListTiming(const SearchProblem& problem)
    : problem_(problem), ranks_(problem.ranks()), starts_(problem.ranks()), ends_(problem.ranks()) {
  const size_t lanes = static_cast<size_t>(problem.ranks()) * problem.tracks();
  forwards_.resize(lanes);
  backwards_.resize(lanes);
  forward_places_.resize(lanes * problem.batches());
  backward_places_.resize(lanes * problem.batches());
}

double ListTiming::Run(const EntryLists& lists) {
  const size_t cells = forward_places_.size();
  forward_ends_.assign(cells, kUnknown);
  backward_ends_.assign(cells, kUnknown);
  std::fill(forwards_.begin(), forwards_.end(), 0);
  std::fill(backwards_.begin(), backwards_.end(), 0);
  awake_.clear();
  for (int rank = problem_.ranks() - 1; rank >= 0; --rank) {
    ranks_[rank].next = 0;
    ranks_[rank].free = 0;
    ranks_[rank].oldest = 0;
    ranks_[rank].deferred.clear();
    starts_[rank].resize(lists[rank].size());
    ends_[rank].resize(lists[rank].size());
    awake_.push_back(rank);
  }
  while (!awake_.empty()) {
    const int rank = awake_.back();
    awake_.pop_back();
    while (Advance(rank, lists[rank])) {
    }
  }
  double makespan = 0;
  for (int rank = 0; rank < problem_.ranks(); ++rank) {
    if (ranks_[rank].next != static_cast<int>(lists[rank].size())) {
      return std::numeric_limits<double>::infinity();
    }
    makespan = std::max(makespan, ranks_[rank].free);
  }
  return makespan;
}

bool ListTiming::Arrived(std::vector<double>& ends, int cell, double delay, int rank,
                         double& start) {
  double& end = ends[cell];
  if (end < 0) {
    end = kUnknown - 1 - rank;
    return false;
  }
  start = std::max(start, end + delay);
  return true;
}

void ListTiming::Publish(std::vector<double>& ends, int cell, double end) {
  if (ends[cell] < kUnknown) awake_.push_back(static_cast<int>(kUnknown - 1 - ends[cell]));
  ends[cell] = end;
}

bool ListTiming::Advance(int rank, const EntryList& list) {
  Rank& state = ranks_[rank];
  if (state.next == static_cast<int>(list.size())) return false;
  const Entry entry = list[state.next];
  const int batches = problem_.batches();
  const int first_lane = rank * problem_.tracks();
  const int forward = first_lane + entry.forward;
  const int backward = first_lane + entry.backward;
  double start = state.free;
  if (entry.HasForward()) {
    const SearchProblem::Lane& lane = problem_.lane(forward);
    if (lane.before >= 0 && !Arrived(forward_ends_, lane.before * batches + forwards_[forward],
                                     lane.before_delay, rank, start)) {
      return false;
    }
  }
  if (entry.HasBackward()) {
    const SearchProblem::Lane& lane = problem_.lane(backward);
    if (lane.after >= 0 && !Arrived(backward_ends_, lane.after * batches + backwards_[backward],
                                    lane.after_delay, rank, start)) {
      return false;
    }
  }
  double end = start;
  switch (entry.kind) {
    case Entry::kForward:
      end += problem_.lane(forward).forward;
      break;
    case Entry::kBackward:
      end += problem_.lane(backward).backward;
      break;
    case Entry::kBackwardInput:
      end += problem_.lane(backward).backward_input;
      state.deferred.push_back(entry.backward);
      break;
    case Entry::kWeight:
      end += problem_.lane(first_lane + state.deferred[state.oldest++]).weight;
      break;
    case Entry::kPair:
      end += problem_.PairCost(rank, entry.forward, entry.backward);
      break;
  }
  starts_[rank][state.next] = start;
  ends_[rank][state.next] = end;
  if (entry.HasForward()) {
    const int cell = forward * batches + forwards_[forward]++;
    forward_places_[cell] = state.next;
    Publish(forward_ends_, cell, end);
  }
  if (entry.HasBackward()) {
    const int cell = backward * batches + backwards_[backward]++;
    backward_places_[cell] = state.next;
    Publish(backward_ends_, cell, end);
  }
  state.free = end;
  ++state.next;
  return true;
}

void ListTiming::CriticalPath(const EntryLists& lists,
                              std::vector<std::pair<int, int>>& path) const {
  path.clear();
  int rank = 0;
  for (int other = 1; other < problem_.ranks(); ++other) {
    if (ranks_[other].free > ranks_[rank].free) rank = other;
  }
  int index = static_cast<int>(lists[rank].size()) - 1;
  const int batches = problem_.batches();
  while (index >= 0) {
    path.emplace_back(rank, index);
    const double start = starts_[rank][index];
    if (start <= 0) break;
    if (index > 0 && ends_[rank][index - 1] >= start) {
      --index;
      continue;
    }
    const Entry entry = lists[rank][index];
    const auto follow = [&](bool forward) {
      const int number = rank * problem_.tracks() + (forward ? entry.forward : entry.backward);
      const SearchProblem::Lane& lane = problem_.lane(number);
      const int source = forward ? lane.before : lane.after;
      if (source < 0) return false;
      const auto& places = forward ? forward_places_ : backward_places_;
      const int* own = &places[number * batches];
      const int batch = static_cast<int>(std::lower_bound(own, own + batches, index) - own);
      const int cell = source * batches + batch;
      const double delay = forward ? lane.before_delay : lane.after_delay;
      if ((forward ? forward_ends_ : backward_ends_)[cell] + delay < start) return false;
      rank = problem_.lane(source).rank;
      index = places[cell];
      return true;
    };
    if (entry.HasForward() && follow(true)) continue;
    if (entry.HasBackward() && follow(false)) continue;
    break;
  }
}

}  // namespace fathom::schedule
