// What a prediction is made of: the figures, and the timeline of a step.
#ifndef FATHOM_COORDINATOR_PLANNER_SEARCH_PREDICTED_JOB_H_
#define FATHOM_COORDINATOR_PLANNER_SEARCH_PREDICTED_JOB_H_

#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

struct PredictedJob {
  v1::Prediction prediction;
  v1::Timeline timeline;  // of one lane
};

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_SEARCH_PREDICTED_JOB_H_
