#include "worker/engine/restore_plan.h"

#include <algorithm>
#include <functional>
#include <map>
#include <set>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace fathom::engine {
namespace {

// One place where a run of a tensor's elements lives.
struct PieceSource {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t offset = 0;
  int rank = 0;
  int entry = 0;
};

class Planner {
 public:
  explicit Planner(const RestoreQuestion& question)
      : question_(question), ranks_(question.target->shards()) {
    FATHOM_CHECK(static_cast<int>(question.inventories.size()) == ranks_ &&
                 static_cast<int>(question.nodes.size()) == ranks_)
        << question.inventories.size() << " inventories, " << question.nodes.size() << " nodes for "
        << ranks_ << " ranks";
  }

  RestoreAnswer Plan() {
    std::set<int64_t, std::greater<>> steps;
    ForEachOffer([&](int, int, const StateOffer& offer) { steps.insert(offer.step); });
    RestoreAnswer answer;
    for (const int64_t step : steps) {
      std::string missing;
      answer.plan = PlanStep(step, &missing);
      if (answer.plan.has_value()) return answer;
      if (answer.missing.empty()) answer.missing = absl::StrCat("of step ", step, ", ", missing);
    }
    return answer;
  }

 private:
  // Every offer that can be used at all.
  template <typename Visit>
  void ForEachOffer(Visit visit) const {
    for (int rank = 0; rank < ranks_; ++rank) {
      const Inventory& inventory = question_.inventories[static_cast<size_t>(rank)];
      for (size_t entry = 0; entry < inventory.size(); ++entry) {
        const StateOffer& offer = inventory[entry];
        if (offer.struck || offer.step < question_.at_least ||
            offer.layout->family() != question_.target->family() ||
            !OnHistory(question_.history, offer.epoch, offer.step)) {
          continue;
        }
        visit(rank, static_cast<int>(entry), offer);
      }
    }
  }

  // Lower is better, for `to` to take it from.
  std::tuple<bool, bool, bool, int, int> Cost(int to, int rank, int entry) const {
    const bool own =
        question_.inventories[static_cast<size_t>(rank)][static_cast<size_t>(entry)].own;
    return {rank != to,
            question_.nodes[static_cast<size_t>(rank)] != question_.nodes[static_cast<size_t>(to)],
            !own, rank, entry};
  }

  std::optional<RestorePlan> PlanStep(int64_t step, std::string* missing) {
    step_ = step;
    sources_.clear();
    whole_.assign(static_cast<size_t>(ranks_), {});
    ForEachOffer([&](int rank, int entry, const StateOffer& offer) {
      if (offer.step == step &&
          (offer.layout == question_.target || offer.layout->key() == question_.target->key())) {
        whole_[static_cast<size_t>(offer.shard)].push_back({rank, entry});
      }
    });
    RestorePlan plan;
    plan.step = step;
    for (int to = 0; to < ranks_; ++to) {
      if (PlanWhole(to, &plan)) continue;
      if (!PlanPieces(to, &plan, missing)) return std::nullopt;
    }
    // By how far they go around the ring of ranks: those of one distance are independent but for
    // neighbours, and any fixed order of all transfers keeps ranks from waiting in a circle.
    std::stable_sort(plan.transfers.begin(), plan.transfers.end(),
                     [this](const StateTransfer& a, const StateTransfer& b) {
                       return std::make_tuple((a.to - a.from + ranks_) % ranks_, a.from, a.entry) <
                              std::make_tuple((b.to - b.from + ranks_) % ranks_, b.from, b.entry);
                     });
    return plan;
  }

  bool PlanWhole(int to, RestorePlan* plan) const {
    const std::vector<std::pair<int, int>>& offers = whole_[static_cast<size_t>(to)];
    if (offers.empty()) return false;
    const auto [rank, entry] =
        *std::min_element(offers.begin(), offers.end(), [&](const auto& a, const auto& b) {
          return Cost(to, a.first, a.second) < Cost(to, b.first, b.second);
        });
    plan->transfers.push_back({rank, entry, to, true, {{0, 0, question_.target->ShardBytes(to)}}});
    return true;
  }

  void IndexSources() {
    if (!sources_.empty()) return;
    ForEachOffer([&](int rank, int entry, const StateOffer& offer) {
      if (offer.step != step_) return;
      for (StatePiece& piece : offer.layout->Pieces(offer.shard)) {
        sources_[piece.tensor].push_back({piece.begin, piece.end, piece.offset, rank, entry});
      }
    });
  }

  bool PlanPieces(int to, RestorePlan* plan, std::string* missing) {
    IndexSources();
    std::map<std::pair<int, int>, StateTransfer> transfers;  // by source
    for (const StatePiece& piece : question_.target->Pieces(to)) {
      const auto found = sources_.find(piece.tensor);
      int64_t at = piece.begin;
      while (at < piece.end) {
        const PieceSource* best = nullptr;
        if (found != sources_.end()) {
          for (const PieceSource& source : found->second) {
            if (source.begin > at || source.end <= at) continue;
            if (best == nullptr ||
                Cost(to, source.rank, source.entry) < Cost(to, best->rank, best->entry)) {
              best = &source;
            }
          }
        }
        if (best == nullptr) {
          *missing = absl::StrCat("element ", at, " of ", piece.tensor, " (for rank ", to,
                                  ") is in nobody's memory");
          return false;
        }
        const int64_t end = std::min(best->end, piece.end);
        StateTransfer& transfer = transfers[{best->rank, best->entry}];
        transfer.from = best->rank;
        transfer.entry = best->entry;
        transfer.to = to;
        Append({best->offset + (at - best->begin) * piece.element_bytes,
                piece.offset + (at - piece.begin) * piece.element_bytes,
                (end - at) * piece.element_bytes},
               &transfer.segments);
        at = end;
      }
    }
    for (auto& [source, transfer] : transfers) plan->transfers.push_back(std::move(transfer));
    return true;
  }

  static void Append(const StateSegment& segment, std::vector<StateSegment>* segments) {
    if (!segments->empty()) {
      StateSegment& last = segments->back();
      if (last.from_offset + last.bytes == segment.from_offset &&
          last.to_offset + last.bytes == segment.to_offset) {
        last.bytes += segment.bytes;
        return;
      }
    }
    segments->push_back(segment);
  }

  const RestoreQuestion& question_;
  const int ranks_;
  int64_t step_ = 0;
  // Of step_: (rank, entry) by shard of the target's layout, and pieces by tensor.
  std::vector<std::vector<std::pair<int, int>>> whole_;
  std::unordered_map<std::string, std::vector<PieceSource>> sources_;
};

}  // namespace

int64_t StateTransfer::bytes() const {
  int64_t sum = 0;
  for (const StateSegment& segment : segments) sum += segment.bytes;
  return sum;
}

RestoreAnswer PlanRestore(const RestoreQuestion& question) { return Planner(question).Plan(); }

}  // namespace fathom::engine
