#include "common/schedule/step_costs.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "absl/strings/str_cat.h"

namespace fathom::schedule {
namespace {

bool IsTime(double value) { return std::isfinite(value) && value >= 0; }

const StageCosts& Of(const StepCosts& costs, int stage) {
  return costs.stages[costs.stages.size() == 1 ? 0 : stage];
}

double Saved(const StageCosts& costs) { return costs.forward + costs.backward - costs.overlapped; }

}  // namespace

absl::Status CheckStepCosts(const StepCosts& costs, int stages) {
  if (costs.stages.size() != 1 && costs.stages.size() != static_cast<size_t>(stages)) {
    return absl::InvalidArgumentError(absl::StrCat("costs of ", costs.stages.size(), " stages for ",
                                                   stages, "; give one for each, or one for all"));
  }
  for (size_t i = 0; i < costs.stages.size(); ++i) {
    const StageCosts& c = costs.stages[i];
    for (double cost : {c.forward, c.backward, c.backward_input, c.weight, c.overlapped}) {
      if (!IsTime(cost)) {
        return absl::InvalidArgumentError(
            absl::StrCat("a cost of stage ", i, " is ", cost, "; give a number of at least 0"));
      }
    }
  }
  if (!IsTime(costs.message_time)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the message time is ", costs.message_time, "; give a number of at least 0"));
  }
  const size_t pairs = static_cast<size_t>(stages) * stages;
  if (!costs.pairs.empty() && costs.pairs.size() != pairs) {
    return absl::InvalidArgumentError(absl::StrCat("costs of ", costs.pairs.size(), " pairs for ",
                                                   stages, " stages; give none or ", pairs));
  }
  for (size_t i = 0; i < costs.pairs.size(); ++i) {
    if (!std::isfinite(costs.pairs[i])) {
      return absl::InvalidArgumentError(absl::StrCat("the cost of a forward on stage ", i / stages,
                                                     " with a backward on stage ", i % stages,
                                                     " is ", costs.pairs[i], "; give a number"));
    }
  }
  return absl::OkStatus();
}

double CostOf(const StepCosts& costs, OpKind kind, int stage) {
  const StageCosts& of = Of(costs, stage);
  switch (kind) {
    case OpKind::kForward:
      return of.forward;
    case OpKind::kBackward:
      return of.backward;
    case OpKind::kBackwardInput:
      return of.backward_input;
    case OpKind::kWeight:
      return of.weight;
  }
  return 0;
}

double PairCostOf(const StepCosts& costs, int stages, int forward_stage, int backward_stage) {
  if (!costs.pairs.empty()) {
    const double exact = costs.pairs[static_cast<size_t>(forward_stage) * stages + backward_stage];
    if (exact >= 0) return exact;
  }
  const StageCosts& first = Of(costs, forward_stage);
  const StageCosts& second = Of(costs, backward_stage);
  const double apart = first.forward + second.backward;
  return std::max(apart - (Saved(first) + Saved(second)) / 2, 0.0);
}

}  // namespace fathom::schedule
