// Whether a plan can be run as it stands. The coordinator asks when it has made one and before it
// commits it, a node when it receives one.
#ifndef FATHOM_COMMON_PLAN_PLAN_CHECK_H_
#define FATHOM_COMMON_PLAN_PLAN_CHECK_H_

#include "absl/status/status.h"
#include "proto/fathom/v1/plan.pb.h"

namespace fathom::plan {

// INVALID_ARGUMENT names the field and what is wrong, unless
// - the job has a name, the epoch is at least 1, and the spec is resolved and sound
// (job_resolve.h);
// - the stages are as many as pipeline ranks, in order, and cover each layer once; only an end
// stage
//   has no layers; the first has the embedding and the last the head;
// - the ranks are pipeline * expert * replicas, numbered as plan.proto says, each on a device of
// its
//   own;
// - every routed expert has an owner, and every expert rank owns equally many;
// - a point to resume from names a manifest, and a step that the job has.
absl::Status CheckPlan(const v1::Plan& plan);

}  // namespace fathom::plan

#endif  // FATHOM_COMMON_PLAN_PLAN_CHECK_H_
