// What a predicted step takes for granted, with its source, and how to ask what it adds: by
// predicting once more without it.
#ifndef FATHOM_COORDINATOR_PLANNER_COST_ASSUMPTIONS_H_
#define FATHOM_COORDINATOR_PLANNER_COST_ASSUMPTIONS_H_

#include <optional>
#include <vector>

#include "coordinator/planner/cost/stage_cost.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

// Of a step's time: what varies from step to step and between devices, such as clocks with the
// temperature. Source: assumptions.cc.
inline constexpr double kJitter = 0.015;

// A prediction without one of the assumptions.
struct Choices {
  bool balanced = false;       // routing
  bool steady = false;         // no jitter
  bool free_messages = false;  // between stages
  bool free_reduction = false;
  ProfileChange profile;
};

struct AskedAssumption {
  v1::Assumption assumption;       // adds_s is left 0
  std::optional<Choices> without;  // none: nothing to compare with
};

std::vector<AskedAssumption> AssumptionsOf(const CostInput& input);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_COST_ASSUMPTIONS_H_
