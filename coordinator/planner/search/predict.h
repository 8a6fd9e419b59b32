// A whole prediction of a job on a cluster: the layout that the job names or that a search finds
// best, its step, memory, cost and what it survives. Pure; what `fathomctl plan` prints and the
// coordinator compares its measurements with.
#ifndef FATHOM_COORDINATOR_PLANNER_SEARCH_PREDICT_H_
#define FATHOM_COORDINATOR_PLANNER_SEARCH_PREDICT_H_

#include <string>

#include "absl/status/statusor.h"
#include "proto/fathom/v1/hardware.pb.h"
#include "proto/fathom/v1/job.pb.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

struct PredictOptions {
  // Whether to look for layouts even if the job names one (it is then compared with them).
  bool search = true;
  // Whether what the search finds is taken in place of the job's own layout.
  bool take_best = false;
  std::string schedule;  // kind; empty: as the job runs today (DualPipe), or what the search finds
  int candidates = 8;    // runners-up to tell of
};

struct PredictedJob {
  v1::Prediction prediction;
  v1::Timeline timeline;  // of one lane
};

// `job` as submitted: a layout counts as named when spec.parallelism is given. `cluster` as
// written. INVALID_ARGUMENT, FAILED_PRECONDITION, RESOURCE_EXHAUSTED: what of them is wrong,
// doesn't fit, or which memory is exceeded by what, with the nearest feasible layout.
absl::StatusOr<PredictedJob> Predict(const v1::Job& job, const v1::ClusterDescription& cluster,
                                     const PredictOptions& options);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_SEARCH_PREDICT_H_
