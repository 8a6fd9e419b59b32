#include "worker/engine/weights_check.h"

#include <algorithm>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_util.h"
#include "common/plan/plan_layout.h"

namespace fathom::engine {
namespace {

// A hash as two sums that doubles hold exactly.
constexpr size_t kHalves = 2;
constexpr int kHalfBits = 32;

uint64_t HashWeights(model::ParameterStore& store) {
  std::vector<uint64_t> hashes;
  for (const model::ParameterBlock& block : store.blocks()) {
    hashes.push_back(
        HashState({static_cast<const std::byte*>(block.weights.data),
                   static_cast<size_t>(block.size() * kernels::SizeOf(block.weights.dtype))}));
  }
  const uint64_t hash = HashState(
      {reinterpret_cast<const std::byte*>(hashes.data()), hashes.size() * sizeof(uint64_t)});
  return hash == 0 ? 1 : hash;
}

}  // namespace

WeightsCheck::WeightsCheck(RankParts* parts)
    : parts_(parts),
      enabled_(!parts->plan.spec().recovery().has_verify_weights() ||
               parts->plan.spec().recovery().verify_weights()) {}

void WeightsCheck::Remember(int64_t step) {
  if (!enabled_) return;
  step_ = step;
  hash_ = HashWeights(*parts_->store);
}

size_t WeightsCheck::places() const {
  return enabled_ ? kHalves * static_cast<size_t>(parts_->dense->size()) : 0;
}

void WeightsCheck::Fill(absl::Span<double> places) const {
  if (!enabled_) return;
  const size_t at = kHalves * static_cast<size_t>(parts_->dense->index());
  places[at] = static_cast<double>(hash_ >> kHalfBits);
  places[at + 1] = static_cast<double>(hash_ & ((uint64_t{1} << kHalfBits) - 1));
}

void WeightsCheck::Examine(absl::Span<const double> sums) {
  if (!enabled_) return;
  const uint64_t again = HashWeights(*parts_->store);
  if (again != hash_) {
    own_fault_ = true;
    finding_ = absl::StrCat("the weights of rank ", parts_->rank, " on node ",
                            parts_->plan.ranks(parts_->rank).node(), " (stages ",
                            absl::StrJoin(plan::StagesOfRank(parts_->plan, parts_->rank), ", "),
                            ") after step ", step_, " changed in its memory: their hash was ",
                            absl::Hex(hash_), " and is ", absl::Hex(again));
    return;
  }
  CompareWithHolders(sums);
}

void WeightsCheck::CompareWithHolders(absl::Span<const double> sums) {
  std::map<uint64_t, std::vector<int>> holders;  // by hash
  const std::vector<int>& dense = parts_->dense->ranks();
  for (const int rank : parts_->experts->ranks()) {
    const size_t at =
        kHalves * static_cast<size_t>(std::find(dense.begin(), dense.end(), rank) - dense.begin());
    const uint64_t hash =
        (static_cast<uint64_t>(sums[at]) << kHalfBits) | static_cast<uint64_t>(sums[at + 1]);
    holders[hash].push_back(rank);
  }
  if (holders.size() == 1) return;
  finding_ = absl::StrCat(
      "ranks that hold the same weights (stages ",
      absl::StrJoin(plan::StagesOfRank(parts_->plan, parts_->experts->ranks()[0]), ", "),
      ") differ after step ", step_, ":");
  const size_t all = parts_->experts->ranks().size();
  for (const auto& [hash, ranks] : holders) {
    const bool minority = std::any_of(holders.begin(), holders.end(), [&](const auto& other) {
      return 2 * other.second.size() > all && other.first != hash;
    });
    absl::StrAppend(&finding_, hash == holders.begin()->first ? " " : ", ", "rank ",
                    absl::StrJoin(ranks, " and "), " ", absl::Hex(hash),
                    minority ? " (in the minority)" : "");
    if (minority && hash == hash_) own_fault_ = true;
  }
}

absl::Status WeightsCheck::Conclude() {
  FATHOM_ASSIGN_OR_RETURN(const std::vector<std::string> findings,
                          parts_->world->AllGatherMessages(finding_));
  // Nobody leaves while a peer still gathers. One that is gone all the same has told what it knew.
  parts_->world->Barrier().IgnoreError();
  std::set<std::string> distinct(findings.begin(), findings.end());
  distinct.erase("");
  const std::string message = absl::StrCat(kCorruption, absl::StrJoin(distinct, "; "));
  return own_fault_ ? absl::InternalError(message) : absl::AbortedError(message);
}

}  // namespace fathom::engine
