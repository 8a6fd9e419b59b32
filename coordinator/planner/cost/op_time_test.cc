// Ops, fusion, exchanges, collectives and pairs, against figures worked out by hand.
#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "common/cluster/cluster_description.h"
#include "common/cluster/topology.h"
#include "common/model/expert_traffic.h"
#include "common/model/model_config.h"
#include "coordinator/planner/cost/exchange_time.h"
#include "coordinator/planner/cost/op_fusion.h"
#include "coordinator/planner/cost/op_rate.h"
#include "coordinator/planner/cost/pair_overlap.h"
#include "coordinator/planner/cost/reduce_time.h"
#include "gtest/gtest.h"

namespace fathom::planner {
namespace {

using model::Format;
using model::OpCall;

v1::MeasuredRate* AddRate(v1::DeviceProfile* profile, const char* op, const char* format,
                          double rate) {
  v1::MeasuredRate* out = profile->add_rates();
  out->set_op(op);
  out->set_format(format);
  out->set_rate(rate);
  return out;
}

void SetShape(v1::MeasuredRate* rate, int64_t m, int64_t n, int64_t k) {
  rate->set_m(m);
  rate->set_n(n);
  rate->set_k(k);
}

// 100 TFLOPS in BF16 and 200 in FP8, 1000 GB/s, 10 units, no launch time.
v1::DeviceProfile RoundDevice() {
  v1::DeviceProfile out;
  out.set_kind("round");
  out.set_bf16_tflops(100);
  out.set_fp8_tflops(200);
  out.set_memory_gigabytes_per_second(1000);
  out.set_compute_units(10);
  SetShape(AddRate(&out, "gemm", "e4m3", 100), 4096, 4096, 4096);
  SetShape(AddRate(&out, "gemm", "e4m3", 50), 4096, 4096, 256);
  SetShape(AddRate(&out, "gemm", "bf16", 80), 4096, 4096, 4096);
  SetShape(AddRate(&out, "attention_forward", "bf16", 50), 4096, 64, 64);
  SetShape(AddRate(&out, "attention_backward", "bf16", 40), 4096, 64, 64);
  AddRate(&out, "memory", "", 1000);
  return out;
}

OpRates Rates(const v1::DeviceProfile& profile, HeadWidths widths = {64, 64}) {
  absl::StatusOr<OpRates> rates = OpRates::Make(profile, Format::kE4M3, widths);
  EXPECT_TRUE(rates.ok()) << rates.status();
  return *std::move(rates);
}

OpCall Product(int64_t m, int64_t n, int64_t k, double bytes) {
  return {.op = "GemmFp8",
          .format = Format::kE4M3,
          .m = m,
          .n = n,
          .k = k,
          .flops = 2.0 * m * n * k,
          .bytes = bytes};
}

OpCall Rows(const char* op, const char* what, int64_t m, int64_t n, double bytes_per_element) {
  return {.op = op,
          .what = what,
          .m = m,
          .n = n,
          .k = 1,
          .bytes = static_cast<double>(m * n) * bytes_per_element,
          .fusable = true};
}

TEST(OpRates, MeasuredShape_TakesItsMeasuredRate) {
  const OpRates rates = Rates(RoundDevice());
  const BoundedTime time = rates.TimeOf(Product(4096, 4096, 4096, 1e6), {});
  EXPECT_DOUBLE_EQ(time.seconds, 2.0 * 4096 * 4096 * 4096 / 100e12);
  EXPECT_EQ(time.bound, Bound::kCompute);
}

TEST(OpRates, HalfTheComputeUnits_DoublesArithmeticAndNotMemory) {
  const OpRates rates = Rates(RoundDevice());
  const OpCall product = Product(4096, 4096, 4096, 1e6);
  EXPECT_DOUBLE_EQ(rates.TimeOf(product, {.compute_units = 0.5}).seconds,
                   2 * rates.TimeOf(product, {}).seconds);
  const OpCall rows = Rows("Add", "", 1000, 1000, 6);
  EXPECT_DOUBLE_EQ(rates.TimeOf(rows, {.compute_units = 0.5}).seconds, 6e-6);
  EXPECT_DOUBLE_EQ(rates.TimeOf(rows, {.memory = 0.5}).seconds, 12e-6);
}

TEST(OpRates, ManyBytes_AreMemoryBound) {
  const BoundedTime time = Rates(RoundDevice()).TimeOf(Product(4096, 4096, 4096, 1e10), {});
  EXPECT_GE(time.seconds, 1e10 / 1e12);
  EXPECT_EQ(time.bound, Bound::kMemory);
}

TEST(OpRates, ShapeBetween_LiesBetweenTheMeasuredOnes) {
  const OpRates rates = Rates(RoundDevice());
  double last = 0.25;
  for (const int64_t k : {300, 512, 1024, 2048, 4000}) {
    const double efficiency = rates.Efficiency(OpClass::kProduct, Format::kE4M3, 4096, 4096, k);
    EXPECT_GT(efficiency, last) << k;
    EXPECT_LT(efficiency, 0.5) << k;
    last = efficiency;
  }
  // Halfway by the logarithm.
  EXPECT_NEAR(rates.Efficiency(OpClass::kProduct, Format::kE4M3, 4096, 4096, 1024), 0.375, 1e-12);
}

TEST(OpRates, FewTiles_LeaveUnitsIdle) {
  const OpRates rates = Rates(RoundDevice());
  const OpCall one_tile = Product(128, 128, 4096, 1);
  const double efficiency = rates.Efficiency(OpClass::kProduct, Format::kE4M3, 128, 128, 4096);
  EXPECT_NEAR(rates.TimeOf(one_tile, {}).seconds, one_tile.flops / (200e12 * efficiency / 10),
              1e-15);
}

TEST(OpRates, AccumulationInFp32_AddsWhatItReadsAndWritesBeyondBf16) {
  const OpRates rates = Rates(RoundDevice());
  const double inputs = 2.0 * 4096 * 4096;
  const double outputs = 4096.0 * 4096;
  const double written = rates.TimeOf(Product(4096, 4096, 4096, inputs + 2 * outputs), {}).seconds;
  const double added = rates.TimeOf(Product(4096, 4096, 4096, inputs + 8 * outputs), {}).seconds;
  EXPECT_NEAR(added - written, 6 * outputs / 1e12, 1e-12);
}

TEST(OpRates, UnequalHeadWidths_ArePaddedUnlessMeasured) {
  v1::DeviceProfile profile = RoundDevice();
  OpCall call = {.op = "AttentionForward", .format = Format::kBf16, .m = 4096, .k = 4096};
  call.flops = 2.0 * 4096 * 2048 * (192 + 128);
  EXPECT_DOUBLE_EQ(Rates(profile, {192, 128}).TimeOf(call, {}).seconds,
                   2.0 * 4096 * 2048 * (192 + 192) / 50e12);
  SetShape(AddRate(&profile, "attention_forward", "bf16", 30), 4096, 192, 128);
  EXPECT_DOUBLE_EQ(Rates(profile, {192, 128}).TimeOf(call, {}).seconds, call.flops / 30e12);
}

TEST(OpRates, ProfileWithoutARate_IsRefusedByName) {
  v1::DeviceProfile profile = RoundDevice();
  profile.mutable_rates()->RemoveLast();
  const absl::Status status = OpRates::Make(profile, Format::kE4M3, {64, 64}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("memory"), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find("round"), absl::string_view::npos) << status;
}

TEST(OpFusion, NormThenQuantize_MovesTheNormOnlyOnce) {
  // Reads 2, writes 1 byte an element; the normed tensor in between stays on the chip.
  const model::OpCalls fused = FusedCalls(
      {Rows("RmsNormForward", "norm", 64, 256, 4), Rows("Quantize", "input", 64, 256, 3)}, 2);
  ASSERT_EQ(fused.size(), 1u);
  EXPECT_DOUBLE_EQ(fused[0].bytes, 64 * 256 * 3.0);
}

TEST(OpFusion, SwiGluWithBothQuantisations_ReadsItsInputOnce) {
  // [64, 512] in BF16 read; its codes and those of the output [64, 256] written.
  const model::OpCalls fused = FusedCalls({Rows("SwiGluForward", "swiglu", 64, 256, 6),
                                           Rows("Quantize", "kept gate and up", 64, 512, 3),
                                           Rows("Quantize", "swiglu output", 64, 256, 3)},
                                          2);
  ASSERT_EQ(fused.size(), 1u);
  EXPECT_DOUBLE_EQ(fused[0].bytes, 64 * (512 * 2 + 512 + 256.0));
}

TEST(OpFusion, OtherTensors_AreNotFused) {
  const model::OpCalls calls = {Rows("QuantizeTransposed", "gradient", 64, 256, 3),
                                Rows("QuantizeTransposed", "input", 64, 256, 3)};
  const model::OpCalls fused = FusedCalls(calls, 2);
  ASSERT_EQ(fused.size(), 2u);
  EXPECT_DOUBLE_EQ(model::BytesOf(fused), model::BytesOf(calls));
}

TEST(OpFusion, WholeLayer_KeepsItsFlopsAndNeverMovesMore) {
  v1::ModelSpec spec;
  spec.set_preset("deepseek-v3");
  const model::ModelConfig config = model::ResolveModel(spec).value();
  const model::PrecisionRecipe recipe = model::FindRecipe("fp8").value();
  const model::MicroBatchShape shape = {.sequence_length = 4096, .expert_ranks = 64};
  for (const int64_t layer : {-1, 0, 3, 61, 62}) {
    const model::LayerOps ops = model::OpsOfLayer(config, layer, shape, recipe);
    for (const model::PassOps* part : {&ops.attention, &ops.mlp, &ops.head}) {
      for (const auto* calls : {&part->forward, &part->backward_input, &part->backward_weight}) {
        const model::OpCalls fused = FusedCalls(*calls, 2);
        EXPECT_DOUBLE_EQ(model::FlopsOf(fused), model::FlopsOf(*calls)) << layer;
        EXPECT_LE(model::BytesOf(fused), model::BytesOf(*calls)) << layer;
        for (const OpCall& call : fused) EXPECT_GE(call.bytes, 0) << call.op << " " << call.what;
      }
    }
  }
}

TEST(PairOverlap, EverythingHidden_TakesTheComputeStream) {
  const LayerTimes layer = {.attention_forward = 4,
                            .attention_backward = 8,
                            .attention_weight = 2,
                            .mlp_forward = 4,
                            .mlp_backward = 4,
                            .mlp_weight = 3,
                            .dispatch_forward = 2,
                            .combine_forward = 4,
                            .combine_backward = 2,
                            .dispatch_backward = 4};
  const std::vector<LayerTimes> layers(3, layer);
  const StreamTimes pair = OverlappedPair(layers, layers);
  EXPECT_DOUBLE_EQ(pair.compute_s, 75);
  EXPECT_DOUBLE_EQ(pair.communication_s, 36);
  EXPECT_DOUBLE_EQ(pair.seconds, 75);
  // Alone, all of a forward's exchange is waited for; a backward's is in part under its weights.
  EXPECT_DOUBLE_EQ(ForwardAlone(layers).seconds, 3 * (4 + 2 + 4 + 4));
  EXPECT_DOUBLE_EQ(BackwardInputAlone(layers).seconds, 3 * (2 + 4 + 4 + 8));
  // combine 2; MLP 4; dispatch 4 under W 3; attention 8; then W 2 under the next combine 2.
  EXPECT_DOUBLE_EQ(BackwardAlone(layers).seconds, 3 * (2 + 4 + 4 + 8) + 2);
  EXPECT_DOUBLE_EQ(WeightAlone(layers).seconds, 15);
}

TEST(PairOverlap, SlowExchange_PacesThePair) {
  const LayerTimes layer = {.attention_forward = 1,
                            .attention_backward = 1,
                            .mlp_forward = 1,
                            .mlp_backward = 1,
                            .dispatch_forward = 10,
                            .combine_forward = 10,
                            .combine_backward = 10,
                            .dispatch_backward = 10};
  const StreamTimes pair = OverlappedPair({layer}, {layer});
  // Communication never stops; the backward's attention waits for its dispatch, which is not last.
  EXPECT_DOUBLE_EQ(pair.communication_s, 40);
  EXPECT_DOUBLE_EQ(pair.seconds, 40);
}

TEST(PairOverlap, SharedExpert_HidesTheDispatch) {
  LayerTimes layer = {.attention_forward = 1, .mlp_forward = 1, .dispatch_forward = 3};
  EXPECT_DOUBLE_EQ(ForwardAlone({layer}).seconds, 5);
  layer.shared_forward = 2;
  EXPECT_DOUBLE_EQ(ForwardAlone({layer}).seconds, 5);
  layer.shared_forward = 4;
  EXPECT_DOUBLE_EQ(ForwardAlone({layer}).seconds, 6);
}

TEST(PairOverlap, AnyTimes_LieBetweenTheBusierStreamAndTheSum) {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> seconds(0, 10);
  for (int i = 0; i < 200; ++i) {
    std::vector<LayerTimes> chunks[2];
    for (auto& chunk : chunks) {
      for (int n = static_cast<int>(random() % 5); n >= 0; --n) {
        chunk.push_back({seconds(random), seconds(random), seconds(random), seconds(random),
                         seconds(random), seconds(random), seconds(random), seconds(random),
                         seconds(random), seconds(random), seconds(random), seconds(random)});
      }
    }
    const StreamTimes pair = OverlappedPair(chunks[0], chunks[1]);
    EXPECT_GE(pair.seconds, std::max(pair.compute_s, pair.communication_s) - 1e-9);
    EXPECT_LE(pair.seconds, pair.compute_s + pair.communication_s + 1e-9);
    EXPECT_LE(BackwardInputAlone(chunks[1]).seconds, BackwardAlone(chunks[1]).seconds + 1e-9);
  }
}

model::ModelConfig Routed(int64_t experts, int64_t groups, int64_t kept, int64_t top_k) {
  model::ModelConfig out;
  out.n_routed_experts = experts;
  out.n_group = groups;
  out.topk_group = kept;
  out.num_experts_per_tok = top_k;
  out.hidden_size = 7168;
  return out;
}

TEST(ExpectedSites, FewExperts_MatchDrawsByHand) {
  // Two of four experts, each on its own site: always two.
  EXPECT_DOUBLE_EQ(ExpectedSites(Routed(4, 1, 1, 2), {0, 1, 2, 3}), 2);
  // Two sites of two: both in one site in 2 of 6 draws.
  EXPECT_NEAR(ExpectedSites(Routed(4, 1, 1, 2), {0, 0, 1, 1}), 2 - 2.0 / 6, 1e-12);
  // One group of two is kept, and the sites are the groups.
  EXPECT_NEAR(ExpectedSites(Routed(4, 2, 1, 2), {0, 0, 1, 1}), 1, 1e-12);
  EXPECT_NEAR(ExpectedSites(Routed(4, 2, 1, 2), {0, 1, 0, 1}), 2, 1e-12);
}

TEST(ExpectedSites, DeepSeekOnEightNodes_MatchesDraws) {
  const model::ModelConfig config = Routed(256, 8, 4, 8);
  std::vector<int> node(256);
  for (int e = 0; e < 256; ++e) node[e] = e < 40 ? 0 : 1 + (e - 40) / 36;  // uneven, across groups
  std::mt19937 random(11);
  std::vector<int> groups = {0, 1, 2, 3, 4, 5, 6, 7};
  double sites = 0;
  constexpr int kDraws = 40000;
  for (int i = 0; i < kDraws; ++i) {
    std::shuffle(groups.begin(), groups.end(), random);
    std::vector<int> experts;
    for (int g = 0; g < 4; ++g) {
      for (int e = 0; e < 32; ++e) experts.push_back(groups[g] * 32 + e);
    }
    std::shuffle(experts.begin(), experts.end(), random);
    std::vector<bool> hit(8, false);
    for (int k = 0; k < 8; ++k) hit[node[experts[k]]] = true;
    sites += static_cast<double>(std::count(hit.begin(), hit.end(), true));
  }
  EXPECT_NEAR(ExpectedSites(config, node), sites / kDraws, 0.02);
}

cluster::Topology Cluster(int nodes, int devices, int scale_up, const char* kind = "h800",
                          double nic_gigabits = 0) {
  v1::ClusterDescription description;
  description.set_api_version("fathom/v1");
  description.set_kind("Cluster");
  description.mutable_metadata()->set_name("test");
  v1::Pool* pool = description.mutable_spec()->add_pools();
  pool->set_name("gpu");
  pool->set_device(kind);
  pool->set_nodes(nodes);
  pool->set_devices_per_node(devices);
  pool->set_scale_up_devices(scale_up);
  pool->set_nic_gigabits_per_second(nic_gigabits);
  absl::StatusOr<v1::ClusterDescription> resolved = cluster::ResolveCluster(description);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  return cluster::Topology(resolved->spec());
}

std::vector<RankPlacement::Place> InOrder(int ranks, int per_node) {
  std::vector<RankPlacement::Place> out;
  for (int r = 0; r < ranks; ++r) out.push_back({r / per_node, r % per_node});
  return out;
}

TEST(ExchangeTime, DeepSeekGroup_TakesWhatTheMeasuredRateSays) {
  const model::ModelConfig config = Routed(256, 8, 4, 8);
  const cluster::Topology topology = Cluster(8, 8, 8);
  const GroupSpread spread = SpreadOf(config, topology, InOrder(64, 8));
  EXPECT_EQ(spread.domains, 8);
  EXPECT_EQ(spread.ranks_per_domain, 8);
  EXPECT_NEAR(spread.token_ranks, model::RanksPerToken(config, 64), 1e-9);
  EXPECT_NEAR(spread.token_domains, model::NodesPerToken(config, 64, 8), 1e-9);
  EXPECT_NEAR(spread.remote_domains, spread.token_domains * 7 / 8, 1e-9);
  EXPECT_LT(spread.token_domains, 4);
  // 51 GB/s (logical) of FP8 tokens of 7392 bytes.
  const BoundedTime time =
      ExchangeTime(topology.profile_of(0), 1, spread, {ExchangeKind::kDispatch, 4096, 7392, 1});
  EXPECT_NEAR(time.seconds, 4096 * 7392 * spread.token_domains / 51e9, 2e-5);
  EXPECT_EQ(time.bound, Bound::kNetwork);
}

TEST(ExchangeTime, OneDomain_UsesNoNetwork) {
  const model::ModelConfig config = Routed(64, 1, 1, 8);
  const cluster::Topology topology = Cluster(8, 8, 64, "gb200-nvl72");
  const GroupSpread spread = SpreadOf(config, topology, InOrder(64, 8));
  EXPECT_EQ(spread.domains, 1);
  EXPECT_DOUBLE_EQ(spread.remote_domains, 0);
  const BoundedTime time =
      ExchangeTime(topology.profile_of(0), 1, spread, {ExchangeKind::kDispatch, 4096, 7392, 1});
  EXPECT_EQ(time.bound, Bound::kScaleUp);
  EXPECT_GT(time.seconds, 0);
}

TEST(ExchangeTime, MoreLoadIsSlower_MoreBandwidthIsNot) {
  const model::ModelConfig config = Routed(256, 8, 4, 8);
  double last = 1e9;
  for (const double nic : {100.0, 200.0, 400.0, 800.0}) {
    const cluster::Topology topology = Cluster(8, 8, 8, "h800", nic);
    const GroupSpread spread = SpreadOf(config, topology, InOrder(64, 8));
    const v1::DeviceProfile& profile = topology.profile_of(0);
    const ExchangeLoad load = {ExchangeKind::kCombine, 4096, 14336, 1};
    const double seconds = ExchangeTime(profile, nic / 400, spread, load).seconds;
    EXPECT_LE(seconds, last) << nic;
    ExchangeLoad busier = load;
    busier.imbalance = 1.2;
    EXPECT_GT(ExchangeTime(profile, nic / 400, spread, busier).seconds, seconds);
    last = seconds;
  }
}

TEST(ReduceTime, FourNodesOfOne_SendThreeQuartersOverTheNetwork) {
  const cluster::Topology topology = Cluster(4, 8, 8);
  const std::vector<RankPlacement::Place> owners = {{0, 0}, {1, 0}, {2, 0}, {3, 0}};
  const RingShape ring = RingOf(topology, owners);
  EXPECT_EQ(ring.domains, 4);
  EXPECT_EQ(ring.ranks_per_domain, 1);
  const double rate = topology.Between(0, 0, 1, 0).gigabytes_per_second * 1e9;
  EXPECT_NEAR(ReduceScatterSeconds(ring, 4e9), 3e9 / rate, 1e-4);
  EXPECT_DOUBLE_EQ(ReduceScatterSeconds(RingOf(topology, {{0, 0}}), 4e9), 0);
}

TEST(ReduceTime, WholeNodes_ShareOutWhatLeavesThem) {
  const cluster::Topology topology = Cluster(4, 8, 8);
  const RingShape ring = RingOf(topology, InOrder(32, 8));
  const double within = 8e9 * 7 / 8 / (topology.Between(0, 0, 0, 1).gigabytes_per_second * 1e9);
  const double between =
      8e9 * 3 / 4 / 8 / (topology.Between(0, 0, 1, 0).gigabytes_per_second * 1e9);
  EXPECT_NEAR(ReduceScatterSeconds(ring, 8e9), std::max(within, between), 1e-3);
}

}  // namespace
}  // namespace fathom::planner
