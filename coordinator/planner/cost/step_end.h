// What follows the last micro-batch: gradients are summed, the gradient's norm made known to all,
// weights updated, gathered, and copied into FP8.
#ifndef FATHOM_COORDINATOR_PLANNER_COST_STEP_END_H_
#define FATHOM_COORDINATOR_PLANNER_COST_STEP_END_H_

#include "common/schedule/compiled_schedule.h"
#include "common/schedule/instruction.h"
#include "coordinator/planner/cost/stage_cost.h"

namespace fathom::planner {

struct StepEnd {
  double reduce_s = 0;     // sums and gathers, after the last rank's last instruction
  double optimizer_s = 0;  // norm, update, FP8 copies
};

// A group sums its gradients when all of its ranks have run their lists; nothing of it hides behind
// instructions, as in worker/engine. `schedule` as the simulation's.
StepEnd EndOfStep(const CostInput& input, const schedule::Schedule& schedule,
                  const schedule::Simulation& simulation, StageCostModel* stages);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_COST_STEP_END_H_
