// What stage.h promises about passes, and what the FP8 recipe promises about numbers: where a pass
// pauses, what a validation leaves behind, what a broken exchange does, which format each product
// takes and what travels and is kept in which.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/ops.h"
#include "worker/model/dense_mlp.h"
#include "worker/model/linear.h"
#include "worker/model/mla_attention.h"
#include "worker/model/model_harness.h"
#include "worker/model/numerics.h"
#include "worker/model/parameter_reader.h"
#include "worker/model/tensor.h"
#include "worker/model/token_packing.h"

namespace fathom::model {
namespace {

using kernels::DType;
using kernels::Fp8Scaling;
using kernels::ScaleRule;

// A group of one that writes down every call, keeps what was posted, and fails when told to.
class RecordingExchange : public ExpertExchange {
 public:
  int size() const override { return 1; }
  int index() const override { return 0; }
  absl::Status Post(Lane lane, absl::Span<const absl::Span<const std::byte>> messages) override {
    calls.push_back("post " + std::to_string(static_cast<int>(lane)));
    if (calls_until_failure-- == 0) return absl::UnavailableError("expert rank 3 went away");
    posted[static_cast<int>(lane)].assign(messages[0].begin(), messages[0].end());
    return inner_->Post(lane, messages);
  }
  absl::StatusOr<std::vector<absl::Span<const std::byte>>> Receive(Lane lane) override {
    calls.push_back("receive " + std::to_string(static_cast<int>(lane)));
    if (calls_until_failure-- == 0) return absl::UnavailableError("expert rank 3 went away");
    return inner_->Receive(lane);
  }
  absl::Status Release(Lane lane) override { return inner_->Release(lane); }

  void Reset() {
    inner_ = std::make_unique<LocalExchange>();
    calls_until_failure = -1;
  }

  std::vector<std::string> calls;
  std::vector<std::byte> posted[kLanes];
  int calls_until_failure = -1;

 private:
  std::unique_ptr<LocalExchange> inner_ = std::make_unique<LocalExchange>();
};

HarnessOptions Options(const std::string& recipe) {
  HarnessOptions options;
  options.recipe = RecipeNamed(recipe);
  return options;
}

class StageContract : public ::testing::Test {
 protected:
  // Calls on the exchange during one Advance.
  std::vector<std::string> Advance(Pass* pass) {
    exchange_.calls.clear();
    EXPECT_TRUE(pass->Advance().ok());
    return exchange_.calls;
  }

  std::unique_ptr<kernels::Ops> ops_ = kernels::CreateCpuOps();
  RecordingExchange exchange_;
};

TEST_F(StageContract, ForwardPass_PausesAfterEveryPostAndWaitsAtTheNextStart) {
  ModelHarness harness(Options("fp32"), ops_.get(), &exchange_);
  const std::vector<int32_t> samples = harness.Samples(0, 0);
  const auto pass = harness.stage(0).Forward(0, samples.data(), {}, {}, true);
  using Calls = std::vector<std::string>;
  EXPECT_EQ(Advance(pass.get()), (Calls{"post 0"}));
  // Two layers of experts and MTP's.
  for (int layer = 0; layer < 3; ++layer) {
    EXPECT_EQ(Advance(pass.get()), (Calls{"receive 0", "post 1"})) << layer;
    EXPECT_FALSE(pass->done());
    EXPECT_EQ(Advance(pass.get()),
              layer < 2 ? (Calls{"receive 1", "post 0"}) : (Calls{"receive 1"}))
        << layer;
  }
  EXPECT_TRUE(pass->done());
}

TEST_F(StageContract, BackwardPass_PausesAfterEveryPostAndWaitsAtTheNextStart) {
  ModelHarness harness(Options("fp32"), ops_.get(), &exchange_);
  harness.Forward(0);
  const auto pass = harness.stage(0).Backward(0, {}, {}, nullptr);
  using Calls = std::vector<std::string>;
  EXPECT_EQ(Advance(pass.get()), (Calls{"post 3"}));
  for (int layer = 0; layer < 3; ++layer) {
    EXPECT_EQ(Advance(pass.get()), (Calls{"receive 3", "post 2"})) << layer;
    EXPECT_EQ(Advance(pass.get()),
              layer < 2 ? (Calls{"receive 2", "post 3"}) : (Calls{"receive 2"}))
        << layer;
  }
  EXPECT_TRUE(pass->done());
}

TEST_F(StageContract, ForwardWithoutKeep_HasTheSameLossAndLeavesNothing) {
  ModelHarness harness(Options("fp8"), ops_.get(), &exchange_);
  Stage& stage = harness.stage(0);
  harness.Forward(4, /*keep=*/false);
  EXPECT_EQ(stage.live_micro_batches(), 0);
  const MicroBatchLoss validated = stage.loss(4);
  EXPECT_EQ(validated.balance_loss, 0);
  for (const int64_t load : stage.expert_loads()) EXPECT_EQ(load, 0);

  harness.Forward(4);
  EXPECT_EQ(stage.live_micro_batches(), 1);
  EXPECT_EQ(stage.loss(4).loss, validated.loss);
  EXPECT_EQ(stage.loss(4).mtp_loss, validated.mtp_loss);
  EXPECT_GT(stage.loss(4).balance_loss, 0);
  int64_t chosen = 0;
  for (const int64_t load : stage.expert_loads()) chosen += load;
  EXPECT_EQ(chosen, 3 * 16 * 3);  // layers of experts, tokens, experts per token
  stage.ResetExpertLoads();
  for (const int64_t load : stage.expert_loads()) EXPECT_EQ(load, 0);
  EXPECT_EQ(stage.router_biases().size(), 3u);
}

TEST_F(StageContract, ExchangeThatFails_IsReportedAndTheMicroBatchCanBeRedone) {
  ModelHarness harness(Options("fp32"), ops_.get(), &exchange_);
  harness.Forward(0);
  harness.Backward(0);
  const std::vector<double> undisturbed = harness.Gradients();
  const std::vector<int32_t> samples = harness.Samples(0, 0);
  // Twelve calls forward and twelve back.
  for (int failing = 0; failing < 24; failing += 5) {
    exchange_.Reset();
    exchange_.calls_until_failure = failing;
    absl::Status status;
    auto pass = harness.stage(0).Forward(0, samples.data(), {}, {}, true);
    while (status.ok() && !pass->done()) status = pass->Advance();
    if (status.ok()) pass = harness.stage(0).Backward(0, {}, {}, nullptr);
    while (status.ok() && !pass->done()) status = pass->Advance();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << failing;
    EXPECT_NE(std::string(status.message()).find("expert rank 3"), std::string::npos);
    pass.reset();

    exchange_.Reset();
    harness.store().ZeroGradients();
    harness.Forward(0);
    harness.Backward(0);
    EXPECT_EQ(harness.Gradients(), undisturbed) << failing;
    EXPECT_EQ(harness.stage(0).live_micro_batches(), 0);
  }
}

TEST_F(StageContract, MessagesPosted_FitMaxExchangeBytes) {
  for (const std::string recipe : {"fp32", "bf16", "fp8"}) {
    HarnessOptions options = Options(recipe);
    ModelHarness harness(options, ops_.get(), &exchange_);
    harness.Forward(0);
    harness.Backward(0);
    StageOptions stage;
    stage.model = options.model;
    stage.recipe = options.recipe;
    stage.sequences = options.sequences;
    stage.sequence_length = options.sequence_length;
    stage.tokens_per_step = 16;
    for (int lane = 0; lane < kLanes; ++lane) {
      // Every token goes to the one rank there is, so the bound is met exactly.
      EXPECT_EQ(static_cast<int64_t>(exchange_.posted[lane].size()),
                Stage::MaxExchangeBytes(stage, static_cast<Lane>(lane)))
          << recipe << " lane " << lane;
    }
  }
}

bool IsPowerOfTwo(float x) {
  int exponent = 0;
  return std::frexp(x, &exponent) == 0.5f;
}

// The last layer of experts dispatched is MTP's: records of codes with power-of-two scales out and
// for gradients, rows of BF16 back.
TEST_F(StageContract, Fp8Dispatch_CarriesPowerOfTwoScalesAndCombineBf16) {
  const HarnessOptions options = Options("fp8");
  ModelHarness harness(options, ops_.get(), &exchange_);
  harness.Forward(0);
  harness.Backward(0);
  const Numerics numerics = *NumericsOf(options.recipe, 16);
  const int64_t hidden = options.model.hidden_size;
  const RecordFormat token = TokenRecord(numerics, hidden, options.model.num_experts_per_tok);
  const RecordFormat gradient = GradientRecord(numerics, hidden);
  for (const auto& [lane, format] :
       {std::pair(Lane::kDispatchForward, token), std::pair(Lane::kCombineBackward, gradient)}) {
    const std::vector<std::byte>& message = exchange_.posted[static_cast<int>(lane)];
    ASSERT_EQ(message.size(), 16u * format.bytes);
    bool some_codes = false;
    for (size_t at = 0; at < message.size(); at += format.bytes) {
      float scale = 0;
      std::memcpy(&scale, message.data() + at + format.scales_at, sizeof(scale));
      EXPECT_TRUE(IsPowerOfTwo(scale)) << scale;
      for (int64_t d = 0; d < hidden; ++d) some_codes |= message[at + d] != std::byte{0};
    }
    EXPECT_TRUE(some_codes);
  }
  const size_t row_bytes = 2 * hidden;
  EXPECT_EQ(exchange_.posted[static_cast<int>(Lane::kCombineForward)].size(), 16 * row_bytes);
  EXPECT_EQ(exchange_.posted[static_cast<int>(Lane::kDispatchBackward)].size(),
            16 * (row_bytes + 3 * sizeof(float)));
}

// --- Products of the FP8 recipe, bit for bit as their definition composes them ---

class Fp8Recipe : public StageContract {
 protected:
  static constexpr int64_t kTokens = 150;
  static constexpr int64_t kInputs = 200;
  static constexpr int64_t kOutputs = 140;

  Tensor Random(int64_t rows, int64_t cols, DType dtype, double size) {
    std::normal_distribution<float> normal(0, static_cast<float>(size));
    std::vector<float> values(rows * cols);
    for (float& value : values) value = normal(generator_);
    const Tensor wide = pool_.Dense(rows, cols, DType::kF32);
    ops_->CopyFromHost(wide.matrix.data, values.data(), values.size() * sizeof(float));
    Tensor out = pool_.Dense(rows, cols, dtype);
    ops_->Copy(wide, out);
    return out;
  }

  Fp8Tensor Quantized(const Tensor& x, Fp8Scaling scaling, bool transposed = false) {
    const int64_t rows = transposed ? x.matrix.cols : x.matrix.rows;
    const int64_t cols = transposed ? x.matrix.rows : x.matrix.cols;
    Fp8Tensor out = pool_.Fp8(rows, cols, scaling);
    if (transposed) {
      ops_->QuantizeTransposed(x, ScaleRule::kAmax, out);
    } else {
      ops_->Quantize(x, ScaleRule::kAmax, out);
    }
    return out;
  }

  template <typename T>
  std::vector<T> Values(const Tensor& x) {
    std::vector<T> out(x.matrix.rows * x.matrix.cols);
    ops_->CopyToHost(out.data(), x.matrix.data, out.size() * sizeof(T));
    return out;
  }

  TensorPool pool_{ops_.get()};
  const LayerContext context_{ops_.get(), &pool_, *NumericsOf(RecipeNamed("fp8"), 1000)};
  std::mt19937_64 generator_{3};
};

TEST_F(Fp8Recipe, LinearProducts_TakeTilesAlongTheSummedDimension) {
  const Tensor weight = Random(kOutputs, kInputs, DType::kBF16, 0.05);
  const Tensor gradient = pool_.Dense(kOutputs, kInputs, DType::kF32);
  const Tensor x = Random(kTokens, kInputs, DType::kBF16, 1);
  const Tensor dy = Random(kTokens, kOutputs, DType::kBF16, 1e-3);
  ops_->Fill(gradient, 0);
  Linear linear(context_, weight, gradient);
  linear.RefreshWeights();

  const Operand x_operand = MakeOperand(context_, x);
  const Tensor y = pool_.Dense(kTokens, kOutputs, DType::kBF16);
  const Tensor y_expected = pool_.Dense(kTokens, kOutputs, DType::kBF16);
  linear.Forward(x_operand, y);
  const Fp8Tensor x_codes = Quantized(x, Fp8Scaling::kTile1x128);
  const Fp8Tensor w_codes = Quantized(weight, Fp8Scaling::kBlock128x128);
  ops_->GemmFp8(x_codes, w_codes, y_expected, false);
  EXPECT_EQ(Values<uint16_t>(y), Values<uint16_t>(y_expected));

  const Tensor dx = pool_.Dense(kTokens, kInputs, DType::kF32);
  const Tensor dx_expected = pool_.Dense(kTokens, kInputs, DType::kF32);
  linear.BackwardInput(MakeOperand(context_, dy), dx);
  const Fp8Tensor w_transposed = pool_.Fp8(kInputs, kOutputs, Fp8Scaling::kBlock128x128);
  ops_->TransposeBlocks(w_codes, w_transposed);
  ops_->GemmFp8(Quantized(dy, Fp8Scaling::kTile1x128), w_transposed, dx_expected, false);
  EXPECT_EQ(Values<float>(dx), Values<float>(dx_expected));

  // What is kept of x is codes; they are decoded, transposed and quantised again along tokens.
  const Operand kept = CodesOf(x_operand);
  EXPECT_TRUE(kept.dense.empty());
  linear.BackwardWeight(AlongTokens(context_, {dy, {}}), AlongTokens(context_, kept));
  const Tensor decoded = pool_.Dense(kTokens, kInputs, DType::kBF16);
  ops_->Dequantize(x_codes, decoded);
  const Tensor expected = pool_.Dense(kOutputs, kInputs, DType::kF32);
  ops_->GemmFp8(Quantized(dy, Fp8Scaling::kTile1x128, /*transposed=*/true),
                Quantized(decoded, Fp8Scaling::kTile1x128, /*transposed=*/true), expected, false);
  ops_->Scale(expected, 1.0 / 512);  // 1000 tokens rounded down to a power of two
  EXPECT_EQ(Values<float>(gradient), Values<float>(expected));
}

TEST_F(Fp8Recipe, GateAndHead_StayOnBf16) {
  const Tensor weight = Random(kOutputs, kInputs, DType::kBF16, 0.05);
  const Tensor x = Random(kTokens, kInputs, DType::kBF16, 1);
  const Linear gate(context_, weight, {}, Products::kDense);
  const Tensor y = pool_.Dense(kTokens, kOutputs, DType::kF32);
  const Tensor expected = pool_.Dense(kTokens, kOutputs, DType::kF32);
  gate.Forward({x, {}}, y);
  ops_->Gemm(x, false, weight, true, expected, false);
  EXPECT_EQ(Values<float>(y), Values<float>(expected));
}

TEST_F(Fp8Recipe, AttentionKeeps_E5M6OfItsOutput) {
  const HarnessOptions options = Options("fp8");
  ModelHarness harness(options, ops_.get(), &exchange_);
  ParameterReader reader(context_, &harness.store());
  MlaAttention attention(context_, options.model, 2, 8, "model.layers.0.", &reader);
  ASSERT_TRUE(reader.status().ok()) << reader.status();
  attention.RefreshWeights();
  MlaAttention::Activations kept;
  attention.Forward(Random(16, options.model.hidden_size, DType::kBF16, 1), &kept);
  const std::vector<uint16_t> out = Values<uint16_t>(kept.out_THV);
  bool some = false;
  for (const uint16_t value : out) {
    // BF16 keeps 7 mantissa bits, E5M6 the upper 6 of them.
    EXPECT_EQ(value & 1, 0);
    some |= (value & 2) != 0;
  }
  EXPECT_TRUE(some);
}

TEST_F(Fp8Recipe, SwiGluInput_IsKeptInFp8AndReadBackWithinHalfAStep) {
  const Tensor gate_up = Random(kTokens, 2 * kOutputs, DType::kBF16, 1);
  const KeptGateUp kept = KeepGateUp(context_, gate_up);
  EXPECT_TRUE(kept.dense.empty());
  const std::vector<uint16_t> before = Values<uint16_t>(gate_up);
  const std::vector<uint16_t> after = Values<uint16_t>(RestoreGateUp(context_, kept));
  for (size_t i = 0; i < before.size(); ++i) {
    const float x = std::bit_cast<float>(uint32_t{before[i]} << 16);
    const float y = std::bit_cast<float>(uint32_t{after[i]} << 16);
    // 2^-4 of E4M3 and 2^-9 of BF16; below the smallest normal half a step of 2^-9 of the scale.
    EXPECT_NEAR(y, x, std::abs(x) * (0x1p-4 + 0x1p-8) + 0x1p-10 * 5.0 / 448);
  }
}

}  // namespace
}  // namespace fathom::model
