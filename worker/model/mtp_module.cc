// Shape letters: T tokens, D hidden width.
#include "worker/model/mtp_module.h"

#include "absl/strings/str_cat.h"
#include "worker/model/tensor_view.h"

namespace fathom::model {

using kernels::Matrix;

MtpModule::MtpModule(const LayerContext& context, const ModelConfig& model,
                     const std::string& prefix, ParameterReader* reader)
    : context_(context),
      embedding_(context, model, reader),
      hidden_norm_(reader->ReadNorm(absl::StrCat(prefix, "hnorm.weight"), model.hidden_size,
                                    model.rms_norm_eps)),
      embedding_norm_(reader->ReadNorm(absl::StrCat(prefix, "enorm.weight"), model.hidden_size,
                                       model.rms_norm_eps)),
      projection_(reader->ReadLinear(absl::StrCat(prefix, "eh_proj.weight"), model.hidden_size,
                                     2 * model.hidden_size)) {}

Tensor MtpModule::Join(const Tensor& hidden, const Tensor& embedded) const {
  const int64_t tokens = hidden.matrix.rows;
  const int64_t width = hidden.matrix.cols;
  Tensor joined_T2D = context_.pool->Dense(tokens, 2 * width, context_.numerics.activation);
  hidden_norm_.Forward(hidden, ColsOf(joined_T2D, 0, width));
  embedding_norm_.Forward(embedded, ColsOf(joined_T2D, width, width));
  return joined_T2D;
}

Tensor MtpModule::Forward(const Tensor& hidden, absl::Span<const int32_t> next_tokens,
                          Activations* kept) const {
  const int64_t tokens = hidden.matrix.rows;
  const Buffer next_tokens_T = embedding_.Upload(next_tokens);
  const Operand joined =
      MakeOperand(context_, Join(hidden, embedding_.Forward(next_tokens_T, tokens)));
  Tensor y_TD = context_.pool->Dense(tokens, hidden.matrix.cols, context_.numerics.activation);
  projection_.Forward(joined, y_TD);
  if (kept != nullptr) *kept = {hidden, next_tokens_T};
  return y_TD;
}

Tensor MtpModule::Backward(const Activations& kept, const Tensor& dy, WeightWork* work) const {
  const int64_t tokens = dy.matrix.rows;
  const int64_t width = dy.matrix.cols;
  const kernels::DType dtype = context_.numerics.activation;
  const Tensor embedded_TD = embedding_.Forward(kept.next_tokens_T, tokens);
  const Tensor djoined_T2D = context_.pool->Dense(tokens, 2 * width, dtype);
  projection_.BackwardInput(MakeOperand(context_, dy), djoined_T2D);
  Tensor dhidden_TD = context_.pool->Dense(tokens, width, dtype);
  hidden_norm_.Backward(kept.hidden_TD, ColsOf(djoined_T2D, 0, width), dhidden_TD);
  const Tensor dembedded_TD = context_.pool->Dense(tokens, width, dtype);
  embedding_norm_.Backward(embedded_TD, ColsOf(djoined_T2D, width, width), dembedded_TD);
  embedding_.Backward(kept.next_tokens_T, dembedded_TD);

  work->push_back(
      [this, dy = AlongTokens(context_, {dy, {}}),
       joined = AlongTokens(context_,
                            CodesOf(MakeOperand(context_, Join(kept.hidden_TD, embedded_TD))))] {
        projection_.BackwardWeight(dy, joined);
      });
  return dhidden_TD;
}

}  // namespace fathom::model
