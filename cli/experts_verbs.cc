#include "cli/experts_verbs.h"

#include <algorithm>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/experts_file.h"
#include "cli/render.h"
#include "common/base/status_util.h"
#include "coordinator/planner/expert_placement.h"

namespace fathom::cli {
namespace {

using planner::ExpertPlacement;
using planner::ExpertShape;

Value ListOf(const std::vector<int>& numbers) {
  Value list = Value::List();
  for (int number : numbers) list.Add(number);
  return list;
}

const char* ModeOf(const ExpertShape& shape) {
  return shape.hierarchical() ? "hierarchical" : "global";
}

// "5 6 | 5 7 | 8 4": the devices, node by node.
std::string SlotsText(const std::vector<int>& physical, const ExpertShape& shape) {
  std::string text;
  const int slots = shape.slots_per_device();
  const int node_slots = shape.replicas / shape.nodes;
  for (int slot = 0; slot < shape.replicas; ++slot) {
    if (slot > 0) {
      absl::StrAppend(&text, slot % node_slots == 0 ? " || " : slot % slots == 0 ? " | " : " ");
    }
    absl::StrAppend(&text, physical[slot]);
  }
  return text;
}

Value ValueOfLayers(const std::vector<ExpertPlacement>& layers, const ExpertsOptions& options,
                    const ExpertShape& shape) {
  Value list = Value::List();
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    const ExpertPlacement& placement = layers[layer];
    Value one = Value::Object();
    one.Set("layer", layer);
    one.Set("physical_to_logical", ListOf(placement.physical_to_logical));
    one.Set("counts", ListOf(placement.counts));
    one.Set("device_max_over_mean", placement.device_max_over_mean);
    one.Set("moved", placement.moved.has_value() ? Value(*placement.moved) : Value());
    list.Add(std::move(one));
  }
  Value value = Value::Object();
  value.Set("algorithm", options.algorithm).Set("mode", ModeOf(shape));
  value.Set("layers", std::move(list));
  return value;
}

void PrintForPeople(const std::vector<ExpertPlacement>& layers, const ExpertsOptions& options,
                    const ExpertShape& shape, Session& session) {
  session.out() << absl::StrFormat(
      "%s placement (%s): %d experts in %d groups, %d replicas on %d devices of %d nodes, %d on "
      "each device\n",
      ModeOf(shape), options.algorithm, shape.experts, shape.groups, shape.replicas, shape.devices,
      shape.nodes, shape.slots_per_device());
  Table table;
  // One layer is read slot by slot; of many, first how they are balanced.
  const bool wide = layers.size() > 1;
  table.columns = {{"LAYER", false, true},       {"MAX/MEAN", false, true}, {"MOVED", false, true},
                   {"MOST COPIES", false, true}, {"EXPERT", false, true},   {"DEVICES", wide}};
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    const ExpertPlacement& placement = layers[layer];
    const auto most = std::max_element(placement.counts.begin(), placement.counts.end());
    Row row;
    row.name = absl::StrCat(layer);
    row.cells = {
        row.name,
        absl::StrFormat("%.4f", placement.device_max_over_mean),
        placement.moved.has_value() ? absl::StrCat(*placement.moved, "/", shape.replicas) : "-",
        absl::StrCat(*most),
        absl::StrCat(most - placement.counts.begin()),
        SlotsText(placement.physical_to_logical, shape)};
    table.rows.push_back(std::move(row));
  }
  session.out() << RenderTable(table, session.format());
}

}  // namespace

absl::Status RunExpertsPlan(const ExpertsOptions& options, Session& session) {
  FATHOM_ASSIGN_OR_RETURN(const ExpertsFile file, LoadExpertsFile(options.file));
  const std::string source = options.file == "-" ? "standard input" : options.file;
  planner::PlacementOptions placement_options;
  placement_options.algorithm = options.algorithm == "eplb"
                                    ? planner::PlacementAlgorithm::kEplb
                                    : planner::PlacementAlgorithm::kBalanced;
  placement_options.tolerance = options.tolerance;
  FATHOM_RETURN_IF_ERROR(
      WithContext(CheckExpertShape(file.shape, placement_options.algorithm), source));
  std::vector<ExpertPlacement> layers;
  for (size_t layer = 0; layer < file.loads.size(); ++layer) {
    auto placement = PlaceExperts(file.loads[layer], file.shape, placement_options,
                                  file.current.empty() ? std::vector<int>() : file.current[layer]);
    if (!placement.ok()) {
      return WithContext(placement.status(), absl::StrCat(source, ": layer ", layer));
    }
    layers.push_back(*std::move(placement));
  }
  if (session.for_people()) {
    PrintForPeople(layers, options, file.shape, session);
  } else {
    session.out() << RenderOne(source, ValueOfLayers(layers, options, file.shape),
                               session.format());
  }
  return absl::OkStatus();
}

}  // namespace fathom::cli
