// Parameters and what a stage asks of them, the exchange of one rank, and recipes that don't fit.
#include "worker/model/parameter_store.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "common/model/parameter_layout.h"
#include "gtest/gtest.h"
#include "kernels/ops.h"
#include "worker/model/expert_exchange.h"
#include "worker/model/model_harness.h"
#include "worker/model/numerics.h"
#include "worker/model/stage.h"

namespace fathom::model {
namespace {

using kernels::DType;

class ParameterStoreTest : public ::testing::Test {
 protected:
  std::unique_ptr<ParameterStore> Make(const std::vector<StageSlice>& slices,
                                       DType weights = DType::kBF16) {
    return ParameterStore::Create(ops_.get(), model_, slices, owner_, 1, weights, DType::kF32);
  }
  StageOptions Options() const {
    StageOptions options;
    options.model = model_;
    options.recipe = RecipeNamed("bf16");
    options.slice = kWhole;
    options.sequence_length = 4;
    options.expert_owner = std::vector<int32_t>(model_.n_routed_experts, 0);
    options.tokens_per_step = 4;
    options.sequences_per_step = 1;
    return options;
  }
  std::string CreateError(const StageOptions& options, ParameterStore* store) {
    LocalExchange exchange;
    const auto stage = Stage::Create(options, ops_.get(), store, &exchange);
    EXPECT_EQ(stage.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(stage.status().message());
  }

  static constexpr StageSlice kWhole = {0, 0, 3, true, true};
  std::unique_ptr<kernels::Ops> ops_ = kernels::CreateReferenceOps();
  ModelConfig model_ = SmallModel();
  std::vector<int32_t> owner_ = {0, 1, 1, 0, 0, 0, 1, 0};
};

TEST_F(ParameterStoreTest, TwoStages_HaveABlockPerKindInTheLayoutsOrder) {
  const auto store = Make({{0, 0, 1, true, false}, {3, 1, 2, false, true}});
  ASSERT_EQ(store->blocks().size(), 6u);
  for (size_t i = 0; i < 6; ++i) {
    const ParameterBlock& block = store->blocks()[i];
    EXPECT_EQ(block.stage, i < 3 ? 0 : 3);
    EXPECT_EQ(block.kind, static_cast<ParameterKind>(i % 3));
    int64_t offset = 0;
    for (const Parameter& parameter : block.parameters) {
      EXPECT_EQ(parameter.offset, offset) << parameter.spec.name;
      EXPECT_EQ(parameter.spec.kind, block.kind);
      EXPECT_EQ(static_cast<std::byte*>(parameter.weight.data),
                static_cast<std::byte*>(block.weights.data) +
                    offset * kernels::SizeOf(block.weights.dtype));
      if (block.kind == ParameterKind::kRouterBias) {
        EXPECT_EQ(parameter.gradient.data, nullptr);
        EXPECT_EQ(parameter.weight.dtype, DType::kF32);
      } else {
        EXPECT_EQ(static_cast<float*>(parameter.gradient.data),
                  static_cast<float*>(block.gradients.data) + offset);
      }
      offset += parameter.spec.size();
    }
    EXPECT_EQ(block.size(), offset);
  }
  EXPECT_EQ(store->blocks()[0].parameters[0].spec.name, "model.embed_tokens.weight");
}

TEST_F(ParameterStoreTest, RoutedExperts_AreHeldByTheirOwnerAlone) {
  const auto store = Make({kWhole});
  for (int e = 0; e < model_.n_routed_experts; ++e) {
    const std::string name = "model.layers.1.mlp.experts." + std::to_string(e) + ".up_proj.weight";
    EXPECT_EQ(store->Find(name) != nullptr, owner_[e] == 1) << name;
  }
  EXPECT_NE(store->Find("model.layers.3.eh_proj.weight"), nullptr);
  EXPECT_EQ(store->Find("model.layers.4.input_layernorm.weight"), nullptr);
}

TEST_F(ParameterStoreTest, ZeroGradients_ClearsThemAndLeavesWeights) {
  const auto store = Make({kWhole}, DType::kF32);
  Parameter* head = store->Find("lm_head.weight");
  ASSERT_NE(head, nullptr);
  ops_->Fill(head->gradient, 3);
  ops_->Fill(head->weight, 2);
  EXPECT_GT(ops_->SumOfSquares(head->gradient), 0);
  store->ZeroGradients();
  EXPECT_EQ(ops_->SumOfSquares(head->gradient), 0);
  EXPECT_EQ(ops_->SumOfSquares(head->weight), 4.0 * static_cast<double>(head->spec.size()));
}

TEST(InitialValues, AnyPiece_IsTheSameAsOfTheWhole) {
  ParameterSpec spec;
  spec.name = "model.layers.0.mlp.up_proj.weight";
  spec.rows = 100;
  spec.cols = 200;
  std::vector<float> whole(spec.size());
  InitialValues(spec, 0.02, 5, 0, absl::MakeSpan(whole));
  std::vector<float> piece(77);
  InitialValues(spec, 0.02, 5, 1234, absl::MakeSpan(piece));
  EXPECT_TRUE(std::equal(piece.begin(), piece.end(), whole.begin() + 1234));

  double sum = 0;
  double squares = 0;
  double fourths = 0;
  for (const float value : whole) {
    const double unit = value / 0.02;
    sum += unit;
    squares += unit * unit;
    fourths += unit * unit * unit * unit;
  }
  // Of 20,000 standard normals; bounds are five deviations of each mean.
  EXPECT_NEAR(sum / whole.size(), 0, 5 * 1 / std::sqrt(20000.0));
  EXPECT_NEAR(squares / whole.size(), 1, 5 * std::sqrt(2 / 20000.0));
  EXPECT_NEAR(fourths / whole.size(), 3, 5 * std::sqrt(96 / 20000.0));

  std::vector<float> other(spec.size());
  InitialValues(spec, 0.02, 6, 0, absl::MakeSpan(other));
  EXPECT_NE(other, whole);
  spec.name = "model.layers.0.mlp.gate_proj.weight";
  InitialValues(spec, 0.02, 5, 0, absl::MakeSpan(other));
  EXPECT_NE(other, whole);
}

TEST(InitialValues, NormsAndBiases_AreOnesAndZeros) {
  ParameterSpec spec;
  spec.rows = 1;
  spec.cols = 4;
  std::vector<float> out(4, 9);
  spec.initializer = Initializer::kOnes;
  InitialValues(spec, 0.02, 5, 0, absl::MakeSpan(out));
  EXPECT_EQ(out, std::vector<float>(4, 1));
  spec.initializer = Initializer::kZeros;
  InitialValues(spec, 0.02, 5, 0, absl::MakeSpan(out));
  EXPECT_EQ(out, std::vector<float>(4, 0));
}

TEST_F(ParameterStoreTest, StageWhoseParametersAreElsewhere_NamesTheFirstMissing) {
  owner_.assign(model_.n_routed_experts, 1);
  const auto no_embedding = Make({{1, 1, 2, false, true}});
  StageOptions options = Options();
  options.slice = {1, 1, 2, false, true};
  // Experts belong to this rank by the options, and the store (of expert rank 1) holds them; the
  // embedding, which MTP shares, is on another.
  EXPECT_NE(CreateError(options, no_embedding.get()).find("model.embed_tokens.weight"),
            std::string::npos);
  owner_.assign(model_.n_routed_experts, 0);
  EXPECT_NE(CreateError(Options(), Make({kWhole}).get()).find("mlp.experts.0"), std::string::npos);
}

TEST_F(ParameterStoreTest, StageWithWrongOptions_SaysWhatIsWrong) {
  owner_.assign(model_.n_routed_experts, 1);
  const auto store = Make({kWhole});
  const auto error_of = [&](auto change) {
    StageOptions options = Options();
    change(options);
    return CreateError(options, store.get());
  };
  const auto has = [](const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_TRUE(has(error_of([](auto& o) { o.sequence_length = 0; }), "0 tokens"));
  EXPECT_TRUE(has(error_of([](auto& o) { o.tokens_per_step = 0; }), "a step of 0 tokens"));
  EXPECT_TRUE(has(error_of([](auto& o) { o.expert_owner.pop_back(); }), "7 owners for 8"));
  EXPECT_TRUE(has(error_of([](auto& o) { o.expert_owner[3] = 1; }), "expert rank 1 of 1"));
  EXPECT_TRUE(has(error_of([](auto& o) { o.model.num_nextn_predict_layers = 2; }), "MTP depth"));
  EXPECT_TRUE(has(error_of([](auto& o) { o.model.vocab_size = 24; }), "model.embed_tokens"));
  EXPECT_TRUE(has(error_of([](auto& o) { o.recipe = RecipeNamed("fp32"); }), "format"));
  EXPECT_TRUE(has(error_of([](auto& o) { o.recipe.activations = Format::kE4M3; }), "activations"));
  EXPECT_TRUE(has(error_of([](auto& o) { o.recipe.products = Format::kFp32; }), "products"));
  EXPECT_TRUE(has(error_of([](auto& o) { o.recipe.dispatch = Format::kE4M3; }), "dispatch"));
  EXPECT_TRUE(has(error_of([](auto& o) { o.recipe.combine = Format::kE4M3; }), "combine"));
}

TEST(NumericsOfRecipe, Fp8_ScalesGradientsByTheStepsTokensRoundedDown) {
  EXPECT_EQ(NumericsOf(RecipeNamed("fp8"), 3000)->gradient_scale, 2048);
  EXPECT_EQ(NumericsOf(RecipeNamed("bf16"), 3000)->gradient_scale, 1);
}

TEST(LocalExchange, MessagesOfALane_ComeBackInOrder) {
  LocalExchange exchange;
  const std::vector<std::byte> first(3, std::byte{1});
  const std::vector<std::byte> second(5, std::byte{2});
  for (const auto* message : {&first, &second}) {
    const absl::Span<const std::byte> span(*message);
    ASSERT_TRUE(exchange.Post(Lane::kCombineForward, {span}).ok());
  }
  EXPECT_FALSE(exchange.Receive(Lane::kDispatchForward).ok());
  for (const auto* message : {&first, &second}) {
    const auto received = exchange.Receive(Lane::kCombineForward);
    ASSERT_TRUE(received.ok());
    EXPECT_EQ(std::vector<std::byte>((*received)[0].begin(), (*received)[0].end()), *message);
    ASSERT_TRUE(exchange.Release(Lane::kCombineForward).ok());
  }
  EXPECT_FALSE(exchange.Release(Lane::kCombineForward).ok());
  EXPECT_FALSE(exchange.Post(Lane::kCombineForward, {}).ok());
}

}  // namespace
}  // namespace fathom::model
