// What the coordinator wishes of the nodes, as far as it is committed.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/job_state.h"

namespace fathom {
// What a job wishes of its nodes, as text that changes exactly when the wish does.
CoordinatorCore::Desire CoordinatorCore::DesireOf(const DurableJob& job) const {
  Desire desire;
  const Gang* gang = FindGang(job.id);
  if (!IsActive(job.state) || !job.HasCurrentPlan() || gang == nullptr) return desire;
  desire.signature =
      absl::StrCat(job.epoch, gang->AllListen() ? " peers" : "", " ", gang->DoneBeforeCount());
  for (const v1::RankAssignment& rank : job.plan->ranks()) desire.nodes.insert(rank.node());
  return desire;
}

void CoordinatorCore::MarkChangedDesires() {
  std::map<JobId, Desire> next;
  for (const auto& [number, job] : state_.jobs()) {
    Desire desire = DesireOf(*job);
    if (desire.signature.empty()) continue;
    const auto known = desires_.find(job->id);
    if (known != desires_.end() && known->second.signature == desire.signature) {
      next.insert(desires_.extract(known));
      continue;
    }
    for (const std::string& name : desire.nodes) changed_nodes_.insert(NodeName(name));
    next[job->id] = std::move(desire);
  }
  // What is left was wished before, and is not or differently now.
  for (const auto& [job, desire] : desires_) {
    for (const std::string& name : desire.nodes) changed_nodes_.insert(NodeName(name));
  }
  desires_ = std::move(next);
}

std::vector<NodeName> CoordinatorCore::TakeChangedNodes() {
  std::vector<NodeName> changed(changed_nodes_.begin(), changed_nodes_.end());
  if (!changed.empty()) ++desired_version_;
  for (const NodeName& name : changed) version_of_[name] = desired_version_;
  changed_nodes_.clear();
  return changed;
}

v1::DesiredState CoordinatorCore::DesiredFor(const NodeName& node) const {
  v1::DesiredState desired;
  const auto version = version_of_.find(node);
  desired.set_version(version == version_of_.end() ? 1 : version->second);
  desired.set_heartbeat_ms(options_.heartbeat_ms);
  desired.set_lease_ms(options_.lease_ms);
  for (const auto& [id, desire] : desires_) {
    if (!desire.nodes.contains(node.value())) continue;
    const auto job = state_.Find(id);
    const Gang* gang = FindGang(id);
    if (job == nullptr || gang == nullptr) continue;
    v1::DesiredJob& wanted = *desired.add_jobs();
    *wanted.mutable_plan() = *job->plan;
    wanted.set_checkpoint_directory(job->job->spec().checkpoint().directory());
    for (const int32_t rank : gang->WantedOn(node)) wanted.add_ranks(rank);
    if (!gang->AllListen()) continue;
    for (const v1::RankStatus& rank : gang->ranks()) {
      v1::RankEndpoint& peer = *wanted.add_peers();
      peer.set_rank(rank.rank());
      peer.set_node(job->plan->ranks(rank.rank()).node());
      peer.set_endpoint(rank.endpoint());
    }
  }
  return desired;
}

}  // namespace fathom
