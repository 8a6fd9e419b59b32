// The model as numbers: a DeepSeek-V3-shaped transformer (arXiv 2412.19437, section 2) of any size.
// Field names are those of the published Hugging Face configuration.
#ifndef FATHOM_COMMON_MODEL_MODEL_CONFIG_H_
#define FATHOM_COMMON_MODEL_MODEL_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "proto/fathom/v1/job.pb.h"

namespace fathom::model {

struct ModelConfig {
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_hidden_layers = 0;      // without MTP modules
  int64_t first_k_dense_replace = 0;  // leading layers with a dense MLP
  int64_t intermediate_size = 0;
  int64_t moe_intermediate_size = 0;
  int64_t num_attention_heads = 0;
  int64_t q_lora_rank = 0;
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;
  int64_t n_routed_experts = 0;
  int64_t n_shared_experts = 0;
  int64_t num_experts_per_tok = 0;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  double routed_scaling_factor = 1;
  double rms_norm_eps = 1e-6;
  double rope_theta = 1e4;
  int64_t num_nextn_predict_layers = 0;
  double initializer_range = 0.006;

  int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  bool is_moe_layer(int64_t layer) const { return layer >= first_k_dense_replace; }
};

// Bounds that CheckModel holds a model to. Within them every size, offset and byte count of a model
// fits int64_t, and its list of tensors fits memory.
inline constexpr int64_t kMaxDimension = int64_t{1} << 24;
inline constexpr int64_t kMaxLayers = 4096;
inline constexpr int64_t kMaxExperts = 4096;
inline constexpr int64_t kMaxParameters = int64_t{1} << 56;

// Names that ResolveModel knows: "deepseek-v3", "tiny", "toy".
std::vector<std::string> PresetNames();

// INVALID_ARGUMENT: an unknown preset (names the known ones), or without a preset a missing field.
absl::StatusOr<ModelConfig> ResolveModel(const v1::ModelSpec& spec);

// Tokens in a sample when the job names none; 0 for a name that is no preset.
int64_t PresetSequenceLength(const std::string& preset);

// The spec with the preset's name and every field set.
v1::ModelSpec ToSpec(const ModelConfig& config, const std::string& preset);

// INVALID_ARGUMENT, naming the field, its value and what would do: sizes not positive or so large
// that a product of them overflows, an odd rotary dimension, experts that don't divide into groups,
// more experts chosen than the kept groups hold, a group of fewer than two experts, more dense
// layers than layers, an MTP depth above 1, a factor that is not a positive number.
absl::Status CheckModel(const ModelConfig& config);

}  // namespace fathom::model

#endif  // FATHOM_COMMON_MODEL_MODEL_CONFIG_H_
