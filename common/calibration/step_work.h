// What a step has to do beside the ops of its layers, counted: copies around the exchange of
// tokens, and the end of the step. The profile run divides measured times by these counts, and the
// planner multiplies them again. Pure.
//
// The counts are those of worker/model and worker/engine for balanced experts.
#ifndef FATHOM_COMMON_CALIBRATION_STEP_WORK_H_
#define FATHOM_COMMON_CALIBRATION_STEP_WORK_H_

#include <cstdint>
#include <vector>

#include "common/model/layer_ops.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "proto/fathom/v1/job.pb.h"

namespace fathom::calibration {

// Copying on this rank's side of one way of a MoE layer's tokens, and what goes to each other
// expert rank.
struct ExchangeWork {
  double post_bytes = 0;     // copied where the way begins
  double receive_bytes = 0;  // copied where it ends
  double message_bytes = 0;  // to each other rank
};
// Of one micro-batch.
struct LayerExchange {
  ExchangeWork dispatch_forward;
  ExchangeWork combine_forward;
  ExchangeWork combine_backward;
  ExchangeWork dispatch_backward;
};
LayerExchange ExchangeOf(const model::ModelConfig& config, const model::MicroBatchShape& shape,
                         const model::PrecisionRecipe& recipe);

// Of the pipeline ranks' stages.
struct JobShape {
  const model::ModelConfig* config = nullptr;
  const model::PrecisionRecipe* recipe = nullptr;
  v1::Parallelism parallelism;
  std::vector<int64_t> stage_layers;
};

// Parameters of a kind that one rank holds, and over how many ranks their optimizer is divided.
struct HeldParameters {
  int64_t elements = 0;
  int64_t tensors = 0;
  int64_t sharers = 1;
  int64_t own() const { return (elements + sharers - 1) / sharers; }
};

struct StepEnd {
  std::vector<HeldParameters> blocks;  // dense and routed experts', stage after stage
  model::OpCalls ops;                  // zeroing gradients, their norm, AdamW, rounding, FP8 copies
  int64_t weight_bytes = 0;            // of the compute copy
  int64_t state_bytes = 0;             // of the rank's shard
};
// Of a rank that holds these stages, of which each pipeline has so many holders (two under
// DualPipe).
StepEnd StepEndOf(const JobShape& job, const std::vector<int>& stages, int64_t holders);

}  // namespace fathom::calibration

#endif  // FATHOM_COMMON_CALIBRATION_STEP_WORK_H_
