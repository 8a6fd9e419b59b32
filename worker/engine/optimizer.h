// AdamW with its state sharded over the data-parallel group (ZeRO-1).
//
// A block of parameters is held by every rank of a group. Each member owns one contiguous part of
// it: there it keeps the FP32 master weights and AdamW's moments, there the group's gradients are
// summed (in group order, so the bits don't depend on what arrives first), and from there the
// updated weights go back to the others.
//
// There are two buffers for a part: the update after step s + 1 is written into the other one, so
// that afterwards s + 1 and s are both whole, and a step that fails midway leaves s as it was. The
// routers' biases are kept in them too, as they were after the same step.
#ifndef FATHOM_WORKER_ENGINE_OPTIMIZER_H_
#define FATHOM_WORKER_ENGINE_OPTIMIZER_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "common/model/precision_recipe.h"
#include "kernels/ops.h"
#include "worker/engine/state_memory.h"
#include "worker/model/parameter_store.h"
#include "worker/transport/collectives.h"

namespace fathom::engine {

// This rank's part of one block.
struct OptimizerShard {
  model::ParameterBlock* block = nullptr;
  transport::Group* group = nullptr;
  std::vector<transport::Range> parts;  // of the block, by group member
  transport::Range own;                 // parts[group index]
  kernels::AdamWState buffers[2];       // [1, own.size()] each
  kernels::AdamWState now;              // that of the current step
};

class Optimizer {
 public:
  // `dense` is the group of ranks that hold this rank's stages, `experts` of those that hold its
  // experts. The buffers are of this rank's place in the plan's layout; neither has to be whole.
  Optimizer(kernels::Ops* ops, model::ParameterStore* store, transport::Group* dense,
            transport::Group* experts, const model::PrecisionRecipe& recipe,
            std::array<std::shared_ptr<ShardState>, 2> buffers, uint64_t epoch);
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  // Makes the model's initial values the current state, of step 0.
  void Initialise(double initializer_range, uint64_t seed);

  // Loading a state from elsewhere: write into `buffers` of `shards` (index `buffer`), or into
  // state(buffer), between these two. FinishLoad makes it the current state.
  void BeginLoad(int buffer) { states_[buffer]->Invalidate(); }
  // With `biases_in_store`, those in the parameter store are the loaded ones, and go into the
  // buffer; else the buffer's go into the store.
  void FinishLoad(int buffer, int64_t step, bool biases_in_store);
  // Makes a whole buffer the current one.
  void Select(int buffer);

  // Sums each block's gradients over its group into the owner's part.
  absl::Status ReduceGradients();

  // Of the summed gradients in this rank's parts. Over all ranks these add up to the whole
  // gradient's.
  double SumOfSquares();

  // Writes masters and moments after step settings.step into the other buffer, with the biases as
  // they are in the parameter store by then, and makes it the current one; then rounds this rank's
  // part of the weights.
  void Update(const kernels::AdamWSettings& settings);

  // Rounds this rank's masters into its part of the weights.
  void RoundMasters();

  // Brings every block's weights together from their owners.
  absl::Status GatherWeights();

  // Steps done in the current state; kNotWhole before there is one.
  int64_t step() const { return current()->step(); }
  const std::shared_ptr<ShardState>& current() const { return states_[now_]; }
  // Of the step before; not whole right after a start.
  const std::shared_ptr<ShardState>& previous() const { return states_[1 - now_]; }
  const std::shared_ptr<ShardState>& state(int buffer) const { return states_[buffer]; }

  std::vector<OptimizerShard>& shards() { return shards_; }

 private:
  // Copies the routers' biases between the store and a buffer's end.
  void StoreBiases(int buffer);
  void LoadBiases(int buffer);
  void SetWhole(int buffer, int64_t step);

  // Constant.
  kernels::Ops* const ops_;
  const uint64_t epoch_;
  const std::array<std::shared_ptr<ShardState>, 2> states_;
  std::vector<model::ParameterBlock*> bias_blocks_;
  std::vector<int64_t> bias_offsets_;  // in a buffer

  std::vector<OptimizerShard> shards_;
  int now_ = 0;  // current buffer
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
kernels::AdamWState Slice(const kernels::AdamWState& state, transport::Range range);

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_OPTIMIZER_H_
