// The stage's forward against the model's formulas written down directly, on plain vectors in FP64:
// embedding, latent attention, dense and expert MLPs with group-limited routing, MTP and losses.
//
// Shape letters: T tokens of one sequence, D hidden width.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/ops.h"
#include "worker/model/model_harness.h"

namespace fathom::model {
namespace {

using Vector = std::vector<double>;
using Rows = std::vector<Vector>;

class NaiveModel {
 public:
  NaiveModel(const ModelConfig& config, ModelHarness* harness, double alpha)
      : c_(config), harness_(harness), alpha_(alpha) {}

  // Sums over the tokens of one sample.
  MicroBatchLoss Run(const std::vector<int32_t>& sample, int64_t length) {
    loss_ = MicroBatchLoss();
    Rows x;
    for (int64_t t = 0; t < length; ++t) x.push_back(EmbeddingOf(sample[t]));
    for (int64_t l = 0; l < c_.num_hidden_layers; ++l) x = Block(x, l, c_.is_moe_layer(l));
    loss_.loss = CrossEntropy(x, "model.norm.weight", sample, 1);
    const std::string mtp = "model.layers." + std::to_string(c_.num_hidden_layers) + ".";
    Rows joined;
    for (int64_t t = 0; t < length; ++t) {
      Vector both = Norm(x[t], mtp + "hnorm.weight");
      const Vector next = Norm(EmbeddingOf(sample[t + 1]), mtp + "enorm.weight");
      both.insert(both.end(), next.begin(), next.end());
      joined.push_back(Times(mtp + "eh_proj.weight", both));
    }
    const Rows predicted = Block(joined, c_.num_hidden_layers, true);
    loss_.mtp_loss = CrossEntropy(predicted, mtp + "shared_head.norm.weight", sample, 2);
    return loss_;
  }

 private:
  double W(const std::string& name, int64_t index) {
    return harness_->Weight(*harness_->store().Find(name), index);
  }

  Vector EmbeddingOf(int32_t token) {
    Vector out(c_.hidden_size);
    for (int64_t d = 0; d < c_.hidden_size; ++d) {
      out[d] = W("model.embed_tokens.weight", token * c_.hidden_size + d);
    }
    return out;
  }

  Vector Times(const std::string& name, const Vector& x) {
    const Parameter& weight = *harness_->store().Find(name);
    EXPECT_EQ(weight.spec.cols, static_cast<int64_t>(x.size())) << name;
    Vector out(weight.spec.rows, 0.0);
    for (int64_t n = 0; n < weight.spec.rows; ++n) {
      for (size_t k = 0; k < x.size(); ++k) {
        out[n] += harness_->Weight(weight, n * weight.spec.cols + k) * x[k];
      }
    }
    return out;
  }

  Vector Norm(const Vector& x, const std::string& name) {
    double square = 0;
    for (const double v : x) square += v * v;
    Vector out(x);
    for (size_t d = 0; d < x.size(); ++d) {
      out[d] *= W(name, d) / std::sqrt(square / x.size() + c_.rms_norm_eps);
    }
    return out;
  }

  void Rotate(double* part, int64_t position) const {
    for (int64_t i = 0; i < c_.qk_rope_head_dim; i += 2) {
      const double angle =
          position * std::pow(c_.rope_theta, -static_cast<double>(i) / c_.qk_rope_head_dim);
      const double a = part[i];
      const double b = part[i + 1];
      part[i] = a * std::cos(angle) - b * std::sin(angle);
      part[i + 1] = a * std::sin(angle) + b * std::cos(angle);
    }
  }

  Rows Attention(const Rows& x, const std::string& p) {
    const int64_t nope = c_.qk_nope_head_dim;
    const int64_t width = c_.qk_head_dim();
    const int64_t v_dim = c_.v_head_dim;
    Rows q_all, kv_all, shared_all, out;
    for (size_t t = 0; t < x.size(); ++t) {
      const Vector n = Norm(x[t], p + "input_layernorm.weight");
      Vector q = Times(
          p + "self_attn.q_b_proj.weight",
          Norm(Times(p + "self_attn.q_a_proj.weight", n), p + "self_attn.q_a_layernorm.weight"));
      for (int64_t h = 0; h < c_.num_attention_heads; ++h) Rotate(&q[h * width + nope], t);
      const Vector a = Times(p + "self_attn.kv_a_proj_with_mqa.weight", n);
      const Vector latent(a.begin(), a.begin() + c_.kv_lora_rank);
      Vector shared(a.begin() + c_.kv_lora_rank, a.end());
      Rotate(shared.data(), t);
      q_all.push_back(q);
      kv_all.push_back(Times(p + "self_attn.kv_b_proj.weight",
                             Norm(latent, p + "self_attn.kv_a_layernorm.weight")));
      shared_all.push_back(shared);
    }
    for (size_t t = 0; t < x.size(); ++t) {
      Vector heads;
      for (int64_t h = 0; h < c_.num_attention_heads; ++h) {
        Vector score(t + 1);
        for (size_t j = 0; j <= t; ++j) {
          double dot = 0;
          for (int64_t i = 0; i < width; ++i) {
            const double key =
                i < nope ? kv_all[j][h * (nope + v_dim) + i] : shared_all[j][i - nope];
            dot += q_all[t][h * width + i] * key;
          }
          score[j] = std::exp(dot / std::sqrt(static_cast<double>(width)));
        }
        const double sum = std::accumulate(score.begin(), score.end(), 0.0);
        for (int64_t i = 0; i < v_dim; ++i) {
          double mean = 0;
          for (size_t j = 0; j <= t; ++j) {
            mean += score[j] / sum * kv_all[j][h * (nope + v_dim) + nope + i];
          }
          heads.push_back(mean);
        }
      }
      out.push_back(Plus(x[t], Times(p + "self_attn.o_proj.weight", heads)));
    }
    return out;
  }

  static Vector Plus(Vector a, const Vector& b, double factor = 1) {
    for (size_t i = 0; i < a.size(); ++i) a[i] += factor * b[i];
    return a;
  }

  Vector Mlp(const std::string& p, const Vector& x) {
    Vector gate = Times(p + ".gate_proj.weight", x);
    const Vector up = Times(p + ".up_proj.weight", x);
    for (size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
    return Times(p + ".down_proj.weight", gate);
  }

  static std::vector<int64_t> Best(const Vector& values, int64_t k) {
    std::vector<int64_t> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return values[a] > values[b]; });
    order.resize(k);
    return order;
  }

  std::vector<int64_t> Choose(const Vector& biased) const {
    const int64_t size = c_.n_routed_experts / c_.n_group;
    Vector group_score;
    for (int64_t g = 0; g < c_.n_group; ++g) {
      Vector members(biased.begin() + g * size, biased.begin() + (g + 1) * size);
      std::sort(members.rbegin(), members.rend());
      group_score.push_back(members[0] + members[1]);
    }
    Vector masked(biased.size(), -1e300);
    for (const int64_t g : Best(group_score, c_.topk_group)) {
      std::copy_n(biased.begin() + g * size, size, masked.begin() + g * size);
    }
    return Best(masked, c_.num_experts_per_tok);
  }

  Rows Experts(const Rows& x, const std::string& p) {
    Rows out;
    Vector mean_share(c_.n_routed_experts, 0.0);
    Vector raw_count(c_.n_routed_experts, 0.0);
    for (const Vector& token : x) {
      const Vector n = Norm(token, p + "post_attention_layernorm.weight");
      Vector score = Times(p + "mlp.gate.weight", n);
      for (double& s : score) s = 1 / (1 + std::exp(-s));
      Vector biased(score);
      for (size_t e = 0; e < score.size(); ++e) {
        biased[e] += W(p + "mlp.gate.e_score_correction_bias", e);
      }
      const std::vector<int64_t> chosen = Choose(biased);
      double chosen_sum = 0;
      for (const int64_t e : chosen) chosen_sum += score[e];
      Vector y = Plus(token, Mlp(p + "mlp.shared_experts", n));
      for (const int64_t e : chosen) {
        y = Plus(y, Mlp(p + "mlp.experts." + std::to_string(e), n),
                 score[e] / chosen_sum * c_.routed_scaling_factor);
      }
      out.push_back(y);
      const double all = std::accumulate(score.begin(), score.end(), 0.0);
      for (size_t e = 0; e < score.size(); ++e) mean_share[e] += score[e] / all / x.size();
      for (const int64_t e : Best(score, c_.num_experts_per_tok)) raw_count[e] += 1;
    }
    for (size_t e = 0; e < mean_share.size(); ++e) {
      const double f = c_.n_routed_experts * raw_count[e] / (c_.num_experts_per_tok * x.size());
      loss_.balance_loss += alpha_ * f * mean_share[e];
    }
    return out;
  }

  Rows Block(const Rows& x, int64_t layer, bool moe) {
    const std::string p = "model.layers." + std::to_string(layer) + ".";
    Rows out = Attention(x, p);
    if (moe) return Experts(out, p);
    for (Vector& token : out) {
      token = Plus(token, Mlp(p + "mlp", Norm(token, p + "post_attention_layernorm.weight")));
    }
    return out;
  }

  double CrossEntropy(const Rows& x, const std::string& norm, const std::vector<int32_t>& sample,
                      int64_t shift) {
    double loss = 0;
    for (size_t t = 0; t < x.size(); ++t) {
      const Vector logits = Times("lm_head.weight", Norm(x[t], norm));
      double sum = 0;
      for (const double l : logits) sum += std::exp(l);
      loss += std::log(sum) - logits[sample[t + shift]];
    }
    return loss;
  }

  ModelConfig c_;
  ModelHarness* harness_;
  double alpha_;
  MicroBatchLoss loss_;
};

TEST(NaiveModel, LossesOfASmallModel_EqualTheFormulas) {
  HarnessOptions options;
  options.recipe = Fp64Recipe();
  options.model.qk_rope_head_dim = 4;
  const std::unique_ptr<kernels::Ops> ops = kernels::CreateReferenceOps();
  LocalExchange exchange;
  ModelHarness harness(options, ops.get(), &exchange);
  harness.Forward(0);
  const MicroBatchLoss actual = harness.Loss(0);

  NaiveModel naive(options.model, &harness, options.balance_alpha);
  const std::vector<int32_t> samples = harness.Samples(0, 0);
  const int64_t length = static_cast<int64_t>(samples.size()) / options.sequences;
  MicroBatchLoss expected;
  for (int64_t s = 0; s < options.sequences; ++s) {
    const std::vector<int32_t> sample(samples.begin() + s * length,
                                      samples.begin() + (s + 1) * length);
    const MicroBatchLoss loss = naive.Run(sample, options.sequence_length);
    expected.loss += loss.loss;
    expected.mtp_loss += loss.mtp_loss;
    expected.balance_loss += loss.balance_loss;
  }
  // Some 1e4 roundings of 1e-16 each, on sums near 50.
  EXPECT_NEAR(actual.loss, expected.loss, 1e-10);
  EXPECT_NEAR(actual.mtp_loss, expected.mtp_loss, 1e-10);
  EXPECT_NEAR(actual.balance_loss, expected.balance_loss, 1e-12);
  EXPECT_GT(expected.balance_loss, 0);
}

}  // namespace
}  // namespace fathom::model
