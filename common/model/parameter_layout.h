// Every tensor of a model: its name, shape, initial value, and who holds it.
//
// Names follow the published checkpoints of DeepSeek-V3
// ("model.layers.3.mlp.experts.7.up_proj.weight"). All weights of linear layers are [outputs,
// inputs]. Tensors of one owner come in the order in which they lie in that owner's flat buffers;
// gate_proj and up_proj of one MLP are neighbours, gate first, so that together they are one
// matrix.
#ifndef FATHOM_COMMON_MODEL_PARAMETER_LAYOUT_H_
#define FATHOM_COMMON_MODEL_PARAMETER_LAYOUT_H_

#include <cstdint>
#include <string>
#include <vector>

#include "common/model/model_config.h"

namespace fathom::model {

enum class Initializer : uint8_t { kNormal, kOnes, kZeros };

enum class ParameterKind : uint8_t {
  kDense,       // held by every rank of its stage
  kExpert,      // a routed expert's: held by the expert rank that owns it
  kRouterBias,  // of loss-free balancing: FP32, no gradient, updated by the sign of the load's
                // error
};

struct ParameterSpec {
  std::string name;
  int64_t rows = 0;  // 1 for a vector
  int64_t cols = 0;
  ParameterKind kind = ParameterKind::kDense;
  Initializer initializer = Initializer::kNormal;
  int64_t expert = -1;  // routed expert it belongs to
  // Layer it belongs to; -1 embedding, num_hidden_layers head and final norm,
  // num_hidden_layers + 1 + i the MTP module i (whose names say layers.<num_hidden_layers + i>).
  int64_t layer = 0;
  bool weight_decay = true;  // false for norms

  int64_t size() const { return rows * cols; }
};

inline constexpr int64_t kEmbeddingLayer = -1;

// Tensors of one transformer layer, of the embedding (kEmbeddingLayer), of the head or of an MTP
// module, as `layer` above says.
std::vector<ParameterSpec> LayerParameters(const ModelConfig& config, int64_t layer);

// All of them, embedding first.
std::vector<ParameterSpec> AllParameters(const ModelConfig& config);

struct ParameterCount {
  int64_t total = 0;   // without MTP modules
  int64_t active = 0;  // per token, with embedding and head
  int64_t mtp = 0;     // the MTP modules' own
};
ParameterCount CountParameters(const ModelConfig& config);

}  // namespace fathom::model

#endif  // FATHOM_COMMON_MODEL_PARAMETER_LAYOUT_H_
