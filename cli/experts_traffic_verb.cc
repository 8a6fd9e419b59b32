#include "cli/experts_traffic_verb.h"

#include <cstdint>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/cluster_file.h"
#include "cli/experts_file.h"
#include "cli/render.h"
#include "cli/routing_trace_file.h"
#include "cli/value.h"
#include "common/base/status_util.h"
#include "common/cluster/cluster_description.h"
#include "common/cluster/topology.h"
#include "common/model/expert_traffic.h"
#include "common/model/model_config.h"
#include "common/model/precision_recipe.h"
#include "coordinator/planner/routing_traffic.h"

namespace fathom::cli {
namespace {

using planner::ExchangeTraffic;
using planner::GroupLinks;
using planner::LayerTraffic;
using planner::RoutingTrace;
using planner::RoutingTraffic;
using planner::TokenSizes;

// As asked, else those of DeepSeek-V3 in FP8.
absl::StatusOr<TokenSizes> SizesOf(const ExpertsTrafficOptions& options) {
  v1::ModelSpec spec;
  spec.set_preset("deepseek-v3");
  FATHOM_ASSIGN_OR_RETURN(const model::ModelConfig config, model::ResolveModel(spec));
  FATHOM_ASSIGN_OR_RETURN(const model::PrecisionRecipe recipe, model::FindRecipe("fp8"));
  const model::TokenBytes bytes = model::TokenBytesOf(config, recipe);
  return TokenSizes{options.dispatch_bytes > 0 ? options.dispatch_bytes : bytes.dispatch_forward,
                    options.combine_bytes > 0 ? options.combine_bytes : bytes.combine_forward};
}

Value OrNull(double ratio) { return ratio > 0 ? Value(ratio) : Value(); }

Value ValueOfExchange(const ExchangeTraffic& exchange) {
  Value out = Value::List();
  Value in = Value::List();
  for (const planner::LinkBytes& bytes : exchange.links) {
    out.Add(bytes.out);
    in.Add(bytes.in);
  }
  Value value = Value::Object();
  value.Set("seconds", exchange.seconds).Set("busiest_link", TextOrNull(exchange.busiest));
  value.Set("nic_max_over_mean", OrNull(exchange.nic_max_over_mean));
  value.Set("out_bytes", std::move(out)).Set("in_bytes", std::move(in));
  return value;
}

// Adds to what names the layer.
Value ValueOfLayer(const LayerTraffic& layer, Value value) {
  Value device_tokens = Value::List();
  for (const int64_t tokens : layer.device_tokens) device_tokens.Add(tokens);
  value.Set("tokens", layer.tokens).Set("device_tokens", std::move(device_tokens));
  value.Set("device_max_over_mean", OrNull(layer.device_max_over_mean));
  value.Set("domains_per_token", layer.domains_per_token).Set("domains_max", layer.domains_max);
  value.Set("tokens_over_limit", layer.tokens_over_limit);
  value.Set("dispatch", ValueOfExchange(layer.dispatch));
  value.Set("combine", ValueOfExchange(layer.combine));
  return value;
}

Value ValueOfTraffic(const RoutingTrace& trace, const GroupLinks& group, const TokenSizes& sizes,
                     const RoutingTraffic& traffic) {
  Value links = Value::List();
  for (const planner::Link& link : group.links()) {
    Value one = Value::Object();
    one.Set("name", link.name).Set("gigabytes_per_second", link.gigabytes_per_second);
    links.Add(std::move(one));
  }
  Value layers = Value::List();
  for (size_t layer = 0; layer < traffic.layers.size(); ++layer) {
    layers.Add(ValueOfLayer(traffic.layers[layer], Value::Object().Set("layer", layer)));
  }
  Value value = Value::Object();
  value.Set("experts", trace.experts).Set("ranks", group.ranks());
  value.Set("scale_up_domains", group.domains());
  value.Set("domain_limit", trace.topk_group > 0 ? Value(trace.topk_group) : Value());
  value.Set("dispatch_bytes_per_token", sizes.dispatch);
  value.Set("combine_bytes_per_token", sizes.combine);
  value.Set("links", std::move(links)).Set("layers", std::move(layers));
  value.Set("total", ValueOfLayer(traffic.total, Value::Object()));
  return value;
}

std::string RatioText(double ratio) { return ratio > 0 ? absl::StrFormat("%.3f", ratio) : "-"; }

Row RowOf(const std::string& name, const LayerTraffic& layer) {
  Row row;
  row.name = name;
  row.cells = {name,
               absl::StrCat(layer.tokens),
               absl::StrFormat("%.3f", layer.domains_per_token),
               absl::StrCat(layer.domains_max),
               absl::StrCat(layer.tokens_over_limit),
               RatioText(layer.device_max_over_mean),
               RatioText(layer.dispatch.nic_max_over_mean),
               absl::StrFormat("%.3f", layer.dispatch.seconds * 1e3),
               absl::StrFormat("%.3f", layer.combine.seconds * 1e3),
               layer.dispatch.busiest.empty() ? "-" : layer.dispatch.busiest,
               layer.combine.busiest.empty() ? "-" : layer.combine.busiest};
  return row;
}

void PrintForPeople(const RoutingTrace& trace, const GroupLinks& group, const TokenSizes& sizes,
                    const RoutingTraffic& traffic, Session& session) {
  session.out() << absl::StrFormat(
      "%d experts on %d ranks in %d scale-up domains; a token is %d B on its way and %d B back\n",
      trace.experts, group.ranks(), group.domains(), sizes.dispatch, sizes.combine);
  Table table;
  table.columns = {
      {"LAYER", false, true},        {"TOKENS", false, true},      {"DOMAINS/TOKEN", false, true},
      {"MOST", false, true},         {"OVER LIMIT", false, true},  {"DEVICE MAX/MEAN", false, true},
      {"NIC MAX/MEAN", false, true}, {"DISPATCH MS", false, true}, {"COMBINE MS", false, true},
      {"BUSIEST IN DISPATCH"},       {"BUSIEST IN COMBINE", true}};
  for (size_t layer = 0; layer < traffic.layers.size(); ++layer) {
    table.rows.push_back(RowOf(absl::StrCat(layer), traffic.layers[layer]));
  }
  table.rows.push_back(RowOf("all", traffic.total));
  session.out() << RenderTable(table, session.format());
}

}  // namespace

absl::Status RunExpertsTraffic(const ExpertsTrafficOptions& options, Session& session) {
  FATHOM_ASSIGN_OR_RETURN(const v1::ClusterDescription given,
                          LoadClusterFile(session.AbsolutePath(options.cluster)));
  const auto cluster = cluster::ResolveCluster(given);
  if (!cluster.ok()) return WithContext(cluster.status(), options.cluster);
  FATHOM_ASSIGN_OR_RETURN(RoutingTrace trace,
                          LoadRoutingTrace(session.AbsolutePath(options.trace)));
  if (options.layers > static_cast<int>(trace.layers.size())) {
    return absl::InvalidArgumentError(absl::StrCat("--layers ", options.layers, ": ", options.trace,
                                                   " has ", trace.layers.size()));
  }
  if (options.layers > 0) trace.layers.resize(static_cast<size_t>(options.layers));
  planner::SlotsOfLayers slots;
  if (!options.placement.empty()) {
    FATHOM_ASSIGN_OR_RETURN(slots, LoadPlacementFile(session.AbsolutePath(options.placement)));
  } else {
    auto runs = planner::EqualRuns(trace.experts, trace.ranks());
    if (!runs.ok()) return WithContext(runs.status(), options.trace);
    slots = *std::move(runs);
  }
  const cluster::Topology topology(cluster->spec());
  const auto places = planner::FirstDevices(topology, trace.ranks());
  if (!places.ok()) {
    return WithContext(places.status(), absl::StrCat(options.trace, " on ", options.cluster));
  }
  const GroupLinks group(topology, *places);
  FATHOM_ASSIGN_OR_RETURN(const TokenSizes sizes, SizesOf(options));
  const auto traffic = planner::PredictRoutingTraffic(trace, slots, group, sizes);
  if (!traffic.ok()) {
    return WithContext(traffic.status(),
                       options.placement.empty() ? options.trace : options.placement);
  }
  if (session.for_people()) {
    PrintForPeople(trace, group, sizes, *traffic, session);
  } else {
    session.out() << RenderOne(options.trace, ValueOfTraffic(trace, group, sizes, *traffic),
                               session.format());
  }
  return absl::OkStatus();
}

}  // namespace fathom::cli
