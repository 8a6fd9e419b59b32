// Shape letters: T tokens, D hidden width, E routed experts, K chosen per token.
#include "worker/model/router.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace fathom::model {

using kernels::Matrix;

Router::Router(const LayerContext& context, const ModelConfig& model, const RouterOptions& options,
               const std::string& prefix, ParameterReader* reader)
    : context_(context),
      shape_({.tokens = options.sequences * options.sequence_length,
              .experts = model.n_routed_experts,
              .groups = model.n_group,
              .groups_kept = model.topk_group,
              .top_k = model.num_experts_per_tok,
              .scaling_factor = model.routed_scaling_factor,
              .sequence_length = options.sequence_length,
              .balance_alpha = options.balance_alpha}),
      sequences_per_step_(options.sequences_per_step),
      gate_(reader->ReadLinear(absl::StrCat(prefix, "mlp.gate.weight"), model.n_routed_experts,
                               model.hidden_size, Products::kDense)),
      bias_(reader->ReadRouterBias(absl::StrCat(prefix, "mlp.gate.e_score_correction_bias"),
                                   model.n_routed_experts)) {}

void Router::Forward(const Matrix& normed, absl::Span<int64_t> loads, Activations* out) const {
  kernels::Ops& ops = *context_.ops;
  TensorPool& pool = *context_.pool;
  const int64_t tokens = shape_.tokens;
  const size_t chosen = static_cast<size_t>(tokens * shape_.top_k);
  out->logits_TE = pool.Dense(tokens, shape_.experts, context_.numerics.sum);
  out->experts_TK = pool.Bytes(chosen * sizeof(int32_t));
  const Tensor weights_TK = pool.Dense(tokens, shape_.top_k, context_.numerics.sum);
  gate_.Forward({normed, {}}, out->logits_TE);

  std::vector<int64_t> counted(shape_.experts, 0);
  const Buffer loads_E = pool.Bytes(counted.size() * sizeof(int64_t));
  ops.CopyFromHost(loads_E.data(), counted.data(), counted.size() * sizeof(int64_t));
  kernels::RouterShape shape = shape_;
  if (loads.empty()) shape.balance_alpha = 0;
  out->balance_loss =
      ops.RouterForward(shape, out->logits_TE, bias_->weight, out->experts_TK.as<int32_t>(),
                        weights_TK, loads_E.as<int64_t>());
  out->host_experts.resize(chosen);
  out->host_weights.resize(chosen * kernels::SizeOf(context_.numerics.sum));
  ops.CopyToHost(out->host_experts.data(), out->experts_TK.data(), chosen * sizeof(int32_t));
  ops.CopyToHost(out->host_weights.data(), weights_TK.matrix.data, out->host_weights.size());
  ops.CopyToHost(counted.data(), loads_E.data(), counted.size() * sizeof(int64_t));
  ops.Synchronize();
  for (size_t e = 0; e < loads.size(); ++e) loads[e] += counted[e];
}

void Router::Backward(const Activations& kept, const Tensor& normed, const Matrix& dweights,
                      const Matrix& dnormed, WeightWork* work) const {
  const Tensor dlogits_TE =
      context_.pool->Dense(shape_.tokens, shape_.experts, context_.numerics.sum);
  const double balance_scale =
      context_.numerics.gradient_scale / static_cast<double>(sequences_per_step_);
  context_.ops->RouterBackward(shape_, kept.logits_TE, kept.experts_TK.as<int32_t>(), dweights,
                               balance_scale, dlogits_TE);
  Tensor dgate_TE = dlogits_TE;
  if (context_.numerics.activation != context_.numerics.sum) {
    dgate_TE = context_.pool->Dense(shape_.tokens, shape_.experts, context_.numerics.activation);
    context_.ops->Copy(dlogits_TE, dgate_TE);
  }
  gate_.BackwardInput({dgate_TE, {}}, dnormed, /*accumulate=*/true);
  work->push_back([this, dgate_TE, normed] { gate_.BackwardWeight({dgate_TE, {}}, {normed, {}}); });
}

}  // namespace fathom::model
