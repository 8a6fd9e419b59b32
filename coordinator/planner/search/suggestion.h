// What would do instead of a layout that a job can't have: the nearest ones that fit.
//
// A suggestion is one that ranks run and that fits memory with the stages the coordinator would
// give it. It travels with the refusal's status, so that programs can follow it.
#ifndef FATHOM_COORDINATOR_PLANNER_SEARCH_SUGGESTION_H_
#define FATHOM_COORDINATOR_PLANNER_SEARCH_SUGGESTION_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/planner/search/job_costs.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

struct Suggestion {
  v1::PredictedLayout layout;  // `nodes`: that the pool must have, 0: as it is
  std::string pool;            // that must have them, where the cluster has several
  int64_t peak_bytes = 0;
};

struct SuggestionRequest {
  SpaceLimits limits;
  Shape to;                    // what was asked for
  LayoutShape base;            // sequence length, imbalance, snapshots
  bool same_sequences = true;  // of a step; else as many micro-batches as were asked for, or more
  int count = 2;
};

// Nearest first; empty: nothing fits on so many devices.
absl::StatusOr<std::vector<Suggestion>> NearestLayouts(const SuggestionRequest& request,
                                                       JobCosts* costs);

// The fewest nodes of `devices_per_node`, by doubling `nodes`, on which something fits; if need be
// with more sequences a step. Empty: not within the limits of a job.
absl::StatusOr<std::vector<Suggestion>> LargerCluster(const SuggestionRequest& request, int nodes,
                                                      int devices_per_node, JobCosts* costs);

// `why` and the suggestions in words, carrying them.
absl::Status Refuse(absl::StatusCode code, const std::string& why,
                    const std::vector<Suggestion>& suggestions);

// What a refusal suggests, nearest first; none in other errors. Each plans when the job names it
// (WithLayout), on a cluster with `nodes` nodes in its pool where that is not 0.
std::vector<v1::PredictedLayout> SuggestedLayouts(const absl::Status& refusal);

// The job with this layout and its micro-batches in place of its own.
v1::Job WithLayout(v1::Job job, const v1::PredictedLayout& layout);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_SEARCH_SUGGESTION_H_
