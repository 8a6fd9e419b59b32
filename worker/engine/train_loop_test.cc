#include "worker/engine/train_loop.h"

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "worker/engine/rank_threads.h"

namespace fathom::engine {
namespace {

// 1 - 2 sum(xy) / sum(x^2 + y^2) in FP64 over all tensors: 0 for equal ones.
double Difference(const JobResult& a, const JobResult& b) {
  double products = 0;
  double squares = 0;
  EXPECT_EQ(a.gradients.size(), b.gradients.size());
  for (const auto& [name, x] : a.gradients) {
    const auto found = b.gradients.find(name);
    if (found == b.gradients.end() || found->second.size() != x.size()) {
      ADD_FAILURE() << name << " differs in shape";
      continue;
    }
    for (size_t i = 0; i < x.size(); ++i) {
      const double u = x[i];
      const double v = found->second[i];
      products += u * v;
      squares += u * u + v * v;
    }
  }
  EXPECT_GT(squares, 0);
  return 1 - 2 * products / squares;
}

JobResult OneStep(v1::JobSpec spec, int pipeline, int expert, int replicas, int64_t micro_batches,
                  int ranks_per_node = 1 << 20) {
  spec.mutable_parallelism()->set_pipeline(pipeline);
  spec.mutable_parallelism()->set_expert(expert);
  spec.mutable_parallelism()->set_replicas(replicas);
  spec.mutable_training()->set_micro_batches(micro_batches);
  spec.mutable_training()->set_validation_batches(micro_batches);
  JobSetting setting;
  setting.ranks_per_node = ranks_per_node;
  setting.stop_after = 1;
  absl::StatusOr<JobResult> result = RunJob(spec, setting);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : JobResult();
}

class DualPipeTest : public testing::TestWithParam<int> {};

// The reference is one process that runs the same micro-batches one after another.
TEST_P(DualPipeTest, Fp32_LossesAreThoseOfOneProcessBitForBitAndGradientsWithin1e12) {
  const v1::JobSpec spec = ToySpec(WriteTestTokens(20000));
  const JobResult reference = OneStep(spec, 1, 1, 1, 16);
  const JobResult piped = OneStep(spec, GetParam(), 1, 1, 16);
  EXPECT_EQ(piped.micro_batch_losses, reference.micro_batch_losses);
  EXPECT_EQ(piped.micro_batch_mtp_losses, reference.micro_batch_mtp_losses);
  ASSERT_EQ(reference.micro_batch_losses.size(), 16u);
  for (double loss : reference.micro_batch_losses) EXPECT_GT(loss, 0);
  EXPECT_LT(std::abs(Difference(piped, reference)), 1e-12);
}

INSTANTIATE_TEST_SUITE_P(Ranks, DualPipeTest, testing::Values(2, 4, 8));

// With the experts spread over E ranks, an expert multiplies rows of E micro-batches at once. Every
// row's result depends on that row alone (kernels/ops.h), and partial sums of a token are added in
// the order of the expert ranks instead of that of its experts. That changes the last bit of some
// sums of top-k terms: a relative error of at most k * 2^-24 per layer and token in fp32, so L
// layers change a loss of about ln(vocabulary) nats by at most about L * k * 2^-24 of itself. The
// bound takes 8 times that for what the layers in between amplify.
class ExpertParallelTest : public testing::TestWithParam<std::pair<int, int>> {};

TEST_P(ExpertParallelTest, Fp32_LossesAndGradientsAreThoseOfOneProcessWithinTheDerivedTolerance) {
  const auto [pipeline, expert] = GetParam();
  const v1::JobSpec spec = ToySpec(WriteTestTokens(20000));
  const JobResult reference = OneStep(spec, 1, 1, 1, 4 * expert);
  const JobResult spread = OneStep(spec, pipeline, expert, 1, 4);
  const double layers = static_cast<double>(spec.model().num_hidden_layers() + 1);
  const double k = static_cast<double>(spec.model().num_experts_per_tok());
  const double tolerance = 8 * layers * k * std::ldexp(1, -24);
  ASSERT_EQ(spread.micro_batch_losses.size(), reference.micro_batch_losses.size());
  for (size_t i = 0; i < reference.micro_batch_losses.size(); ++i) {
    EXPECT_NEAR(spread.micro_batch_losses[i] / reference.micro_batch_losses[i], 1, tolerance) << i;
  }
  EXPECT_LT(std::abs(Difference(spread, reference)), 1e-12);
}

INSTANTIATE_TEST_SUITE_P(Groups, ExpertParallelTest,
                         testing::Values(std::pair(1, 2), std::pair(1, 4), std::pair(2, 2),
                                         std::pair(2, 4)));

TEST(TrainLoop, Replicas_GradientsAreThoseOfOneProcess) {
  const v1::JobSpec spec = ToySpec(WriteTestTokens(20000));
  const JobResult reference = OneStep(spec, 1, 1, 1, 8);
  const JobResult replicated = OneStep(spec, 2, 1, 2, 4);
  EXPECT_EQ(replicated.micro_batch_losses, reference.micro_batch_losses);
  EXPECT_LT(std::abs(Difference(replicated, reference)), 1e-12);
}

class RecipeTest : public testing::TestWithParam<const char*> {};

TEST_P(RecipeTest, TwoRunsWithNodesSpreadDifferently_GiveTheSameWeights) {
  v1::JobSpec spec = ToySpec(WriteTestTokens(20000));
  spec.set_precision(GetParam());
  spec.mutable_parallelism()->set_pipeline(2);
  spec.mutable_parallelism()->set_expert(2);
  spec.mutable_training()->set_micro_batches(4);
  spec.mutable_training()->set_validation_batches(4);
  std::vector<std::string> hashes;
  for (const int ranks_per_node : {4, 4, 2, 1}) {
    JobSetting setting;
    setting.ranks_per_node = ranks_per_node;
    setting.checkpoint_directory =
        testing::TempDir() + "/spread-" + GetParam() + std::to_string(hashes.size());
    const absl::StatusOr<JobResult> result = RunJob(spec, setting);
    ASSERT_TRUE(result.ok()) << result.status();
    hashes.push_back(result->weights_sha256);
    EXPECT_EQ(hashes.back().size(), 64u);
    EXPECT_EQ(hashes.back(), hashes.front()) << ranks_per_node << " ranks per node";
    ASSERT_EQ(result->steps.size(), 3u);
    ASSERT_EQ(result->validations.size(), 1u);
    EXPECT_GT(result->validations[0].loss(), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Recipes, RecipeTest, testing::Values("fp32", "bf16", "fp8"));

TEST(TrainLoop, FiftySteps_LossFallsWellBelowItsStart) {
  v1::JobSpec spec = ToySpec(WriteTestTokens(20000));
  spec.mutable_training()->set_steps(50);
  spec.mutable_training()->set_micro_batches(8);
  spec.mutable_training()->set_validation_batches(8);
  const absl::StatusOr<JobResult> result = RunJob(spec, {});
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->steps.size(), 50u);
  EXPECT_LT(result->steps.back().loss(), 0.6 * result->steps.front().loss());
  EXPECT_NEAR(result->steps.front().loss(), std::log(264.0), 0.2);
}

}  // namespace
}  // namespace fathom::engine
