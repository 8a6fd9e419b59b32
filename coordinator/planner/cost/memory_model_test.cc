#include "coordinator/planner/cost/memory_model.h"

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "common/model/activation_bytes.h"
#include "common/model/parameter_layout.h"
#include "common/schedule/dualpipe.h"
#include "gtest/gtest.h"

namespace fathom::planner {
namespace {

model::ModelConfig Preset(const std::string& name) {
  v1::ModelSpec spec;
  spec.set_preset(name);
  return *model::ResolveModel(spec);
}

model::PrecisionRecipe Recipe(const std::string& name) { return *model::FindRecipe(name); }

// As published: 16 pipeline ranks, experts over 64, two replicas, 120 micro-batches.
LayoutShape DeepSeekLayout() {
  LayoutShape layout;
  layout.parallelism.set_pipeline(16);
  layout.parallelism.set_expert(64);
  layout.parallelism.set_replicas(2);
  layout.micro_batches = 120;
  layout.sequence_length = 4096;
  layout.stage_layers = {4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 3, 2};
  return layout;
}

LayoutShape ToyLayout() {
  LayoutShape layout;
  layout.parallelism.set_pipeline(4);
  layout.parallelism.set_expert(2);
  layout.micro_batches = 8;
  layout.micro_batch_sequences = 2;
  layout.sequence_length = 32;
  layout.stage_layers = {2, 2, 2, 2};
  return layout;
}

std::vector<v1::PredictedMemory> Memory(const model::ModelConfig& config, const char* recipe,
                                        const LayoutShape& layout) {
  const auto schedule = schedule::DualPipe(static_cast<int>(layout.stage_layers.size()),
                                           static_cast<int>(layout.micro_batches));
  const auto ranks = MemoryOfRanks(config, Recipe(recipe), layout, *schedule);
  EXPECT_TRUE(ranks.ok()) << ranks.status();
  return ranks.ok() ? *ranks : std::vector<v1::PredictedMemory>();
}

int64_t Part(const v1::PredictedMemory& memory, const std::string& name) {
  for (const v1::MemoryPart& part : memory.parts()) {
    if (part.name() == name) return part.bytes();
  }
  return 0;
}

int64_t MostOf(const std::vector<v1::PredictedMemory>& ranks) {
  int64_t most = 0;
  for (const v1::PredictedMemory& rank : ranks) most = std::max(most, rank.peak_bytes());
  return most;
}

// "About 8 MoE layers per GPU = 3.27B parameters; FP32 gradients 13.1 GB; optimizer 8 B/param
// sharded. Optimizer state of the whole model 5.4 TB."
TEST(MemoryModelTest, DeepSeekV3_HasTheStateThatItsReportImplies) {
  const auto ranks = Memory(Preset("deepseek-v3"), "fp8", DeepSeekLayout());
  ASSERT_EQ(ranks.size(), 16u);
  const v1::PredictedMemory& middle = ranks[5];
  EXPECT_NEAR(static_cast<double>(Part(middle, "weights")) / 2, 3.27e9, 0.01e9);
  EXPECT_NEAR(static_cast<double>(Part(middle, "gradients")), 13.1e9, 0.05e9);
  double optimizer = 0;
  for (const v1::PredictedMemory& rank : ranks) {
    optimizer += static_cast<double>(Part(rank, "optimizer state, two steps")) / 2;
  }
  optimizer *= 64 * 2;
  const model::ParameterCount count = model::CountParameters(Preset("deepseek-v3"));
  EXPECT_NEAR(optimizer / (8.0 * static_cast<double>(count.total + count.mtp)), 1, 1e-3);
  EXPECT_NEAR(optimizer, 5.4e12, 0.1e12);
}

// A twentieth stays free for what the model does not count: driver, runtime, libraries.
TEST(MemoryModelTest, DeepSeekV3_FitsDevicesOf80GiBAndLeavesThemATwentieth) {
  const double device_bytes = 80.0 * (int64_t{1} << 30);
  EXPECT_LE(static_cast<double>(MostOf(Memory(Preset("deepseek-v3"), "fp8", DeepSeekLayout()))),
            0.95 * device_bytes);
}

TEST(MemoryModelTest, Parts_AddUpToThePeakAndNameItsInstruction) {
  for (const char* recipe : {"fp32", "bf16", "fp8"}) {
    for (const v1::PredictedMemory& rank : Memory(Preset("toy"), recipe, ToyLayout())) {
      int64_t sum = 0;
      for (const v1::MemoryPart& part : rank.parts()) {
        EXPECT_GT(part.bytes(), 0) << part.name();
        sum += part.bytes();
      }
      EXPECT_EQ(sum, rank.peak_bytes());
      EXPECT_FALSE(rank.at().empty());
    }
  }
}

TEST(MemoryModelTest, DualPipe_KeepsAsManyMicroBatchesAsItsPeakSays) {
  // Stages all alike but for the ends, so that what is kept counts micro-batches.
  model::ModelConfig config = Preset("toy");
  config.first_k_dense_replace = 0;
  const LayoutShape layout = ToyLayout();
  const auto ranks = Memory(config, "fp32", layout);
  const model::MicroBatchShape shape = {.sequences = layout.micro_batch_sequences,
                                        .sequence_length = layout.sequence_length,
                                        .expert_ranks = 2};
  const int64_t stage =
      2 * model::BytesOf(model::KeptActivations(config, 1, shape, Recipe("fp32"),
                                                model::Recomputation::kSelective));
  // P + 1 are live at once, of which the pair at work has two.
  EXPECT_EQ(Part(ranks[1], "activations kept"), (4 + 1 - 2) * stage);
}

TEST(MemoryModelTest, Recomputation_TradesKeptActivations) {
  const model::ModelConfig config = Preset("deepseek-v3");
  LayoutShape layout = DeepSeekLayout();
  std::vector<int64_t> kept;
  for (const auto recomputation : {model::Recomputation::kNone, model::Recomputation::kSelective,
                                   model::Recomputation::kFull}) {
    layout.recomputation = recomputation;
    kept.push_back(Part(Memory(config, "fp8", layout)[3], "activations kept"));
  }
  EXPECT_GT(kept[0], kept[1]);
  EXPECT_GT(kept[1], 10 * kept[2]);
}

TEST(MemoryModelTest, MoreExpertRanksAndReplicas_NeedNoMoreStateEach) {
  const model::ModelConfig config = Preset("deepseek-v3");
  LayoutShape layout = DeepSeekLayout();
  const auto before = Memory(config, "fp8", layout);
  layout.parallelism.set_replicas(4);
  const auto replicated = Memory(config, "fp8", layout);
  EXPECT_EQ(Part(replicated[3], "gradients"), Part(before[3], "gradients"));
  EXPECT_LT(Part(replicated[3], "optimizer state, two steps"),
            Part(before[3], "optimizer state, two steps"));
  layout.parallelism.set_expert(128);
  EXPECT_LT(Part(Memory(config, "fp8", layout)[3], "gradients"), Part(before[3], "gradients"));
}

TEST(MemoryModelTest, ImbalancedRouting_NeedsMore) {
  LayoutShape layout = DeepSeekLayout();
  const int64_t balanced = MostOf(Memory(Preset("deepseek-v3"), "fp8", layout));
  layout.imbalance = 1.3;
  EXPECT_GT(MostOf(Memory(Preset("deepseek-v3"), "fp8", layout)), balanced);
}

TEST(MemoryModelTest, DeviceThatIsItsHost_CountsSnapshotsAndWindows) {
  LayoutShape layout = ToyLayout();
  layout.snapshots_on_buddy = true;
  const auto apart = Memory(Preset("toy"), "fp32", layout);
  EXPECT_EQ(Part(apart[0], "snapshots of another rank, two steps"), 0);
  layout.device_is_host = true;
  const auto together = Memory(Preset("toy"), "fp32", layout);
  EXPECT_GT(Part(together[0], "snapshots of another rank, two steps"),
            Part(together[0], "optimizer state, two steps"));
  EXPECT_GT(Part(together[0], "collectives"), 0);
  EXPECT_GT(Part(together[0], "messages between stages"),
            Part(apart[0], "messages between stages") - 1);
}

TEST(MemoryModelTest, OneRank_HoldsTheWholeModelOnce) {
  const model::ModelConfig config = Preset("toy");
  LayoutShape layout;
  layout.micro_batches = 3;
  layout.sequence_length = 16;
  layout.stage_layers = {config.num_hidden_layers};
  const auto schedule = schedule::Sequential(3);
  const auto ranks = MemoryOfRanks(config, Recipe("fp32"), layout, *schedule);
  ASSERT_TRUE(ranks.ok()) << ranks.status();
  const model::ParameterCount count = model::CountParameters(config);
  const int64_t biases = Part((*ranks)[0], "router biases") / 4;
  const int64_t trained = count.total + count.mtp - biases;
  EXPECT_EQ(biases, 8 * config.n_routed_experts);  // seven layers and the MTP module's
  EXPECT_EQ(Part((*ranks)[0], "weights"), 4 * trained);
  EXPECT_EQ(Part((*ranks)[0], "optimizer state, two steps"), 24 * trained);
  EXPECT_EQ(Part((*ranks)[0], "activations kept"), 0);  // of other micro-batches
}

TEST(MemoryModelTest, ContradictingLayouts_AreRefused) {
  const model::ModelConfig config = Preset("toy");
  const auto schedule = schedule::DualPipe(4, 8);
  const auto refuse = [&](const LayoutShape& layout) {
    return MemoryOfRanks(config, Recipe("fp32"), layout, *schedule).status().code();
  };
  LayoutShape layout = ToyLayout();
  layout.stage_layers = {4, 4};
  EXPECT_EQ(refuse(layout), absl::StatusCode::kInvalidArgument);
  layout = ToyLayout();
  layout.stage_layers = {2, 2, 2, 1};
  EXPECT_EQ(refuse(layout), absl::StatusCode::kInvalidArgument);
  layout = ToyLayout();
  layout.parallelism.set_pipeline(8);
  EXPECT_EQ(refuse(layout), absl::StatusCode::kInvalidArgument);
  layout = ToyLayout();
  layout.sequence_length = 0;
  EXPECT_EQ(refuse(layout), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace fathom::planner
