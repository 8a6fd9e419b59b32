#include "tests/sim/sim_planning.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/planted.h"

namespace fathom::sim {
namespace {

using Seat = std::pair<std::string, int32_t>;  // node, device

int64_t Ranks(const v1::JobSpec& spec) {
  const v1::Parallelism& p = spec.parallelism();
  return int64_t{std::max(p.pipeline(), 1)} * std::max(p.expert(), 1) * std::max(p.replicas(), 1);
}

void AddRank(const v1::JobSpec& spec, const Seat& seat, v1::Plan* plan) {
  const int32_t number = plan->ranks_size();
  const int32_t experts = std::max(spec.parallelism().expert(), 1);
  v1::RankAssignment& rank = *plan->add_ranks();
  rank.set_rank(number);
  rank.set_node(seat.first);
  rank.set_device(seat.second);
  rank.set_expert_rank(number % experts);
  rank.set_replica(number / experts);
}

v1::Plan EmptyPlan(const std::string& job, uint64_t epoch, const v1::JobSpec& spec) {
  v1::Plan plan;
  plan.set_job(job);
  plan.set_epoch(epoch);
  *plan.mutable_spec() = spec;
  return plan;
}

absl::StatusOr<v1::Job> Resolve(const v1::Job& job) {
  if (job.spec().training().steps() <= 0) {
    return absl::InvalidArgumentError("spec.training.steps: give a positive number");
  }
  return job;
}

absl::StatusOr<v1::Plan> MakePlan(const std::string& job, uint64_t epoch, const v1::JobSpec& spec,
                                  const std::vector<FreeNode>& nodes) {
  v1::Plan plan = EmptyPlan(job, epoch, spec);
  const int64_t ranks = Ranks(spec);
  for (const FreeNode& node : nodes) {
    for (const int32_t device : node.free_devices) {
      if (plan.ranks_size() < ranks) AddRank(spec, {node.name, device}, &plan);
    }
  }
  if (plan.ranks_size() == ranks) return plan;
  return absl::ResourceExhaustedError(
      absl::StrCat("needs ", ranks, " devices, ", plan.ranks_size(), " are free"));
}

// Ranks of `spec` on the free devices: each where the previous plan has it if that is free and not
// to be vacated, then on its node's successor, then anywhere, nodes that aren't spares first.
absl::StatusOr<v1::Plan> KeepPlaces(const ReplanInput& input, const v1::JobSpec& spec) {
  std::set<Seat> free;
  std::vector<Seat> in_order;
  for (const bool spare : {false, true}) {
    for (const FreeNode& node : input.free) {
      if (node.spare != spare || input.vacate.contains(node.name)) continue;
      for (const int32_t device : node.free_devices) {
        free.emplace(node.name, device);
        in_order.emplace_back(node.name, device);
      }
    }
  }
  const int64_t ranks = Ranks(spec);
  if (static_cast<int64_t>(free.size()) < ranks) {
    return absl::ResourceExhaustedError(
        absl::StrCat("needs ", ranks, " devices, ", free.size(), " are free"));
  }
  std::vector<Seat> seats(ranks);
  for (int64_t i = 0; i < std::min<int64_t>(ranks, input.previous->ranks_size()); ++i) {
    const v1::RankAssignment& rank = input.previous->ranks(static_cast<int>(i));
    if (free.erase({rank.node(), rank.device()}) > 0) seats[i] = {rank.node(), rank.device()};
  }
  for (int64_t i = 0; i < ranks; ++i) {
    if (!seats[i].first.empty()) continue;
    if (i < input.previous->ranks_size()) {
      const auto successor =
          input.successor.find(input.previous->ranks(static_cast<int>(i)).node());
      if (successor != input.successor.end()) {
        const auto seat = free.lower_bound({successor->second, 0});
        if (seat != free.end() && seat->first == successor->second) {
          seats[i] = *seat;
          free.erase(seat);
          continue;
        }
      }
    }
    const auto seat = std::find_if(in_order.begin(), in_order.end(),
                                   [&](const Seat& s) { return free.contains(s); });
    seats[i] = *seat;
    free.erase(*seat);
  }
  v1::Plan plan = EmptyPlan(input.previous->job(), input.epoch, spec);
  for (const Seat& seat : seats) AddRank(spec, seat, &plan);
  return plan;
}

absl::StatusOr<v1::Plan> Replan(const ReplanInput& input) {
  return KeepPlaces(input, input.previous->spec());
}

absl::StatusOr<v1::Plan> Reshape(const ReplanInput& input) {
  const int32_t asked = std::max(input.asked->parallelism().replicas(), 1);
  const int64_t batches = std::max<int64_t>(input.asked->training().micro_batches(), 1) * asked;
  absl::Status why = absl::ResourceExhaustedError("not one replica fits");
  for (int32_t replicas = asked; replicas >= 1; --replicas) {
    if (batches % replicas != 0) continue;
    v1::JobSpec spec = *input.asked;
    spec.mutable_parallelism()->set_replicas(replicas);
    if (!FATHOM_PLANT(kShedDropsSamples)) {
      spec.mutable_training()->set_micro_batches(batches / replicas);
    }
    absl::StatusOr<v1::Plan> plan = KeepPlaces(input, spec);
    if (plan.ok()) return plan;
    why = plan.status();
  }
  return why;
}

}  // namespace

PlanningFunctions SimPlanning() {
  PlanningFunctions planning;
  planning.resolve = Resolve;
  planning.make_plan = MakePlan;
  planning.check_plan = [](const v1::Plan&) { return absl::OkStatus(); };
  planning.replan = Replan;
  planning.reshape = Reshape;
  return planning;
}

}  // namespace fathom::sim
