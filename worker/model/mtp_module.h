// Multi-token prediction, depth 1: from the main model's last hidden state (before its final norm)
// and the embedding of the next token, eh_proj [norm(h); norm(emb)], one more transformer block and
// an own norm, then the shared head predicts the token after next. This is the part before the
// block. (DeepSeek-V3 report, section 2.2.)
#ifndef FATHOM_WORKER_MODEL_MTP_MODULE_H_
#define FATHOM_WORKER_MODEL_MTP_MODULE_H_

#include <cstdint>
#include <string>

#include "absl/types/span.h"
#include "common/model/model_config.h"
#include "worker/model/embedding_and_head.h"
#include "worker/model/linear.h"
#include "worker/model/numerics.h"
#include "worker/model/parameter_reader.h"
#include "worker/model/rms_norm.h"
#include "worker/model/tensor.h"

namespace fathom::model {

class MtpModule {
 public:
  struct Activations {
    Tensor hidden_TD;
    Buffer next_tokens_T;
  };

  // prefix "model.layers.61.".
  MtpModule(const LayerContext& context, const ModelConfig& model, const std::string& prefix,
            ParameterReader* reader);

  void RefreshWeights() { projection_.RefreshWeights(); }

  // kept may be null.
  Tensor Forward(const Tensor& hidden, absl::Span<const int32_t> next_tokens,
                 Activations* kept) const;
  // Gradient of hidden; the embedding's is added at once.
  Tensor Backward(const Activations& kept, const Tensor& dy, WeightWork* work) const;

 private:
  Tensor Join(const Tensor& hidden, const Tensor& embedded) const;

  LayerContext context_;
  Embedding embedding_;
  RmsNorm hidden_norm_;
  RmsNorm embedding_norm_;
  Linear projection_;
};

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_MTP_MODULE_H_
