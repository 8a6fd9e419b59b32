// The parameters one rank holds: compute-format weights and gradients, in flat buffers.
//
// There is one block per (stage, kind): a block's tensors lie one after another in the order of
// common/model's parameter layout, so that gradient reduction, the optimizer and the gather of
// weights see a block as one array. Blocks of kind kRouterBias are FP32 (FP64 under FP64) and have
// no gradients.
#ifndef FATHOM_WORKER_MODEL_PARAMETER_STORE_H_
#define FATHOM_WORKER_MODEL_PARAMETER_STORE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/model/model_config.h"
#include "common/model/parameter_layout.h"
#include "kernels/ops.h"

namespace fathom::model {

// A run of layers, as common/plan's stages say.
struct StageSlice {
  int stage = 0;
  int64_t first_layer = 0;
  int64_t layer_count = 0;
  bool has_embedding = false;
  bool has_head = false;
};

struct Parameter {
  ParameterSpec spec;
  kernels::Matrix weight;    // [rows, cols]
  kernels::Matrix gradient;  // [rows, cols]; data is null for kRouterBias
  int64_t offset = 0;        // of its first element in its block
};

struct ParameterBlock {
  int stage = 0;
  ParameterKind kind = ParameterKind::kDense;
  std::vector<Parameter> parameters;
  kernels::Matrix weights;    // [1, n]
  kernels::Matrix gradients;  // [1, n]

  int64_t size() const { return weights.cols; }
};

class ParameterStore {
 public:
  // Tensors of the slices; of the routed experts only those with expert_owner[e] == expert_rank.
  // Weights and gradients start at zero.
  static std::unique_ptr<ParameterStore> Create(kernels::Ops* ops, const ModelConfig& config,
                                                const std::vector<StageSlice>& slices,
                                                const std::vector<int32_t>& expert_owner,
                                                int expert_rank, kernels::DType weight_dtype,
                                                kernels::DType gradient_dtype);
  ~ParameterStore();
  ParameterStore(const ParameterStore&) = delete;
  ParameterStore& operator=(const ParameterStore&) = delete;

  std::vector<ParameterBlock>& blocks() { return blocks_; }

  // Null when this rank doesn't hold it.
  Parameter* Find(const std::string& name);

  void ZeroGradients();

 private:
  ParameterStore() = default;

  kernels::Ops* ops_ = nullptr;
  std::vector<ParameterBlock> blocks_;
  absl::flat_hash_map<std::string, Parameter*> by_name_;
};

// Initial value of elements [begin, begin + out.size()) of a tensor: a function of (seed, name,
// index) alone, so that every layout and every rank begins from the same bits. Normal with the
// model's initializer_range, ones for norms, zeros for the router's bias.
void InitialValues(const ParameterSpec& spec, double initializer_range, uint64_t seed,
                   int64_t begin, absl::Span<float> out);

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_PARAMETER_STORE_H_
