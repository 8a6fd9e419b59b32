// How large the pieces of a plan's state are: what has to travel when ranks move.
#ifndef FATHOM_COORDINATOR_PLANNER_STATE_BYTES_H_
#define FATHOM_COORDINATOR_PLANNER_STATE_BYTES_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "proto/fathom/v1/plan.pb.h"

namespace fathom::planner {

struct PlanStateBytes {
  // By pipeline rank, of one rank: FP32 masters and moments of the parts it owns; and the weights
  // it computes with.
  std::vector<int64_t> shard;
  std::vector<int64_t> weights;
  int64_t all_shards = 0;  // of all ranks: what a checkpoint holds
};

// INVALID_ARGUMENT: a model or precision that doesn't resolve, stages that aren't the pipeline's.
absl::StatusOr<PlanStateBytes> StateBytesOf(const v1::Plan& plan);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_STATE_BYTES_H_
