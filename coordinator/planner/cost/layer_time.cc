#include "coordinator/planner/cost/layer_time.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/status_util.h"
#include "common/calibration/op_time_names.h"
#include "common/model/expert_traffic.h"
#include "common/model/parameter_layout.h"
#include "coordinator/planner/cost/op_fusion.h"

namespace fathom::planner {
namespace {

using model::OpCall;
using model::OpCalls;

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
  const bool measured = profile.op_times().ops_size() > 0;
  model::PrecisionRecipe used = recipe;
  if (!measured && used.products == model::Format::kE4M3 && profile.fp8_tflops() <= 0) {
    FATHOM_ASSIGN_OR_RETURN(used, model::FindRecipe("bf16"));
  }
  LayerTimer out(config, used, shape, recomputation, std::move(site));
  if (measured) {
    out.calibrated_.emplace(profile.op_times());
    return out;
  }
  FATHOM_ASSIGN_OR_RETURN(OpRates rates, OpRates::Make(profile, used.products));
  out.rates_.emplace(std::move(rates));
  const double units = std::max(1, profile.compute_units());
  out.shares_.beside = std::max(1.0, units - profile.communication_units()) / units;
  return out;
}

absl::StatusOr<LayerTimer::PassSeconds> LayerTimer::Time(const std::string& name,
                                                         const OpCalls& calls,
                                                         NamedTimes* parts) const {
  PassSeconds out;
  if (calibrated()) {
    FATHOM_ASSIGN_OR_RETURN(out.alone, calibrated_->Seconds(calls));
    out.beside = out.alone;
    Count({out.alone, Bound::kCompute}, model::FlopsOf(calls), model::BytesOf(calls),
          &(*parts)[name]);
    return out;
  }
  for (const OpCall& call : FusedCalls(calls, model::BytesOf(recipe_.activations))) {
    const BoundedTime beside = rates_->TimeOf(call, shares_.beside);
    out.beside += beside.seconds;
    out.alone += rates_->TimeOf(call, shares_.alone).seconds;
    Count(beside, call.flops, call.bytes, &(*parts)[absl::StrCat(name, SuffixOf(ClassOf(call)))]);
  }
  return out;
}

absl::Status LayerTimer::AddAttention(const model::PassOps& ops, LayerCost* cost) const {
  NamedTimes* parts = &cost->parts;
  FATHOM_ASSIGN_OR_RETURN(const PassSeconds forward, Time("attention forward", ops.forward, parts));
  FATHOM_ASSIGN_OR_RETURN(const PassSeconds input,
                          Time("attention backward", ops.backward_input, parts));
  FATHOM_ASSIGN_OR_RETURN(const PassSeconds weight,
                          Time("attention weights", ops.backward_weight, parts));
  cost->beside.attention_forward += forward.beside;
  cost->alone.attention_forward += forward.alone;
  cost->beside.attention_backward += input.beside;
  cost->alone.attention_backward += input.alone;
  cost->beside.attention_weight += weight.beside;
  cost->alone.attention_weight += weight.alone;
  return absl::OkStatus();
}

absl::Status LayerTimer::AddDense(const model::PassOps& ops, const char* name,
                                  LayerCost* cost) const {
  NamedTimes* parts = &cost->parts;
  FATHOM_ASSIGN_OR_RETURN(const PassSeconds forward,
                          Time(absl::StrCat(name, " forward"), ops.forward, parts));
  FATHOM_ASSIGN_OR_RETURN(const PassSeconds input,
                          Time(absl::StrCat(name, " backward"), ops.backward_input, parts));
  FATHOM_ASSIGN_OR_RETURN(const PassSeconds weight,
                          Time(absl::StrCat(name, " weights"), ops.backward_weight, parts));
  cost->beside.mlp_forward += forward.beside;
  cost->alone.mlp_forward += forward.alone;
  cost->beside.mlp_backward += input.beside;
  cost->alone.mlp_backward += input.alone;
  cost->beside.mlp_weight += weight.beside;
  cost->alone.mlp_weight += weight.alone;
  return absl::OkStatus();
}

absl::Status LayerTimer::AddExperts(const model::PassOps& ops, LayerCost* cost) const {
  NamedTimes* parts = &cost->parts;
  const model::TokenBytes bytes = model::TokenBytesOf(config_, recipe_);
  struct Times {
    double* attention;
    double* shared;
    double* mlp;
  };
  const auto add = [&](const OpCalls& calls, const char* direction, double row_bytes,
                       const Times& beside, const Times& alone) -> absl::Status {
    ExpertPass pass = Cut(calls);
    if (!calibrated()) {
      pass.experts.insert(pass.experts.begin(), Permutation(pass.experts, row_bytes));
    }
    const auto one = [&](const char* what, const OpCalls& part, double* to_beside,
                         double* to_alone) -> absl::Status {
      FATHOM_ASSIGN_OR_RETURN(const PassSeconds time,
                              Time(absl::StrCat(what, " ", direction), part, parts));
      *to_beside += time.beside;
      *to_alone += time.alone;
      return absl::OkStatus();
    };
    FATHOM_RETURN_IF_ERROR(one("router", pass.before, beside.attention, alone.attention));
    FATHOM_RETURN_IF_ERROR(one("shared expert", pass.shared, beside.shared, alone.shared));
    FATHOM_RETURN_IF_ERROR(one("experts", pass.experts, beside.mlp, alone.mlp));
    return one("router", pass.after, beside.attention, alone.attention);
  };
  LayerTimes& b = cost->beside;
  LayerTimes& a = cost->alone;
  const Times backward_beside = {&b.attention_backward, &b.shared_backward, &b.mlp_backward};
  const Times backward_alone = {&a.attention_backward, &a.shared_backward, &a.mlp_backward};
  FATHOM_RETURN_IF_ERROR(add(ops.forward, "forward", static_cast<double>(bytes.dispatch_forward),
                             {&b.attention_forward, &b.shared_forward, &b.mlp_forward},
                             {&a.attention_forward, &a.shared_forward, &a.mlp_forward}));
  OpCalls backward = ops.backward_input;
  if (recomputation_ == model::Recomputation::kFull) {
    const auto again = backward.begin() + static_cast<std::ptrdiff_t>(ops.forward.size());
    FATHOM_RETURN_IF_ERROR(add({backward.begin(), again}, "backward",
                               static_cast<double>(bytes.dispatch_forward), backward_beside,
                               backward_alone));
    backward.erase(backward.begin(), again);
  }
  FATHOM_RETURN_IF_ERROR(add(backward, "backward", static_cast<double>(bytes.combine_backward),
                             backward_beside, backward_alone));
  FATHOM_ASSIGN_OR_RETURN(const PassSeconds weight,
                          Time("experts weights", ops.backward_weight, parts));
  b.mlp_weight += weight.beside;
  a.mlp_weight += weight.alone;
  return AddExchange(cost);
}

absl::StatusOr<BoundedTime> LayerTimer::Exchange(ExchangeKind kind, double bytes_per_token) const {
  const ExchangeLoad load = {kind, static_cast<double>(shape_.tokens()), bytes_per_token,
                             shape_.imbalance};
  if (!calibrated()) return ExchangeTime(*site_.profile, site_.nic_share, site_.spread, load);
  if (site_.spread.ranks <= 1) return BoundedTime{};
  const double bytes = load.tokens * load.bytes_per_token * site_.spread.token_ranks;
  FATHOM_ASSIGN_OR_RETURN(const double seconds,
                          calibrated_->Seconds(OpWork{
                              .op = calibration::kExchange,
                              .format = "",
                              .count = static_cast<double>(site_.spread.ranks),
                              .bytes = bytes * shape_.imbalance,
                          }));
  return BoundedTime{seconds, Bound::kMemory};
}

absl::Status LayerTimer::AddExchange(LayerCost* cost) const {
  const model::TokenBytes bytes = model::TokenBytesOf(config_, recipe_);
  const auto add = [&](const char* name, ExchangeKind kind, int64_t bytes_per_token,
                       double LayerTimes::*time) -> absl::Status {
    FATHOM_ASSIGN_OR_RETURN(const BoundedTime one,
                            Exchange(kind, static_cast<double>(bytes_per_token)));
    cost->beside.*time += one.seconds;
    cost->alone.*time += one.seconds;
    if (one.seconds > 0) {
      Count(one, 0,
            static_cast<double>(shape_.tokens() * bytes_per_token) * site_.spread.token_domains,
            &cost->parts[name]);
    }
    return absl::OkStatus();
  };
  FATHOM_RETURN_IF_ERROR(add("dispatch forward", ExchangeKind::kDispatch, bytes.dispatch_forward,
                             &LayerTimes::dispatch_forward));
  FATHOM_RETURN_IF_ERROR(add("combine forward", ExchangeKind::kCombine, bytes.combine_forward,
                             &LayerTimes::combine_forward));
  if (recomputation_ == model::Recomputation::kFull) {
    FATHOM_RETURN_IF_ERROR(add("dispatch again", ExchangeKind::kDispatch, bytes.dispatch_forward,
                               &LayerTimes::combine_backward));
  }
  FATHOM_RETURN_IF_ERROR(add("combine backward", ExchangeKind::kDispatch, bytes.combine_backward,
                             &LayerTimes::combine_backward));
  return add("dispatch backward", ExchangeKind::kCombine, bytes.dispatch_backward,
             &LayerTimes::dispatch_backward);
}

absl::StatusOr<std::vector<LayerCost>> LayerTimer::Cost(int64_t layer) const {
  const int64_t layers = config_.num_hidden_layers;
  const model::LayerOps ops = model::OpsOfLayer(config_, layer, shape_, recipe_, recomputation_);
  std::vector<LayerCost> out(1);
  FATHOM_RETURN_IF_ERROR(AddAttention(ops.attention, &out[0]));
  if (layer == model::kEmbeddingLayer) {
    FATHOM_RETURN_IF_ERROR(AddDense(ops.mlp, "embedding", &out[0]));
  } else if (layer == layers) {
    FATHOM_RETURN_IF_ERROR(AddDense(ops.mlp, "head", &out[0]));
  } else if (config_.is_moe_layer(layer)) {
    FATHOM_RETURN_IF_ERROR(AddExperts(ops.mlp, &out[0]));
  } else {
    FATHOM_RETURN_IF_ERROR(AddDense(ops.mlp, "dense mlp", &out[0]));
  }
  if (layer > layers) {
    out.emplace_back();
    FATHOM_RETURN_IF_ERROR(AddDense(ops.head, "head", &out[1]));
  }
  return out;
}

absl::StatusOr<std::vector<const LayerCost*>> LayerTimer::Layer(int64_t layer) {
  // Dense layers are alike, and so are those with experts.
  int64_t kind = layer;
  if (layer >= 0 && layer < config_.num_hidden_layers) {
    kind = config_.is_moe_layer(layer) ? config_.first_k_dense_replace : 0;
  }
  auto found = known_.find(kind);
  if (found == known_.end()) {
    FATHOM_ASSIGN_OR_RETURN(std::vector<LayerCost> cost, Cost(kind));
    found = known_.emplace(kind, std::move(cost)).first;
  }
  std::vector<const LayerCost*> out;
  for (const LayerCost& cost : found->second) out.push_back(&cost);
  return out;
}

absl::StatusOr<LayerCost> LayerTimer::Copies(bool has_embedding, bool has_head) const {
  LayerCost out;
  FATHOM_RETURN_IF_ERROR(AddDense(
      model::StageCopies(config_, has_embedding, has_head, shape_, recipe_), "copies", &out));
  return out;
}

absl::StatusOr<double> LayerTimer::RefreshSeconds(int64_t layer) const {
  const OpCalls calls = model::RefreshOps(config_, layer, shape_.expert_ranks, recipe_);
  if (calibrated()) return calibrated_->Seconds(calls);
  double seconds = 0;
  for (const OpCall& call : calls) seconds += rates_->TimeOf(call, 1).seconds;
  return seconds;
}

absl::StatusOr<double> LayerTimer::UpdateSeconds(double parameters) const {
  // Gradient read; master and both moments read and written; the compute copy written.
  const auto moment = static_cast<double>(model::BytesOf(recipe_.optimizer_moments));
  const auto weight = static_cast<double>(model::BytesOf(recipe_.activations));
  const double bytes = parameters * (4 + 2 * 4 + 2 * 2 * moment + weight);
  if (calibrated()) {
    return calibrated_->Seconds(OpWork{.op = "AdamW", .format = "", .bytes = bytes});
  }
  return rates_->MemorySeconds(bytes) + rates_->launch_s();
}

}  // namespace fathom::planner
