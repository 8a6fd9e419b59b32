// The two ends of the model: token embedding, and the norm and head that end in a cross-entropy.
// Both stay in the activations' format under every recipe.
#ifndef FATHOM_WORKER_MODEL_EMBEDDING_AND_HEAD_H_
#define FATHOM_WORKER_MODEL_EMBEDDING_AND_HEAD_H_

#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "common/model/model_config.h"
#include "kernels/ops.h"
#include "worker/model/linear.h"
#include "worker/model/numerics.h"
#include "worker/model/parameter_reader.h"
#include "worker/model/rms_norm.h"
#include "worker/model/tensor.h"

namespace fathom::model {

class Embedding {
 public:
  Embedding(const LayerContext& context, const ModelConfig& model, ParameterReader* reader);

  // Token ids where ops can read them.
  Buffer Upload(absl::Span<const int32_t> tokens) const;
  Tensor Forward(const Buffer& tokens, int64_t count) const;
  // Adds to the table's gradient at once.
  void Backward(const Buffer& tokens, const kernels::Matrix& dout) const;

 private:
  LayerContext context_;
  kernels::Matrix table_VD_;
  kernels::Matrix gradient_VD_;
};

// Norm, logits and loss. Several heads (the model's own, MTP's) may share the logits' weight.
class Head {
 public:
  struct Activations {
    Tensor x_TD;
    Tensor dlogits_TV;
  };

  Head(const LayerContext& context, const ModelConfig& model, const std::string& norm_name,
       ParameterReader* reader);

  // Sum over tokens of -log softmax(logits)[label], in nats. With kept, also the gradient of
  // loss_scale * that sum with respect to the logits.
  double Forward(const Tensor& x, absl::Span<const int32_t> labels, double loss_scale,
                 Activations* kept) const;
  // Gradient of x in the activations' format.
  Tensor Backward(const Activations& kept, WeightWork* work) const;

 private:
  LayerContext context_;
  RmsNorm norm_;
  Linear logits_;
};

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_EMBEDDING_AND_HEAD_H_
