// Multi-head latent attention with its norm and residual: x + o_proj(attention(norm(x))).
//
// Queries come from a latent (q_a, norm, q_b), keys and values from another (kv_a, norm, kv_b); a
// rotary key of few dimensions, shared by all heads, comes straight from kv_a. A query or key head
// is its `nope` part, then its `rope` part. Kept for the backward: x, the two latents, the
// attention's output (E5M6 under FP8) and its log-sum-exp; norms, q_b, kv_b and the rotation are
// made again. (DeepSeek-V2 report, arXiv 2405.04434, section 2.1; DeepSeek-V3 report, arXiv
// 2412.19437, section 2.1.1.)
#ifndef FATHOM_WORKER_MODEL_MLA_ATTENTION_H_
#define FATHOM_WORKER_MODEL_MLA_ATTENTION_H_

#include <cstdint>
#include <string>

#include "common/model/model_config.h"
#include "kernels/ops.h"
#include "worker/model/linear.h"
#include "worker/model/numerics.h"
#include "worker/model/parameter_reader.h"
#include "worker/model/rms_norm.h"
#include "worker/model/tensor.h"

namespace fathom::model {

class MlaAttention {
 public:
  struct Activations {
    Tensor x_TD;
    Tensor q_latent_TQ;    // before its norm
    Tensor kv_latent_TCR;  // before its norm; then the rotated shared key
    Tensor out_THV;
    Tensor lse_TH;
  };

  // prefix "model.layers.3."; T = sequences * sequence_length.
  MlaAttention(const LayerContext& context, const ModelConfig& model, int64_t sequences,
               int64_t sequence_length, const std::string& prefix, ParameterReader* reader);

  void RefreshWeights();

  // kept may be null.
  Tensor Forward(const Tensor& x, Activations* kept) const;
  // Gradient of x from that of the result. What was kept is given back as soon as it can be, if the
  // caller moves it here.
  Tensor Backward(Activations kept, const Tensor& dy, WeightWork* work) const;

 private:
  // What the attention takes, and the normed latents it was made from.
  struct Heads {
    Tensor q_THW;
    Tensor k_THW;
    Tensor v_THV;
    Operand q_latent_TQ;
    Operand kv_latent_TC;
  };
  Heads MakeHeads(const Tensor& q_latent, const Tensor& kv_latent) const;
  // Gradients of q_b's and kv_b's outputs and of the shared rotary key, through the attention.
  // Gives back queries, keys and values.
  struct HeadGradients {
    Tensor q_THW;
    Tensor kv;
  };
  HeadGradients BackwardHeads(const Activations& kept, const Operand& dy, Heads* heads,
                              const kernels::Matrix& dshared_key) const;
  // Those of kv_b's output and of the shared rotary key, from those of the heads.
  void SplitKeyGradient(const Tensor& dk, const Tensor& dv, const Tensor& dkv,
                        const kernels::Matrix& dshared_key) const;
  kernels::RopeView QueryRope(const Tensor& q) const;
  kernels::RopeView SharedKeyRope(const kernels::Matrix& key) const;
  kernels::Matrix Latent(const Tensor& kv_latent) const;
  kernels::Matrix SharedKey(const Tensor& kv_latent) const;
  kernels::AttentionShape Shape() const;

  LayerContext context_;
  int64_t sequences_;
  int64_t sequence_length_;
  int64_t heads_;
  int64_t nope_;
  int64_t rope_;
  int64_t v_dim_;
  int64_t kv_rank_;
  double theta_;
  RmsNorm input_norm_;
  Linear q_a_;
  RmsNorm q_norm_;
  Linear q_b_;
  Linear kv_a_;
  RmsNorm kv_norm_;
  Linear kv_b_;
  Linear o_;
};

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_MLA_ATTENTION_H_
