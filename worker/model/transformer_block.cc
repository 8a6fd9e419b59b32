#include "worker/model/transformer_block.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace fathom::model {

TransformerBlock::TransformerBlock(const LayerContext& context, const ModelConfig& model,
                                   const RouterOptions& options, const std::string& prefix,
                                   bool moe, ExpertGroup* group, ParameterReader* reader)
    : context_(context),
      attention_(context, model, options.sequences, options.sequence_length, prefix, reader) {
  if (moe) {
    moe_.emplace(context, model, options, prefix, group, reader);
    return;
  }
  mlp_norm_ = reader->ReadNorm(absl::StrCat(prefix, "post_attention_layernorm.weight"),
                               model.hidden_size, model.rms_norm_eps);
  Linear gate_up =
      reader->ReadGateUp(absl::StrCat(prefix, "mlp"), model.intermediate_size, model.hidden_size);
  Linear down = reader->ReadLinear(absl::StrCat(prefix, "mlp.down_proj.weight"), model.hidden_size,
                                   model.intermediate_size);
  mlp_.emplace(std::move(gate_up), std::move(down), context);
}

void TransformerBlock::RefreshWeights() {
  attention_.RefreshWeights();
  if (moe_) moe_->RefreshWeights();
  if (mlp_) mlp_->RefreshWeights();
}

void TransformerBlock::ForwardDense(const Tensor& mid, bool keep, Activations* state) const {
  const int64_t tokens = mid.matrix.rows;
  const int64_t hidden = mid.matrix.cols;
  const Operand normed = MakeOperand(context_, mlp_norm_->Forward(mid));
  const Tensor out_TD = context_.pool->Dense(tokens, hidden, context_.numerics.sum);
  mlp_->Forward(normed, out_TD, keep ? &state->mlp : nullptr);
  state->result_TD = context_.pool->Dense(tokens, hidden, context_.numerics.activation);
  context_.ops->Add(mid, out_TD, state->result_TD);
  if (keep) state->mid_TD = mid;
}

absl::Status TransformerBlock::ForwardBegin(const Tensor& x, bool keep, absl::Span<int64_t> loads,
                                            Activations* state) {
  const Tensor mid_TD = attention_.Forward(x, keep ? &state->attention : nullptr);
  if (is_moe()) return moe_->ForwardDispatch(mid_TD, keep, loads, &state->moe);
  ForwardDense(mid_TD, keep, state);
  return absl::OkStatus();
}

absl::Status TransformerBlock::ForwardExperts(bool keep, Activations* state) {
  return moe_->ForwardExperts(keep, &state->moe);
}

absl::Status TransformerBlock::ForwardFinish(Activations* state) {
  return moe_->ForwardCombine(&state->moe, &state->result_TD);
}

Tensor TransformerBlock::BackwardDense(const Tensor& dy, Activations* state,
                                       WeightWork* work) const {
  const int64_t tokens = dy.matrix.rows;
  const int64_t hidden = dy.matrix.cols;
  const Operand normed = CodesOf(MakeOperand(context_, mlp_norm_->Forward(state->mid_TD)));
  const Tensor dnormed_TD = context_.pool->Dense(tokens, hidden, context_.numerics.sum);
  mlp_->Backward(std::move(state->mlp), normed, MakeOperand(context_, dy), dnormed_TD, work);
  mlp_norm_->Backward(state->mid_TD, dnormed_TD, dnormed_TD);
  Tensor dmid_TD = context_.pool->Dense(tokens, hidden, context_.numerics.activation);
  context_.ops->Add(dy, dnormed_TD, dmid_TD);
  return dmid_TD;
}

absl::Status TransformerBlock::BackwardBegin(const Tensor& dy, Activations* state,
                                             WeightWork* work) {
  if (is_moe()) return moe_->BackwardCombine(dy, &state->moe);
  const Tensor dmid_TD = BackwardDense(dy, state, work);
  state->mid_TD = Tensor();
  state->result_TD = attention_.Backward(std::move(state->attention), dmid_TD, work);
  return absl::OkStatus();
}

void TransformerBlock::BackwardLocal(Activations* state, WeightWork* work) {
  moe_->BackwardShared(&state->moe, work);
}

absl::Status TransformerBlock::BackwardExperts(Activations* state, WeightWork* work) {
  return moe_->BackwardExperts(&state->moe, work);
}

absl::Status TransformerBlock::BackwardFinish(Activations* state, WeightWork* work) {
  Tensor dmid_TD;
  const absl::Status status = moe_->BackwardDispatch(&state->moe, work, &dmid_TD);
  if (!status.ok()) return status;
  state->moe = MoeLayer::Activations();
  state->result_TD = attention_.Backward(std::move(state->attention), dmid_TD, work);
  return absl::OkStatus();
}

}  // namespace fathom::model
