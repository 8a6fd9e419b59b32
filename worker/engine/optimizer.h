// AdamW with its state sharded over the data-parallel group (ZeRO-1).
//
// A block of parameters is held by every rank of a group. Each member owns one contiguous part of
// it: there it keeps the FP32 master weights and AdamW's moments, there the group's gradients are
// summed (in group order, so the bits don't depend on what arrives first), and from there the
// updated weights go back to the others.
#ifndef FATHOM_WORKER_ENGINE_OPTIMIZER_H_
#define FATHOM_WORKER_ENGINE_OPTIMIZER_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "common/model/precision_recipe.h"
#include "kernels/ops.h"
#include "worker/model/parameter_store.h"
#include "worker/transport/collectives.h"

namespace fathom::engine {

// This rank's part of one block.
struct OptimizerShard {
  model::ParameterBlock* block = nullptr;
  transport::Group* group = nullptr;
  std::vector<transport::Range> parts;  // of the block, by group member
  transport::Range own;                 // parts[group index]
  kernels::Matrix master;               // [1, own.size()] FP32
  kernels::Matrix m;                    // [1, own.size()] FP32 or BF16
  kernels::Matrix v;
};

class Optimizer {
 public:
  // `dense` is the group of ranks that hold this rank's stages, `experts` of those that hold its
  // experts.
  Optimizer(kernels::Ops* ops, model::ParameterStore* store, transport::Group* dense,
            transport::Group* experts, const model::PrecisionRecipe& recipe);
  ~Optimizer();
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // Sets the masters to the model's initial values.
  void Initialise(double initializer_range, uint64_t seed);

  // Sums each block's gradients over its group into the owner's part.
  absl::Status ReduceGradients();

  // Of the summed gradients in this rank's parts. Over all ranks these add up to the whole
  // gradient's.
  double SumOfSquares();

  // Updates masters and moments, and this rank's part of the weights.
  void Update(const kernels::AdamWSettings& settings);

  // Rounds this rank's masters into its part of the weights.
  void RoundMasters();

  // Brings every block's weights together from their owners.
  absl::Status GatherWeights();

  std::vector<OptimizerShard>& shards() { return shards_; }

 private:
  kernels::Ops* const ops_;
  std::vector<OptimizerShard> shards_;
};

// Runs visit(parameter, range) for every tensor that `own` meets; both ranges are within the block.
template <typename Visit>
void ForEachTensor(const model::ParameterBlock& block, transport::Range own, Visit visit) {
  for (const model::Parameter& parameter : block.parameters) {
    const transport::Range range = {std::max(own.begin, parameter.offset),
                                    std::min(own.end, parameter.offset + parameter.spec.size())};
    if (range.begin < range.end) visit(parameter, range);
  }
}

// The part of `matrix` [1, n] that `range` names.
kernels::Matrix Slice(const kernels::Matrix& matrix, transport::Range range);

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_OPTIMIZER_H_
