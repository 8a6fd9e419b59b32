#include "coordinator/core/corruption_detector.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "common/base/check.h"

namespace fathom {
namespace {

constexpr size_t kStepsKept = 8;

std::optional<WeightsDiffer> Compare(const std::map<int32_t, uint64_t>& hashes) {
  std::map<uint64_t, std::vector<int32_t>> ranks_of;  // by hash
  for (const auto& [rank, hash] : hashes) ranks_of[hash].push_back(rank);
  if (ranks_of.size() < 2) return std::nullopt;
  size_t most = 0;
  for (const auto& [hash, ranks] : ranks_of) most = std::max(most, ranks.size());
  WeightsDiffer found;
  found.blamed = 2 * most > hashes.size();
  for (const auto& [hash, ranks] : ranks_of) {
    if (found.blamed && ranks.size() == most) continue;
    found.ranks.insert(found.ranks.end(), ranks.begin(), ranks.end());
  }
  std::sort(found.ranks.begin(), found.ranks.end());
  return found;
}

}  // namespace

bool SpeaksOfCorruption(const std::string& message) {
  return absl::StrContains(message, "CORRUPTION: ");
}

CorruptionDetector::CorruptionDetector(const std::vector<int32_t>& group)
    : group_(group), seen_step_(group.size(), 0) {
  for (const int32_t of : group_) ++members_[of];
}

std::optional<WeightsDiffer> CorruptionDetector::Watch(
    const std::vector<const v1::StepReport*>& steps) {
  FATHOM_CHECK(steps.size() == group_.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    const v1::StepReport& report = *steps[i];
    if (report.weights_hash() == 0 || report.step() == seen_step_[i]) continue;
    seen_step_[i] = report.step();
    steps_[report.step()].hashes[group_[i]].emplace(static_cast<int32_t>(i), report.weights_hash());
  }
  while (steps_.size() > kStepsKept) steps_.erase(steps_.begin());
  for (auto& [number, step] : steps_) {
    for (const auto& [group, hashes] : step.hashes) {
      // A group is judged once, when all of it have reported the step.
      if (hashes.size() < members_.at(group) || !step.judged.insert(group).second) continue;
      std::optional<WeightsDiffer> found = Compare(hashes);
      if (!found.has_value()) continue;
      found->step = number;
      return found;
    }
  }
  return std::nullopt;
}

}  // namespace fathom
