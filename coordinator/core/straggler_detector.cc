#include "coordinator/core/straggler_detector.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>

#include "common/base/check.h"

namespace fathom {
namespace {

constexpr size_t kFellowsMin = 3;
constexpr double kDeviationsPerSigma = 1.4826;

// The lower of the middle two: of two values the smaller.
double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

double BusySeconds(const v1::StepReport& step) {
  return std::max(
      0.0, step.seconds() - step.wait_seconds() - step.reduce_seconds() - step.snapshot_seconds());
}

StragglerDetector::StragglerDetector(std::vector<double> cost, std::vector<int32_t> group)
    : cost_(std::move(cost)), group_(std::move(group)), slow_in_a_row_(cost_.size(), 0) {
  FATHOM_CHECK(cost_.size() == group_.size());
}

// In seconds per cost.
double StragglerDetector::ExpectedOf(size_t rank, const std::vector<double>& per_cost,
                                     double* scatter) const {
  std::vector<double> fellows;
  for (size_t i = 0; i < per_cost.size(); ++i) {
    if (group_[i] == group_[rank]) fellows.push_back(per_cost[i]);
  }
  if (fellows.size() < kFellowsMin) fellows = per_cost;
  const double median = Median(fellows);
  for (double& value : fellows) value = std::abs(value - median);
  // Of two, the deviation of one from the other tells nothing about noise.
  *scatter = fellows.size() < kFellowsMin ? 0 : kDeviationsPerSigma * Median(fellows);
  return median;
}

std::optional<Straggler> StragglerDetector::Watch(const std::vector<const v1::StepReport*>& steps) {
  FATHOM_CHECK(steps.size() == cost_.size());
  if (steps.size() < 2) return std::nullopt;
  int64_t oldest = steps[0]->step();
  for (const v1::StepReport* step : steps) oldest = std::min(oldest, step->step());
  if (oldest <= counted_step_) return std::nullopt;
  counted_step_ = oldest;
  for (const v1::StepReport* step : steps) {
    counted_step_ = std::max(counted_step_, step->step());
  }
  std::vector<double> per_cost;
  for (size_t i = 0; i < steps.size(); ++i) {
    per_cost.push_back(BusySeconds(*steps[i]) / std::max(cost_[i], 1e-12));
  }
  std::optional<Straggler> worst;
  for (size_t i = 0; i < steps.size(); ++i) {
    double scatter = 0;
    const double expected = ExpectedOf(i, per_cost, &scatter);
    const bool slow = per_cost[i] > kStragglerFactor * expected &&
                      per_cost[i] - expected > kStragglerDeviations * scatter && expected > 0;
    slow_in_a_row_[i] = slow ? slow_in_a_row_[i] + 1 : 0;
    if (slow_in_a_row_[i] < kStragglerSteps) continue;
    const Straggler found{static_cast<int32_t>(i), steps[i]->step(), per_cost[i] * cost_[i],
                          expected * cost_[i]};
    if (!worst || found.busy_s * worst->expected_s > worst->busy_s * found.expected_s) {
      worst = found;
    }
  }
  return worst;
}

}  // namespace fathom
