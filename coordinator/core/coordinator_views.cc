// What the core shows of itself: jobs, nodes and events as the operator service tells them.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

int32_t Limit(int32_t asked, int32_t maximum) {
  return asked <= 0 ? maximum : std::min(asked, maximum);
}

}  // namespace

std::string CoordinatorCore::WaitingReason(const JobId& id) const {
  const auto found = waiting_.find(id);
  return found == waiting_.end() ? "" : found->second;
}

v1::JobStatus CoordinatorCore::StatusOf(const DurableJob& job, bool include_ranks) const {
  v1::JobStatus status;
  status.set_name(job.name.value());
  status.set_id(job.id.value());
  status.set_user(job.job->metadata().user());
  status.set_state(job.state);
  const std::string waits = WaitingReason(job.id);
  const bool recovering = job.state == v1::JOB_STATE_RECOVERING;
  if (waits.empty()) {
    status.set_reason(job.reason);
  } else {
    status.set_reason(recovering ? absl::StrCat(job.reason, "; ", waits) : waits);
  }
  *status.mutable_job() = *job.job;
  if (job.plan != nullptr) {
    *status.mutable_plan() = *job.plan;
    const int32_t asked = job.job->spec().parallelism().replicas();
    status.set_replicas_shed(std::max(asked - job.plan->spec().parallelism().replicas(), 0));
  }
  if (job.next_plan != nullptr) *status.mutable_next_plan() = *job.next_plan;
  if (job.park != nullptr) *status.mutable_park() = *job.park;
  for (const auto& recovery : job.recoveries) *status.add_recoveries() = *recovery;
  for (const v1::RankDiagnosis& diagnosis : job.diagnoses) *status.add_diagnoses() = diagnosis;
  status.set_epoch(job.epoch);
  if (job.last_step.step() > 0) *status.mutable_last_step() = job.last_step;
  if (job.validation.step() > 0) *status.mutable_validation() = job.validation;
  if (job.checkpoint.step() > 0) *status.mutable_checkpoint() = job.checkpoint;
  status.set_weights_sha256(job.weights_sha256);
  status.set_submitted_ms(job.submitted_ms);
  status.set_started_ms(job.started_ms);
  status.set_finished_ms(job.finished_ms);
  status.set_restarts(job.restarts);
  status.set_tokens_per_second(job.tokens_per_second);
  status.set_eta_s(IsFinal(job.state) ? 0 : -1);
  const Gang* gang = FindGang(job.id);
  if (gang == nullptr || IsFinal(job.state)) return status;
  if (gang->last_step().step() > 0) *status.mutable_last_step() = gang->last_step();
  if (gang->validation().step() > 0) *status.mutable_validation() = gang->validation();
  if (job.HasCurrentPlan()) {
    status.set_tokens_per_second(gang->TokensPerSecond());
    const int64_t left = job.job->spec().training().steps() - gang->last_step().step();
    double per_step_s = gang->SecondsPerStep();
    const Expectation* expectation = FindExpectation(job.id);
    if (per_step_s <= 0 && expectation != nullptr && expectation->prediction != nullptr) {
      per_step_s = expectation->prediction->step().seconds();
    }
    if (per_step_s > 0)
      status.set_eta_s(static_cast<double>(std::max<int64_t>(left, 0)) * per_step_s);
  }
  if (!include_ranks) return status;
  for (const v1::RankStatus& rank : gang->ranks()) {
    v1::RankStatus& shown = *status.add_ranks();
    shown = rank;
    // Equal on all ranks, and by far the largest part.
    if (rank.rank() != 0) shown.mutable_last_step()->clear_expert_loads();
  }
  return status;
}

absl::StatusOr<v1::JobStatus> CoordinatorCore::GetJob(const v1::GetJobRequest& request) const {
  const auto job = state_.FindByNameOrId(request.name());
  if (job == nullptr) {
    return absl::NotFoundError(
        absl::StrCat("there is no job '", CutText(request.name(), 100), "'"));
  }
  v1::JobStatus status = StatusOf(*job, request.include_ranks());
  if (const Expectation* expectation = FindExpectation(job->id); expectation != nullptr) {
    if (expectation->prediction != nullptr) *status.mutable_expected() = *expectation->prediction;
    status.set_expected_note(expectation->note);
  }
  return status;
}

v1::ListJobsResponse CoordinatorCore::ListJobs(const v1::ListJobsRequest& request) const {
  std::vector<const DurableJob*> chosen;
  const auto& states = request.states();
  const size_t limit = static_cast<size_t>(Limit(request.limit(), limits::kMaxListedJobs));
  for (auto it = state_.jobs().rbegin(); it != state_.jobs().rend(); ++it) {
    if (chosen.size() >= limit) break;
    const bool wanted =
        states.empty() || std::count(states.begin(), states.end(), it->second->state) > 0;
    if (wanted) chosen.push_back(it->second.get());
  }
  v1::ListJobsResponse response;
  for (auto it = chosen.rbegin(); it != chosen.rend(); ++it) {
    v1::JobStatus& status = *response.add_jobs();
    status = StatusOf(**it, false);
    status.clear_plan();
    status.clear_next_plan();
    status.clear_diagnoses();
    status.mutable_last_step()->clear_expert_loads();
    if (status.last_step().step() == 0) status.clear_last_step();
  }
  return response;
}

v1::ListNodesResponse CoordinatorCore::ListNodes() const {
  v1::ListNodesResponse response;
  for (const auto& [name, entry] : nodes_.nodes()) {
    v1::NodeStatus& status = *response.add_nodes();
    *status.mutable_node() = entry.report.node();
    status.set_state(entry.state);
    status.set_reason(entry.reason);
    status.set_incarnation(entry.report.incarnation());
    status.set_pid(entry.report.pid());
    status.set_last_seen_ms(entry.last_seen_ms);
    FillDecisions(name, entry, &status);
    if (entry.state == v1::NODE_STATE_LOST) continue;  // what it ran is not known
    for (const v1::RankStatus& rank : entry.report.ranks()) {
      v1::NodeRank& shown = *status.add_ranks();
      shown.set_job(rank.job());
      shown.set_epoch(rank.epoch());
      shown.set_rank(rank.rank());
      shown.set_pid(rank.pid());
      shown.set_state(absl::AsciiStrToLower(NameOfState(rank.state())));
      const auto job = state_.Find(JobId(rank.job()));
      const v1::Plan* plan = job == nullptr ? nullptr : job->PlanOf(rank.epoch());
      const bool planned = plan != nullptr && rank.rank() >= 0 && rank.rank() < plan->ranks_size();
      shown.set_device(planned ? plan->ranks(rank.rank()).device() : -1);
    }
  }
  return response;
}

void CoordinatorCore::FillDecisions(const NodeName& name, const NodeEntry& entry,
                                    v1::NodeStatus* status) const {
  const std::shared_ptr<const DurableNode> node = state_.FindNode(name);
  if (node->admin.cordoned() || node->admin.draining()) *status->mutable_admin() = node->admin;
  if (node->preflight.finished_ms() > 0) *status->mutable_preflight() = node->preflight;
  if (entry.report.has_health()) *status->mutable_health() = entry.report.health();
  int64_t held = 0;
  const auto here = jobs_on_.find(name);
  if (here != jobs_on_.end()) {
    for (const JobId& id : here->second) {
      const Gang* gang = FindGang(id);
      if (gang == nullptr || !gang->ranks_on().contains(name.value())) gang = FindNextGang(id);
      if (gang == nullptr || !gang->ranks_on().contains(name.value())) continue;
      held += static_cast<int64_t>(gang->ranks_on().at(name.value()).size());
    }
  }
  status->set_held_devices(held);
  if (!entry.IsUp()) return;
  if (node->drained) {
    status->set_reason("drained: no rank is left");
  } else if (node->admin.draining()) {
    const std::string obstacle = DrainObstacle(name);
    status->set_reason(obstacle.empty() ? "its ranks are leaving" : obstacle);
  } else {
    const std::string closed = WhyClosed(entry, *node);
    if (!closed.empty()) status->set_reason(closed);
  }
}

v1::ListEventsResponse CoordinatorCore::ListEvents(const v1::ListEventsRequest& request) const {
  std::string job_id = request.job();
  if (const auto job = state_.FindByNameOrId(request.job())) job_id = job->id.value();
  std::vector<const v1::Event*> chosen;
  const size_t limit = static_cast<size_t>(Limit(request.limit(), limits::kMaxListedEvents));
  for (auto it = state_.events().rbegin(); it != state_.events().rend(); ++it) {
    if (chosen.size() >= limit || it->sequence() <= request.after()) break;
    if (!request.job().empty() && it->job() != job_id) continue;
    if (!request.node().empty() && it->node() != request.node()) continue;
    chosen.push_back(&*it);
  }
  v1::ListEventsResponse response;
  for (auto it = chosen.rbegin(); it != chosen.rend(); ++it) *response.add_events() = **it;
  return response;
}

}  // namespace fathom
