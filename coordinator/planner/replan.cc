#include "coordinator/planner/replan.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/plan/plan_layout.h"

namespace fathom::planner {
namespace {

// A rank's place in the grid, and where it was; the node is empty if it is new.
struct Homeless {
  int rank = 0;
  std::string from;
};

class Placer {
 public:
  Placer(const ReplanRequest& request, v1::Plan* plan) : request_(request), plan_(plan) {
    for (const ReplanNode& node : request.nodes) {
      if (request.vacate.contains(node.capacity.name)) continue;
      Place& place = places_[node.capacity.name];
      place.free.insert(node.capacity.free_devices.begin(), node.capacity.free_devices.end());
      place.domain = node.capacity.failure_domain;
      place.leaf = node.capacity.leaf;
      place.spare = node.spare;
      free_ += static_cast<int64_t>(place.free.size());
    }
  }

  int64_t free() const { return free_; }

  bool CanStay(const v1::RankAssignment& at) const {
    const auto place = places_.find(at.node());
    return place != places_.end() && place->second.free.contains(at.device());
  }

  void Put(int rank, const std::string& node, int device) {
    Place& place = places_.at(node);
    FATHOM_CHECK(place.free.erase(device) == 1) << node << " device " << device << " is not free";
    --free_;
    v1::RankAssignment& at = *plan_->mutable_ranks(rank);
    at.set_node(node);
    at.set_device(device);
    placed_.insert(rank);
  }

  // Ranks that were together; there must be free devices enough.
  void PutBlock(const std::vector<Homeless>& block) {
    const std::string target = TargetOf(block);
    for (const Homeless& one : block) {
      const std::string node = target.empty() ? NodeFor(one) : target;
      Put(one.rank, node, *places_.at(node).free.begin());
    }
  }

 private:
  struct Place {
    std::set<int> free;
    std::string domain;
    std::string leaf;
    bool spare = false;
  };

  // How near the rank's mirror is to that node: 3 on it, 2 in its failure domain, 1 under its leaf.
  int Closeness(int rank, const std::string& node) const {
    const v1::RankAssignment& at = plan_->ranks(rank);
    const v1::Parallelism& shape = plan_->spec().parallelism();
    const int mirror = plan::RankAt(shape, at.replica(), at.expert_rank(),
                                    shape.pipeline() - 1 - at.pipeline_rank());
    if (mirror == rank || !placed_.contains(mirror)) return 0;
    const std::string& other = plan_->ranks(mirror).node();
    if (other == node) return 3;
    const Place& here = places_.at(node);
    const Place& there = places_.at(other);
    if (!here.domain.empty() && here.domain == there.domain) return 2;
    return !here.leaf.empty() && here.leaf == there.leaf ? 1 : 0;
  }

  // Known leaves of those that stay of the expert groups which the block is part of.
  std::set<std::string> LeavesBeside(const std::vector<Homeless>& block) const {
    std::set<std::string> leaves;
    for (const Homeless& one : block) {
      for (const int other : plan::ExpertGroup(*plan_, one.rank)) {
        if (!placed_.contains(other)) continue;
        const std::string& leaf = places_.at(plan_->ranks(other).node()).leaf;
        if (!leaf.empty()) leaves.insert(leaf);
      }
    }
    return leaves;
  }

  // The one node for a whole block; empty if none has room.
  std::string TargetOf(const std::vector<Homeless>& block) const {
    const std::string& from = block.front().from;
    const auto successor = request_.successor.find(from);
    if (successor != request_.successor.end()) {
      const auto place = places_.find(successor->second);
      if (place != places_.end() && place->second.free.size() >= block.size()) {
        return successor->second;
      }
    }
    const std::set<std::string> leaves = LeavesBeside(block);
    std::string best;
    std::tuple<bool, int, bool, int, bool, int, size_t> best_key;
    for (const auto& [name, place] : places_) {
      if (place.free.size() < block.size()) continue;
      int same_node = 0;
      int same_domain = 0;
      int same_leaf = 0;
      for (const Homeless& one : block) {
        const int closeness = Closeness(one.rank, name);
        same_node += closeness == 3;
        same_domain += closeness == 2;
        same_leaf += closeness == 1;
      }
      const bool far = !leaves.empty() && leaves.count(place.leaf) == 0;
      const std::tuple key(name != from, same_node, !place.spare, same_domain, far, same_leaf,
                           place.free.size());
      if (best.empty() || key < best_key) {
        best = name;
        best_key = key;
      }
    }
    return best;
  }

  // A node for one rank of a block that no node has room for.
  std::string NodeFor(const Homeless& one) const {
    std::string best;
    std::tuple<int, bool, int64_t> best_key;
    for (const auto& [name, place] : places_) {
      if (place.free.empty()) continue;
      const std::tuple key(Closeness(one.rank, name), !place.spare,
                           -static_cast<int64_t>(place.free.size()));
      if (best.empty() || key < best_key) {
        best = name;
        best_key = key;
      }
    }
    FATHOM_CHECK(!best.empty()) << "no device is free for rank " << one.rank;
    return best;
  }

  const ReplanRequest& request_;
  v1::Plan* const plan_;
  std::map<std::string, Place> places_;
  std::set<int> placed_;
  int64_t free_ = 0;
};

absl::Status TooFew(int64_t needed, int64_t free, absl::string_view what) {
  return absl::ResourceExhaustedError(absl::StrCat(needed, " devices are needed for ", what, ", ",
                                                   free, " are free: ", needed - free, " missing"));
}

v1::Plan Copy(const ReplanRequest& request) {
  v1::Plan plan = *request.previous;
  plan.set_epoch(request.epoch);
  plan.clear_resume();
  return plan;
}

bool MayBe(int64_t micro_batches, int pipeline) {
  if (pipeline == 1) return micro_batches >= 1;
  return micro_batches % 2 == 0 && micro_batches >= 2 * pipeline;
}

v1::Plan WithNodes(const ReplanRequest& request, v1::Plan plan) {
  std::vector<NodeCapacity> nodes;
  nodes.reserve(request.nodes.size());
  for (const ReplanNode& node : request.nodes) nodes.push_back(node.capacity);
  SetPlannedNodes(nodes, &plan);
  return plan;
}

// The spec asked for, with `replicas` of its replicas.
v1::JobSpec SpecWith(const v1::JobSpec& asked, int replicas) {
  v1::JobSpec spec = asked;
  if (replicas == asked.parallelism().replicas()) return spec;
  spec.mutable_parallelism()->set_replicas(replicas);
  spec.mutable_training()->set_micro_batches(MicroBatchesWith(asked, replicas));
  // The same held-out samples, or a few more where they can't be divided so.
  int64_t validation =
      (asked.training().validation_batches() * asked.parallelism().replicas() + replicas - 1) /
      replicas;
  if (asked.parallelism().pipeline() > 1) validation += validation % 2;
  spec.mutable_training()->set_validation_batches(validation);
  return spec;
}

// Which replica of the previous plan becomes which of the new one (-1: a new one): those of which
// most can stay, under their old number where that exists.
std::vector<int> ReplicasToKeep(const ReplanRequest& request, const Placer& placer, int replicas) {
  const v1::Plan& previous = *request.previous;
  const int before = previous.spec().parallelism().replicas();
  std::vector<int> staying(before, 0);
  for (const v1::RankAssignment& at : previous.ranks()) {
    staying[at.replica()] += placer.CanStay(at);
  }
  std::vector<int> order(before);
  for (int i = 0; i < before; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return staying[a] > staying[b]; });
  order.resize(std::min(before, replicas));
  std::vector<int> source(replicas, -1);
  std::vector<int> renumbered;
  for (const int old : order) {
    if (old < replicas) {
      source[old] = old;
    } else {
      renumbered.push_back(old);
    }
  }
  for (const int old : renumbered) *std::find(source.begin(), source.end(), -1) = old;
  return source;
}

v1::Plan Shaped(const ReplanRequest& request, int replicas) {
  v1::Plan plan = Copy(request);
  *plan.mutable_spec() = SpecWith(*request.asked, replicas);
  Placer placer(request, &plan);
  const v1::Parallelism shape = plan.spec().parallelism();
  const std::vector<int> source = ReplicasToKeep(request, placer, replicas);
  plan.clear_ranks();
  for (int rank = 0; rank < shape.pipeline() * shape.expert() * replicas; ++rank) {
    v1::RankAssignment& at = *plan.add_ranks();
    at.set_rank(rank);
    at.set_pipeline_rank(rank % shape.pipeline());
    at.set_expert_rank(rank / shape.pipeline() % shape.expert());
    at.set_replica(rank / shape.pipeline() / shape.expert());
  }
  // Those that move stay together by the node they were on, new ones by expert group.
  std::map<std::pair<std::string, int>, std::vector<Homeless>> blocks;
  for (int rank = 0; rank < plan.ranks_size(); ++rank) {
    const v1::RankAssignment at = plan.ranks(rank);
    const int old_replica = source[at.replica()];
    if (old_replica < 0) {
      blocks[{"", at.replica() * shape.pipeline() + at.pipeline_rank()}].push_back({rank, ""});
      continue;
    }
    const v1::RankAssignment& was = request.previous->ranks(
        plan::RankAt(shape, old_replica, at.expert_rank(), at.pipeline_rank()));
    if (placer.CanStay(was)) {
      placer.Put(rank, was.node(), was.device());
    } else {
      blocks[{was.node(), 0}].push_back({rank, was.node()});
    }
  }
  for (const auto& [key, block] : blocks) placer.PutBlock(block);
  return plan;
}

}  // namespace

int64_t MicroBatchesWith(const v1::JobSpec& asked, int replicas) {
  const int64_t all = asked.training().micro_batches() * asked.parallelism().replicas();
  if (replicas < 1 || all % replicas != 0) return 0;
  const int64_t each = all / replicas;
  return MayBe(each, asked.parallelism().pipeline()) ? each : 0;
}

absl::StatusOr<v1::Plan> Replan(const ReplanRequest& request) {
  v1::Plan plan = Copy(request);
  Placer placer(request, &plan);
  std::map<std::string, std::vector<Homeless>> blocks;
  int64_t homeless = 0;
  for (const v1::RankAssignment& at : request.previous->ranks()) {
    if (placer.CanStay(at)) {
      placer.Put(at.rank(), at.node(), at.device());
    } else {
      blocks[at.node()].push_back({at.rank(), at.node()});
      ++homeless;
    }
  }
  if (homeless > placer.free()) {
    std::string nodes;
    for (const auto& [node, block] : blocks) absl::StrAppend(&nodes, " ", node);
    return TooFew(homeless, placer.free(), absl::StrCat("the ranks that were on", nodes));
  }
  for (const auto& [node, block] : blocks) placer.PutBlock(block);
  return WithNodes(request, std::move(plan));
}

absl::StatusOr<v1::Plan> Reshape(const ReplanRequest& request) {
  v1::Plan scratch = Copy(request);
  const int64_t free = Placer(request, &scratch).free();
  const v1::Parallelism& shape = request.asked->parallelism();
  const int64_t each = int64_t{shape.pipeline()} * shape.expert();
  for (int replicas = shape.replicas(); replicas >= 1; --replicas) {
    if (replicas * each > free || MicroBatchesWith(*request.asked, replicas) == 0) continue;
    return WithNodes(request, Shaped(request, replicas));
  }
  return TooFew(each, free, shape.replicas() > 1 ? "one replica" : "the job");
}

}  // namespace fathom::planner
