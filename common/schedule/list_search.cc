#include "common/schedule/list_search.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fathom::schedule {
namespace {

constexpr int kNearShift = 6;
constexpr int kFarShift = 40;
constexpr double kCriticalShare = 0.7;
// How much the mean of the ranks' own ends counts beside the makespan: it tells apart lists that
// are equally long.
constexpr double kMeanEndWeight = 0.05;
constexpr double kCoolest = 0.01;  // of the first heat, at the end

}  // namespace

ListSearch::ListSearch(const SearchProblem& problem, RandomSource& random)
    : problem_(problem),
      random_(random),
      timing_(problem),
      best_makespan_(std::numeric_limits<double>::infinity()) {}

double ListSearch::Score(const EntryLists& lists, double& makespan) {
  makespan = timing_.Run(lists);
  for (const EntryList& list : lists) timed_ += static_cast<int64_t>(list.size());
  if (!std::isfinite(makespan)) return makespan;
  double sum = 0;
  for (int rank = 0; rank < problem_.ranks(); ++rank) sum += timing_.finish(rank);
  return makespan + kMeanEndWeight * sum / problem_.ranks();
}

double ListSearch::Offer(const EntryLists& lists) {
  double makespan = 0;
  Score(lists, makespan);
  if (makespan < best_makespan_) {
    best_makespan_ = makespan;
    best_ = lists;
  }
  return makespan;
}

void ListSearch::Walk(EntryLists lists, int64_t effort, double heat, double bound) {
  const int64_t first = timed_;
  double makespan = 0;
  double score = Score(lists, makespan);
  double busy = 0;
  size_t instructions = 0;
  for (int rank = 0; rank < problem_.ranks(); ++rank) {
    instructions += lists[rank].size();
    for (size_t i = 0; i < lists[rank].size(); ++i) {
      busy += timing_.end(rank, i) - timing_.start(rank, i);
    }
  }
  const double hottest = heat * busy / std::max<size_t>(instructions, 1);
  timing_.CriticalPath(lists, critical_);
  // A move that is no move costs effort too, so that a walk always ends.
  int64_t idle_moves = 0;
  while (best_makespan_ > bound) {
    const int64_t spent = timed_ - first + idle_moves;
    if (spent >= effort) break;
    const auto [rank, index] = PickPlace(lists);
    list_ = lists[rank];
    idle_moves += 8;
    if (!Change(rank, index)) continue;
    list_.swap(lists[rank]);
    const double moved = Score(lists, makespan);
    const double done = static_cast<double>(spent) / static_cast<double>(effort);
    const double temperature = hottest * std::pow(kCoolest, done);
    const double worse = moved - score;
    if (worse <= 0 || (temperature > 0 && worse < -temperature * std::log(1 - random_.Unit()))) {
      score = moved;
      timing_.CriticalPath(lists, critical_);
      if (makespan < best_makespan_) {
        best_makespan_ = makespan;
        best_ = lists;
      }
    } else {
      list_.swap(lists[rank]);
    }
  }
}

std::pair<int, int> ListSearch::PickPlace(const EntryLists& lists) {
  if (!critical_.empty() && random_.Unit() < kCriticalShare) {
    return critical_[random_.Below(static_cast<int>(critical_.size()))];
  }
  const int rank = random_.Below(problem_.ranks());
  return {rank, random_.Below(static_cast<int>(lists[rank].size()))};
}

bool ListSearch::Change(int rank, int index) {
  const EntryList before = problem_.one_order() ? list_ : EntryList();
  const int kinds = problem_.pairs_pay() ? 8 : 6;
  const int kind = random_.Below(kinds);
  const bool changed = kind < 2   ? Swap(index)
                       : kind < 5 ? Shift(index)
                       : kind < 6 ? SplitOrJoin(index)
                                  : PairOrPart(index);
  if (!changed || !problem_.IsSound(rank, list_)) return false;
  return !problem_.one_order() || KeepsOrder(before, list_);
}

bool ListSearch::Swap(int index) {
  const int other = index + (random_.Below(2) == 0 ? 1 : -1);
  if (other < 0 || other >= static_cast<int>(list_.size())) return false;
  if (list_[index] == list_[other]) return false;
  std::swap(list_[index], list_[other]);
  return true;
}

bool ListSearch::Shift(int index) {
  const int size = static_cast<int>(list_.size());
  const int reach = random_.Below(4) == 0 ? kFarShift : kNearShift;
  const int to = std::clamp(index + random_.Between(-reach, reach), 0, size - 1);
  const auto at = list_.begin() + index;
  if (to < index) std::rotate(list_.begin() + to, at, at + 1);
  if (to > index) std::rotate(at, at + 1, list_.begin() + to + 1);
  return to != index;
}

bool ListSearch::SplitOrJoin(int index) {
  Entry& entry = list_[index];
  const int size = static_cast<int>(list_.size());
  if (entry.kind == Entry::kBackward) {
    entry.kind = Entry::kBackwardInput;
    const int at = std::min(size, index + 1 + random_.Below(kNearShift));
    list_.insert(list_.begin() + at, {Entry::kWeight, 0, 0});
    return true;
  }
  if (entry.kind != Entry::kBackwardInput) return false;
  entry.kind = Entry::kBackward;
  // One of the next weight gradients goes.
  int skip = random_.Below(3);
  for (int at = index + 1; at < size; ++at) {
    if (list_[at].kind == Entry::kWeight && skip-- == 0) {
      list_.erase(list_.begin() + at);
      return true;
    }
  }
  return false;
}

bool ListSearch::PairOrPart(int index) {
  const Entry entry = list_[index];
  const auto at = list_.begin() + index;
  if (entry.kind == Entry::kPair) {
    const Entry forward = {Entry::kForward, entry.forward, 0};
    const Entry backward = {Entry::kBackward, 0, entry.backward};
    const bool forward_first = random_.Below(2) == 0;
    *at = forward_first ? forward : backward;
    list_.insert(at + 1, forward_first ? backward : forward);
    return true;
  }
  if (entry.kind != Entry::kForward && entry.kind != Entry::kBackward) return false;
  const auto wanted = entry.kind == Entry::kForward ? Entry::kBackward : Entry::kForward;
  const int step = random_.Below(2) == 0 ? 1 : -1;
  int other = index + step;
  const int size = static_cast<int>(list_.size());
  while (other >= 0 && other < size && list_[other].kind != wanted) {
    other += step;
    if (std::abs(other - index) > kNearShift) return false;
  }
  if (other < 0 || other >= size) return false;
  const Entry& mate = list_[other];
  const bool forward = entry.kind == Entry::kForward;
  const Entry pair = {Entry::kPair, forward ? entry.forward : mate.forward,
                      forward ? mate.backward : entry.backward};
  const bool here = random_.Below(2) == 0;
  list_[here ? index : other] = pair;
  list_.erase(list_.begin() + (here ? other : index));
  return true;
}

bool ListSearch::KeepsOrder(const EntryList& before, const EntryList& after) const {
  const auto same = [&](auto has, auto track) {
    size_t i = 0;
    for (const Entry& entry : after) {
      if (!has(entry)) continue;
      while (!has(before[i])) ++i;
      if (track(before[i++]) != track(entry)) return false;
    }
    return true;
  };
  return same([](const Entry& e) { return e.HasForward(); },
              [](const Entry& e) { return e.forward; }) &&
         same([](const Entry& e) { return e.HasBackward(); },
              [](const Entry& e) { return e.backward; });
}

}  // namespace fathom::schedule
