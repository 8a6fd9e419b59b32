#include "coordinator/core/corruption_detector.h"

#include <algorithm>
#include <set>

#include "absl/strings/match.h"
#include "common/base/check.h"

namespace fathom {
namespace {

constexpr size_t kStepsKept = 8;

}  // namespace

bool SpeaksOfCorruption(const std::string& message) {
  return absl::StrContains(message, "CORRUPTION: ");
}

std::optional<WeightsDiffer> CorruptionDetector::Watch(
    const std::vector<const v1::StepReport*>& steps) {
  FATHOM_CHECK(steps.size() == group_.size());
  for (size_t i = 0; i < steps.size(); ++i) {
    if (steps[i]->weights_hash() == 0) continue;
    steps_[steps[i]->step()].hashes.emplace(static_cast<int32_t>(i), steps[i]->weights_hash());
  }
  while (steps_.size() > kStepsKept) steps_.erase(steps_.begin());
  for (auto& [number, step] : steps_) {
    if (std::optional<WeightsDiffer> found = Judge(number, &step)) return found;
  }
  return std::nullopt;
}

// A group is judged when all of it have reported the step.
std::optional<WeightsDiffer> CorruptionDetector::Judge(int64_t number, Step* step) const {
  const std::set<int32_t> groups(group_.begin(), group_.end());
  if (step->judged.size() == groups.size()) return std::nullopt;
  for (const int32_t group : groups) {
    if (std::count(step->judged.begin(), step->judged.end(), group) > 0) continue;
    std::map<uint64_t, std::vector<int32_t>> ranks_of;  // by hash
    size_t members = 0;
    size_t known = 0;
    for (size_t i = 0; i < group_.size(); ++i) {
      if (group_[i] != group) continue;
      ++members;
      const auto hash = step->hashes.find(static_cast<int32_t>(i));
      if (hash == step->hashes.end()) continue;
      ++known;
      ranks_of[hash->second].push_back(static_cast<int32_t>(i));
    }
    if (known < members) continue;
    step->judged.push_back(group);
    if (ranks_of.size() < 2) continue;
    size_t most = 0;
    for (const auto& [hash, ranks] : ranks_of) most = std::max(most, ranks.size());
    WeightsDiffer found;
    found.step = number;
    found.blamed = 2 * most > members;
    for (const auto& [hash, ranks] : ranks_of) {
      if (found.blamed && ranks.size() == most) continue;
      found.ranks.insert(found.ranks.end(), ranks.begin(), ranks.end());
    }
    std::sort(found.ranks.begin(), found.ranks.end());
    return found;
  }
  return std::nullopt;
}

}  // namespace fathom
