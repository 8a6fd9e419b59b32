// A pre-norm residual block: latent attention, then a dense MLP or a mixture of experts.
//
// A dense block runs in one call each way. A block with experts has three: the calls named Begin
// post to the expert group and return, Experts and Finish wait first. What was posted travels while
// the caller does other work.
#ifndef FATHOM_WORKER_MODEL_TRANSFORMER_BLOCK_H_
#define FATHOM_WORKER_MODEL_TRANSFORMER_BLOCK_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/model/model_config.h"
#include "worker/model/dense_mlp.h"
#include "worker/model/linear.h"
#include "worker/model/mla_attention.h"
#include "worker/model/moe_layer.h"
#include "worker/model/numerics.h"
#include "worker/model/parameter_reader.h"
#include "worker/model/rms_norm.h"
#include "worker/model/router.h"
#include "worker/model/tensor.h"

namespace fathom::model {

class TransformerBlock {
 public:
  struct Activations {
    MlaAttention::Activations attention;
    MoeLayer::Activations moe;
    // Of a dense block.
    Tensor mid_TD;  // after attention
    DenseMlp::Activations mlp;
    // The block's result, or the gradient of its input, when the last call has run.
    Tensor result_TD;
  };

  TransformerBlock(const LayerContext& context, const ModelConfig& model,
                   const RouterOptions& options, const std::string& prefix, bool moe,
                   ExpertGroup* group, ParameterReader* reader);

  bool is_moe() const { return moe_.has_value(); }
  void RefreshWeights();

  // loads is empty for a dense block, and when nothing is kept.
  absl::Status ForwardBegin(const Tensor& x, bool keep, absl::Span<int64_t> loads,
                            Activations* state);
  absl::Status ForwardExperts(bool keep, Activations* state);
  absl::Status ForwardFinish(Activations* state);

  // BackwardLocal is the part of the first segment that needs no answer: the shared experts.
  absl::Status BackwardBegin(const Tensor& dy, Activations* state, WeightWork* work);
  void BackwardLocal(Activations* state, WeightWork* work);
  absl::Status BackwardExperts(Activations* state, WeightWork* work);
  absl::Status BackwardFinish(Activations* state, WeightWork* work);

  Parameter* router_bias() const { return is_moe() ? moe_->router_bias() : nullptr; }

 private:
  void ForwardDense(const Tensor& mid, bool keep, Activations* state) const;
  Tensor BackwardDense(const Tensor& dy, Activations* state, WeightWork* work) const;

  LayerContext context_;
  MlaAttention attention_;
  std::optional<MoeLayer> moe_;
  std::optional<RmsNorm> mlp_norm_;  // of a dense block
  std::optional<DenseMlp> mlp_;
};

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_TRANSFORMER_BLOCK_H_
