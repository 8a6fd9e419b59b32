// Gradients of a whole stage held against central differences in FP64 on the reference backend.
#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/ops.h"
#include "worker/model/model_harness.h"

namespace fathom::model {
namespace {

// Rounding of a loss near 3 is 4e-16, over a step of 2e-5 that is 2e-11; the next term of the
// series is step^2 / 6 times the third derivative, here below 1e-9.
constexpr double kStep = 1e-5;
constexpr double kRelative = 1e-6;
constexpr double kAbsolute = 3e-9;

double CentralDifference(ModelHarness& model, const Parameter& parameter, int64_t index,
                         int64_t micro_batches) {
  const double weight = model.Weight(parameter, index);
  double sides[2];
  for (const int side : {0, 1}) {
    model.SetWeight(parameter, index, weight + (side == 0 ? kStep : -kStep));
    for (int mb = 0; mb < micro_batches; ++mb) model.Forward(mb);
    sides[side] = model.TotalLoss();
  }
  model.SetWeight(parameter, index, weight);
  return (sides[0] - sides[1]) / (2 * kStep);
}

void CheckAllTensors(const HarnessOptions& options, bool deferred) {
  const std::unique_ptr<kernels::Ops> ops = kernels::CreateReferenceOps();
  LocalExchange exchange;
  ModelHarness model(options, ops.get(), &exchange);
  model.store().ZeroGradients();
  WeightWork work;
  for (int mb = 0; mb < options.micro_batches; ++mb) {
    model.Forward(mb);
    model.Backward(mb, deferred ? &work : nullptr);
  }
  for (const auto& entry : work) entry();
  EXPECT_EQ(deferred, !work.empty());

  std::mt19937_64 generator(options.seed);
  for (ParameterBlock& block : model.store().blocks()) {
    for (const Parameter& parameter : block.parameters) {
      if (parameter.gradient.data == nullptr) continue;
      for (int draw = 0; draw < 2; ++draw) {
        const auto index = static_cast<int64_t>(generator() % parameter.spec.size());
        const double expected = CentralDifference(model, parameter, index, options.micro_batches);
        EXPECT_NEAR(model.Gradient(parameter, index), expected,
                    kAbsolute + kRelative * std::abs(expected))
            << parameter.spec.name << " element " << index;
      }
    }
  }
}

HarnessOptions Options() {
  HarnessOptions options;
  options.recipe = Fp64Recipe();
  return options;
}

TEST(StageGradient, WeightGradientsAtOnce_MatchCentralDifferences) {
  CheckAllTensors(Options(), /*deferred=*/false);
}

TEST(StageGradient, WeightGradientsDeferredOverTwoMicroBatches_MatchCentralDifferences) {
  HarnessOptions options = Options();
  options.micro_batches = 2;
  options.layers_per_stage = {2, 1};
  CheckAllTensors(options, /*deferred=*/true);
}

TEST(StageGradient, TwoSharedExpertsOneGroupNoMtp_MatchCentralDifferences) {
  HarnessOptions options = Options();
  options.model.num_nextn_predict_layers = 0;
  options.model.n_shared_experts = 2;
  options.model.n_group = 1;
  options.model.topk_group = 1;
  options.sequences = 1;
  CheckAllTensors(options, /*deferred=*/false);
}

}  // namespace
}  // namespace fathom::model
