#include "coordinator/planner/cost/step_end.h"

#include <algorithm>
#include <map>
#include <vector>

#include "common/model/parameter_layout.h"
#include "coordinator/planner/cost/reduce_time.h"
#include "coordinator/planner/cost/stage_layers.h"

namespace fathom::planner {
namespace {

constexpr double kGradientBytes = 4;

struct Held {
  double dense = 0;    // parameters
  double experts = 0;  // of one expert rank
};

// Parameters of layers, each kind counted once.
class Parameters {
 public:
  Parameters(const model::ModelConfig& config, int expert_ranks)
      : config_(config), expert_ranks_(expert_ranks) {}

  Held Of(int64_t layer) {
    const int64_t kind = FirstAlike(config_, layer);
    const auto found = known_.find(kind);
    if (found != known_.end()) return found->second;
    Held held;
    for (const model::ParameterSpec& one : model::LayerParameters(config_, kind)) {
      const auto size = static_cast<double>(one.size());
      if (one.kind == model::ParameterKind::kDense) held.dense += size;
      if (one.kind == model::ParameterKind::kExpert) held.experts += size / expert_ranks_;
    }
    return known_[kind] = held;
  }

 private:
  const model::ModelConfig& config_;
  const int expert_ranks_;
  std::map<int64_t, Held> known_;
};

// Pipeline ranks that hold what `rank` holds.
std::vector<int> Holders(const schedule::Schedule& schedule, int rank) {
  const int mirror = schedule.ranks - 1 - rank;
  if (schedule.directions < 2 || mirror == rank) return {rank};
  return {rank, mirror};
}

// Groups of a pipeline rank's parameters.
struct Rings {
  RingShape dense;
  RingShape experts;  // the slowest of the expert ranks'
};

Rings RingsOf(const CostInput& input, const std::vector<int>& holders) {
  const v1::Parallelism& shape = input.layout.parallelism;
  std::vector<RankPlacement::Place> all;
  Rings out;
  for (int e = 0; e < shape.expert(); ++e) {
    std::vector<RankPlacement::Place> owners;
    for (int replica = 0; replica < shape.replicas(); ++replica) {
      for (const int rank : holders) owners.push_back(PlaceOf(input, replica, e, rank));
    }
    all.insert(all.end(), owners.begin(), owners.end());
    const RingShape ring = RingOf(input.topology, owners);
    if (e == 0 || ReduceScatterSeconds(ring, 1e9) > ReduceScatterSeconds(out.experts, 1e9)) {
      out.experts = ring;
    }
  }
  out.dense = RingOf(input.topology, all);
  return out;
}

}  // namespace

StepEnd EndOfStep(const CostInput& input, const schedule::Schedule& schedule,
                  const schedule::Simulation& simulation, StageCostModel* stages) {
  Parameters parameters(input.config, input.layout.parallelism.expert());
  const auto weight_bytes = static_cast<double>(model::BytesOf(input.recipe.activations));
  double summed = 0;  // when the last group has its sums
  double gather_s = 0;
  double update_s = 0;
  for (int rank = 0; rank < schedule.ranks; ++rank) {
    const std::vector<int> holders = Holders(schedule, rank);
    const Rings rings = RingsOf(input, holders);
    Held held;
    double refresh_s = 0;
    LayerTimer* timer = stages->TimersOf(rank).front();
    for (const int stage : StagesOn(schedule, rank)) {
      for (const int64_t layer :
           LayersOfStage(input.config, input.layout.stage_layers, static_cast<size_t>(stage))) {
        const Held one = parameters.Of(layer);
        held.dense += one.dense;
        held.experts += one.experts;
        refresh_s += timer->RefreshSeconds(layer);
      }
    }
    double finish = 0;
    for (const int holder : holders) finish = std::max(finish, simulation.ranks[holder].finish);
    summed =
        std::max(summed, finish + ReduceScatterSeconds(rings.dense, held.dense * kGradientBytes) +
                             ReduceScatterSeconds(rings.experts, held.experts * kGradientBytes));
    gather_s =
        std::max(gather_s, ReduceScatterSeconds(rings.dense, held.dense * weight_bytes) +
                               ReduceScatterSeconds(rings.experts, held.experts * weight_bytes));
    const double update =
        timer->UpdateSeconds(held.dense / rings.dense.ranks + held.experts / rings.experts.ranks);
    update_s = std::max(update_s, update + refresh_s);
  }
  StepEnd out;
  out.reduce_s = std::max(0.0, summed - simulation.makespan) + gather_s;
  out.optimizer_s =
      update_s + SmallAllReduceSeconds(RingOf(input.topology, input.placement.places));
  return out;
}

}  // namespace fathom::planner
