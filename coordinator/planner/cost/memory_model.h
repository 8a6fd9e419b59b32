// How many bytes each rank of a pipeline needs over a step, by part, and when it needs most.
//
// State is there all the time: weights of every stage the rank holds (two under DualPipe) in the
// format of activations, under FP8 their codes and those of their transposes, FP32 gradients, and
// the rank's share of masters and moments (ZeRO-1), twice, for the optimizer writes step s + 1
// beside step s. Activations come with each forward and go with its backward, or with its deferred
// weight gradient, instruction by instruction of the schedule; on top comes what the instruction
// itself needs at once (model::PeakBytesOf): of a pair, advanced in turn, the most of one while the
// other waits. Not counted: moving averages of the weights and, but for CPU ranks, snapshots of
// other ranks, which lie in host memory; the memory of the runtime and its libraries; what an
// allocator loses between blocks.
#ifndef FATHOM_COORDINATOR_PLANNER_COST_MEMORY_MODEL_H_
#define FATHOM_COORDINATOR_PLANNER_COST_MEMORY_MODEL_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/layer_ops.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "common/schedule/instruction.h"
#include "proto/fathom/v1/job.pb.h"
#include "proto/fathom/v1/prediction.pb.h"

namespace fathom::planner {

// What a layout is, for costs: everything but the devices it lies on.
struct LayoutShape {
  v1::Parallelism parallelism;
  int64_t micro_batches = 0;  // M per lane
  int64_t micro_batch_sequences = 1;
  int64_t sequence_length = 0;
  std::vector<int64_t> stage_layers;  // of each stage of the schedule
  model::Recomputation recomputation = model::Recomputation::kSelective;
  double imbalance = 1;             // of routed tokens over a rank's mean, see MicroBatchShape
  bool snapshots_on_buddy = false;  // a buddy's snapshot lies in host memory, or for "cpu" in the
                                    // device's
  // CPU ranks: the device's memory is the host's, so that snapshots and message windows count, the
  // windows as large as worker/transport lays them out: for the most that could ever be sent.
  bool device_is_host = false;
};

// Peak and parts of each pipeline rank (PredictedMemory.capacity_bytes is left 0), in rank order.
// `schedule` has as many stages as the layout. INVALID_ARGUMENT: they contradict each other.
absl::StatusOr<std::vector<v1::PredictedMemory>> MemoryOfRanks(const model::ModelConfig& config,
                                                               const model::PrecisionRecipe& recipe,
                                                               const LayoutShape& layout,
                                                               const schedule::Schedule& schedule);

}  // namespace fathom::planner

#endif  // FATHOM_COORDINATOR_PLANNER_COST_MEMORY_MODEL_H_
