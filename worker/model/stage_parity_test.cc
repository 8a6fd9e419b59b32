// What must not change a stage's results, and by how much others may: the backend, the number of
// stages, the size of the expert group, the order in which passes are advanced, and the precision
// recipe.
#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/ops.h"
#include "worker/model/model_harness.h"
#include "worker/model/tensor.h"

namespace fathom::model {
namespace {

// Wider than a scaling tile, with short last tiles everywhere.
ModelConfig WideModel() {
  ModelConfig model = SmallModel();
  model.vocab_size = 150;
  model.hidden_size = 160;
  model.intermediate_size = 200;
  model.moe_intermediate_size = 72;
  model.q_lora_rank = 136;
  model.kv_lora_rank = 72;
  model.qk_nope_head_dim = 48;
  model.qk_rope_head_dim = 16;
  model.v_head_dim = 40;
  return model;
}

HarnessOptions Options(const std::string& recipe, const ModelConfig& model = WideModel()) {
  HarnessOptions options;
  options.model = model;
  options.recipe = RecipeNamed(recipe);
  options.sequence_length = 24;
  options.initializer_range = model.hidden_size > 100 ? 0.06 : 0.25;
  return options;
}

// 1 - 2 sum(xy) / sum(x^2 + y^2): half the squared relative distance.
double Distance(const std::vector<double>& x, const std::vector<double>& y) {
  EXPECT_EQ(x.size(), y.size());
  double cross = 0;
  double squares = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    cross += (x[i] - y[i]) * (x[i] - y[i]);
    squares += x[i] * x[i] + y[i] * y[i];
  }
  return squares == 0 ? 0 : cross / squares;
}

struct Result {
  std::vector<MicroBatchLoss> losses;
  std::vector<double> gradients;
  std::vector<int64_t> loads;

  double TotalLoss() const {
    double sum = 0;
    for (const MicroBatchLoss& loss : losses) sum += loss.loss + loss.mtp_loss;
    return sum;
  }
};

void ReadLoads(ModelHarness& harness, Result* result) {
  for (size_t i = 0; i < harness.stages(); ++i) {
    const auto loads = harness.stage(i).expert_loads();
    result->loads.insert(result->loads.end(), loads.begin(), loads.end());
  }
}

Result RunOn(const HarnessOptions& options, kernels::Ops* ops, bool deferred = false) {
  LocalExchange exchange;
  ModelHarness harness(options, ops, &exchange);
  Result result;
  WeightWork work;
  for (int mb = 0; mb < options.micro_batches; ++mb) {
    harness.Forward(mb);
    harness.Backward(mb, deferred ? &work : nullptr);
    result.losses.push_back(harness.Loss(mb));
  }
  for (const auto& entry : work) entry();
  result.gradients = harness.Gradients();
  ReadLoads(harness, &result);
  return result;
}

Result RunOnCpu(const HarnessOptions& options, bool deferred = false) {
  return RunOn(options, kernels::CreateCpuOps().get(), deferred);
}

void ExpectSameBits(const Result& a, const Result& b) {
  ASSERT_EQ(a.losses.size(), b.losses.size());
  for (size_t i = 0; i < a.losses.size(); ++i) {
    EXPECT_EQ(a.losses[i].loss, b.losses[i].loss);
    EXPECT_EQ(a.losses[i].mtp_loss, b.losses[i].mtp_loss);
    // A sum over layers in FP64, in another order when there are several stages.
    EXPECT_NEAR(a.losses[i].balance_loss, b.losses[i].balance_loss, 1e-14);
  }
  EXPECT_EQ(a.gradients, b.gradients);
  EXPECT_EQ(a.loads, b.loads);
}

// --- Backends ---

struct Tolerance {
  std::string recipe;
  double loss;      // relative
  double gradient;  // Distance
};

class BackendParity : public ::testing::TestWithParam<Tolerance> {};

// The reference sums in FP64 and rounds once, so an element differs by the rounding of FP32 sums,
// of a few hundred terms at 2^-24 each; then BF16 outputs that lie near a tie round apart by 2^-8,
// and E4M3 codes by 2^-4, which averages out over a loss.
TEST_P(BackendParity, CpuAgainstReference_AgreesWithinRecipesTolerance) {
  const HarnessOptions options = Options(GetParam().recipe);
  const Result reference = RunOn(options, kernels::CreateReferenceOps().get());
  const Result cpu = RunOnCpu(options);
  EXPECT_NEAR(cpu.TotalLoss(), reference.TotalLoss(), GetParam().loss * reference.TotalLoss());
  EXPECT_LT(Distance(cpu.gradients, reference.gradients), GetParam().gradient);
}

INSTANTIATE_TEST_SUITE_P(Recipes, BackendParity,
                         ::testing::Values(Tolerance{"fp32", 1e-6, 1e-10},
                                           Tolerance{"bf16", 1e-3, 1e-3},
                                           Tolerance{"fp8", 1e-3, 5e-3}),
                         [](const auto& test) { return test.param.recipe; });

// --- Precision ---

class PrecisionLoss : public ::testing::TestWithParam<Tolerance> {};

TEST_P(PrecisionLoss, AgainstFp32_StaysClose) {
  const Result exact = RunOnCpu(Options("fp32"));
  const Result rounded = RunOnCpu(Options(GetParam().recipe));
  EXPECT_NEAR(rounded.TotalLoss(), exact.TotalLoss(), GetParam().loss * exact.TotalLoss());
  EXPECT_NE(rounded.TotalLoss(), exact.TotalLoss());
}

// Without experts, for a token that rounding sends to another expert changes gradients at once. A
// BF16 is off by 2^-9 at most and an E4M3 by 2^-4, some 2.5 % in the mean; the product of two such
// and some ten products in a row leave gradients off by about 2 % and 20 %, of which Distance is
// half the square.
TEST_P(PrecisionLoss, GradientsOfADenseModelAgainstFp32_StayClose) {
  ModelConfig model = WideModel();
  model.first_k_dense_replace = model.num_hidden_layers;
  model.num_nextn_predict_layers = 0;
  const Result exact = RunOnCpu(Options("fp32", model));
  const Result rounded = RunOnCpu(Options(GetParam().recipe, model));
  EXPECT_LT(Distance(rounded.gradients, exact.gradients), GetParam().gradient);
  EXPECT_GT(Distance(rounded.gradients, exact.gradients), 0);
}

INSTANTIATE_TEST_SUITE_P(Recipes, PrecisionLoss,
                         ::testing::Values(Tolerance{"bf16", 5e-3, 5e-4},
                                           Tolerance{"fp8", 1e-2, 4e-2}),
                         [](const auto& test) { return test.param.recipe; });

TEST(PrecisionLoss, Fp8StepOfAThousandTimesTheTokens_GivesTheSameGradientsScaled) {
  HarnessOptions options = Options("fp8");
  options.balance_alpha = 0;
  const Result small = RunOnCpu(options);
  options.lanes = 1024;
  Result large = RunOnCpu(options);
  for (double& gradient : large.gradients) gradient *= 1024;
  EXPECT_EQ(small.gradients, large.gradients);
}

// Losses of a few steps of AdamW on one micro-batch.
std::vector<double> Train(const HarnessOptions& options, int steps) {
  const std::unique_ptr<kernels::Ops> ops = kernels::CreateCpuOps();
  LocalExchange exchange;
  ModelHarness harness(options, ops.get(), &exchange);
  TensorPool pool(ops.get());
  std::vector<std::array<Tensor, 3>> state;  // master, m, v of each block
  for (ParameterBlock& block : harness.store().blocks()) {
    state.emplace_back();
    for (Tensor& tensor : state.back()) {
      tensor = pool.Dense(1, block.size(), kernels::DType::kF32);
      ops->Fill(tensor, 0);
    }
    ops->Copy(block.weights, state.back()[0]);
  }
  std::vector<double> losses;
  for (int step = 1; step <= steps; ++step) {
    harness.store().ZeroGradients();
    harness.Forward(0);
    harness.Backward(0);
    losses.push_back(harness.TotalLoss());
    for (size_t i = 0; i < state.size(); ++i) {
      ParameterBlock& block = harness.store().blocks()[i];
      if (block.kind == ParameterKind::kRouterBias) continue;
      const kernels::AdamWSettings settings = {.learning_rate = 3e-4, .step = step};
      const kernels::AdamWState kept = {state[i][0], state[i][1], state[i][2]};
      ops->AdamW(settings, block.gradients, kept, kept);
      ops->Copy(state[i][0], block.weights);
    }
    harness.RefreshWeights();
  }
  return losses;
}

TEST(PrecisionLoss, Fp8Training_FollowsFp32AsTheLossFalls) {
  constexpr int kSteps = 10;
  // 48 tokens are learnt by heart at 4 % of the loss a step, so a step ahead or behind is as much.
  constexpr double kTolerance = 0.08;
  const std::vector<double> exact = Train(Options("fp32"), kSteps);
  const std::vector<double> rounded = Train(Options("fp8"), kSteps);
  EXPECT_LT(exact.back(), 0.6 * exact.front());
  for (int step = 0; step < kSteps; ++step) {
    EXPECT_NEAR(rounded[step], exact[step], kTolerance * exact[step]) << "step " << step;
  }
}

// --- Stages, deferral, interleaving ---

TEST(StageSplit, OneTwoAndFourStagesInFp32_GiveTheSameBits) {
  HarnessOptions options = Options("fp32", SmallModel());
  options.model.num_hidden_layers = 4;
  options.micro_batches = 2;
  const Result whole = RunOnCpu(options);
  options.layers_per_stage = {2, 2};
  ExpectSameBits(RunOnCpu(options), whole);
  options.layers_per_stage = {1, 1, 1, 1};
  ExpectSameBits(RunOnCpu(options), whole);
  options.layers_per_stage = {0, 3, 1, 0};
  ExpectSameBits(RunOnCpu(options), whole);
}

class EveryRecipe : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Recipes, EveryRecipe, ::testing::Values("fp32", "bf16", "fp8"),
                         [](const auto& test) { return test.param; });

TEST_P(EveryRecipe, WeightGradientsDeferred_GiveTheSameBitsAsAtOnce) {
  HarnessOptions options = Options(GetParam());
  options.micro_batches = 2;
  ExpectSameBits(RunOnCpu(options, /*deferred=*/true), RunOnCpu(options));
}

TEST_P(EveryRecipe, RunTwice_GivesTheSameBits) {
  const HarnessOptions options = Options(GetParam());
  ExpectSameBits(RunOnCpu(options), RunOnCpu(options));
}

// Micro-batch 0 is backed up while micro-batch 1 goes forward; returns every rank's result.
std::vector<Result> RunPair(const HarnessOptions& options, int ranks, bool interleaved) {
  ThreadGroup group(ranks);
  std::vector<Result> results(ranks);
  RunRanks(ranks, [&](int rank) {
    const std::unique_ptr<kernels::Ops> ops = kernels::CreateCpuOps();
    ModelHarness harness(options, ops.get(), group.member(rank));
    harness.Forward(0);
    const std::vector<int32_t> samples = harness.Samples(rank, 1);
    Stage& stage = harness.stage(0);
    const auto forward = stage.Forward(1, samples.data(), {}, {}, /*keep=*/true);
    const auto backward = stage.Backward(0, {}, {}, nullptr);
    if (interleaved) {
      while (!forward->done() || !backward->done()) {
        for (Pass* pass : {backward.get(), forward.get()}) {
          if (!pass->done()) {
            EXPECT_TRUE(pass->Advance().ok());
          }
        }
      }
    } else {
      ModelHarness::RunToEnd(forward.get());
      ModelHarness::RunToEnd(backward.get());
    }
    EXPECT_EQ(stage.live_micro_batches(), 1);
    harness.Backward(1);
    EXPECT_EQ(stage.live_micro_batches(), 0);
    results[rank] = {{harness.Loss(0), harness.Loss(1)}, harness.Gradients(), {}};
    ReadLoads(harness, &results[rank]);
  });
  return results;
}

TEST_P(EveryRecipe, PassesAdvancedInTurn_GiveTheSameBitsAsOneAfterAnother) {
  HarnessOptions options = Options(GetParam());
  options.micro_batches = 2;
  options.lanes = 2;
  const std::vector<Result> in_turn = RunPair(options, 2, /*interleaved=*/true);
  const std::vector<Result> in_order = RunPair(options, 2, /*interleaved=*/false);
  for (int rank = 0; rank < 2; ++rank) ExpectSameBits(in_turn[rank], in_order[rank]);
}

// --- Expert parallelism ---

// Four lanes of one micro-batch each, dealt to `ranks` threads; gradients summed over the ranks
// that hold a tensor, in the order of one rank's.
Result RunLanes(const HarnessOptions& base, const std::string& backend, int ranks,
                const std::vector<int32_t>& owner = {}, double low_bias = 0) {
  constexpr int kLanesOfTest = 4;
  HarnessOptions options = base;
  options.lanes = kLanesOfTest;
  ThreadGroup group(ranks);
  std::vector<MicroBatchLoss> losses(kLanesOfTest);
  std::vector<std::vector<std::pair<std::string, std::vector<double>>>> gradients(ranks);
  std::vector<std::vector<int64_t>> loads(ranks);
  RunRanks(ranks, [&](int rank) {
    const std::unique_ptr<kernels::Ops> ops =
        backend == "cpu" ? kernels::CreateCpuOps() : kernels::CreateReferenceOps();
    ModelHarness harness(options, ops.get(), group.member(rank), owner);
    for (Parameter* bias : harness.stage(0).router_biases()) {
      for (int64_t e = 0; low_bias != 0 && e < bias->spec.cols / 2; ++e) {
        harness.SetWeight(*bias, e, low_bias);
      }
    }
    for (int turn = 0; turn < kLanesOfTest / ranks; ++turn) {
      const int lane = rank * (kLanesOfTest / ranks) + turn;
      harness.set_lane(lane);
      harness.Forward(0);
      harness.Backward(0);
      losses[lane] = harness.Loss(0);
    }
    for (ParameterBlock& block : harness.store().blocks()) {
      for (const Parameter& parameter : block.parameters) {
        if (parameter.gradient.data == nullptr) continue;
        std::vector<double> values;
        for (int64_t i = 0; i < parameter.spec.size(); ++i) {
          values.push_back(harness.Gradient(parameter, i));
        }
        gradients[rank].emplace_back(parameter.spec.name, std::move(values));
      }
    }
    const auto counted = harness.stage(0).expert_loads();
    loads[rank].assign(counted.begin(), counted.end());
  });
  std::vector<std::pair<std::string, std::vector<double>>> sum;
  for (auto& of_rank : gradients) {
    for (auto& [name, values] : of_rank) {
      const auto it = std::find_if(sum.begin(), sum.end(),
                                   [&, &key = name](const auto& e) { return e.first == key; });
      if (it == sum.end()) {
        sum.emplace_back(name, values);
        continue;
      }
      for (size_t i = 0; i < values.size(); ++i) it->second[i] += values[i];
    }
  }
  std::sort(sum.begin(), sum.end());
  Result result;
  result.losses = losses;
  for (const auto& [name, values] : sum) {
    result.gradients.insert(result.gradients.end(), values.begin(), values.end());
  }
  result.loads = loads[0];
  for (int rank = 1; rank < ranks; ++rank) {
    for (size_t i = 0; i < loads[rank].size(); ++i) result.loads[i] += loads[rank][i];
  }
  return result;
}

struct Parallel {
  std::string recipe;
  std::string backend;
  double loss;        // relative
  double gradient;    // Distance
  bool same_routing;  // rounding is too small to send a token elsewhere
};

class ExpertParallel : public ::testing::TestWithParam<Parallel> {
 protected:
  void ExpectAgreement(const Result& one, const Result& many) const {
    for (size_t lane = 0; lane < one.losses.size(); ++lane) {
      const double tolerance = GetParam().loss * one.losses[lane].loss;
      EXPECT_NEAR(many.losses[lane].loss, one.losses[lane].loss, tolerance);
      EXPECT_NEAR(many.losses[lane].mtp_loss, one.losses[lane].mtp_loss, tolerance);
    }
    EXPECT_LT(Distance(many.gradients, one.gradients), GetParam().gradient);
    if (GetParam().same_routing) {
      EXPECT_EQ(many.loads, one.loads);
    }
  }
  static HarnessOptions ParallelOptions() {
    const bool fp8 = GetParam().recipe == "fp8";
    HarnessOptions options = Options(GetParam().recipe, fp8 ? WideModel() : SmallModel());
    options.sequence_length = 12;
    return options;
  }
};

// Over a group, a token's expert outputs are summed per rank and then over ranks: K - 1 = 2
// additions in another order, that is 2 units of rounding (2^-53, 2^-24; 2^-8 where a row travels
// as BF16) of each element per layer of experts, three of them. Norms, products and softmax pass on
// a relative error about as large, so the loss moves by some ten units, and gradients likewise;
// Distance squares that. Sums of weight gradients over lanes change their order too, with the same
// unit.
TEST_P(ExpertParallel, OneTwoAndFourRanks_AgreeWithinRounding) {
  const HarnessOptions options = ParallelOptions();
  const Result one = RunLanes(options, GetParam().backend, 1);
  ExpectAgreement(one, RunLanes(options, GetParam().backend, 2));
  ExpectAgreement(one, RunLanes(options, GetParam().backend, 4));
}

TEST_P(ExpertParallel, ExpertsDealtUnevenly_AgreeWithinRounding) {
  const HarnessOptions options = ParallelOptions();
  const Result one = RunLanes(options, GetParam().backend, 1);
  ExpectAgreement(one, RunLanes(options, GetParam().backend, 2, {1, 0, 1, 1, 1, 1, 0, 1}));
  // The last rank holds no expert at all.
  ExpectAgreement(one, RunLanes(options, GetParam().backend, 4, {0, 2, 1, 1, 0, 2, 0, 1}));
}

TEST_P(ExpertParallel, RankWhoseExpertsNobodyChooses_SendsEmptyMessagesAndAgrees) {
  const HarnessOptions options = ParallelOptions();
  const Result one = RunLanes(options, GetParam().backend, 1, {}, /*low_bias=*/-10);
  const Result two = RunLanes(options, GetParam().backend, 2, {}, /*low_bias=*/-10);
  for (size_t i = 0; i < two.loads.size(); ++i) {
    if (i % 8 < 4) {
      EXPECT_EQ(two.loads[i], 0) << i;
    }
  }
  ExpectAgreement(one, two);
}

INSTANTIATE_TEST_SUITE_P(Recipes, ExpertParallel,
                         ::testing::Values(Parallel{"fp64", "reference", 1e-13, 1e-26, true},
                                           Parallel{"fp32", "cpu", 1e-6, 1e-11, true},
                                           Parallel{"bf16", "cpu", 1e-2, 2e-2, false},
                                           Parallel{"fp8", "cpu", 1e-2, 4e-2, false}),
                         [](const auto& test) { return test.param.recipe; });

// A token's losses don't depend on its neighbours in the batch.
TEST_P(EveryRecipe, SequenceBesideOthers_HasTheSameLossAsAlone) {
  HarnessOptions options = Options(GetParam());
  options.balance_alpha = 0;
  const std::unique_ptr<kernels::Ops> ops = kernels::CreateCpuOps();
  LocalExchange exchange;
  options.sequences = 3;
  ModelHarness three(options, ops.get(), &exchange);
  options.sequences = 1;
  ModelHarness one(options, ops.get(), &exchange);
  const std::vector<int32_t> samples = three.Samples(0, 0);
  const size_t length = samples.size() / 3;
  ModelHarness::RunToEnd(three.stage(0).Forward(0, samples.data(), {}, {}, false).get());
  MicroBatchLoss alone;
  for (int s = 0; s < 3; ++s) {
    ModelHarness::RunToEnd(
        one.stage(0).Forward(s, samples.data() + s * length, {}, {}, false).get());
    alone.loss += one.stage(0).loss(s).loss;
    alone.mtp_loss += one.stage(0).loss(s).mtp_loss;
  }
  // Row for row the same bits; the sum over tokens is FP64 and taken in another order.
  EXPECT_NEAR(three.stage(0).loss(0).loss, alone.loss, 1e-12 * alone.loss);
  EXPECT_NEAR(three.stage(0).loss(0).mtp_loss, alone.mtp_loss, 1e-12 * alone.mtp_loss);
}

}  // namespace
}  // namespace fathom::model
