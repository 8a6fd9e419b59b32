#include "coordinator/planner/search/pair_split.h"

#include <algorithm>
#include <limits>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/status_util.h"

namespace fathom::planner {
namespace {

constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr double kSlack = 1 + 1e-12;

std::vector<double> StageCosts(const LayerCosts& costs, const std::vector<int64_t>& stage_layers) {
  std::vector<double> stages(stage_layers.size());
  size_t layer = 0;
  for (size_t i = 0; i < stage_layers.size(); ++i) {
    for (int64_t n = 0; n < stage_layers[i]; ++n) stages[i] += costs.layers[layer++];
  }
  stages.front() += costs.embedding;
  stages.back() += costs.head;
  return stages;
}

// Pairs are filled from the ends of the model to its middle. What matters of those filled is how
// many layers went to the front and how many to the back.
class PairSplitter {
 public:
  PairSplitter(const LayerCosts& costs, int stages)
      : costs_(costs), pairs_(stages / 2), layers_(static_cast<int>(costs.layers.size())) {
    prefix_.push_back(0);
    for (double cost : costs.layers) prefix_.push_back(prefix_.back() + cost);
  }

  // No pair above `limit`, which some split reaches.
  std::vector<int64_t> Split(double limit) {
    const Table paced =
        Solve(limit, [](double before, double a, double b) { return std::max(before, a + b); });
    const double longest = BestEnd(paced).second * kSlack;
    const Table even =
        Solve(longest, [](double before, double a, double b) { return before + a * a + b * b; });
    State state = BestEnd(even).first;
    std::vector<int64_t> counts(2 * pairs_);
    for (int pair = pairs_ - 1; pair >= 0; --pair) {
      const Cell& cell = even[pair].at(state);
      counts[pair] = state.first - cell.before.first;
      counts[2 * pairs_ - 1 - pair] = state.second - cell.before.second;
      state = cell.before;
    }
    FATHOM_CHECK(state == State(0, 0)) << "layers in no stage";
    return counts;
  }

 private:
  using State = std::pair<int, int>;  // layers in the front's and in the back's stages so far
  struct Cell {
    double value = kNever;
    State before;
  };
  using Table = std::vector<std::map<State, Cell>>;  // [pair]

  double Front(int pair, int begin, int end) const {
    return prefix_[end] - prefix_[begin] + (pair == 0 ? costs_.embedding : 0);
  }
  // The back's layers [begin, end), counted from the last.
  double Back(int pair, int begin, int end) const {
    return prefix_[layers_ - begin] - prefix_[layers_ - end] + (pair == 0 ? costs_.head : 0);
  }

  template <typename Join>
  Table Solve(double limit, Join join) const {
    Table table(pairs_);
    std::map<State, Cell> before = {{State(0, 0), {0, State(0, 0)}}};
    for (int pair = 0; pair < pairs_; ++pair) {
      for (const auto& [state, cell] : before) {
        Extend(pair, state, cell.value, limit, join, &table[pair]);
      }
      before = table[pair];
    }
    return table;
  }

  template <typename Join>
  void Extend(int pair, State from, double value, double limit, Join join,
              std::map<State, Cell>* next) const {
    const int least = pair == 0 ? 0 : 1;
    const bool last = pair == pairs_ - 1;
    const auto [front, back] = from;
    for (int a = least; front + a + back <= layers_; ++a) {
      const double front_cost = Front(pair, front, front + a);
      if (front_cost > limit) break;
      int b = last ? layers_ - front - back - a : least;
      for (; front + a + back + b <= layers_ && b >= least; ++b) {
        const double back_cost = Back(pair, back, back + b);
        if (front_cost + back_cost > limit) break;
        const State to(front + a, back + b);
        const int later = pairs_ - 1 - pair;
        if (layers_ - to.first - to.second < 2 * later) break;  // a layer for each stage
        const double left = prefix_[layers_ - to.second] - prefix_[to.first];
        if (left > limit * later) continue;
        const double joined = join(value, front_cost, back_cost);
        Cell& cell = (*next)[to];
        if (joined < cell.value) cell = {joined, from};
      }
    }
  }

  std::pair<State, double> BestEnd(const Table& table) const {
    std::pair<State, double> best(State(0, 0), kNever);
    for (const auto& [state, cell] : table.back()) {
      if (state.first + state.second == layers_ && cell.value < best.second) {
        best = {state, cell.value};
      }
    }
    FATHOM_CHECK(best.second < kNever) << "no split within the limit";
    return best;
  }

  const LayerCosts& costs_;
  const int pairs_;
  const int layers_;
  std::vector<double> prefix_;
};

}  // namespace

double LongestPair(const LayerCosts& costs, const std::vector<int64_t>& stage_layers) {
  const std::vector<double> stages = StageCosts(costs, stage_layers);
  if (stages.size() == 1) return stages[0];
  double longest = 0;
  for (size_t i = 0; i < stages.size() / 2; ++i) {
    longest = std::max(longest, stages[i] + stages[stages.size() - 1 - i]);
  }
  return longest;
}

absl::StatusOr<std::vector<int64_t>> SplitPairs(const LayerCosts& costs, int stages) {
  if (stages < 2 || stages % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("stages: ", stages, " do not pair up; choose an even number"));
  }
  FATHOM_ASSIGN_OR_RETURN(const std::vector<int64_t> simple, SplitLayers(costs, stages));
  if (costs.layers.size() > kMaxPairedLayers) return simple;
  return PairSplitter(costs, stages).Split(LongestPair(costs, simple) * kSlack);
}

}  // namespace fathom::planner
