// A stage: a run of transformer blocks, with the embedding on the first and the final norm, head
// and MTP module on the last. It is written once against kernels/ and moves tokens between experts
// through an ExpertExchange.
//
// A micro-batch goes through as passes. A pass runs in segments: Advance computes up to the next
// point where it would wait for other ranks, having posted what they need, so two passes advanced
// in turn hide each other's communication. Input gradients and weight gradients are apart: a
// backward pass either does its weight gradients as it goes or leaves them, as closures, to be run
// later.
//
// Shape letters: T = sequences * sequence_length tokens of a micro-batch, D hidden width.
#ifndef FATHOM_WORKER_MODEL_STAGE_H_
#define FATHOM_WORKER_MODEL_STAGE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "kernels/ops.h"
#include "worker/model/expert_exchange.h"
#include "worker/model/linear.h"
#include "worker/model/parameter_store.h"
#include "worker/model/tensor.h"

namespace fathom::model {

struct StageOptions {
  ModelConfig model;
  PrecisionRecipe recipe;
  StageSlice slice;
  int64_t sequences = 1;              // of a micro-batch
  int64_t sequence_length = 0;        // S
  std::vector<int32_t> expert_owner;  // [E] expert rank that holds each routed expert
  double mtp_loss_weight = 0.3;
  double balance_alpha = 0;
  // Whole step, all micro-batches of all lanes: losses' gradients are those of means over these.
  int64_t tokens_per_step = 0;
  int64_t sequences_per_step = 0;

  int64_t tokens() const { return sequences * sequence_length; }
  // Tokens of one sample: S inputs, the label of the last, and one more per MTP module.
  int64_t sample_length() const { return sequence_length + 1 + model.num_nextn_predict_layers; }
};

// Sums over a micro-batch's tokens (sequences for the balance loss), in nats.
struct MicroBatchLoss {
  double loss = 0;
  double mtp_loss = 0;
  double balance_loss = 0;  // this stage's layers, alpha included
};

class Pass {
 public:
  virtual ~Pass() = default;
  virtual bool done() const = 0;
  // Runs to the next point of waiting, or to the end. Errors are the exchange's.
  virtual absl::Status Advance() = 0;
};

class Stage {
 public:
  // The store holds the slice's parameters; on a stage with a head and an MTP module also the
  // embedding. INVALID_ARGUMENT: it does not, or the recipe is unknown to this stage.
  static absl::StatusOr<std::unique_ptr<Stage>> Create(const StageOptions& options,
                                                       kernels::Ops* ops, ParameterStore* store,
                                                       ExpertExchange* exchange);
  virtual ~Stage() = default;

  // Call after every change of the weights: makes the FP8 copies.
  virtual void RefreshWeights() = 0;

  // Forward of a micro-batch. samples is int32 [sequences, sample_length()] (needed by the stages
  // with embedding or head). input [T, D] is read during the first Advance only (ignored with an
  // embedding); output [T, D] is complete when the pass is done (ignored with a head). With keep ==
  // false nothing is kept for a backward (validation): no balance loss, no expert loads.
  virtual std::unique_ptr<Pass> Forward(int micro_batch, const int32_t* samples,
                                        const kernels::Matrix& input, const kernels::Matrix& output,
                                        bool keep) = 0;

  // Its backward. grad_output [T, D] is read during the first Advance only (ignored with a head);
  // grad_input [T, D] is complete when the pass is done (ignored with an embedding). Adds to the
  // store's gradients. With `deferred`, weight gradients of linear layers are appended to it
  // instead, to be run later in order; they keep alive what they need, but not the stage. Between
  // stages, gradients of an FP8 recipe are multiplied by a power of two that depends on
  // tokens_per_step (numerics.h); what is added to the store is not.
  virtual std::unique_ptr<Pass> Backward(int micro_batch, const kernels::Matrix& grad_output,
                                         const kernels::Matrix& grad_input,
                                         WeightWork* deferred) = 0;

  // Of a micro-batch whose forward is done; for a stage with a head its losses, for all their
  // balance loss.
  virtual MicroBatchLoss loss(int micro_batch) const = 0;

  // Tokens each routed expert was chosen for since the last ResetExpertLoads by this rank's tokens,
  // [MoE layers of the stage, MTP's last; E].
  virtual absl::Span<const int64_t> expert_loads() const = 0;
  virtual void ResetExpertLoads() = 0;
  // Router bias parameters in the order of expert_loads' rows.
  virtual std::vector<Parameter*> router_biases() = 0;

  // Largest message that a member sends to another on a lane, in bytes.
  static int64_t MaxExchangeBytes(const StageOptions& options, Lane lane);

  // Micro-batches whose activations are held.
  virtual int live_micro_batches() const = 0;

  // Of the pool that activations and FP8 copies of weights come from.
  virtual PoolBytes pool_bytes() const = 0;
};

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_STAGE_H_
