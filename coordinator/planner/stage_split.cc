#include "coordinator/planner/stage_split.h"

#include <algorithm>
#include <limits>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"
#include "common/model/model_cost.h"
#include "common/model/parameter_layout.h"

namespace fathom::planner {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();

class Splitter {
 public:
  Splitter(const LayerCosts& costs, int stages)
      : costs_(costs), stages_(stages), layers_(static_cast<int>(costs.layers.size())) {
    prefix_.push_back(0);
    for (double cost : costs.layers) prefix_.push_back(prefix_.back() + cost);
  }

  std::vector<int64_t> Split() {
    // First the least possible longest stage; then, not exceeding that, the least sum of squares.
    const Table paced =
        Solve(kNever, [](double before, double stage) { return std::max(before, stage); });
    const double longest = paced.back()[layers_].value * (1 + 1e-12);
    const Table even =
        Solve(longest, [](double before, double stage) { return before + stage * stage; });
    std::vector<int64_t> counts(stages_);
    int end = layers_;
    for (int stage = stages_ - 1; stage >= 0; --stage) {
      const int begin = even[stage][end].begin;
      counts[stage] = end - begin;
      end = begin;
    }
    FATHOM_CHECK(end == 0) << end << " layers in no stage";
    return counts;
  }

 private:
  struct Cell {
    double value = kNever;  // best of stages 0..s on layers [0, end)
    int begin = -1;         // where stage s begins then
  };
  using Table = std::vector<std::vector<Cell>>;  // [stage][end]

  double StageCost(int stage, int begin, int end) const {
    double cost = prefix_[end] - prefix_[begin];
    if (stage == 0) cost += costs_.embedding;
    if (stage == stages_ - 1) cost += costs_.head;
    return cost;
  }

  // Stages longer than `limit` are not allowed. `join` grows with both arguments.
  template <typename Join>
  Table Solve(double limit, Join join) const {
    Table table(stages_, std::vector<Cell>(layers_ + 1));
    for (int end = 0; end <= layers_; ++end) {
      const double cost = StageCost(0, 0, end);
      if (cost <= limit) table[0][end] = {join(0, cost), 0};
    }
    for (int stage = 1; stage < stages_; ++stage) {
      const int least = stage == stages_ - 1 ? 0 : 1;  // layers that it must have
      for (int end = 0; end <= layers_; ++end) {
        Cell& cell = table[stage][end];
        for (int begin = end - least; begin >= 0; --begin) {
          const double cost = StageCost(stage, begin, end);
          if (cost > limit || join(0, cost) >= cell.value) break;  // longer ones are no better
          const double value = join(table[stage - 1][begin].value, cost);
          if (value < cell.value) cell = {value, begin};
        }
      }
    }
    return table;
  }

  const LayerCosts& costs_;
  const int stages_;
  const int layers_;
  std::vector<double> prefix_;
};

}  // namespace

LayerCosts CostsOf(const model::ModelConfig& config, int64_t sequence_length) {
  auto flops = [&](int64_t layer) {
    return model::ForwardFlops(config, layer, sequence_length, model::AttentionCount::kCausal);
  };
  LayerCosts costs;
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    costs.layers.push_back(flops(layer));
  }
  costs.embedding = flops(model::kEmbeddingLayer);
  for (int64_t i = 0; i <= config.num_nextn_predict_layers; ++i) {
    costs.head += flops(config.num_hidden_layers + i);
  }
  return costs;
}

absl::StatusOr<std::vector<int64_t>> SplitLayers(const LayerCosts& costs, int stages) {
  if (stages < 1 || static_cast<size_t>(stages) > costs.layers.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("stages: ", stages, " for ", costs.layers.size(),
                     " layers; choose from 1 to the number of layers"));
  }
  return Splitter(costs, stages).Split();
}

absl::StatusOr<std::vector<v1::Stage>> SplitStages(const model::ModelConfig& config,
                                                   int64_t sequence_length, int stages) {
  FATHOM_ASSIGN_OR_RETURN(const std::vector<int64_t> counts,
                          SplitLayers(CostsOf(config, sequence_length), stages));
  std::vector<v1::Stage> result(stages);
  int64_t first_layer = 0;
  for (int i = 0; i < stages; ++i) {
    result[i].set_index(i);
    result[i].set_first_layer(first_layer);
    result[i].set_layer_count(counts[i]);
    result[i].set_has_embedding(i == 0);
    result[i].set_has_head(i == stages - 1);
    first_layer += counts[i];
  }
  return result;
}

}  // namespace fathom::planner
