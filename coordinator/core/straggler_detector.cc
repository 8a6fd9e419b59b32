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
  for (size_t i = 0; i < group_.size(); ++i) members_[group_[i]].push_back(i);
}

StragglerDetector::Measure StragglerDetector::MeasureOf(std::vector<double> per_cost) {
  Measure measure;
  measure.expected = Median(per_cost);
  // Of two, the deviation of one from the other tells nothing about noise.
  if (per_cost.size() < kFellowsMin) return measure;
  for (double& value : per_cost) value = std::abs(value - measure.expected);
  measure.scatter = kDeviationsPerSigma * Median(std::move(per_cost));
  return measure;
}

std::optional<Straggler> StragglerDetector::Watch(const std::vector<const v1::StepReport*>& steps) {
  FATHOM_CHECK(steps.size() == cost_.size());
  if (steps.size() < 2) return std::nullopt;
  int64_t oldest = steps[0]->step();
  int64_t newest = oldest;
  for (const v1::StepReport* step : steps) {
    oldest = std::min(oldest, step->step());
    newest = std::max(newest, step->step());
  }
  if (oldest <= counted_step_) return std::nullopt;
  counted_step_ = newest;
  std::vector<double> per_cost;
  for (size_t i = 0; i < steps.size(); ++i) {
    per_cost.push_back(BusySeconds(*steps[i]) / std::max(cost_[i], 1e-12));
  }
  const Measure of_all = MeasureOf(per_cost);
  std::optional<Straggler> worst;
  for (const auto& [group, members] : members_) {
    Measure measure = of_all;
    if (members.size() >= kFellowsMin) {
      std::vector<double> fellows;
      for (const size_t i : members) fellows.push_back(per_cost[i]);
      measure = MeasureOf(std::move(fellows));
    }
    for (const size_t i : members) {
      const bool slow = measure.expected > 0 && per_cost[i] > kStragglerFactor * measure.expected &&
                        per_cost[i] - measure.expected > kStragglerDeviations * measure.scatter;
      slow_in_a_row_[i] = slow ? slow_in_a_row_[i] + 1 : 0;
      if (slow_in_a_row_[i] < kStragglerSteps) continue;
      const Straggler found{static_cast<int32_t>(i), steps[i]->step(), per_cost[i] * cost_[i],
                            measure.expected * cost_[i]};
      const bool slower =
          !worst.has_value() || found.busy_s * worst->expected_s > worst->busy_s * found.expected_s;
      if (slower) worst = found;
    }
  }
  return worst;
}

}  // namespace fathom
