#include "coordinator/planner/cost/stage_cost.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "coordinator/planner/cost/stage_layers.h"

namespace fathom::planner {
namespace {

const char* MainBound(const NamedTime& part) {
  Bound bound = Bound::kLatency;
  double most = -1;
  for (const auto& [one, seconds] : part.by_bound) {
    if (seconds > most) {
      bound = one;
      most = seconds;
    }
  }
  return ToString(bound);
}

std::vector<v1::PredictedOp> ToOps(const NamedTimes& parts) {
  std::vector<v1::PredictedOp> out;
  for (const auto& [name, part] : parts) {
    v1::PredictedOp op;
    op.set_name(name);
    op.set_seconds(part.seconds);
    op.set_flops(part.flops);
    op.set_bytes(part.bytes);
    op.set_bound(MainBound(part));
    out.push_back(std::move(op));
  }
  std::stable_sort(out.begin(), out.end(), [](const v1::PredictedOp& a, const v1::PredictedOp& b) {
    return a.seconds() > b.seconds();
  });
  return out;
}

void AddTo(const NamedTimes& parts, NamedTimes* sum) {
  for (const auto& [name, part] : parts) {
    NamedTime& to = (*sum)[name];
    to.seconds += part.seconds;
    to.flops += part.flops;
    to.bytes += part.bytes;
    for (const auto& [bound, seconds] : part.by_bound) to.by_bound[bound] += seconds;
  }
}

double NicShare(const v1::Pool& pool, const v1::DeviceProfile& profile) {
  const double usual = profile.nic_gigabits_per_second();
  if (usual <= 0 || pool.nic_gigabits_per_second() <= 0) return 1;
  return pool.nic_gigabits_per_second() * pool.nics_per_node() / pool.devices_per_node() / usual;
}

void KeepSlower(const schedule::StageCosts& costs, schedule::StageCosts* slowest) {
  slowest->forward = std::max(slowest->forward, costs.forward);
  slowest->backward = std::max(slowest->backward, costs.backward);
  slowest->backward_input = std::max(slowest->backward_input, costs.backward_input);
  slowest->weight = std::max(slowest->weight, costs.weight);
  slowest->overlapped = std::max(slowest->overlapped, costs.overlapped);
}

struct Alone {
  StreamTimes forward;
  StreamTimes backward;
  StreamTimes backward_input;
  StreamTimes weight;
};

Alone TimesAlone(const std::vector<LayerTimes>& layers) {
  return {ForwardAlone(layers), BackwardAlone(layers), BackwardInputAlone(layers),
          WeightAlone(layers)};
}

}  // namespace

absl::Status CheckCostInput(const CostInput& input, bool with_stages) {
  const v1::Parallelism& shape = input.layout.parallelism;
  const int64_t ranks = int64_t{shape.pipeline()} * shape.expert() * shape.replicas();
  if (shape.pipeline() < 1 || shape.expert() < 1 || shape.replicas() < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("a layout of pipeline ", shape.pipeline(), " x expert ", shape.expert(),
                     " x replicas ", shape.replicas(), " can't be timed; each is at least 1"));
  }
  if (static_cast<int64_t>(input.placement.places.size()) != ranks) {
    return absl::InvalidArgumentError(
        absl::StrCat("the placement has ", input.placement.places.size(), " ranks, the layout ",
                     ranks, "; place every rank"));
  }
  if (input.config.n_routed_experts % shape.expert() != 0) {
    return absl::InvalidArgumentError(absl::StrCat(input.config.n_routed_experts,
                                                   " experts don't divide over ", shape.expert(),
                                                   " ranks; take a divisor"));
  }
  if (input.layout.sequence_length < 1 || input.layout.micro_batch_sequences < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a micro-batch of ", input.layout.micro_batch_sequences, " sequences of ",
        input.layout.sequence_length, " tokens can't be timed; give at least 1 of each"));
  }
  if (!with_stages) return absl::OkStatus();
  const auto& stages = input.layout.stage_layers;
  const int64_t layers = std::accumulate(stages.begin(), stages.end(), int64_t{0});
  if (stages.empty() || layers != input.config.num_hidden_layers ||
      *std::min_element(stages.begin(), stages.end()) < 0) {
    return absl::InvalidArgumentError(absl::StrCat(stages.size(), " stages hold ", layers,
                                                   " layers, the model has ",
                                                   input.config.num_hidden_layers));
  }
  return absl::OkStatus();
}

model::MicroBatchShape MicroBatchOf(const CostInput& input) {
  model::MicroBatchShape out;
  out.sequences = input.layout.micro_batch_sequences;
  out.sequence_length = input.layout.sequence_length;
  out.expert_ranks = input.layout.parallelism.expert();
  if (out.expert_ranks > 1) out.imbalance = input.layout.imbalance;
  return out;
}

const RankPlacement::Place& PlaceOf(const CostInput& input, int64_t replica, int64_t expert_rank,
                                    int64_t pipeline_rank) {
  const v1::Parallelism& shape = input.layout.parallelism;
  return input.placement
      .places[(replica * shape.expert() + expert_rank) * shape.pipeline() + pipeline_rank];
}

absl::StatusOr<StageCostModel> StageCostModel::Make(const CostInput& input,
                                                    const ProfileChange& change) {
  StageCostModel out(input);
  FATHOM_RETURN_IF_ERROR(out.AddSites(change));
  return out;
}

absl::Status StageCostModel::AddSites(const ProfileChange& change) {
  const v1::Parallelism& shape = input_.layout.parallelism;
  const cluster::Topology& topology = input_.topology;
  const model::MicroBatchShape micro_batch = MicroBatchOf(input_);
  std::map<int, const v1::DeviceProfile*> profile_of_pool;
  // Groups whose ranks lie alike are timed once: by domain and leaf, numbered as they come.
  std::map<std::vector<int>, std::vector<int>> known;
  sites_.assign(shape.pipeline(), {});
  std::vector<RankPlacement::Place> places(shape.expert());
  for (int r = 0; r < shape.pipeline(); ++r) {
    std::set<int> sites;
    for (int replica = 0; replica < shape.replicas(); ++replica) {
      std::map<int, int> domains;
      std::map<int, int> leaves;
      std::set<int> pools;
      std::vector<int> key;
      for (int e = 0; e < shape.expert(); ++e) {
        places[e] = PlaceOf(input_, replica, e, r);
        const cluster::TopologyNode& node = topology.nodes()[places[e].node];
        const int next_domain = static_cast<int>(domains.size());
        const int next_leaf = static_cast<int>(leaves.size());
        key.push_back(domains.emplace(node.scale_up_domain, next_domain).first->second);
        key.push_back(leaves.emplace(node.leaf, next_leaf).first->second);
        key.push_back(node.pool);
        pools.insert(node.pool);
      }
      auto found = known.find(key);
      if (found == known.end()) {
        found = known.emplace(std::move(key), std::vector<int>()).first;
        const GroupSpread spread = SpreadOf(input_.config, topology, places);
        for (const int pool : pools) {
          const v1::DeviceProfile*& profile = profile_of_pool[pool];
          if (profile == nullptr) {
            const auto member = std::find_if(places.begin(), places.end(), [&](const auto& place) {
              return topology.nodes()[place.node].pool == pool;
            });
            profiles_.push_back(
                std::make_unique<v1::DeviceProfile>(topology.profile_of(member->node)));
            if (change) change(*profiles_.back());
            profile = profiles_.back().get();
          }
          const double nic_share = NicShare(topology.spec().pools(pool), *profile);
          FATHOM_ASSIGN_OR_RETURN(
              LayerTimer timer,
              LayerTimer::Make(input_.config, input_.recipe, micro_batch,
                               input_.layout.recomputation, {profile, nic_share, spread}));
          found->second.push_back(static_cast<int>(timers_.size()));
          timers_.push_back(std::move(timer));
        }
      }
      sites.insert(found->second.begin(), found->second.end());
    }
    sites_[r].assign(sites.begin(), sites.end());
  }
  return absl::OkStatus();
}

std::vector<LayerTimer*> StageCostModel::TimersOf(int pipeline_rank) {
  std::vector<LayerTimer*> out;
  for (const int site : sites_[pipeline_rank]) out.push_back(&timers_[site]);
  return out;
}

std::vector<int64_t> StageCostModel::LayersOf(int stage) const {
  return LayersOfStage(input_.config, input_.layout.stage_layers, static_cast<size_t>(stage));
}

std::vector<int> StageCostModel::RanksOf(int stage) const {
  const int ranks = input_.layout.parallelism.pipeline();
  const int rank = stage % ranks;
  if (rank == ranks - 1 - rank) return {rank};
  return {rank, ranks - 1 - rank};
}

std::vector<int> StageCostModel::SitesOf(int stage) const {
  std::set<int> out;
  for (const int rank : RanksOf(stage)) out.insert(sites_[rank].begin(), sites_[rank].end());
  return {out.begin(), out.end()};
}

StageCostModel::StageLayers StageCostModel::Times(const std::vector<int64_t>& layers,
                                                  LayerTimer* timer) const {
  StageLayers out;
  for (const int64_t layer : layers) {
    for (const LayerCost* cost : timer->Layer(layer)) {
      out.beside.push_back(cost->beside);
      out.alone.push_back(cost->alone);
      AddTo(cost->parts, &out.parts);
    }
  }
  return out;
}

StageTimes StageCostModel::Stage(int stage) {
  StageTimes out;
  out.costs = {0, 0, 0, 0, 0};
  const std::vector<int64_t> layers = LayersOf(stage);
  for (const int site : SitesOf(stage)) {
    const StageLayers times = Times(layers, &timers_[site]);
    const Alone alone = TimesAlone(times.alone);
    const StreamTimes pair = OverlappedPair(times.beside, times.beside);
    const bool slowest = pair.seconds > out.costs.overlapped;
    KeepSlower({alone.forward.seconds, alone.backward.seconds, alone.backward_input.seconds,
                alone.weight.seconds, pair.seconds},
               &out.costs);
    if (!slowest) continue;
    out.compute_s = pair.compute_s;
    out.communication_s = pair.communication_s;
    out.ops = ToOps(times.parts);
  }
  return out;
}

StreamTimes StageCostModel::Pair(int forward_stage, int backward_stage) {
  StreamTimes slowest;
  const std::vector<int64_t> forward_layers = LayersOf(forward_stage);
  const std::vector<int64_t> backward_layers = LayersOf(backward_stage);
  for (const int site : SitesOf(forward_stage)) {
    const StreamTimes pair = OverlappedPair(Times(forward_layers, &timers_[site]).beside,
                                            Times(backward_layers, &timers_[site]).beside);
    if (pair.seconds > slowest.seconds) slowest = pair;
  }
  return slowest;
}

schedule::StageCosts StageCostModel::LayerShare(int64_t layer) {
  constexpr int kFew = 4;
  std::vector<int64_t> layers = {layer};
  if (layer == input_.config.num_hidden_layers) {
    for (int64_t i = 1; i <= input_.config.num_nextn_predict_layers; ++i) {
      layers.push_back(layer + i);
    }
  }
  schedule::StageCosts out = {0, 0, 0, 0, 0};
  for (LayerTimer& timer : timers_) {
    const StageLayers one = Times(layers, &timer);
    // What the last of several adds, so that the exchange at a stage's ends doesn't count.
    schedule::StageCosts few[2];
    for (int more = 0; more < 2; ++more) {
      StageLayers many;
      for (int i = 0; i < kFew + more; ++i) {
        many.beside.insert(many.beside.end(), one.beside.begin(), one.beside.end());
        many.alone.insert(many.alone.end(), one.alone.begin(), one.alone.end());
      }
      const Alone alone = TimesAlone(many.alone);
      few[more] = {alone.forward.seconds, alone.backward.seconds, alone.backward_input.seconds,
                   alone.weight.seconds, OverlappedPair(many.beside, many.beside).seconds};
    }
    KeepSlower({few[1].forward - few[0].forward, few[1].backward - few[0].backward,
                few[1].backward_input - few[0].backward_input, few[1].weight - few[0].weight,
                few[1].overlapped - few[0].overlapped},
               &out);
  }
  return out;
}

}  // namespace fathom::planner
