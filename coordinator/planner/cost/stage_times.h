// What one stage costs, as the parts of the step model pass it on.
#ifndef FATHOM_COORDINATOR_PLANNER_COST_STAGE_TIMES_H_
#define FATHOM_COORDINATOR_PLANNER_COST_STAGE_TIMES_H_

#include <vector>

#include "common/schedule/step_costs.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

// Loss-free balancing keeps the expert with most tokens within 4% of the mean over a batch (MaxVio
// of arXiv 2408.15664 at 1B parameters): what LayoutShape::imbalance is where nothing is measured.
inline constexpr double kBalancedImbalance = 1.04;

// Times of one micro-batch through one stage, seconds, on the slowest device that holds it.
struct StageTimes {
  schedule::StageCosts costs;
  double compute_s = 0;  // of an overlapped pair of this stage with itself, per stream
  double communication_s = 0;
  std::vector<v1::PredictedOp> ops;  // of a forward and a backward, as in a pair
};

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_COST_STAGE_TIMES_H_
