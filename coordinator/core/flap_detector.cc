#include "coordinator/core/flap_detector.h"

#include <algorithm>

namespace fathom {

bool FlapDetector::NodeReturned(const NodeName& node, int64_t now_ms) {
  // Those whose last return is long ago are forgotten, so that the table stays small.
  for (auto it = returns_.begin(); it != returns_.end();) {
    while (!it->second.empty() && now_ms - it->second.front() > kFlapWindowMs) {
      it->second.pop_front();
    }
    it = it->second.empty() ? returns_.erase(it) : std::next(it);
  }
  std::deque<int64_t>& returns = returns_[node];
  returns.push_back(now_ms);
  if (returns.size() < static_cast<size_t>(kNodeFlapsMax)) return false;
  returns_.erase(node);
  return true;
}

int FlapDetector::CountOf(const NodeName& node, int64_t now_ms) const {
  const auto found = returns_.find(node);
  if (found == returns_.end()) return 0;
  return static_cast<int>(
      std::count_if(found->second.begin(), found->second.end(),
                    [&](int64_t when) { return now_ms - when <= kFlapWindowMs; }));
}

}  // namespace fathom
