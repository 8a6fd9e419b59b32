// The counts of a step, and the formula of op times.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "common/calibration/least_squares.h"
#include "common/calibration/op_time_formula.h"
#include "common/calibration/step_work.h"
#include "common/model/model_config.h"
#include "common/model/parameter_layout.h"
#include "common/model/precision_recipe.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fathom::calibration {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;

TEST(LeastSquaresTest, ExactEquations_GiveTheirSolution) {
  std::vector<Equation> equations;
  for (const auto& [a, b] : {std::pair(1.0, 5.0), {2.0, 1.0}, {4.0, 9.0}, {1e3, 2.0}}) {
    equations.push_back({{1, a, 1e9 * b}, 7 + 3 * a + 2 * b, 1 / a});
  }
  EXPECT_THAT(NonNegativeLeastSquares(equations),
              ElementsAre(DoubleNear(7, 1e-6), DoubleNear(3, 1e-6), DoubleNear(2e-9, 1e-15)));
}

TEST(LeastSquaresTest, CoefficientThatWouldBeNegative_IsZeroAndTheRestFitsAnew) {
  // y = 10 - x at 1, 2, 3: without a slope, the mean is best.
  const std::vector<Equation> equations = {{{1, 1}, 9, 1}, {{1, 2}, 8, 1}, {{1, 3}, 7, 1}};
  EXPECT_THAT(NonNegativeLeastSquares(equations),
              ElementsAre(DoubleNear(8, 1e-9), DoubleNear(0, 0)));
}

TEST(LeastSquaresTest, ColumnsThatAreAlike_DoNoHarm) {
  const std::vector<Equation> equations = {{{1, 2, 0}, 3, 1}, {{2, 4, 0}, 6, 1}};
  const std::vector<double> x = NonNegativeLeastSquares(equations);
  EXPECT_THAT(x[0] + 2 * x[1], DoubleNear(3, 1e-9));
  EXPECT_TRUE(NonNegativeLeastSquares({}).empty());
}

model::ModelConfig Preset(const std::string& name) {
  v1::ModelSpec spec;
  spec.set_preset(name);
  return model::ResolveModel(spec).value();
}

int64_t HeldElements(const StepEnd& end) {
  int64_t elements = 0;
  for (const HeldParameters& block : end.blocks) elements += block.elements;
  return elements;
}

TEST(OpTimeFormulaTest, EachKindOfOp_HasItsElements) {
  const auto sums = [](const char* op) {
    return SumsOf({.op = op, .m = 10, .n = 20, .k = 30, .count = 2, .heads = 4});
  };
  EXPECT_EQ(sums("Gemm").operand_elements, 2 * 20 * 30);
  EXPECT_EQ(sums("Gemm").rows, 0);
  EXPECT_EQ(sums("AttentionForward").operand_elements, 2 * 10 * 30 * 4);
  EXPECT_EQ(sums("AttentionBackward").rows, 0);
  EXPECT_EQ(sums("Copy").operand_elements, 0);
  EXPECT_EQ(sums("Copy").rows, 2 * 10);
}

TEST(StepWorkTest, OneRank_HoldsEveryParameterOnce) {
  for (const char* name : {"tiny", "toy"}) {
    const model::ModelConfig config = Preset(name);
    const model::PrecisionRecipe recipe = model::FindRecipe("fp32").value();
    v1::Parallelism one;
    one.set_pipeline(1);
    one.set_expert(1);
    one.set_replicas(1);
    const StepEnd end = StepEndOf({&config, &recipe, one, {config.num_hidden_layers}}, {0}, 1);
    int64_t elements = 0;
    int64_t biases = 0;
    for (const model::ParameterSpec& spec : model::AllParameters(config)) {
      (spec.kind == model::ParameterKind::kRouterBias ? biases : elements) += spec.size();
    }
    EXPECT_EQ(HeldElements(end), elements);
    EXPECT_EQ(end.weight_bytes, 4 * (elements + biases));
    EXPECT_EQ(end.state_bytes, 12 * elements + 4 * biases);
  }
}

TEST(StepWorkTest, RanksOfALayout_ShareTheStateOut) {
  const model::ModelConfig config = Preset("tiny");
  const model::PrecisionRecipe recipe = model::FindRecipe("bf16").value();
  v1::Parallelism parallel;
  parallel.set_pipeline(2);
  parallel.set_expert(2);
  parallel.set_replicas(2);
  const StepEnd end = StepEndOf({&config, &recipe, parallel, {3, 3}}, {0, 1}, 2);
  int64_t own = 0;
  for (const HeldParameters& block : end.blocks) {
    EXPECT_TRUE(block.sharers == 8 || block.sharers == 4) << block.sharers;
    own += block.own();
  }
  int64_t all = 0;
  for (const model::ParameterSpec& spec : model::AllParameters(config)) {
    if (spec.kind != model::ParameterKind::kRouterBias) all += spec.size();
  }
  // Eight ranks together hold each element of the optimizer once.
  EXPECT_NEAR(static_cast<double>(8 * own), static_cast<double>(all), 64);
}

TEST(StepWorkTest, TokensOfOneRank_StayWithIt) {
  const model::ModelConfig config = Preset("tiny");
  const model::PrecisionRecipe recipe = model::FindRecipe("fp32").value();
  model::MicroBatchShape shape = {.sequences = 1, .sequence_length = 64, .expert_ranks = 1};
  const LayerExchange alone = ExchangeOf(config, shape, recipe);
  // One record per token: hidden, ids and weights of two experts in 16 bytes each.
  EXPECT_EQ(alone.dispatch_forward.message_bytes, 64 * (192 * 4 + 16 + 16));
  EXPECT_EQ(alone.combine_forward.message_bytes, 64 * 192 * 4);
  shape.expert_ranks = 2;
  const LayerExchange two = ExchangeOf(config, shape, recipe);
  EXPECT_LT(two.dispatch_forward.message_bytes, alone.dispatch_forward.message_bytes);
  EXPECT_GT(two.dispatch_forward.message_bytes, alone.dispatch_forward.message_bytes / 2);
}

TEST(OpTimeFormulaTest, SumsWithoutCalls_TakeWhatTheyTake) {
  v1::OpTime entry;
  entry.set_fixed_seconds(1);
  entry.set_seconds_per_byte(0.5);
  entry.add_cache()->set_factor(7);
  EXPECT_EQ(SecondsOf(entry, {.count = 0, .bytes = 4}), 2);
  EXPECT_EQ(SecondsOf(entry, {.count = 2, .bytes = 4}), 28);
}

TEST(OpTimeFormulaTest, Products_CountOperandsAndOthersRows) {
  model::OpCall call;
  call.op = "GemmFp8";
  call.m = 5;
  call.n = 7;
  call.k = 11;
  call.count = 3;
  EXPECT_EQ(SumsOf(call).operand_elements, 3 * 77);
  EXPECT_EQ(SumsOf(call).rows, 0);
  call.op = "Rope";
  EXPECT_EQ(SumsOf(call).operand_elements, 0);
  EXPECT_EQ(SumsOf(call).rows, 15);
}

}  // namespace
}  // namespace fathom::calibration
