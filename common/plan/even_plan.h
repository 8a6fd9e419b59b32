// The plainest plan of a job: for trainings that no coordinator plans, as tests, benchmarks and the
// profile run them.
#ifndef FATHOM_COMMON_PLAN_EVEN_PLAN_H_
#define FATHOM_COMMON_PLAN_EVEN_PLAN_H_

#include "proto/fathom/v1/job.pb.h"
#include "proto/fathom/v1/plan.pb.h"

namespace fathom::plan {

// Contiguous stages of near-equal layer counts, experts in equal runs; ranks, along the pipeline
// first, on nodes "node0", "node1" ... one after the other. `spec`: resolved. Job and epoch are
// left empty.
v1::Plan EvenPlan(const v1::JobSpec& spec, int ranks_per_node);

}  // namespace fathom::plan

#endif  // FATHOM_COMMON_PLAN_EVEN_PLAN_H_
