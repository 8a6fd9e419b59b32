// What common/model says of every layer's ops and bytes, held against the layers themselves: real
// stages of one layer each run on a backend that writes down its calls, and their pool is counted.
#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/model/activation_bytes.h"
#include "common/model/expert_traffic.h"
#include "common/model/layer_ops.h"
#include "gtest/gtest.h"
#include "kernels/ops.h"
#include "worker/model/model_harness.h"
#include "worker/model/recording_ops.h"
#include "worker/model/token_packing.h"

namespace fathom::model {
namespace {

struct Case {
  std::string name;
  ModelConfig model;
  std::string recipe;
  bool even = false;  // every token goes to every expert
  int64_t sequences = 2;
  int64_t sequence_length = 8;
};

// Wider than a scaling tile, no size a multiple of another, two shared experts.
ModelConfig OddModel() {
  ModelConfig model = SmallModel();
  model.vocab_size = 150;
  model.hidden_size = 136;
  model.intermediate_size = 70;
  model.moe_intermediate_size = 34;
  model.num_attention_heads = 3;
  model.q_lora_rank = 26;
  model.kv_lora_rank = 18;
  model.qk_nope_head_dim = 14;
  model.qk_rope_head_dim = 6;
  model.v_head_dim = 10;
  model.n_routed_experts = 6;
  model.n_group = 3;
  model.topk_group = 2;
  model.num_experts_per_tok = 3;
  model.n_shared_experts = 2;
  return model;
}

ModelConfig Toy() {
  v1::ModelSpec spec;
  spec.set_preset("toy");
  return *ResolveModel(spec);
}

ModelConfig Even(ModelConfig model) {
  model.n_group = 1;
  model.topk_group = 1;
  model.num_experts_per_tok = model.n_routed_experts;
  return model;
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const std::string recipe : {"fp32", "bf16", "fp8"}) {
    cases.push_back({absl::StrCat("toy_", recipe), Toy(), recipe, false, 2, 24});
    cases.push_back({absl::StrCat("odd_", recipe), OddModel(), recipe, false, 2, 67});
    cases.push_back({absl::StrCat("even_", recipe), Even(OddModel()), recipe, true, 2, 70});
    ModelConfig bare = Even(SmallModel());
    bare.n_shared_experts = 0;
    bare.num_nextn_predict_layers = 0;
    bare.num_hidden_layers = 2;
    cases.push_back({absl::StrCat("bare_", recipe), bare, recipe, true, 2, 9});
  }
  return cases;
}

// A call without how many rows it has, where these are the experts'.
using Key = std::tuple<std::string, Format, int64_t, int64_t, int64_t>;

Key KeyOf(const std::string& op, Format format, int64_t m, int64_t n, int64_t k) {
  return {op, format, m, n, k};
}

// The size that grows with an expert's rows becomes 0; `rows` gets it.
Key GroupedKey(const std::string& op, Format format, int64_t m, int64_t n, int64_t k,
               bool weight_gradients, int64_t* rows) {
  if (op == "Scale") {
    *rows = 1;
    return KeyOf(op, format, 1, 0, 1);
  }
  if ((op == "Gemm" || op == "GemmFp8") && weight_gradients) {
    *rows = k;
    return KeyOf(op, format, m, n, 0);
  }
  *rows = m;
  return KeyOf(op, format, 0, n, k);
}

struct Tally {
  std::map<Key, int64_t> calls;
  std::map<Key, int64_t> expert_rows;  // summed over calls
  int64_t bytes = 0;
};

std::string ToString(const std::map<Key, int64_t>& counts) {
  std::string out;
  for (const auto& [key, count] : counts) {
    const auto& [op, format, m, n, k] = key;
    absl::StrAppend(&out, "  ", count, " x ", op, " format ", static_cast<int>(format), " ", m, "x",
                    n, "x", k, "\n");
  }
  return out;
}

void Compare(const std::vector<RecordedOp>& recorded, const OpCalls& said, bool even,
             bool weight_gradients, const std::string& what) {
  std::map<Key, int64_t> grouped;  // what an expert's call looks like
  if (!even) {
    for (const OpCall& call : said) {
      int64_t rows = 0;
      if (call.grouped) {
        grouped[GroupedKey(call.op, call.format, call.m, call.n, call.k, weight_gradients, &rows)];
      }
    }
  }
  Tally real;
  Tally model;
  const auto count = [&](const std::string& op, Format format, int64_t m, int64_t n, int64_t k,
                         int64_t times, Tally* tally) {
    int64_t rows = 0;
    const Key key = GroupedKey(op, format, m, n, k, weight_gradients, &rows);
    if (grouped.contains(key) && !(op == "Scale" && m != 1)) {
      tally->expert_rows[key] += rows * times;
    } else {
      tally->calls[KeyOf(op, format, m, n, k)] += times;
    }
  };
  for (const RecordedOp& op : recorded) {
    count(op.op, op.format, op.m, op.n, op.k, 1, &real);
    real.bytes += op.bytes;
  }
  for (const OpCall& call : said) {
    count(call.op, call.format, call.m, call.n, call.k, call.count, &model);
    model.bytes += static_cast<int64_t>(call.bytes);
  }
  EXPECT_EQ(real.calls, model.calls) << what << "\nran:\n"
                                     << ToString(real.calls) << "said:\n"
                                     << ToString(model.calls);
  EXPECT_EQ(real.expert_rows, model.expert_rows) << what << "\nran:\n"
                                                 << ToString(real.expert_rows) << "said:\n"
                                                 << ToString(model.expert_rows);
  if (even) {
    EXPECT_EQ(real.bytes, model.bytes) << what;
  }
}

// A model whose stages hold one layer each, the first also the embedding, the last head and MTP.
class LayerOpsParity : public testing::TestWithParam<Case> {
 protected:
  LayerOpsParity()
      : backend_(kernels::CreateCpuOps()), ops_(CreateRecordingOps(backend_.get(), &recorded_)) {
    const Case& c = GetParam();
    options_.model = c.model;
    options_.recipe = RecipeNamed(c.recipe);
    options_.sequences = c.sequences;
    options_.sequence_length = c.sequence_length;
    options_.layers_per_stage.assign(c.model.num_hidden_layers, 1);
    model_ = std::make_unique<ModelHarness>(options_, ops_.get(), &exchange_);
    shape_ = {.sequences = c.sequences, .sequence_length = c.sequence_length};
    samples_ = model_->Samples(0, 0);
    boundary_ = model_->NewBoundary();
  }

  std::vector<int64_t> LayersOf(size_t stage) const {
    std::vector<int64_t> layers;
    if (stage == 0) layers.push_back(-1);
    layers.push_back(static_cast<int64_t>(stage));
    if (stage + 1 == model_->stages()) {
      const int64_t last = options_.model.num_hidden_layers;
      for (int64_t i = 0; i <= options_.model.num_nextn_predict_layers; ++i) {
        layers.push_back(last + i);
      }
    }
    return layers;
  }

  PassOps SaidOf(size_t stage) const {
    PassOps sum = StageCopies(options_.model, stage == 0, stage + 1 == model_->stages(), shape_,
                              options_.recipe);
    for (const int64_t layer : LayersOf(stage)) {
      const LayerOps ops = OpsOfLayer(options_.model, layer, shape_, options_.recipe);
      for (const PassOps* part : {&ops.attention, &ops.mlp, &ops.head}) {
        const auto append = [](const OpCalls& from, OpCalls* to) {
          to->insert(to->end(), from.begin(), from.end());
        };
        append(part->forward, &sum.forward);
        append(part->backward_input, &sum.backward_input);
        append(part->backward_weight, &sum.backward_weight);
      }
    }
    return sum;
  }

  void Forward(size_t stage) {
    ModelHarness::RunToEnd(
        model_->stage(stage).Forward(0, samples_.data(), boundary_, boundary_, true).get());
  }
  void Backward(size_t stage, WeightWork* deferred) {
    ModelHarness::RunToEnd(model_->stage(stage).Backward(0, boundary_, boundary_, deferred).get());
  }

  std::vector<RecordedOp> recorded_;
  std::unique_ptr<kernels::Ops> backend_;
  std::unique_ptr<kernels::Ops> ops_;
  HarnessOptions options_;
  LocalExchange exchange_;
  std::unique_ptr<ModelHarness> model_;
  MicroBatchShape shape_;
  std::vector<int32_t> samples_;
  kernels::Matrix boundary_;
};

INSTANTIATE_TEST_SUITE_P(Models, LayerOpsParity, testing::ValuesIn(Cases()),
                         [](const auto& tested) { return tested.param.name; });

TEST_P(LayerOpsParity, EveryPassOfEveryStage_RunsTheOpsThatTheModelLists) {
  for (size_t stage = 0; stage < model_->stages(); ++stage) {
    const PassOps said = SaidOf(stage);
    const std::string what = absl::StrCat(GetParam().name, " stage ", stage);
    const bool even = GetParam().even;
    recorded_.clear();
    Forward(stage);
    Compare(recorded_, said.forward, even, false, what + " forward");
    recorded_.clear();
    WeightWork work;
    Backward(stage, &work);
    Compare(recorded_, said.backward_input, even, false, what + " backward for the input");
    recorded_.clear();
    for (const auto& entry : work) entry();
    Compare(recorded_, said.backward_weight, even, true, what + " backward for the weights");
  }
}

TEST_P(LayerOpsParity, RefreshedWeights_RunTheOpsThatTheModelLists) {
  for (size_t stage = 0; stage < model_->stages(); ++stage) {
    OpCalls said;
    for (const int64_t layer : LayersOf(stage)) {
      const OpCalls ops = RefreshOps(options_.model, layer, 1, options_.recipe);
      said.insert(said.end(), ops.begin(), ops.end());
    }
    recorded_.clear();
    model_->stage(stage).RefreshWeights();
    Compare(recorded_, said, /*even=*/true, false, absl::StrCat("stage ", stage));
  }
}

TEST_P(LayerOpsParity, PoolAfterEachPass_HoldsWhatTheModelSays) {
  for (size_t stage = 0; stage < model_->stages(); ++stage) {
    int64_t kept = 0;
    int64_t deferred = 0;
    for (const int64_t layer : LayersOf(stage)) {
      kept += BytesOf(KeptActivations(options_.model, layer, shape_, options_.recipe,
                                      Recomputation::kSelective));
      deferred += BytesOf(DeferredActivations(options_.model, layer, shape_, options_.recipe));
    }
    const Stage& real = model_->stage(stage);
    const std::string what = absl::StrCat(GetParam().name, " stage ", stage);
    const int64_t before = real.pool_bytes().in_use;
    Forward(stage);
    EXPECT_EQ(real.pool_bytes().in_use - before, kept) << what << " after its forward";
    WeightWork work;
    Backward(stage, &work);
    // Codes of an expert's rows begin at multiples of 64 bytes and their scales are of whole tiles,
    // so that rows shared out unevenly take a little more or less.
    int64_t ragged = 0;
    if (options_.recipe.products == Format::kE4M3 && !GetParam().even) {
      const ModelConfig& c = options_.model;
      ragged =
          c.n_routed_experts * (4 * 64 + 4 * (2 * c.hidden_size + 3 * c.moe_intermediate_size));
    }
    EXPECT_NEAR(real.pool_bytes().in_use - before, deferred, ragged)
        << what << " before its weight work";
    work.clear();
    EXPECT_EQ(real.pool_bytes().in_use, before) << what;
  }
}

// A stage of one layer runs embedding, layer, MTP and head; each meets what the others keep.
TEST_P(LayerOpsParity, PeakOfThePool_IsThatOfTheLayerThatNeedsMost) {
  for (size_t stage = 0; stage < model_->stages(); ++stage) {
    const std::vector<int64_t> layers = LayersOf(stage);
    std::vector<int64_t> kept;
    for (const int64_t layer : layers) {
      kept.push_back(BytesOf(KeptActivations(options_.model, layer, shape_, options_.recipe,
                                             Recomputation::kSelective)));
    }
    int64_t forward = 0;
    int64_t backward = 0;
    int64_t below = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
      const PeakBytes peak = PeakBytesOf(options_.model, layers[i], shape_, options_.recipe);
      forward = std::max(forward, below + peak.forward);
      backward = std::max(backward, below + peak.backward);
      below += kept[i];
    }
    const Stage& real = model_->stage(stage);
    const std::string what = absl::StrCat(GetParam().name, " stage ", stage);
    const int64_t before = real.pool_bytes().in_use;
    Forward(stage);
    const auto forward_peak = static_cast<double>(real.pool_bytes().peak - before);
    EXPECT_NEAR(static_cast<double>(forward) / forward_peak, 1, 0.1) << what << " forward";
    Backward(stage, nullptr);
    const auto peak = static_cast<double>(real.pool_bytes().peak - before);
    EXPECT_NEAR(static_cast<double>(std::max(forward, backward)) / peak, 1, 0.1)
        << what << " backward";
  }
}

TEST_P(LayerOpsParity, MessagesOfAToken_HaveTheBytesThatTheModelSays) {
  const auto numerics = NumericsOf(options_.recipe, 1);
  ASSERT_TRUE(numerics.ok());
  const TokenBytes said = TokenBytesOf(options_.model, options_.recipe);
  const auto real = [&](Lane lane) {
    return MaxMessageBytes(*numerics, options_.model.hidden_size,
                           options_.model.num_experts_per_tok, 1, lane);
  };
  EXPECT_EQ(said.dispatch_forward, real(Lane::kDispatchForward));
  EXPECT_EQ(said.combine_forward, real(Lane::kCombineForward));
  EXPECT_EQ(said.combine_backward, real(Lane::kCombineBackward));
  EXPECT_EQ(said.dispatch_backward, real(Lane::kDispatchBackward));
}

}  // namespace
}  // namespace fathom::model
