// Shape letters: D hidden, H heads, V vocabulary, F an MLP's inner width.
#include "common/model/parameter_layout.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace fathom::model {
namespace {

// Appends tensors that share a name prefix and a layer.
class TensorList {
 public:
  TensorList(std::string prefix, int64_t layer) : prefix_(std::move(prefix)), layer_(layer) {}

  void Matrix(absl::string_view name, int64_t rows, int64_t cols) {
    ParameterSpec spec = Named(name);
    spec.rows = rows;
    spec.cols = cols;
    specs_.push_back(std::move(spec));
  }

  void Norm(absl::string_view name, int64_t width) {
    ParameterSpec spec = Named(name);
    spec.rows = 1;
    spec.cols = width;
    spec.initializer = Initializer::kOnes;
    spec.weight_decay = false;
    specs_.push_back(std::move(spec));
  }

  void RouterBias(absl::string_view name, int64_t experts) {
    ParameterSpec spec = Named(name);
    spec.rows = 1;
    spec.cols = experts;
    spec.kind = ParameterKind::kRouterBias;
    spec.initializer = Initializer::kZeros;
    spec.weight_decay = false;
    specs_.push_back(std::move(spec));
  }

  void SwiGlu(absl::string_view name, int64_t hidden, int64_t width, int64_t expert = -1) {
    const size_t first = specs_.size();
    Matrix(absl::StrCat(name, ".gate_proj.weight"), width, hidden);
    Matrix(absl::StrCat(name, ".up_proj.weight"), width, hidden);
    Matrix(absl::StrCat(name, ".down_proj.weight"), hidden, width);
    if (expert < 0) return;
    for (size_t i = first; i < specs_.size(); ++i) {
      specs_[i].kind = ParameterKind::kExpert;
      specs_[i].expert = expert;
    }
  }

  std::vector<ParameterSpec> Take() { return std::move(specs_); }

 private:
  ParameterSpec Named(absl::string_view name) const {
    ParameterSpec spec;
    spec.name = absl::StrCat(prefix_, name);
    spec.layer = layer_;
    return spec;
  }

  const std::string prefix_;
  const int64_t layer_;
  std::vector<ParameterSpec> specs_;
};

void AddAttention(const ModelConfig& c, TensorList& list) {
  const int64_t heads = c.num_attention_heads;
  list.Matrix("self_attn.q_a_proj.weight", c.q_lora_rank, c.hidden_size);
  list.Norm("self_attn.q_a_layernorm.weight", c.q_lora_rank);
  list.Matrix("self_attn.q_b_proj.weight", heads * c.qk_head_dim(), c.q_lora_rank);
  list.Matrix("self_attn.kv_a_proj_with_mqa.weight", c.kv_lora_rank + c.qk_rope_head_dim,
              c.hidden_size);
  list.Norm("self_attn.kv_a_layernorm.weight", c.kv_lora_rank);
  list.Matrix("self_attn.kv_b_proj.weight", heads * (c.qk_nope_head_dim + c.v_head_dim),
              c.kv_lora_rank);
  list.Matrix("self_attn.o_proj.weight", c.hidden_size, heads * c.v_head_dim);
}

void AddBlock(const ModelConfig& c, bool moe, TensorList& list) {
  list.Norm("input_layernorm.weight", c.hidden_size);
  AddAttention(c, list);
  list.Norm("post_attention_layernorm.weight", c.hidden_size);
  if (!moe) {
    list.SwiGlu("mlp", c.hidden_size, c.intermediate_size);
    return;
  }
  list.Matrix("mlp.gate.weight", c.n_routed_experts, c.hidden_size);
  list.RouterBias("mlp.gate.e_score_correction_bias", c.n_routed_experts);
  list.SwiGlu("mlp.shared_experts", c.hidden_size, c.n_shared_experts * c.moe_intermediate_size);
  for (int64_t expert = 0; expert < c.n_routed_experts; ++expert) {
    list.SwiGlu(absl::StrCat("mlp.experts.", expert), c.hidden_size, c.moe_intermediate_size,
                expert);
  }
}

std::vector<ParameterSpec> MtpParameters(const ModelConfig& c, int64_t module, int64_t layer) {
  TensorList list(absl::StrCat("model.layers.", c.num_hidden_layers + module, "."), layer);
  list.Norm("enorm.weight", c.hidden_size);
  list.Norm("hnorm.weight", c.hidden_size);
  list.Matrix("eh_proj.weight", c.hidden_size, 2 * c.hidden_size);
  AddBlock(c, /*moe=*/true, list);
  list.Norm("shared_head.norm.weight", c.hidden_size);
  return list.Take();
}

int64_t Sum(const std::vector<ParameterSpec>& specs) {
  int64_t sum = 0;
  for (const ParameterSpec& spec : specs) sum += spec.size();
  return sum;
}

}  // namespace

std::vector<ParameterSpec> LayerParameters(const ModelConfig& config, int64_t layer) {
  const int64_t layers = config.num_hidden_layers;
  FATHOM_CHECK(layer >= kEmbeddingLayer && layer <= layers + config.num_nextn_predict_layers)
      << "layer " << layer << " of a model with " << layers << " layers and "
      << config.num_nextn_predict_layers << " MTP modules";
  if (layer == kEmbeddingLayer) {
    TensorList list("model.", layer);
    list.Matrix("embed_tokens.weight", config.vocab_size, config.hidden_size);
    return list.Take();
  }
  if (layer == layers) {
    TensorList list("", layer);
    list.Norm("model.norm.weight", config.hidden_size);
    list.Matrix("lm_head.weight", config.vocab_size, config.hidden_size);
    return list.Take();
  }
  if (layer > layers) return MtpParameters(config, layer - layers - 1, layer);
  TensorList list(absl::StrCat("model.layers.", layer, "."), layer);
  AddBlock(config, config.is_moe_layer(layer), list);
  return list.Take();
}

std::vector<ParameterSpec> AllParameters(const ModelConfig& config) {
  std::vector<ParameterSpec> all;
  const int64_t last = config.num_hidden_layers + config.num_nextn_predict_layers;
  for (int64_t layer = kEmbeddingLayer; layer <= last; ++layer) {
    for (ParameterSpec& spec : LayerParameters(config, layer)) all.push_back(std::move(spec));
  }
  return all;
}

ParameterCount CountParameters(const ModelConfig& config) {
  const int64_t dense_layers = config.first_k_dense_replace;
  const int64_t moe_layers = config.num_hidden_layers - dense_layers;
  const int64_t expert = 3 * config.hidden_size * config.moe_intermediate_size;
  const int64_t idle_experts = config.n_routed_experts - config.num_experts_per_tok;
  ParameterCount count;
  count.total = Sum(LayerParameters(config, kEmbeddingLayer)) +
                Sum(LayerParameters(config, config.num_hidden_layers));
  if (dense_layers > 0) count.total += dense_layers * Sum(LayerParameters(config, 0));
  if (moe_layers > 0) count.total += moe_layers * Sum(LayerParameters(config, dense_layers));
  count.active = count.total - moe_layers * idle_experts * expert;
  for (int64_t i = 0; i < config.num_nextn_predict_layers; ++i) {
    count.mtp += Sum(LayerParameters(config, config.num_hidden_layers + 1 + i));
  }
  return count;
}

}  // namespace fathom::model
