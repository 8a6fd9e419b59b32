// The backward of each layer, held against central differences of <r, layer(x)> for a random r, in
// FP64 on the reference backend.
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/ops.h"
#include "worker/model/dense_mlp.h"
#include "worker/model/embedding_and_head.h"
#include "worker/model/linear.h"
#include "worker/model/mla_attention.h"
#include "worker/model/model_harness.h"
#include "worker/model/moe_layer.h"
#include "worker/model/mtp_module.h"
#include "worker/model/numerics.h"
#include "worker/model/parameter_reader.h"
#include "worker/model/rms_norm.h"
#include "worker/model/router.h"
#include "worker/model/tensor.h"
#include "worker/model/tensor_view.h"

namespace fathom::model {
namespace {

using kernels::DType;

constexpr double kStep = 1e-5;
// The value is of order 10, so rounding leaves 1e-10 of a difference; the series' next term about
// 1e-9.
constexpr double kAbsolute = 2e-8;
constexpr double kRelative = 1e-6;

// What a layer makes of x: a tensor, or a scalar, or both.
struct Made {
  Tensor y;
  double scalar = 0;
};
using ForwardFn = std::function<Made(const Tensor& x)>;
// Forward with everything kept, then the backward of dy (and of the scalar, with factor one).
using BackwardFn = std::function<Tensor(const Tensor& x, const Tensor& dy, WeightWork* work)>;

class LayerGradientTest : public ::testing::Test {
 protected:
  LayerGradientTest()
      : ops_(kernels::CreateReferenceOps()),
        model_(SmallModel()),
        harness_(Options(), ops_.get(), &exchange_),
        pool_(ops_.get()),
        context_({ops_.get(), &pool_, *NumericsOf(Fp64Recipe(), kTokens)}),
        reader_(context_, &harness_.store()) {}

  static constexpr int64_t kSequences = 2;
  static constexpr int64_t kLength = 5;
  static constexpr int64_t kTokens = kSequences * kLength;

  static HarnessOptions Options() {
    HarnessOptions options;
    options.recipe = Fp64Recipe();
    options.sequences = kSequences;
    options.sequence_length = kLength;
    return options;
  }

  Tensor Random(int64_t rows, int64_t cols) {
    Tensor out = pool_.Dense(rows, cols, DType::kF64);
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < rows * cols; ++i) Element(out, i) = normal(generator_);
    return out;
  }

  static double& Element(const Tensor& t, int64_t i) {
    return static_cast<double*>(t.matrix.data)[i];
  }
  static int64_t Size(const Tensor& t) { return t.matrix.rows * t.matrix.cols; }

  static double Value(const ForwardFn& forward, const Tensor& x, const Tensor& r) {
    const Made made = forward(x);
    double value = made.scalar;
    for (int64_t i = 0; i < Size(made.y); ++i) value += Element(made.y, i) * Element(r, i);
    return value;
  }

  void ExpectClose(double actual, double expected, const std::string& what) {
    EXPECT_NEAR(actual, expected, kAbsolute + kRelative * std::abs(expected)) << what;
  }

  // Every element of x, and a few of every parameter named.
  void Check(const ForwardFn& forward, const BackwardFn& backward, const Tensor& x,
             const std::vector<std::string>& parameters) {
    ASSERT_TRUE(reader_.status().ok()) << reader_.status();
    const Tensor y = forward(x).y;
    const Tensor r = Random(y.matrix.rows, y.matrix.cols);
    harness_.store().ZeroGradients();
    WeightWork work;
    const Tensor dx = backward(x, r, &work);
    for (const auto& entry : work) entry();
    for (int64_t i = 0; i < Size(dx); ++i) {
      const double at = Element(x, i);
      Element(x, i) = at + kStep;
      const double above = Value(forward, x, r);
      Element(x, i) = at - kStep;
      const double below = Value(forward, x, r);
      Element(x, i) = at;
      ExpectClose(Element(dx, i), (above - below) / (2 * kStep), "x " + std::to_string(i));
    }
    for (const std::string& name : parameters) {
      const Parameter* parameter = harness_.store().Find(name);
      ASSERT_NE(parameter, nullptr) << name;
      for (int draw = 0; draw < 6; ++draw) {
        const auto i = static_cast<int64_t>(generator_() % parameter->spec.size());
        const double at = harness_.Weight(*parameter, i);
        harness_.SetWeight(*parameter, i, at + kStep);
        const double above = Value(forward, x, r);
        harness_.SetWeight(*parameter, i, at - kStep);
        const double below = Value(forward, x, r);
        harness_.SetWeight(*parameter, i, at);
        ExpectClose(harness_.Gradient(*parameter, i), (above - below) / (2 * kStep),
                    name + " " + std::to_string(i));
      }
    }
  }

  std::unique_ptr<kernels::Ops> ops_;
  LocalExchange exchange_;
  ModelConfig model_;
  ModelHarness harness_;
  TensorPool pool_;
  LayerContext context_;
  ParameterReader reader_;
  std::mt19937_64 generator_{11};
};

TEST_F(LayerGradientTest, Linear_MatchesCentralDifferences) {
  const std::string name = "model.layers.0.self_attn.q_a_proj.weight";
  Linear linear = reader_.ReadLinear(name, model_.q_lora_rank, model_.hidden_size);
  const ForwardFn forward = [&](const Tensor& x) {
    const Tensor y = pool_.Dense(kTokens, linear.outputs(), DType::kF64);
    linear.Forward(MakeOperand(context_, x), y);
    return Made{y};
  };
  const BackwardFn backward = [&](const Tensor& x, const Tensor& dy, WeightWork*) {
    const Tensor dx = pool_.Dense(kTokens, linear.inputs(), DType::kF64);
    const Operand dy_operand = MakeOperand(context_, dy);
    linear.BackwardInput(dy_operand, dx);
    linear.BackwardWeight(AlongTokens(context_, dy_operand),
                          AlongTokens(context_, MakeOperand(context_, x)));
    return dx;
  };
  Check(forward, backward, Random(kTokens, model_.hidden_size), {name});
}

TEST_F(LayerGradientTest, RmsNorm_MatchesCentralDifferences) {
  const std::string name = "model.norm.weight";
  const RmsNorm norm = reader_.ReadNorm(name, model_.hidden_size, model_.rms_norm_eps);
  const ForwardFn forward = [&](const Tensor& x) { return Made{norm.Forward(x)}; };
  const BackwardFn backward = [&](const Tensor& x, const Tensor& dy, WeightWork*) {
    const Tensor dx = pool_.Dense(kTokens, model_.hidden_size, DType::kF64);
    norm.Backward(x, dy, dx);
    return dx;
  };
  Check(forward, backward, Random(kTokens, model_.hidden_size), {name});
}

TEST_F(LayerGradientTest, MlaAttention_MatchesCentralDifferences) {
  const std::string prefix = "model.layers.0.";
  const MlaAttention attention(context_, model_, kSequences, kLength, prefix, &reader_);
  const ForwardFn forward = [&](const Tensor& x) { return Made{attention.Forward(x, nullptr)}; };
  const BackwardFn backward = [&](const Tensor& x, const Tensor& dy, WeightWork* work) {
    MlaAttention::Activations kept;
    attention.Forward(x, &kept);
    return attention.Backward(kept, dy, work);
  };
  const std::string attn = prefix + "self_attn.";
  Check(forward, backward, Random(kTokens, model_.hidden_size),
        {prefix + "input_layernorm.weight", attn + "q_a_proj.weight", attn + "q_b_proj.weight",
         attn + "q_a_layernorm.weight", attn + "kv_a_proj_with_mqa.weight",
         attn + "kv_a_layernorm.weight", attn + "kv_b_proj.weight", attn + "o_proj.weight"});
}

TEST_F(LayerGradientTest, DenseMlp_MatchesCentralDifferences) {
  const std::string prefix = "model.layers.0.mlp";
  const DenseMlp mlp(reader_.ReadGateUp(prefix, model_.intermediate_size, model_.hidden_size),
                     reader_.ReadLinear(prefix + ".down_proj.weight", model_.hidden_size,
                                        model_.intermediate_size),
                     context_);
  const ForwardFn forward = [&](const Tensor& x) {
    const Tensor y = pool_.Dense(kTokens, model_.hidden_size, DType::kF64);
    mlp.Forward(MakeOperand(context_, x), y, nullptr);
    return Made{y};
  };
  const BackwardFn backward = [&](const Tensor& x, const Tensor& dy, WeightWork* work) {
    const Tensor y = pool_.Dense(kTokens, model_.hidden_size, DType::kF64);
    const Tensor dx = pool_.Dense(kTokens, model_.hidden_size, DType::kF64);
    const Operand operand = MakeOperand(context_, x);
    DenseMlp::Activations kept;
    mlp.Forward(operand, y, &kept);
    mlp.Backward(kept, operand, MakeOperand(context_, dy), dx, work);
    return dx;
  };
  Check(forward, backward, Random(kTokens, model_.hidden_size),
        {prefix + ".gate_proj.weight", prefix + ".up_proj.weight", prefix + ".down_proj.weight"});
}

TEST_F(LayerGradientTest, RouterAndExpertsWithBalanceLoss_MatchCentralDifferences) {
  const std::string prefix = "model.layers.1.";
  ExpertGroup group;
  group.exchange = &exchange_;
  group.map = ExpertMap::Make(std::vector<int32_t>(model_.n_routed_experts, 0), 1, 0);
  const RouterOptions options = {.sequences = kSequences,
                                 .sequence_length = kLength,
                                 .balance_alpha = 0.3,
                                 .sequences_per_step = kSequences};
  MoeLayer moe(context_, model_, options, prefix, &group, &reader_);
  std::vector<int64_t> loads(model_.n_routed_experts);
  const auto run = [&](const Tensor& x, MoeLayer::Activations* state) {
    Made made;
    EXPECT_TRUE(moe.ForwardDispatch(x, true, absl::MakeSpan(loads), state).ok());
    EXPECT_TRUE(moe.ForwardExperts(true, state).ok());
    EXPECT_TRUE(moe.ForwardCombine(state, &made.y).ok());
    made.scalar = state->routing.balance_loss / kSequences;
    return made;
  };
  const ForwardFn forward = [&](const Tensor& x) {
    MoeLayer::Activations state;
    return run(x, &state);
  };
  const BackwardFn backward = [&](const Tensor& x, const Tensor& dy, WeightWork* work) {
    MoeLayer::Activations state;
    run(x, &state);
    Tensor dx;
    EXPECT_TRUE(moe.BackwardCombine(dy, &state).ok());
    moe.BackwardShared(&state, work);
    EXPECT_TRUE(moe.BackwardExperts(&state, work).ok());
    EXPECT_TRUE(moe.BackwardDispatch(&state, work, &dx).ok());
    return dx;
  };
  std::vector<std::string> parameters = {prefix + "post_attention_layernorm.weight",
                                         prefix + "mlp.gate.weight",
                                         prefix + "mlp.shared_experts.gate_proj.weight",
                                         prefix + "mlp.shared_experts.down_proj.weight"};
  for (int e = 0; e < model_.n_routed_experts; ++e) {
    const std::string expert = prefix + "mlp.experts." + std::to_string(e);
    parameters.push_back(expert + ".gate_proj.weight");
    parameters.push_back(expert + ".up_proj.weight");
    parameters.push_back(expert + ".down_proj.weight");
  }
  Check(forward, backward, Random(kTokens, model_.hidden_size), parameters);
  int64_t chosen = 0;
  for (const int64_t load : loads) chosen += load;
  EXPECT_GT(chosen, 0);
  EXPECT_EQ(chosen % (kTokens * model_.num_experts_per_tok), 0);
}

TEST_F(LayerGradientTest, MtpModule_MatchesCentralDifferences) {
  const std::string prefix = "model.layers.3.";
  const MtpModule mtp(context_, model_, prefix, &reader_);
  std::vector<int32_t> next(kTokens);
  for (int64_t t = 0; t < kTokens; ++t) next[t] = static_cast<int32_t>(t * 7 % 5);
  const ForwardFn forward = [&](const Tensor& x) { return Made{mtp.Forward(x, next, nullptr)}; };
  const BackwardFn backward = [&](const Tensor& x, const Tensor& dy, WeightWork* work) {
    MtpModule::Activations kept;
    mtp.Forward(x, next, &kept);
    return mtp.Backward(kept, dy, work);
  };
  Check(forward, backward, Random(kTokens, model_.hidden_size),
        {prefix + "eh_proj.weight", prefix + "hnorm.weight", prefix + "enorm.weight",
         "model.embed_tokens.weight"});
}

TEST_F(LayerGradientTest, EmbeddingAndHeadWithLoss_MatchCentralDifferences) {
  const Embedding embedding(context_, model_, &reader_);
  const Head head(context_, model_, "model.norm.weight", &reader_);
  std::vector<int32_t> tokens(kTokens);
  std::vector<int32_t> labels(kTokens);
  for (int64_t t = 0; t < kTokens; ++t) {
    tokens[t] = static_cast<int32_t>(t % 4);
    labels[t] = static_cast<int32_t>((3 * t + 1) % model_.vocab_size);
  }
  constexpr double kScale = 0.25;
  const Buffer uploaded = embedding.Upload(tokens);
  // x is added to the embedding, so that the gradient of the head's input shows too.
  const auto sum = [&](const Tensor& x) {
    Tensor out = embedding.Forward(uploaded, kTokens);
    ops_->Add(out, x, out);
    return out;
  };
  const ForwardFn forward = [&](const Tensor& x) {
    Made made;
    made.scalar = kScale * head.Forward(sum(x), labels, kScale, nullptr);
    return made;
  };
  const BackwardFn backward = [&](const Tensor& x, const Tensor&, WeightWork* work) {
    Head::Activations kept;
    head.Forward(sum(x), labels, kScale, &kept);
    const Tensor dx = head.Backward(kept, work);
    embedding.Backward(uploaded, dx);
    return dx;
  };
  Check(forward, backward, Random(kTokens, model_.hidden_size),
        {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"});
}

}  // namespace
}  // namespace fathom::model
