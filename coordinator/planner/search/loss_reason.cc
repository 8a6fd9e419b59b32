#include "coordinator/planner/search/loss_reason.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "coordinator/planner/cost/step_fields.h"

namespace fathom::planner {
namespace {

constexpr double kKilo = 1e3;
// Exchange that takes this part of what it hides under counts as what a step waits for.
constexpr double kExchangeBound = 0.98;

double ComputeSeconds(const v1::StepBreakdown& b) {
  return b.forward_s() + b.backward_s() + b.weight_s() + b.overlapped_s();
}

double UpdateSeconds(const v1::StepBreakdown& b) {
  return b.reduce_s() + b.optimizer_s() + b.other_s();
}

std::string Share(const CostedLayout& layout, double seconds) {
  return PercentText(seconds / layout.seconds);
}

std::string ComputeReason(const CostedLayout& loser, const CostedLayout& best, int nodes) {
  const LayoutShape& shape = loser.layout;
  if (shape.recomputation != best.layout.recomputation) {
    return absl::StrCat("recomputation ", ToString(shape.recomputation), " instead of ",
                        ToString(best.layout.recomputation), ": ",
                        SecondsText(ComputeSeconds(loser.breakdown)), " of work against ",
                        SecondsText(ComputeSeconds(best.breakdown)));
  }
  if (loser.communication_over_compute > kExchangeBound &&
      loser.communication_over_compute > best.communication_over_compute) {
    return absl::StrFormat("expert group spans %d %s: exchange %.2fx compute against %.2fx", nodes,
                           nodes == 1 ? "node" : "nodes", loser.communication_over_compute,
                           best.communication_over_compute);
  }
  return absl::StrCat("the busiest rank works ", SecondsText(ComputeSeconds(loser.breakdown)),
                      " against ", SecondsText(ComputeSeconds(best.breakdown)));
}

std::string SlowerReason(const CostedLayout& loser, const CostedLayout& best, int nodes) {
  const double bubble = loser.breakdown.bubble_s() - best.breakdown.bubble_s();
  const double compute = ComputeSeconds(loser.breakdown) - ComputeSeconds(best.breakdown);
  const double update = UpdateSeconds(loser.breakdown) - UpdateSeconds(best.breakdown);
  if (bubble >= std::max(compute, update)) {
    return absl::StrCat("bubble ", Share(loser, loser.breakdown.bubble_s()), " against ",
                        Share(best, best.breakdown.bubble_s()), ": M=", loser.layout.micro_batches,
                        " for P=", loser.layout.parallelism.pipeline());
  }
  if (compute >= update) return ComputeReason(loser, best, nodes);
  return absl::StrCat("reduction and update take ", SecondsText(UpdateSeconds(loser.breakdown)),
                      " against ", SecondsText(UpdateSeconds(best.breakdown)));
}

}  // namespace

std::string BytesText(double bytes) {
  const char* units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  size_t unit = 0;
  while (bytes >= kKilo && unit + 1 < std::size(units)) {
    bytes /= kKilo;
    ++unit;
  }
  return unit == 0 ? absl::StrFormat("%.0f B", bytes)
                   : absl::StrFormat("%.1f %s", bytes, units[unit]);
}

std::string SecondsText(double seconds) {
  if (seconds >= 1) return absl::StrFormat("%.2f s", seconds);
  if (seconds >= 1e-3) return absl::StrFormat("%.2f ms", seconds * 1e3);
  return absl::StrFormat("%.2f us", seconds * 1e6);
}

std::string PercentText(double part) { return absl::StrFormat("%.1f%%", part * 100); }

std::string WhyItLost(const CostedLayout& loser, const CostedLayout* best, int64_t usable_bytes,
                      int nodes_of_group) {
  if (!loser.fits) {
    return absl::StrCat("needs ", BytesText(loser.peak_bytes), " of ", BytesText(usable_bytes));
  }
  std::vector<std::string> parts;
  if (best != nullptr && loser.seconds > best->seconds) {
    parts.push_back(SlowerReason(loser, *best, nodes_of_group));
  } else if (best != nullptr) {
    parts.push_back(absl::StrCat(PercentText(1 - loser.seconds / best->seconds), " faster"));
  }
  if (!loser.run_by_ranks) parts.push_back("not yet run by ranks");
  std::string text;
  for (const std::string& part : parts) absl::StrAppend(&text, text.empty() ? "" : "; ", part);
  return text;
}

}  // namespace fathom::planner
