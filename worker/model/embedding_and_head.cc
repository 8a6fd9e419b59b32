// Shape letters: T tokens, D hidden width, V vocabulary.
#include "worker/model/embedding_and_head.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "worker/model/tensor_view.h"

namespace fathom::model {

using kernels::Matrix;

namespace {

// Logits are made for so many tokens at a time that this many FP32 numbers hold them: 64 MiB.
constexpr int64_t kLogitsAtOnce = int64_t{1} << 24;

}  // namespace

Embedding::Embedding(const LayerContext& context, const ModelConfig& model, ParameterReader* reader)
    : context_(context) {
  const Parameter& table =
      reader->Read("model.embed_tokens.weight", model.vocab_size, model.hidden_size);
  table_VD_ = table.weight;
  gradient_VD_ = table.gradient;
}

Buffer Embedding::Upload(absl::Span<const int32_t> tokens) const {
  const Buffer out = context_.pool->Bytes(tokens.size() * sizeof(int32_t));
  context_.ops->CopyFromHost(out.data(), tokens.data(), tokens.size() * sizeof(int32_t));
  return out;
}

Tensor Embedding::Forward(const Buffer& tokens, int64_t count) const {
  Tensor out = context_.pool->Dense(count, table_VD_.cols, context_.numerics.activation);
  context_.ops->EmbeddingForward(tokens.as<int32_t>(), table_VD_, out);
  return out;
}

void Embedding::Backward(const Buffer& tokens, const Matrix& dout) const {
  const double factor = 1.0 / context_.numerics.gradient_scale;
  if (factor == 1) {
    context_.ops->EmbeddingBackward(tokens.as<int32_t>(), dout, gradient_VD_);
    return;
  }
  const Tensor scaled = context_.pool->Dense(dout.rows, dout.cols, gradient_VD_.dtype);
  context_.ops->Copy(dout, scaled);
  context_.ops->Scale(scaled, factor);
  context_.ops->EmbeddingBackward(tokens.as<int32_t>(), scaled, gradient_VD_);
}

Head::Head(const LayerContext& context, const ModelConfig& model, const std::string& norm_name,
           ParameterReader* reader)
    : context_(context),
      norm_(reader->ReadNorm(norm_name, model.hidden_size, model.rms_norm_eps)),
      logits_(reader->ReadLinear("lm_head.weight", model.vocab_size, model.hidden_size,
                                 Products::kDense)) {}

double Head::Forward(const Tensor& x, absl::Span<const int32_t> labels, double loss_scale,
                     Activations* kept) const {
  TensorPool& pool = *context_.pool;
  kernels::Ops& ops = *context_.ops;
  const int64_t tokens = x.matrix.rows;
  const int64_t vocabulary = logits_.outputs();
  const kernels::DType sum = context_.numerics.sum;
  const Tensor normed_TD = norm_.Forward(x);
  const Buffer labels_T = pool.Bytes(labels.size() * sizeof(int32_t));
  ops.CopyFromHost(labels_T.data(), labels.data(), labels.size() * sizeof(int32_t));
  const Buffer loss_T = pool.Bytes(tokens * sizeof(double));
  const int64_t at_once = std::clamp<int64_t>(kLogitsAtOnce / vocabulary, 1, tokens);
  const bool convert = context_.numerics.activation != sum;
  Tensor dlogits_TV;
  if (kept != nullptr) dlogits_TV = pool.Dense(tokens, vocabulary, context_.numerics.activation);
  Tensor scratch;
  if (kept == nullptr || convert) scratch = pool.Dense(at_once, vocabulary, sum);
  for (int64_t first = 0; first < tokens; first += at_once) {
    const int64_t count = std::min(at_once, tokens - first);
    const Matrix logits =
        scratch.empty() ? RowsOf(dlogits_TV.matrix, first, count) : RowsOf(scratch, 0, count);
    logits_.Forward({RowsOf(normed_TD.matrix, first, count), {}}, logits);
    ops.CrossEntropy(logits, labels_T.as<int32_t>() + first,
                     kept == nullptr ? 0 : loss_scale * context_.numerics.gradient_scale,
                     loss_T.as<double>() + first);
    if (kept != nullptr && convert) ops.Copy(logits, RowsOf(dlogits_TV.matrix, first, count));
  }
  std::vector<double> host_T(tokens);
  ops.CopyToHost(host_T.data(), loss_T.data(), tokens * sizeof(double));
  ops.Synchronize();
  if (kept != nullptr) *kept = {x, std::move(dlogits_TV)};
  double loss = 0;
  for (const double token_loss : host_T) loss += token_loss;
  return loss;
}

Tensor Head::Backward(const Activations& kept, WeightWork* work) const {
  const Tensor normed_TD = norm_.Forward(kept.x_TD);
  Tensor dx_TD = context_.pool->Dense(kept.x_TD.matrix.rows, kept.x_TD.matrix.cols,
                                      context_.numerics.activation);
  logits_.BackwardInput({kept.dlogits_TV, {}}, dx_TD);
  norm_.Backward(kept.x_TD, dx_TD, dx_TD);
  work->push_back([this, dlogits_TV = kept.dlogits_TV, normed_TD] {
    logits_.BackwardWeight({dlogits_TV, {}}, {normed_TD, {}});
  });
  return dx_TD;
}

}  // namespace fathom::model
