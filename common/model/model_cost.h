// What a model costs: arithmetic per token, and bytes of training state per rank.
//
// A product of a weight with one token is 2 operations per weight; the backward takes twice the
// forward. Norms, activations, the router's choice and the embedding's look-up are not counted
// (for DeepSeek-V3 at 4096 tokens that is 281.2 GF per token, 250.5 with causal attention).
#ifndef FATHOM_COMMON_MODEL_MODEL_COST_H_
#define FATHOM_COMMON_MODEL_MODEL_COST_H_

#include <cstdint>

#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"

namespace fathom::model {

// Whether attention counts the masked half of its scores, as published throughputs do in two ways.
enum class AttentionCount : uint8_t { kFull, kCausal };

// Weights of matrix products that one token meets in a layer, named as in ParameterSpec::layer:
// embedding 0, head, layers, and an MTP module with its own pass of the shared head.
int64_t MatmulParameters(const ModelConfig& config, int64_t layer);

// Operations of one token's forward through a layer, numbered as above.
double ForwardFlops(const ModelConfig& config, int64_t layer, int64_t sequence_length,
                    AttentionCount attention);

// Operations of one token's forward and backward through the model; MTP modules only if asked for.
double TrainFlopsPerToken(const ModelConfig& config, int64_t sequence_length,
                          AttentionCount attention, bool with_mtp);

// What a rank keeps between steps.
struct StateBytes {
  int64_t weights = 0;    // the compute copy, in the format of activations
  int64_t gradients = 0;  // FP32
  int64_t optimizer = 0;  // FP32 master weights and the two moments, this rank's shard

  int64_t total() const { return weights + gradients + optimizer; }
};

// A part of the parameters on one rank, and over how many ranks its optimizer state is divided
// (ZeRO-1).
struct ShardedParameters {
  int64_t parameters = 0;
  int64_t sharers = 1;
};
StateBytes StateOf(const ShardedParameters& part, const PrecisionRecipe& recipe);
StateBytes operator+(const StateBytes& a, const StateBytes& b);

}  // namespace fathom::model

#endif  // FATHOM_COMMON_MODEL_MODEL_COST_H_
