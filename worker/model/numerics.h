// A precision recipe as the layers use it, and what every layer is given to work with.
#ifndef FATHOM_WORKER_MODEL_NUMERICS_H_
#define FATHOM_WORKER_MODEL_NUMERICS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "common/model/precision_recipe.h"
#include "kernels/ops.h"
#include "worker/model/tensor.h"

namespace fathom::model {

struct Numerics {
  kernels::DType activation = kernels::DType::kF32;  // between ops, and of the weights
  kernels::DType sum = kernels::DType::kF32;       // gradients of weights, sums of products, router
  bool fp8 = false;                                // products of linear layers, and what they cache
  bool fp8_dispatch = false;                       // tokens, and gradients, on their way to experts
  kernels::DType dispatch = kernels::DType::kF32;  // of those when they aren't FP8
  kernels::DType combine = kernels::DType::kF32;

  // Gradients of activations are this many times those of the step's mean loss, and weight
  // gradients are divided by it as they are summed. A power of two, and 1 without FP8: E4M3 scales
  // don't go below 1e-4 / 448, and a mean over a million tokens would leave nothing above the
  // smallest code.
  double gradient_scale = 1;
};

// INVALID_ARGUMENT: a combination of formats that the layers don't know.
absl::StatusOr<Numerics> NumericsOf(const PrecisionRecipe& recipe, int64_t tokens_per_step);

struct LayerContext {
  kernels::Ops* ops = nullptr;
  TensorPool* pool = nullptr;
  Numerics numerics;
};

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_NUMERICS_H_
