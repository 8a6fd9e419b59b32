// A whole prediction of a job on a cluster: the layout that the job names or that a search finds
// best, its step, memory, cost and what it survives. Pure; what `fathomctl plan` prints and the
// coordinator compares its measurements with.
//
// Sequences of a step. A job that names a layout (spec.parallelism given) has its lanes' share of
// them: training.micro_batches x micro_batch_sequences x lanes; other layouts are compared at the
// same number. A job without a layout has training.micro_batches x micro_batch_sequences of them
// in all, as on one lane; if it names no micro_batches either, kDefaultSequencesPerDevice for each
// device of the cluster that is no spare.
//
// Stages. A layout that the job names is predicted with the stages that the coordinator's planner
// gives it (stage_split.h); the search splits by predicted times.
//
// Pools. With several, a layout lies in one of them or over all, whichever is faster; over all, the
// slowest device paces and the least memory binds.
#ifndef FATHOM_COORDINATOR_PLANNER_SEARCH_PREDICT_H_
#define FATHOM_COORDINATOR_PLANNER_SEARCH_PREDICT_H_

#include <string>

#include "absl/status/statusor.h"
#include "coordinator/planner/search/predicted_job.h"
#include "proto/fathom/v1/hardware.pb.h"
#include "proto/fathom/v1/job.pb.h"

namespace fathom::planner {

struct PredictOptions {
  // Whether to look for layouts even if the job names one (it is then compared with them).
  bool search = true;
  // Whether what the search finds is taken in place of the job's own layout.
  bool take_best = false;
  std::string schedule;  // kind; empty: as the job runs today (DualPipe), or what the search finds
  int candidates = 8;    // runners-up to tell of
};

// `job` as submitted: a layout counts as named when spec.parallelism is given. `cluster` as
// written. INVALID_ARGUMENT, FAILED_PRECONDITION, RESOURCE_EXHAUSTED: what of them is wrong,
// doesn't fit, or which memory is exceeded by what, with the nearest feasible layouts
// (SuggestedLayouts of suggestion.h). FAILED_PRECONDITION also: a "cpu" device without measured op
// times. SearchSummary.seconds is the caller's to set: no clock is read here.
absl::StatusOr<PredictedJob> Predict(const v1::Job& job, const v1::ClusterDescription& cluster,
                                     const PredictOptions& options);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_SEARCH_PREDICT_H_
