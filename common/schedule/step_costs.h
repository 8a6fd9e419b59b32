// What the ops of a step cost, in any one unit of time, as the event simulator charges them.
#ifndef FATHOM_COMMON_SCHEDULE_STEP_COSTS_H_
#define FATHOM_COMMON_SCHEDULE_STEP_COSTS_H_

#include <vector>

#include "absl/status/status.h"
#include "common/schedule/instruction.h"

namespace fathom::schedule {

// Of one stage.
struct StageCosts {
  double forward = 1;
  double backward = 2;  // input and weights
  double backward_input = 1;
  double weight = 1;
  double overlapped = 3;  // a forward with a full backward. Of two stages with different costs, the
                          // pair saves the mean of what each would save.
};

struct StepCosts {
  std::vector<StageCosts> stages;  // of each stage, or one entry for all
  double message_time = 0;  // from the end of the instruction that sends until the receiver can
                            // start; nothing within a rank
  // Where given, what overlapped pairs cost, by stage of the forward * stages + stage of the
  // backward; below 0: as StageCosts::overlapped says.
  std::vector<double> pairs;
};

// INVALID_ARGUMENT: not as many costs as `stages` asks for, or one that is negative or no number.
absl::Status CheckStepCosts(const StepCosts& costs, int stages);

// Of an op, or of an overlapped pair, on these stages; `costs` must be sound for `stages`.
double CostOf(const StepCosts& costs, OpKind kind, int stage);
double PairCostOf(const StepCosts& costs, int stages, int forward_stage, int backward_stage);

}  // namespace fathom::schedule

#endif  // FATHOM_COMMON_SCHEDULE_STEP_COSTS_H_
