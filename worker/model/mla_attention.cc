// Shape letters: T tokens, D hidden width, H heads, W width of a query or key head, V of a value
// head, Q query latent, C key-value latent, R rotary part. THW is [T, H * W].
#include "worker/model/mla_attention.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/model/tensor_view.h"

namespace fathom::model {

using kernels::DType;
using kernels::Matrix;
using kernels::RopeView;

MlaAttention::MlaAttention(const LayerContext& context, const ModelConfig& model, int64_t sequences,
                           int64_t sequence_length, const std::string& prefix,
                           ParameterReader* reader)
    : context_(context),
      sequences_(sequences),
      sequence_length_(sequence_length),
      heads_(model.num_attention_heads),
      nope_(model.qk_nope_head_dim),
      rope_(model.qk_rope_head_dim),
      v_dim_(model.v_head_dim),
      kv_rank_(model.kv_lora_rank),
      theta_(model.rope_theta),
      input_norm_(reader->ReadNorm(absl::StrCat(prefix, "input_layernorm.weight"),
                                   model.hidden_size, model.rms_norm_eps)),
      q_a_(reader->ReadLinear(absl::StrCat(prefix, "self_attn.q_a_proj.weight"), model.q_lora_rank,
                              model.hidden_size)),
      q_norm_(reader->ReadNorm(absl::StrCat(prefix, "self_attn.q_a_layernorm.weight"),
                               model.q_lora_rank, model.rms_norm_eps)),
      q_b_(reader->ReadLinear(absl::StrCat(prefix, "self_attn.q_b_proj.weight"),
                              heads_ * model.qk_head_dim(), model.q_lora_rank)),
      kv_a_(reader->ReadLinear(absl::StrCat(prefix, "self_attn.kv_a_proj_with_mqa.weight"),
                               kv_rank_ + rope_, model.hidden_size)),
      kv_norm_(reader->ReadNorm(absl::StrCat(prefix, "self_attn.kv_a_layernorm.weight"), kv_rank_,
                                model.rms_norm_eps)),
      kv_b_(reader->ReadLinear(absl::StrCat(prefix, "self_attn.kv_b_proj.weight"),
                               heads_ * (nope_ + v_dim_), kv_rank_)),
      o_(reader->ReadLinear(absl::StrCat(prefix, "self_attn.o_proj.weight"), model.hidden_size,
                            heads_ * v_dim_)) {}

void MlaAttention::RefreshWeights() {
  for (Linear* linear : {&q_a_, &q_b_, &kv_a_, &kv_b_, &o_}) linear->RefreshWeights();
}

Matrix MlaAttention::Latent(const Tensor& kv_latent) const {
  return ColsOf(kv_latent, 0, kv_rank_);
}

Matrix MlaAttention::SharedKey(const Tensor& kv_latent) const {
  return ColsOf(kv_latent, kv_rank_, rope_);
}

kernels::AttentionShape MlaAttention::Shape() const {
  const int64_t width = nope_ + rope_;
  return {sequences_, sequence_length_, heads_, width, v_dim_, 1 / std::sqrt(double(width))};
}

RopeView MlaAttention::QueryRope(const Tensor& q) const {
  const int64_t width = nope_ + rope_;
  return {ElementAt(q, 0, nope_), q.matrix.dtype, q.matrix.rows,    heads_, rope_,
          q.matrix.stride,        width,          sequence_length_, theta_};
}

RopeView MlaAttention::SharedKeyRope(const Matrix& key) const {
  return {key.data, key.dtype, key.rows, 1, rope_, key.stride, rope_, sequence_length_, theta_};
}

MlaAttention::Heads MlaAttention::MakeHeads(const Tensor& q_latent, const Tensor& kv_latent) const {
  TensorPool& pool = *context_.pool;
  kernels::Ops& ops = *context_.ops;
  const DType dtype = context_.numerics.activation;
  const int64_t tokens = q_latent.matrix.rows;
  Heads heads;
  heads.q_latent_TQ = MakeOperand(context_, q_norm_.Forward(q_latent));
  heads.q_THW = pool.Dense(tokens, heads_ * (nope_ + rope_), dtype);
  q_b_.Forward(heads.q_latent_TQ, heads.q_THW);
  ops.Rope(QueryRope(heads.q_THW), /*inverse=*/false);

  heads.kv_latent_TC = MakeOperand(context_, kv_norm_.Forward(Latent(kv_latent)));
  const Tensor kv = pool.Dense(tokens, heads_ * (nope_ + v_dim_), dtype);
  kv_b_.Forward(heads.kv_latent_TC, kv);
  heads.k_THW = pool.Dense(tokens, heads_ * (nope_ + rope_), dtype);
  heads.v_THV = pool.Dense(tokens, heads_ * v_dim_, dtype);
  const Matrix kv_by_head = PerHead(kv, heads_);
  ops.Copy(ColsOf(kv_by_head, 0, nope_), ColsOf(PerHead(heads.k_THW, heads_), 0, nope_));
  ops.Copy(ColsOf(kv_by_head, nope_, v_dim_), PerHead(heads.v_THV, heads_));
  for (int64_t h = 0; h < heads_; ++h) {
    ops.Copy(SharedKey(kv_latent), ColsOf(heads.k_THW, h * (nope_ + rope_) + nope_, rope_));
  }
  return heads;
}

Tensor MlaAttention::Forward(const Tensor& x, Activations* kept) const {
  TensorPool& pool = *context_.pool;
  kernels::Ops& ops = *context_.ops;
  const DType dtype = context_.numerics.activation;
  const int64_t tokens = x.matrix.rows;
  Operand normed_TD = MakeOperand(context_, input_norm_.Forward(x));
  const Tensor q_latent_TQ = pool.Dense(tokens, q_a_.outputs(), dtype);
  const Tensor kv_latent_TCR = pool.Dense(tokens, kv_a_.outputs(), dtype);
  q_a_.Forward(normed_TD, q_latent_TQ);
  kv_a_.Forward(normed_TD, kv_latent_TCR);
  normed_TD = Operand();
  ops.Rope(SharedKeyRope(SharedKey(kv_latent_TCR)), /*inverse=*/false);

  Tensor out_THV = pool.Dense(tokens, heads_ * v_dim_, dtype);
  const Tensor lse_TH = pool.Dense(tokens, heads_, context_.numerics.sum);
  {
    const Heads heads = MakeHeads(q_latent_TQ, kv_latent_TCR);
    ops.AttentionForward(Shape(), heads.q_THW, heads.k_THW, heads.v_THV, out_THV, lse_TH);
  }
  const Tensor projected_TD = pool.Dense(tokens, x.matrix.cols, context_.numerics.sum);
  o_.Forward(MakeOperand(context_, out_THV), projected_TD);
  Tensor y_TD = pool.Dense(tokens, x.matrix.cols, dtype);
  ops.Add(x, projected_TD, y_TD);
  if (kept != nullptr) {
    // Only now, for the forward's product takes the attention's output as it was.
    if (context_.numerics.fp8) ops.RoundToE5M6(out_THV);
    *kept = {x, q_latent_TQ, kv_latent_TCR, out_THV, lse_TH};
  }
  return y_TD;
}

void MlaAttention::SplitKeyGradient(const Tensor& dk, const Tensor& dv, const Tensor& dkv,
                                    const Matrix& dshared_key) const {
  kernels::Ops& ops = *context_.ops;
  const Matrix dkv_by_head = PerHead(dkv, heads_);
  ops.Copy(ColsOf(PerHead(dk, heads_), 0, nope_), ColsOf(dkv_by_head, 0, nope_));
  ops.Copy(PerHead(dv, heads_), ColsOf(dkv_by_head, nope_, v_dim_));
  const Tensor sum_TR = context_.pool->Dense(dk.matrix.rows, rope_, context_.numerics.sum);
  ops.Copy(ColsOf(dk, nope_, rope_), sum_TR);
  for (int64_t h = 1; h < heads_; ++h) {
    ops.Add(sum_TR, ColsOf(dk, h * (nope_ + rope_) + nope_, rope_), sum_TR);
  }
  ops.Rope(SharedKeyRope(sum_TR), /*inverse=*/true);
  ops.Copy(sum_TR, dshared_key);
}

MlaAttention::HeadGradients MlaAttention::BackwardHeads(const Activations& kept, const Operand& dy,
                                                        Heads* heads,
                                                        const Matrix& dshared_key) const {
  TensorPool& pool = *context_.pool;
  kernels::Ops& ops = *context_.ops;
  const DType dtype = context_.numerics.activation;
  const int64_t tokens = heads->q_THW.matrix.rows;
  HeadGradients out;
  Tensor dout_THV = pool.Dense(tokens, heads_ * v_dim_, dtype);
  o_.BackwardInput(dy, dout_THV);
  out.q_THW = pool.Dense(tokens, heads_ * (nope_ + rope_), dtype);
  const Tensor dk_THW = pool.Dense(tokens, heads_ * (nope_ + rope_), dtype);
  const Tensor dv_THV = pool.Dense(tokens, heads_ * v_dim_, dtype);
  ops.AttentionBackward(Shape(), heads->q_THW, heads->k_THW, heads->v_THV, kept.out_THV,
                        kept.lse_TH, dout_THV, out.q_THW, dk_THW, dv_THV);
  for (Tensor* used : {&dout_THV, &heads->q_THW, &heads->k_THW, &heads->v_THV}) *used = Tensor();
  ops.Rope(QueryRope(out.q_THW), /*inverse=*/true);
  out.kv = pool.Dense(tokens, heads_ * (nope_ + v_dim_), dtype);
  SplitKeyGradient(dk_THW, dv_THV, out.kv, dshared_key);
  return out;
}

// An operand of a weight gradient is made as soon as its tensor is there, and the tensor given back
// as soon as no product needs it.
Tensor MlaAttention::Backward(Activations kept, const Tensor& dy, WeightWork* work) const {
  TensorPool& pool = *context_.pool;
  const DType dtype = context_.numerics.activation;
  const int64_t tokens = dy.matrix.rows;
  const auto along_tokens = [this](const Tensor& t) { return AlongTokens(context_, {t, {}}); };
  const Tensor dkv_latent_TCR = pool.Dense(tokens, kv_a_.outputs(), dtype);
  HeadGradients gradients;
  TokenOperand q_latent;
  TokenOperand kv_latent;
  {
    Heads heads = MakeHeads(kept.q_latent_TQ, kept.kv_latent_TCR);
    gradients = BackwardHeads(kept, MakeOperand(context_, dy), &heads, SharedKey(dkv_latent_TCR));
    // Made again just now: quantised from the tensors.
    q_latent = along_tokens(heads.q_latent_TQ.dense);
    kv_latent = along_tokens(heads.kv_latent_TC.dense);
  }
  const TokenOperand out = along_tokens(kept.out_THV);
  kept.out_THV = Tensor();

  const Tensor dq_latent_TQ = pool.Dense(tokens, q_a_.outputs(), dtype);
  q_b_.BackwardInput(MakeOperand(context_, gradients.q_THW), dq_latent_TQ);
  const TokenOperand dq = along_tokens(gradients.q_THW);
  gradients.q_THW = Tensor();
  q_norm_.Backward(kept.q_latent_TQ, dq_latent_TQ, dq_latent_TQ);
  const Matrix dlatent_TC = Latent(dkv_latent_TCR);
  kv_b_.BackwardInput(MakeOperand(context_, gradients.kv), dlatent_TC);
  const TokenOperand dkv = along_tokens(gradients.kv);
  gradients.kv = Tensor();
  kv_norm_.Backward(Latent(kept.kv_latent_TCR), dlatent_TC, dlatent_TC);

  const Tensor dnormed_TD = pool.Dense(tokens, dy.matrix.cols, context_.numerics.sum);
  q_a_.BackwardInput(MakeOperand(context_, dq_latent_TQ), dnormed_TD);
  kv_a_.BackwardInput(MakeOperand(context_, dkv_latent_TCR), dnormed_TD, /*accumulate=*/true);
  input_norm_.Backward(kept.x_TD, dnormed_TD, dnormed_TD);
  Tensor dx_TD = pool.Dense(tokens, dy.matrix.cols, dtype);
  context_.ops->Add(dy, dnormed_TD, dx_TD);

  const TokenOperand normed =
      AlongTokens(context_, CodesOf(MakeOperand(context_, input_norm_.Forward(kept.x_TD))));
  work->push_back([this, dy = along_tokens(dy), out, dq, q_latent, dkv, kv_latent, normed,
                   dq_latent = along_tokens(dq_latent_TQ),
                   dkv_latent = along_tokens(dkv_latent_TCR)] {
    o_.BackwardWeight(dy, out);
    q_b_.BackwardWeight(dq, q_latent);
    kv_b_.BackwardWeight(dkv, kv_latent);
    q_a_.BackwardWeight(dq_latent, normed);
    kv_a_.BackwardWeight(dkv_latent, normed);
  });
  return dx_TD;
}

}  // namespace fathom::model
