#include "worker/engine/expert_balance.h"

#include <algorithm>
#include <numeric>

#include "common/base/check.h"

namespace fathom::engine {
namespace {

double Mean(absl::Span<const double> values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

void UpdateRouterBias(absl::Span<const double> loads, double speed, absl::Span<float> bias) {
  FATHOM_CHECK(loads.size() == bias.size())
      << loads.size() << " loads, " << bias.size() << " biases";
  const double mean = Mean(loads);
  for (size_t i = 0; i < loads.size(); ++i) {
    const double error = mean - loads[i];
    if (error > 0) bias[i] += static_cast<float>(speed);
    if (error < 0) bias[i] -= static_cast<float>(speed);
  }
}

double MaxViolation(absl::Span<const double> loads) {
  const double mean = loads.empty() ? 0 : Mean(loads);
  return mean == 0 ? 0 : (*std::max_element(loads.begin(), loads.end()) - mean) / mean;
}

}  // namespace fathom::engine
