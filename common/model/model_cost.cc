#include "common/model/model_cost.h"

#include "common/base/check.h"
#include "common/model/parameter_layout.h"

namespace fathom::model {
namespace {

int64_t AttentionMatmuls(const ModelConfig& c) {
  const int64_t heads = c.num_attention_heads;
  return c.hidden_size * c.q_lora_rank + c.q_lora_rank * heads * c.qk_head_dim() +
         c.hidden_size * (c.kv_lora_rank + c.qk_rope_head_dim) +
         c.kv_lora_rank * heads * (c.qk_nope_head_dim + c.v_head_dim) +
         heads * c.v_head_dim * c.hidden_size;
}

int64_t MoeMatmuls(const ModelConfig& c) {
  const int64_t experts = c.num_experts_per_tok + c.n_shared_experts;
  return c.hidden_size * c.n_routed_experts + experts * 3 * c.hidden_size * c.moe_intermediate_size;
}

}  // namespace

int64_t MatmulParameters(const ModelConfig& config, int64_t layer) {
  const int64_t layers = config.num_hidden_layers;
  const int64_t head = config.vocab_size * config.hidden_size;
  FATHOM_CHECK(layer >= kEmbeddingLayer && layer <= layers + config.num_nextn_predict_layers)
      << "layer " << layer << " of " << layers;
  if (layer == kEmbeddingLayer) return 0;
  if (layer == layers) return head;
  if (layer > layers) {
    const int64_t projection = 2 * config.hidden_size * config.hidden_size;
    return projection + AttentionMatmuls(config) + MoeMatmuls(config) + head;
  }
  const int64_t dense = 3 * config.hidden_size * config.intermediate_size;
  return AttentionMatmuls(config) + (config.is_moe_layer(layer) ? MoeMatmuls(config) : dense);
}

double ForwardFlops(const ModelConfig& config, int64_t layer, int64_t sequence_length,
                    AttentionCount attention) {
  double flops = 2.0 * static_cast<double>(MatmulParameters(config, layer));
  const bool attends = layer != kEmbeddingLayer && layer != config.num_hidden_layers;
  if (attends) {
    const double widths = static_cast<double>(config.qk_head_dim() + config.v_head_dim);
    const double full = 2.0 * static_cast<double>(sequence_length) *
                        static_cast<double>(config.num_attention_heads) * widths;
    flops += attention == AttentionCount::kCausal ? full / 2 : full;
  }
  return flops;
}

double TrainFlopsPerToken(const ModelConfig& config, int64_t sequence_length,
                          AttentionCount attention, bool with_mtp) {
  const int64_t last = config.num_hidden_layers + (with_mtp ? config.num_nextn_predict_layers : 0);
  double forward = 0;
  for (int64_t layer = kEmbeddingLayer; layer <= last; ++layer) {
    forward += ForwardFlops(config, layer, sequence_length, attention);
  }
  return 3 * forward;
}

StateBytes StateOf(const ShardedParameters& part, const PrecisionRecipe& recipe) {
  FATHOM_CHECK(part.sharers >= 1) << part.sharers;
  const int64_t shard = (part.parameters + part.sharers - 1) / part.sharers;
  StateBytes bytes;
  bytes.weights = part.parameters * BytesOf(recipe.activations);
  bytes.gradients = part.parameters * BytesOf(Format::kFp32);
  bytes.optimizer = shard * (BytesOf(Format::kFp32) + 2 * BytesOf(recipe.optimizer_moments));
  return bytes;
}

StateBytes operator+(const StateBytes& a, const StateBytes& b) {
  return {a.weights + b.weights, a.gradients + b.gradients, a.optimizer + b.optimizer};
}

}  // namespace fathom::model
