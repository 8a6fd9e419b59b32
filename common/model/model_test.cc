#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/model/model_config.h"
#include "common/model/model_cost.h"
#include "common/model/parameter_layout.h"
#include "common/model/precision_recipe.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace fathom::model {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

ModelConfig PresetConfig(const std::string& name) {
  v1::ModelSpec spec;
  spec.set_preset(name);
  return ResolveModel(spec).value();
}

int64_t SizeOf(const std::vector<ParameterSpec>& specs, const std::string& part = "") {
  int64_t size = 0;
  for (const ParameterSpec& spec : specs) {
    if (spec.name.find(part) != std::string::npos) size += spec.size();
  }
  return size;
}

// From the shapes of arXiv 2412.19437, section 4.2.
TEST(DeepSeekV3Test, LayerTensors_HavePublishedSizes) {
  const ModelConfig config = PresetConfig("deepseek-v3");
  const auto moe = LayerParameters(config, 3);
  EXPECT_EQ(SizeOf(moe, "self_attn"), 187'107'328);
  EXPECT_EQ(SizeOf(moe, "q_a_proj"), 11'010'048);
  EXPECT_EQ(SizeOf(moe, "q_b_proj"), 37'748'736);
  EXPECT_EQ(SizeOf(moe, "kv_a_proj"), 4'128'768);
  EXPECT_EQ(SizeOf(moe, "kv_b_proj"), 16'777'216);
  EXPECT_EQ(SizeOf(moe, "o_proj"), 117'440'512);
  EXPECT_EQ(SizeOf(moe, "a_layernorm"), 2'048);
  EXPECT_EQ(SizeOf(moe, "experts.255."), 44'040'192);
  EXPECT_EQ(SizeOf(moe, "shared_experts"), 44'040'192);
  EXPECT_EQ(SizeOf(moe, "gate.weight"), 1'835'008);
  EXPECT_EQ(SizeOf(moe, "e_score_correction_bias"), 256);
  EXPECT_EQ(SizeOf(moe), 11'507'286'272);
  EXPECT_EQ(SizeOf(LayerParameters(config, 0), "mlp"), 396'361'728);
  EXPECT_EQ(SizeOf(LayerParameters(config, 2)), 583'483'392);
  EXPECT_EQ(SizeOf(LayerParameters(config, kEmbeddingLayer)), 926'679'040);
  EXPECT_EQ(SizeOf(LayerParameters(config, 61), "lm_head"), 926'679'040);
}

TEST(DeepSeekV3Test, Counts_ReproducePublishedTotals) {
  const ParameterCount count = CountParameters(PresetConfig("deepseek-v3"));
  EXPECT_EQ(count.total, 671'026'419'200);
  EXPECT_EQ(count.active, 37'552'297'472);  // 37.55B
  EXPECT_EQ(count.mtp, 11'610'068'224);     // about 11.61B
}

TEST(DeepSeekV3Test, FlopsPerToken_ReproducePublishedFigures) {
  const ModelConfig config = PresetConfig("deepseek-v3");
  int64_t matmuls = 0;
  for (int64_t layer = kEmbeddingLayer; layer <= config.num_hidden_layers; ++layer) {
    matmuls += MatmulParameters(config, layer);
  }
  EXPECT_NEAR(matmuls / 1e9, 36.62, 0.005);
  const auto gigaflops = [&](AttentionCount attention, bool with_mtp) {
    return TrainFlopsPerToken(config, 4096, attention, with_mtp) / 1e9;
  };
  EXPECT_NEAR(gigaflops(AttentionCount::kFull, false), 281.2, 0.1);
  EXPECT_NEAR(gigaflops(AttentionCount::kCausal, false), 250.5, 0.1);
  EXPECT_NEAR(gigaflops(AttentionCount::kFull, true), 291.8, 0.1);
  EXPECT_NEAR(gigaflops(AttentionCount::kCausal, true), 260.6, 0.1);
}

TEST(DeepSeekV3Test, Sizes_AreTheReportsTable) {
  const ModelConfig c = PresetConfig("deepseek-v3");
  EXPECT_EQ(c.vocab_size, 129280);
  EXPECT_EQ(c.num_attention_heads, 128);
  EXPECT_EQ(c.qk_head_dim(), 192);
  EXPECT_EQ(c.n_group, 8);
  EXPECT_EQ(c.topk_group, 4);
  EXPECT_EQ(c.num_experts_per_tok, 8);
  EXPECT_EQ(c.routed_scaling_factor, 2.5);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.rope_theta, 1e4);
  EXPECT_EQ(c.initializer_range, 0.006);
  EXPECT_EQ(c.num_nextn_predict_layers, 1);
  EXPECT_EQ(PresetSequenceLength("deepseek-v3"), 4096);
  EXPECT_FALSE(c.is_moe_layer(2));
  EXPECT_TRUE(c.is_moe_layer(3));
}

TEST(StateTest, OneRankOfTheReferenceCluster_HoldsWhatTheReportImplies) {
  // 8 MoE layers of 4 experts each on a rank come to about 3.27B parameters: 13.1 GB of FP32
  // gradients, and 8 bytes of optimizer state per parameter over all who share it.
  const ModelConfig config = PresetConfig("deepseek-v3");
  const auto layer = LayerParameters(config, 10);
  const int64_t one_expert = SizeOf(layer, "experts.7.");
  const int64_t parameters = 8 * (SizeOf(layer) - 252 * one_expert);
  EXPECT_NEAR(parameters / 1e9, 3.27, 0.01);
  const PrecisionRecipe recipe = FindRecipe("fp8").value();
  const StateBytes whole = StateOf({.parameters = parameters, .sharers = 1}, recipe);
  EXPECT_NEAR(whole.gradients / 1e9, 13.1, 0.05);
  EXPECT_EQ(whole.optimizer, 8 * parameters);
  EXPECT_EQ(whole.weights, 2 * parameters);
  const StateBytes shard = StateOf({.parameters = 10, .sharers = 4}, recipe);
  EXPECT_EQ(shard.optimizer, 3 * 8);  // the largest shard
  EXPECT_EQ((whole + shard).total(), whole.total() + shard.total());
}

TEST(SmallPresetsTest, Sizes_FitALaptop) {
  const ModelConfig tiny = PresetConfig("tiny");
  const ParameterCount count = CountParameters(tiny);
  EXPECT_GT(count.total, 3'000'000);
  EXPECT_LT(count.total, 5'000'000);
  EXPECT_GT(count.active, 1'200'000);
  EXPECT_LT(count.active, 1'900'000);
  const ModelConfig toy = PresetConfig("toy");
  EXPECT_LT(CountParameters(toy).total, 200'000);
  EXPECT_EQ(toy.num_hidden_layers, 8);
  for (const ModelConfig& config : {tiny, toy}) {
    EXPECT_GE(config.vocab_size, 257);  // bytes, and the end of a document
    EXPECT_EQ(config.vocab_size % 8, 0);
    EXPECT_EQ(config.first_k_dense_replace, 1);
    EXPECT_EQ(config.n_group, 4);
    EXPECT_EQ(config.num_nextn_predict_layers, 1);
  }
  EXPECT_EQ(PresetSequenceLength("tiny"), 256);
  EXPECT_EQ(PresetSequenceLength("toy"), 32);
  EXPECT_EQ(PresetSequenceLength("huge"), 0);
}

TEST(LayoutTest, EveryPreset_CountsWhatItLists) {
  for (const std::string& name : PresetNames()) {
    const ModelConfig config = PresetConfig(name);
    ASSERT_TRUE(CheckModel(config).ok()) << CheckModel(config);
    const std::vector<ParameterSpec> all = AllParameters(config);
    std::set<std::string> names;
    int64_t main = 0;
    int64_t mtp = 0;
    for (const ParameterSpec& spec : all) {
      EXPECT_TRUE(names.insert(spec.name).second) << spec.name;
      (spec.layer > config.num_hidden_layers ? mtp : main) += spec.size();
    }
    EXPECT_EQ(main, CountParameters(config).total) << name;
    EXPECT_EQ(mtp, CountParameters(config).mtp) << name;
  }
}

TEST(LayoutTest, Tensors_CarryTheirRole) {
  const ModelConfig config = PresetConfig("toy");
  int experts = 0;
  for (const ParameterSpec& spec : AllParameters(config)) {
    const bool norm = spec.name.find("norm") != std::string::npos;
    EXPECT_EQ(norm, spec.initializer == Initializer::kOnes) << spec.name;
    const bool bias = spec.name.find("correction_bias") != std::string::npos;
    EXPECT_EQ(bias, spec.kind == ParameterKind::kRouterBias) << spec.name;
    EXPECT_EQ(bias, spec.initializer == Initializer::kZeros) << spec.name;
    EXPECT_EQ(spec.weight_decay, !norm && !bias) << spec.name;
    const bool routed = spec.name.find(".experts.") != std::string::npos;
    EXPECT_EQ(routed, spec.kind == ParameterKind::kExpert) << spec.name;
    EXPECT_EQ(routed, spec.expert >= 0) << spec.name;
    if (norm || bias) {
      EXPECT_EQ(spec.rows, 1) << spec.name;
    }
    experts += routed;
  }
  EXPECT_EQ(experts, (7 + 1) * 8 * 3);
}

TEST(LayoutTest, GateAndUp_AreNeighbours) {
  const auto layer = LayerParameters(PresetConfig("toy"), 1);
  int pairs = 0;
  for (size_t i = 0; i < layer.size(); ++i) {
    const size_t at = layer[i].name.find("gate_proj");
    if (at == std::string::npos) continue;
    ASSERT_LT(i + 1, layer.size());
    EXPECT_EQ(layer[i + 1].name, layer[i].name.substr(0, at) + "up_proj.weight");
    EXPECT_EQ(layer[i + 1].rows, layer[i].rows);
    EXPECT_EQ(layer[i + 1].expert, layer[i].expert);
    ++pairs;
  }
  EXPECT_EQ(pairs, 9);  // eight routed, one shared
}

TEST(LayoutTest, MtpModule_SharesEmbeddingAndHead) {
  const ModelConfig config = PresetConfig("deepseek-v3");
  const auto mtp = LayerParameters(config, 62);
  EXPECT_EQ(mtp.front().name, "model.layers.61.enorm.weight");
  EXPECT_EQ(mtp.back().name, "model.layers.61.shared_head.norm.weight");
  std::map<std::string, const ParameterSpec*> by_name;
  for (const ParameterSpec& spec : mtp) by_name[spec.name] = &spec;
  const ParameterSpec* projection = by_name["model.layers.61.eh_proj.weight"];
  ASSERT_NE(projection, nullptr);
  EXPECT_EQ(projection->rows, 7168);
  EXPECT_EQ(projection->cols, 14336);
  EXPECT_EQ(by_name.count("model.layers.61.hnorm.weight"), 1);
  EXPECT_EQ(by_name.count("model.layers.61.embed_tokens.weight"), 0);
  EXPECT_EQ(by_name.count("model.layers.61.shared_head.head.weight"), 0);
  EXPECT_EQ(by_name.count("model.layers.61.mlp.experts.255.down_proj.weight"), 1);
}

TEST(ResolveModelTest, PresetWithOverrides_TakesTheOverrides) {
  v1::ModelSpec spec;
  spec.set_preset("tiny");
  spec.set_num_hidden_layers(12);
  spec.set_rope_theta(5e5);
  const ModelConfig config = ResolveModel(spec).value();
  EXPECT_EQ(config.num_hidden_layers, 12);
  EXPECT_EQ(config.rope_theta, 5e5);
  EXPECT_EQ(config.hidden_size, PresetConfig("tiny").hidden_size);
}

TEST(ResolveModelTest, ToSpec_SetsEveryFieldAndComesBack) {
  const ModelConfig config = PresetConfig("deepseek-v3");
  v1::ModelSpec spec = ToSpec(config, "deepseek-v3");
  const auto* descriptor = v1::ModelSpec::descriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    EXPECT_TRUE(v1::ModelSpec::GetReflection()->HasField(spec, descriptor->field(i)))
        << descriptor->field(i)->name();
  }
  spec.set_preset("");  // every field is given, so the preset is not needed
  const ModelConfig back = ResolveModel(spec).value();
  EXPECT_EQ(ToSpec(back, "").SerializeAsString(), spec.SerializeAsString());
  EXPECT_EQ(CountParameters(back).total, CountParameters(config).total);
}

TEST(ResolveModelTest, UnknownPreset_NamesTheKnown) {
  v1::ModelSpec spec;
  spec.set_preset("gpt");
  const auto status = ResolveModel(spec).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(StartsWith("preset: \"gpt\""), HasSubstr("deepseek-v3, tiny, toy")));
}

TEST(ResolveModelTest, NoPreset_NamesEachMissingField) {
  const v1::ModelSpec full = ToSpec(PresetConfig("toy"), "");
  const auto* descriptor = v1::ModelSpec::descriptor();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const auto* field = descriptor->field(i);
    if (field->name() == "preset") continue;
    v1::ModelSpec spec = full;
    spec.GetReflection()->ClearField(&spec, field);
    EXPECT_THAT(std::string(ResolveModel(spec).status().message()),
                StartsWith(field->name() + ": missing"));
  }
}

struct BadModel {
  std::function<void(ModelConfig&)> change;
  std::vector<std::string> message;  // its beginning, and what it also says
};

TEST(CheckModelTest, BadValue_IsNamedWithARemedy) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  const int64_t huge = std::numeric_limits<int64_t>::max();
  const std::vector<BadModel> table = {
      {[](auto& c) { c.vocab_size = 0; }, {"vocab_size: 0", "from 1 to 16777216"}},
      {[=](auto& c) { c.vocab_size = huge; }, {"vocab_size: 9223372036854775807"}},
      {[](auto& c) { c.hidden_size = -8; }, {"hidden_size: -8", "choose"}},
      {[=](auto& c) { c.hidden_size = huge; }, {"hidden_size: 9223"}},
      {[](auto& c) { c.num_hidden_layers = 0; }, {"num_hidden_layers: 0"}},
      {[](auto& c) { c.num_hidden_layers = 5000; }, {"num_hidden_layers: 5000", "to 4096"}},
      {[](auto& c) { c.first_k_dense_replace = -1; }, {"first_k_dense_replace: -1", "from 0"}},
      {[](auto& c) { c.first_k_dense_replace = 62; },
       {"first_k_dense_replace: 62", "61 layers", "at most 61"}},
      {[](auto& c) { c.intermediate_size = 0; }, {"intermediate_size: 0"}},
      {[](auto& c) { c.moe_intermediate_size = 0; }, {"moe_intermediate_size: 0"}},
      {[](auto& c) { c.num_attention_heads = 0; }, {"num_attention_heads: 0"}},
      {[](auto& c) { c.q_lora_rank = 0; }, {"q_lora_rank: 0"}},
      {[](auto& c) { c.kv_lora_rank = -1; }, {"kv_lora_rank: -1"}},
      {[](auto& c) { c.qk_nope_head_dim = 0; }, {"qk_nope_head_dim: 0"}},
      {[](auto& c) { c.qk_rope_head_dim = 0; }, {"qk_rope_head_dim: 0"}},
      {[](auto& c) { c.qk_rope_head_dim = 63; }, {"qk_rope_head_dim: 63", "odd", "even"}},
      {[](auto& c) { c.v_head_dim = 0; }, {"v_head_dim: 0"}},
      {[](auto& c) { c.n_routed_experts = 1; }, {"n_routed_experts: 1", "from 2"}},
      {[](auto& c) { c.n_routed_experts = 8192; }, {"n_routed_experts: 8192", "to 4096"}},
      {[](auto& c) { c.n_shared_experts = 0; }, {"n_shared_experts: 0"}},
      {[](auto& c) { c.num_experts_per_tok = 0; }, {"num_experts_per_tok: 0"}},
      {[](auto& c) { c.n_group = 0; }, {"n_group: 0"}},
      {[](auto& c) { c.n_group = 7; }, {"n_group: 7", "does not divide", "256"}},
      {[](auto& c) { c.n_group = 256; }, {"n_group: 256", "fewer than two", "at most 128"}},
      {[](auto& c) { c.topk_group = 0; }, {"topk_group: 0"}},
      {[](auto& c) { c.topk_group = 9; }, {"topk_group: 9", "n_group", "at most 8"}},
      {[](auto& c) { c.num_experts_per_tok = 129; },
       {"num_experts_per_tok: 129", "128 experts", "at most 128"}},
      {[](auto& c) { c.num_nextn_predict_layers = 2; }, {"num_nextn_predict_layers: 2", "to 1"}},
      {[](auto& c) { c.routed_scaling_factor = 0; }, {"routed_scaling_factor: 0", "above 0"}},
      {[=](auto& c) { c.routed_scaling_factor = nan; }, {"routed_scaling_factor: nan"}},
      {[](auto& c) { c.rms_norm_eps = -1e-6; }, {"rms_norm_eps: -1e-06"}},
      {[=](auto& c) { c.rope_theta = infinity; }, {"rope_theta: inf"}},
      {[](auto& c) { c.initializer_range = 2; }, {"initializer_range: 2", "at most 1"}},
      {[](auto& c) {
         c.hidden_size = kMaxDimension;
         c.moe_intermediate_size = kMaxDimension;
         c.n_routed_experts = 4096;
       },
       {"num_hidden_layers: 61", "parameters", "choose smaller sizes"}},
  };
  for (const BadModel& bad : table) {
    ModelConfig config = PresetConfig("deepseek-v3");
    bad.change(config);
    const absl::Status status = CheckModel(config);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.message.front();
    EXPECT_THAT(std::string(status.message()), StartsWith(bad.message.front()));
    for (const std::string& part : bad.message) {
      EXPECT_THAT(std::string(status.message()), HasSubstr(part));
    }
  }
}

TEST(CheckModelTest, LargestAllowed_DoesNotOverflowCounts) {
  ModelConfig config = PresetConfig("deepseek-v3");
  config.hidden_size = int64_t{1} << 20;
  config.num_hidden_layers = 1000;
  config.vocab_size = kMaxDimension;
  config.n_routed_experts = 4096;
  ASSERT_TRUE(CheckModel(config).ok()) << CheckModel(config);
  const ParameterCount count = CountParameters(config);
  EXPECT_GT(count.total, int64_t{1} << 53);
  EXPECT_LE(count.total, kMaxParameters);
}

TEST(PrecisionTest, Recipes_FollowTheReportsTable) {
  for (const std::string& name : RecipeNames()) EXPECT_EQ(FindRecipe(name).value().name, name);
  const PrecisionRecipe fp8 = FindRecipe("fp8").value();
  EXPECT_EQ(fp8.products, Format::kE4M3);
  EXPECT_EQ(fp8.dispatch, Format::kE4M3);
  EXPECT_EQ(fp8.combine, Format::kBf16);
  EXPECT_EQ(fp8.optimizer_moments, Format::kBf16);
  EXPECT_EQ(FindRecipe("bf16").value().products, Format::kBf16);
  EXPECT_EQ(FindRecipe("fp32").value().optimizer_moments, Format::kFp32);
  EXPECT_THAT(std::string(FindRecipe("int4").status().message()),
              AllOf(StartsWith("precision: \"int4\""), HasSubstr("fp32, bf16, fp8")));
  EXPECT_EQ(BytesOf(Format::kFp64) + BytesOf(Format::kFp32) + BytesOf(Format::kBf16) +
                BytesOf(Format::kE4M3),
            15);
}

}  // namespace
}  // namespace fathom::model
