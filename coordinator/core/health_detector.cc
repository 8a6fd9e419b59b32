#include "coordinator/core/health_detector.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace fathom {

std::string HealthDetector::Watch(const NodeName& node, const v1::NodeHealth& health) {
  // A probe that failed says nothing, neither good nor bad.
  if (health.probed_ms() == 0 || !health.probe_error().empty()) return "";
  Node& known = nodes_[node];
  if (health.probed_ms() == known.probed_ms) return "";
  known.probed_ms = health.probed_ms();
  std::map<std::string, int> fatal;
  std::string verdict;
  for (const v1::HealthSignal& signal : health.signals()) {
    if (signal.severity() != v1::SEVERITY_FATAL) continue;
    const std::string what =
        absl::StrCat(signal.source(), " ", signal.subject(), " ", signal.name());
    const auto before = known.fatal_in_a_row.find(what);
    const int count = before == known.fatal_in_a_row.end() ? 1 : before->second + 1;
    if (!fatal.emplace(what, count).second || count != kFatalProbes) continue;
    absl::StrAppend(&verdict, verdict.empty() ? "" : "; ", what, ": ",
                    signal.message().empty() ? absl::StrCat(signal.value()) : signal.message());
  }
  known.fatal_in_a_row = std::move(fatal);
  return verdict;
}

}  // namespace fathom
