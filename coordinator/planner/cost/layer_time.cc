#include "coordinator/planner/cost/layer_time.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status_util.h"
#include "common/model/expert_traffic.h"
#include "common/model/parameter_layout.h"
#include "coordinator/planner/cost/op_fusion.h"
#include "coordinator/planner/cost/stage_layers.h"

namespace fathom::planner {
namespace {

using model::OpCall;
using model::OpCalls;

constexpr double kTile = 128;  // rows
constexpr double kLeastMemoryShare = 0.5;

// A pass of a mixture-of-experts layer's MLP, cut where its tokens travel.
struct ExpertPass {
  OpCalls before;   // dispatch
  OpCalls shared;   // needs no dispatched tokens
  OpCalls experts;  // between dispatch and combine
  OpCalls after;    // combine
};

bool IsExpert(const OpCall& call) { return absl::StrContains(call.what, "expert"); }

bool IsBeforeDispatch(const OpCall& call) {
  const absl::string_view what = call.what;
  return what == "mlp norm" || what == "mlp input" || what == "mlp gradient" || what == "router";
}

ExpertPass Cut(const OpCalls& calls) {
  ExpertPass out;
  size_t at = 0;
  while (at < calls.size() && IsBeforeDispatch(calls[at])) out.before.push_back(calls[at++]);
  size_t first = at;
  while (first < calls.size() && !IsExpert(calls[first])) ++first;
  size_t last = calls.size();
  while (last > first && !IsExpert(calls[last - 1])) --last;
  out.shared.assign(calls.begin() + at, calls.begin() + first);
  out.experts.assign(calls.begin() + first, calls.begin() + last);
  out.after.assign(calls.begin() + last, calls.end());
  return out;
}

bool IsProduct(OpClass op) { return op == OpClass::kProduct || op == OpClass::kGroupedProduct; }

const char* SuffixOf(OpClass op) {
  if (IsProduct(op)) return " products";
  return op == OpClass::kMemory ? " elementwise" : " core";
}

// What an accelerator adds where the house's CPU ranks pack and unpack messages: dispatched rows,
// one per token, are laid out by expert, one per pair.
OpCall Permutation(const OpCalls& experts, double row_bytes) {
  OpCall call{.op = "Permute", .what = "expert rows"};
  for (const OpCall& other : experts) {
    if (!IsProduct(ClassOf(other))) continue;
    call.m = other.m * other.count;
    call.n = 1;
    call.bytes = 2 * static_cast<double>(call.m) * row_bytes;
    break;
  }
  return call;
}

void Count(const BoundedTime& time, double flops, double bytes, NamedTime* part) {
  part->seconds += time.seconds;
  part->flops += flops;
  part->bytes += bytes;
  part->by_bound[time.bound] += time.seconds;
}

}  // namespace

absl::StatusOr<LayerTimer> LayerTimer::Make(const model::ModelConfig& config,
                                            const model::PrecisionRecipe& recipe,
                                            const model::MicroBatchShape& shape,
                                            model::Recomputation recomputation, DeviceSite site) {
  const v1::DeviceProfile& profile = *site.profile;
  model::PrecisionRecipe used = recipe;
  if (used.products == model::Format::kE4M3 && profile.fp8_tflops() <= 0) {
    FATHOM_ASSIGN_OR_RETURN(used, model::FindRecipe("bf16"));
  }
  FATHOM_ASSIGN_OR_RETURN(OpRates rates, OpRates::Make(profile, used.products,
                                                       {config.qk_head_dim(), config.v_head_dim}));
  LayerTimer out(config, used, shape, recomputation, std::move(site), std::move(rates));
  if (out.site_.spread.ranks > 1) {
    const double units = std::max(1, profile.compute_units());
    const double left = std::max(1.0, units - profile.communication_units()) / units;
    out.beside_.compute_units = left;
    out.alone_.compute_units = left;
  }
  return out;
}

OpCall LayerTimer::OnDevice(OpCall call) const {
  if (ClassOf(call) != OpClass::kGroupedProduct) return call;
  const auto rows = static_cast<double>(model::ExpertRowsOf(config_, shape_).rows);
  call.flops *= 1 + (kTile - 1) / 2 / rows;
  return call;
}

LayerTimer::PassSeconds LayerTimer::Time(const std::string& name, const OpCalls& calls,
                                         NamedTimes* parts) const {
  PassSeconds out;
  for (const OpCall& call : FusedCalls(calls, model::BytesOf(recipe_.activations))) {
    const OpCall padded = OnDevice(call);
    const BoundedTime beside = rates_.TimeOf(padded, beside_);
    out.beside += beside.seconds;
    out.alone += rates_.TimeOf(padded, alone_).seconds;
    Count(beside, call.flops, call.bytes, &(*parts)[absl::StrCat(name, SuffixOf(ClassOf(call)))]);
  }
  return out;
}

void LayerTimer::AddPass(const std::string& name, const OpCalls& calls, double LayerTimes::*time,
                         LayerCost* cost) const {
  const PassSeconds seconds = Time(name, calls, &cost->parts);
  cost->beside.*time += seconds.beside;
  cost->alone.*time += seconds.alone;
}

void LayerTimer::AddAttention(const model::PassOps& ops, LayerCost* cost) const {
  AddPass("attention forward", ops.forward, &LayerTimes::attention_forward, cost);
  AddPass("attention backward", ops.backward_input, &LayerTimes::attention_backward, cost);
  AddPass("attention weights", ops.backward_weight, &LayerTimes::attention_weight, cost);
}

void LayerTimer::AddDense(const model::PassOps& ops, const char* name, LayerCost* cost) const {
  AddPass(absl::StrCat(name, " forward"), ops.forward, &LayerTimes::mlp_forward, cost);
  AddPass(absl::StrCat(name, " backward"), ops.backward_input, &LayerTimes::mlp_backward, cost);
  AddPass(absl::StrCat(name, " weights"), ops.backward_weight, &LayerTimes::mlp_weight, cost);
}

void LayerTimer::AddExpertPass(const OpCalls& calls, const Direction& direction, int64_t row_bytes,
                               LayerCost* cost) const {
  ExpertPass pass = Cut(calls);
  pass.experts.insert(pass.experts.begin(),
                      Permutation(pass.experts, static_cast<double>(row_bytes)));
  const std::string suffix = absl::StrCat(" ", direction.name);
  AddPass(absl::StrCat("router", suffix), pass.before, direction.attention, cost);
  AddPass(absl::StrCat("shared expert", suffix), pass.shared, direction.shared, cost);
  AddPass(absl::StrCat("experts", suffix), pass.experts, direction.mlp, cost);
  AddPass(absl::StrCat("router", suffix), pass.after, direction.attention, cost);
}

void LayerTimer::AddExperts(const model::PassOps& ops, LayerCost* cost) const {
  const model::TokenBytes bytes = model::TokenBytesOf(config_, recipe_);
  const Direction forward = {"forward", &LayerTimes::attention_forward, &LayerTimes::shared_forward,
                             &LayerTimes::mlp_forward};
  const Direction backward = {"backward", &LayerTimes::attention_backward,
                              &LayerTimes::shared_backward, &LayerTimes::mlp_backward};
  AddExpertPass(ops.forward, forward, bytes.dispatch_forward, cost);
  auto begin = ops.backward_input.begin();
  if (recomputation_ == model::Recomputation::kFull) {
    const auto again = begin + static_cast<std::ptrdiff_t>(ops.forward.size());
    AddExpertPass({begin, again}, backward, bytes.dispatch_forward, cost);
    begin = again;
  }
  AddExpertPass({begin, ops.backward_input.end()}, backward, bytes.combine_backward, cost);
  AddPass("experts weights", ops.backward_weight, &LayerTimes::mlp_weight, cost);
  AddExchange(cost);
}

ExchangeLoad LayerTimer::LoadOf(ExchangeKind kind, int64_t bytes_per_token) const {
  return {.kind = kind,
          .tokens = static_cast<double>(shape_.tokens()),
          .bytes_per_token = static_cast<double>(bytes_per_token),
          .imbalance = shape_.imbalance};
}

void LayerTimer::AddExchange(LayerCost* cost) const {
  const model::TokenBytes bytes = model::TokenBytesOf(config_, recipe_);
  const auto add = [&](const char* name, ExchangeKind kind, int64_t bytes_per_token,
                       double LayerTimes::*time) {
    const ExchangeLoad load = LoadOf(kind, bytes_per_token);
    const BoundedTime one = ExchangeTime(*site_.profile, site_.nic_share, site_.spread, load);
    cost->alone.*time += one.seconds;
    cost->beside.*time += one.seconds;
    if (one.seconds > 0) {
      Count(one, 0, load.tokens * load.bytes_per_token * site_.spread.token_domains,
            &cost->parts[name]);
    }
  };
  add("dispatch forward", ExchangeKind::kDispatch, bytes.dispatch_forward,
      &LayerTimes::dispatch_forward);
  add("combine forward", ExchangeKind::kCombine, bytes.combine_forward,
      &LayerTimes::combine_forward);
  if (recomputation_ == model::Recomputation::kFull) {
    add("dispatch again", ExchangeKind::kDispatch, bytes.dispatch_forward,
        &LayerTimes::combine_backward);
  }
  add("combine backward", ExchangeKind::kDispatch, bytes.combine_backward,
      &LayerTimes::combine_backward);
  add("dispatch backward", ExchangeKind::kCombine, bytes.dispatch_backward,
      &LayerTimes::dispatch_backward);
}

double LayerTimer::MemoryShareBeside(const LayerCost& cost) const {
  const model::TokenBytes bytes = model::TokenBytesOf(config_, recipe_);
  double moved = 0;
  for (const int64_t one : {bytes.dispatch_forward, bytes.combine_forward, bytes.combine_backward,
                            bytes.dispatch_backward}) {
    moved += ExchangeMemoryBytes(site_.spread, LoadOf(ExchangeKind::kDispatch, one));
  }
  const StreamTimes pair = OverlappedPair({cost.beside}, {cost.beside});
  const double seconds = std::max(pair.compute_s, pair.communication_s);
  return std::max(kLeastMemoryShare, 1 - rates_.MemorySeconds(moved) / seconds);
}

std::vector<LayerCost> LayerTimer::CostOnce(int64_t layer) const {
  const int64_t layers = config_.num_hidden_layers;
  const model::LayerOps ops = model::OpsOfLayer(config_, layer, shape_, recipe_, recomputation_);
  std::vector<LayerCost> out(1);
  AddAttention(ops.attention, &out[0]);
  if (layer == model::kEmbeddingLayer) {
    AddDense(ops.mlp, "embedding", &out[0]);
  } else if (layer == layers) {
    AddDense(ops.mlp, "head", &out[0]);
  } else if (config_.is_moe_layer(layer)) {
    AddExperts(ops.mlp, &out[0]);
  } else {
    AddDense(ops.mlp, "dense mlp", &out[0]);
  }
  if (layer > layers) {
    out.emplace_back();
    AddDense(ops.head, "head", &out[1]);
  }
  return out;
}

std::vector<LayerCost> LayerTimer::Cost(int64_t layer) {
  beside_.memory = 1;
  std::vector<LayerCost> cost = CostOnce(layer);
  if (cost[0].beside.dispatch_forward <= 0) return cost;
  beside_.memory = MemoryShareBeside(cost[0]);
  return CostOnce(layer);
}

std::vector<const LayerCost*> LayerTimer::Layer(int64_t layer) {
  const int64_t kind = FirstAlike(config_, layer);
  auto found = known_.find(kind);
  if (found == known_.end()) found = known_.emplace(kind, Cost(kind)).first;
  std::vector<const LayerCost*> out;
  for (const LayerCost& cost : found->second) out.push_back(&cost);
  return out;
}

double LayerTimer::RefreshSeconds(int64_t layer) const {
  double seconds = 0;
  for (const OpCall& call : model::RefreshOps(config_, layer, shape_.expert_ranks, recipe_)) {
    seconds += rates_.TimeOf(call, DeviceShare()).seconds;
  }
  return seconds;
}

double LayerTimer::UpdateSeconds(double parameters) const {
  // Gradient read; master and both moments read and written; the compute copy written.
  const auto moment = static_cast<double>(model::BytesOf(recipe_.optimizer_moments));
  const auto weight = static_cast<double>(model::BytesOf(recipe_.activations));
  return rates_.MemorySeconds(parameters * (4 + 2 * 4 + 2 * 2 * moment + weight)) +
         rates_.launch_s();
}

}  // namespace fathom::planner
