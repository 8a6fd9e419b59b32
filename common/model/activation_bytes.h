// Bytes that a layer holds of a micro-batch: from its forward to its backward, from its input
// gradient to its weight gradient where that is put off, and while a pass runs.
//
// Tensor by tensor as worker/model holds them (a test counts its pool): before rounding to the
// pool's size classes, and without what lies in host memory whatever the device (routing indices,
// records on their way). The attention's output is rounded to E5M6 but held in BF16, as there.
#ifndef FATHOM_COMMON_MODEL_ACTIVATION_BYTES_H_
#define FATHOM_COMMON_MODEL_ACTIVATION_BYTES_H_

#include <cstdint>
#include <vector>

#include "common/model/layer_ops.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"

namespace fathom::model {

struct HeldTensor {
  const char* name = "";
  int64_t bytes = 0;
};
using HeldTensors = std::vector<HeldTensor>;

// From forward to backward. A layer counts its input, so a stage's layers together count each
// boundary once. kSelective is what worker/model keeps; kFull the layer's input alone (of embedding
// and head the same as kSelective); kNone also what selective makes again.
HeldTensors KeptActivations(const ModelConfig& config, int64_t layer, const MicroBatchShape& shape,
                            const PrecisionRecipe& recipe, Recomputation recomputation);

// From the input gradient to a weight gradient that is put off.
HeldTensors DeferredActivations(const ModelConfig& config, int64_t layer,
                                const MicroBatchShape& shape, const PrecisionRecipe& recipe);

// The most that belongs to a layer at once in each pass, its kept tensors included; in backwards
// also the gradient it got and that it gives.
struct PeakBytes {
  int64_t forward = 0;
  int64_t backward = 0;        // weight gradients done on the way
  int64_t backward_input = 0;  // weight gradients put off
  // While a pass waits for other ranks, and another may run: so far, and no more, do two passes
  // advanced in turn add to each other's peaks. A dense layer never waits.
  int64_t forward_waiting = 0;
  int64_t backward_waiting = 0;  // weight gradients done on the way
  // Weight-gradient inputs of its attention, that still wait when the layer below begins.
  int64_t after_backward = 0;
};
PeakBytes PeakBytesOf(const ModelConfig& config, int64_t layer, const MicroBatchShape& shape,
                      const PrecisionRecipe& recipe);

int64_t BytesOf(const HeldTensors& tensors);

}  // namespace fathom::model

#endif  // FATHOM_COMMON_MODEL_ACTIVATION_BYTES_H_
