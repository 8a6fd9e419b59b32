#include "common/model/layer_ops.h"

#include <cstdint>
#include <set>
#include <string>

#include "common/model/activation_bytes.h"
#include "common/model/expert_traffic.h"
#include "common/model/model_cost.h"
#include "gtest/gtest.h"

namespace fathom::model {
namespace {

ModelConfig Preset(const std::string& name) {
  v1::ModelSpec spec;
  spec.set_preset(name);
  return *ResolveModel(spec);
}

PrecisionRecipe Recipe(const std::string& name) { return *FindRecipe(name); }

struct PassFlops {
  double forward = 0;
  double backward = 0;
};

PassFlops FlopsOfLayer(const ModelConfig& config, int64_t layer, const MicroBatchShape& shape,
                       Recomputation recomputation) {
  const LayerOps ops = OpsOfLayer(config, layer, shape, Recipe("fp8"), recomputation);
  PassFlops flops;
  for (const PassOps* part : {&ops.attention, &ops.mlp, &ops.head}) {
    flops.forward += FlopsOf(part->forward);
    flops.backward += FlopsOf(part->backward_input) + FlopsOf(part->backward_weight);
  }
  return flops;
}

constexpr MicroBatchShape kSample = {.sequences = 1, .sequence_length = 4096, .expert_ranks = 64};

TEST(LayerOpsTest, ForwardOfEveryLayer_IsModelCosts) {
  const ModelConfig config = Preset("deepseek-v3");
  double total = 0;
  for (int64_t layer = -1; layer <= config.num_hidden_layers + 1; ++layer) {
    const double forward = FlopsOfLayer(config, layer, kSample, Recomputation::kSelective).forward;
    EXPECT_DOUBLE_EQ(forward, 4096 * ForwardFlops(config, layer, 4096, AttentionCount::kCausal))
        << layer;
    if (layer <= config.num_hidden_layers) total += forward;
  }
  EXPECT_NEAR(3 * total / 4096, 250.5e9, 0.1e9);
}

// What the published count leaves out: attention's backward makes the scores again (five products
// where twice the forward's are four), and selective recomputation makes q_b and kv_b again.
TEST(LayerOpsTest, BackwardOfEveryLayer_IsTwiceTheForwardAndWhatIsMadeAgain) {
  const ModelConfig config = Preset("deepseek-v3");
  const auto tokens = static_cast<double>(kSample.tokens());
  const auto heads = static_cast<double>(config.num_attention_heads);
  const double scores =
      tokens * heads * static_cast<double>(config.qk_head_dim()) * 4096;  // 2 * S / 2
  const double again =
      2 * tokens * heads *
      static_cast<double>(config.q_lora_rank * config.qk_head_dim() +
                          config.kv_lora_rank * (config.qk_nope_head_dim + config.v_head_dim));
  for (int64_t layer = -1; layer <= config.num_hidden_layers + 1; ++layer) {
    const bool attends = layer >= 0 && layer != config.num_hidden_layers;
    const auto of = [&](Recomputation recomputation) {
      return FlopsOfLayer(config, layer, kSample, recomputation);
    };
    const PassFlops none = of(Recomputation::kNone);
    EXPECT_DOUBLE_EQ(none.backward, 2 * none.forward + (attends ? scores : 0)) << layer;
    EXPECT_DOUBLE_EQ(of(Recomputation::kSelective).backward, none.backward + (attends ? again : 0))
        << layer;
    if (attends && layer < config.num_hidden_layers) {
      EXPECT_DOUBLE_EQ(of(Recomputation::kFull).backward, none.backward + none.forward) << layer;
    }
  }
}

TEST(LayerOpsTest, Imbalance_GrowsTheExpertsRowsAlone) {
  const ModelConfig config = Preset("deepseek-v3");
  MicroBatchShape shape = kSample;
  EXPECT_EQ(ExpertRowsOf(config, shape).local_experts, 4);
  EXPECT_EQ(ExpertRowsOf(config, shape).rows, 8192);
  shape.imbalance = 1.25;
  EXPECT_EQ(ExpertRowsOf(config, shape).rows, 10240);
  const LayerOps even = OpsOfLayer(config, 10, kSample, Recipe("fp8"));
  const LayerOps uneven = OpsOfLayer(config, 10, shape, Recipe("fp8"));
  EXPECT_DOUBLE_EQ(FlopsOf(even.attention.forward), FlopsOf(uneven.attention.forward));
  EXPECT_LT(FlopsOf(even.mlp.forward), FlopsOf(uneven.mlp.forward));
}

TEST(LayerOpsTest, FewerPairsThanExperts_LeaveExpertsIdle) {
  const ModelConfig config = Preset("deepseek-v3");
  const ExpertRows rows = ExpertRowsOf(config, {.sequences = 1, .sequence_length = 2});
  EXPECT_EQ(rows.local_experts, 256);
  EXPECT_EQ(rows.pairs, 16);
  EXPECT_EQ(rows.busy_experts * rows.rows, 16);
}

TEST(ActivationBytesTest, MoreRecomputation_KeepsLess) {
  for (const char* recipe : {"fp32", "bf16", "fp8"}) {
    for (const int64_t layer : {0, 10, 62}) {
      const auto kept = [&](Recomputation recomputation) {
        return BytesOf(
            KeptActivations(Preset("deepseek-v3"), layer, kSample, Recipe(recipe), recomputation));
      };
      EXPECT_GT(kept(Recomputation::kNone), kept(Recomputation::kSelective)) << recipe;
      EXPECT_GT(kept(Recomputation::kSelective), kept(Recomputation::kFull)) << recipe;
    }
  }
}

// Every choice of groups, and of experts within them, once.
double CountedRanksPerToken(const ModelConfig& config, int64_t ranks) {
  const int64_t experts = config.n_routed_experts;
  const int64_t group_size = experts / config.n_group;
  int64_t choices = 0;
  int64_t reached = 0;
  for (uint32_t groups = 0; groups < (1u << config.n_group); ++groups) {
    if (__builtin_popcount(groups) != config.topk_group) continue;
    for (uint32_t chosen = 0; chosen < (1u << experts); ++chosen) {
      if (__builtin_popcount(chosen) != config.num_experts_per_tok) continue;
      std::set<int64_t> to;
      bool open = true;
      for (int64_t e = 0; e < experts; ++e) {
        if ((chosen >> e & 1) == 0) continue;
        open = open && (groups >> (e / group_size) & 1) != 0;
        to.insert(e * ranks / experts);
      }
      if (!open) continue;
      ++choices;
      reached += static_cast<int64_t>(to.size());
    }
  }
  return static_cast<double>(reached) / static_cast<double>(choices);
}

TEST(ExpertTrafficTest, RanksPerToken_IsTheMeanOverAllChoices) {
  ModelConfig config = Preset("toy");
  config.n_routed_experts = 12;
  for (const int64_t groups : {1, 2, 3, 6}) {
    config.n_group = groups;
    for (const int64_t kept : {int64_t{1}, (groups + 1) / 2, groups}) {
      config.topk_group = kept;
      for (const int64_t top_k : {1, 2}) {
        config.num_experts_per_tok = top_k;
        for (const int64_t ranks : {1, 2, 3, 6, 12}) {
          const int64_t held = 12 / ranks;
          const int64_t group_size = 12 / groups;
          if (held % group_size != 0 && group_size % held != 0) continue;  // runs cross groups
          EXPECT_NEAR(RanksPerToken(config, ranks), CountedRanksPerToken(config, ranks), 1e-9)
              << groups << " groups, " << kept << " kept, " << top_k << " chosen, " << ranks;
        }
      }
    }
  }
}

TEST(ExpertTrafficTest, DeepSeekV3_ReachesFourNodesAtMost) {
  const ModelConfig config = Preset("deepseek-v3");
  const double nodes = NodesPerToken(config, 64, 8);
  EXPECT_LT(nodes, 4);
  EXPECT_GT(nodes, 3.5);
  const double ranks = RanksPerToken(config, 64);
  EXPECT_GT(ranks, nodes);
  EXPECT_LT(ranks, 8);
  EXPECT_EQ(RanksPerToken(config, 1), 1);
}

TEST(ExpertTrafficTest, Fp8Dispatch_SendsCodesScalesAndRouting) {
  const TokenBytes bytes = TokenBytesOf(Preset("deepseek-v3"), Recipe("fp8"));
  EXPECT_EQ(bytes.combine_backward, 7168 + 56 * 4);
  EXPECT_EQ(bytes.dispatch_forward, bytes.combine_backward + 8 * 4 + 8 * 4);
  EXPECT_EQ(bytes.combine_forward, 2 * 7168);
}

}  // namespace
}  // namespace fathom::model
