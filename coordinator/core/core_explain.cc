// Why a job is as it is, and what it waits for, in words.
#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

constexpr int kEventsToldMax = 5;
constexpr size_t kNodesToldMax = 10;

std::string At(int64_t wall_ms) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%SZ", absl::FromUnixMillis(wall_ms), absl::UTCTimeZone());
}

std::string Ago(int64_t since_ms, int64_t now_ms) {
  return absl::StrCat(
      TimeInWords(static_cast<double>(std::max<int64_t>(0, now_ms - since_ms)) / 1000), " ago");
}

// Why `other` is before `job` in the queue.
std::string WhyBefore(const WaitingJob& other, const WaitingJob& job) {
  if (other.recovering && !job.recovering) return "recovers, which comes before everything";
  if (other.priority != job.priority) {
    return absl::StrCat("has priority ", other.priority, ", this one ", job.priority);
  }
  return "queued earlier";
}

}  // namespace

absl::StatusOr<v1::ExplainJobResponse> CoordinatorCore::Explain(
    const v1::ExplainJobRequest& request) const {
  const auto found = JobNamed(request.name());
  if (!found.ok()) return found.status();
  const DurableJob& job = **found;
  v1::ExplainJobResponse response;
  response.set_name(job.name.value());
  response.set_id(job.id.value());
  response.set_state(job.state);
  const std::string waits = WaitingReason(job.id);
  response.set_summary(absl::StrCat(job.id.value(), " is ", NameOfState(job.state), ": ",
                                    waits.empty() ? job.reason : waits));
  ExplainSelf(job, &response);
  ExplainQueue(job, &response);
  ExplainNodes(job, &response);
  ExplainPast(job, &response);
  return response;
}

// What the job itself is at.
void CoordinatorCore::ExplainSelf(const DurableJob& job, v1::ExplainJobResponse* response) const {
  const auto say = [&](const std::string& line) { response->add_lines(line); };
  const int64_t now_ms = last_decided_.wall_ms;
  if (!WaitingReason(job.id).empty()) say(absl::StrCat("before that: ", job.reason));
  if (job.park != nullptr) {
    say(absl::StrCat("it is to save a checkpoint and ",
                     job.park->suspend() ? "stay suspended" : "queue again", ", since ",
                     Ago(job.park->since_ms(), now_ms), ": ", job.park->reason()));
  }
  if (job.state == v1::JOB_STATE_SUSPENDED) say("it starts again after `fathomctl resume`");
  const Gang* gang = FindGang(job.id);
  if (IsActive(job.state) && job.HasCurrentPlan() && gang != nullptr) {
    if (job.state != v1::JOB_STATE_RUNNING) {
      say(absl::StrCat("epoch ", job.epoch, " waits for its slowest rank: ", gang->Laggard()));
    }
    if (gang->last_step().step() > 0) {
      say(absl::StrCat("step ", gang->last_step().step(), " of ",
                       job.job->spec().training().steps(), " is done"));
    }
  }
  if (job.next_plan != nullptr) {
    const v1::RecoveryRecord* change = job.RecoveryOf(job.next_plan->epoch());
    say(absl::StrCat("epoch ", job.next_plan->epoch(),
                     " is being prepared, and taken at a step boundary",
                     change == nullptr ? "" : absl::StrCat(": ", change->message())));
  }
  const int64_t asked = RanksOf(job.job->spec());
  if (job.plan != nullptr && IsActive(job.state) && job.plan->ranks_size() < asked) {
    say(absl::StrCat("it goes on with ", job.plan->ranks_size(), " of its ", asked,
                     " ranks, without the replicas that found no devices"));
  }
}

// Who is before it, and what each waits for.
void CoordinatorCore::ExplainQueue(const DurableJob& job, v1::ExplainJobResponse* response) const {
  std::map<JobId, WaitingJob> known;
  for (const QueuedJob& place : queue_) {
    const auto other = state_.Find(place.id);
    if (other == nullptr) continue;
    WaitingJob& waiting = known[place.id] = WaitingOf(*other);
    waiting.recovering = other->state == v1::JOB_STATE_RECOVERING;
    v1::QueueEntry& entry = *response->add_queue();
    entry.set_job(place.id.value());
    entry.set_user(waiting.user);
    entry.set_priority(waiting.priority);
    entry.set_devices(waiting.devices);
    entry.set_waits_for(place.waits_for);
    entry.set_queued_ms(waiting.queued_ms);
  }
  const auto self = known.find(job.id);
  if (self == known.end()) return;
  response->add_lines(absl::StrCat("needs ", self->second.devices, " devices at once; priority ",
                                   self->second.priority, "; queued at ",
                                   At(self->second.queued_ms), ", ",
                                   Ago(self->second.queued_ms, last_decided_.wall_ms)));
  const int64_t quota = quotas_.Of(self->second.user);
  if (quota >= 0) {
    response->add_lines(absl::StrCat("user ", self->second.user, " may hold ", quota,
                                     " devices at once, and holds ", HeldBy(self->second.user)));
  }
  for (const QueuedJob& place : queue_) {
    if (place.id == job.id) break;
    const auto other = known.find(place.id);
    if (other == known.end()) continue;
    response->add_lines(absl::StrCat("before it: ", place.id.value(), " (", other->second.devices,
                                     " devices) ", WhyBefore(other->second, self->second), "; it ",
                                     place.over_quota ? "holds nobody up, as it is over its quota"
                                                      : absl::StrCat("waits: ", place.waits_for)));
  }
}

int64_t CoordinatorCore::HeldBy(const std::string& user) const {
  int64_t held = 0;
  for (const auto& [number, job] : state_.unfinished()) {
    if (!IsActive(job->state) || job->plan == nullptr) continue;
    if (job->job->metadata().user() == user) held += job->plan->ranks_size();
  }
  return held;
}

// Devices that would be there but for something about their nodes.
void CoordinatorCore::ExplainNodes(const DurableJob& job, v1::ExplainJobResponse* response) const {
  const bool waits = job.state == v1::JOB_STATE_PENDING ||
                     (job.state == v1::JOB_STATE_RECOVERING && !job.HasCurrentPlan());
  if (!waits) return;
  size_t left_out = 0;
  for (const auto& [name, node] : nodes_.nodes()) {
    std::string why;
    if (!node.IsUp()) {
      why = absl::StrCat("is ", NameOfState(node.state), ": ", node.reason);
    } else if (const std::string closed = WhyClosed(name); !closed.empty()) {
      why = absl::StrCat("takes no ranks: ", closed);
    } else if (node.state == v1::NODE_STATE_SPARE && job.state == v1::JOB_STATE_PENDING) {
      why = "is a spare, held back to replace another";
    }
    if (why.empty()) continue;
    const int devices = node.report.node().devices_size();
    if (static_cast<size_t>(response->lines_size()) > 40 || ++left_out > kNodesToldMax) continue;
    response->add_lines(absl::StrCat("node ", name.value(),
                                     devices == 0 ? "" : absl::StrCat(" (", devices, " devices)"),
                                     " ", why));
  }
  if (left_out > kNodesToldMax) {
    response->add_lines(absl::StrCat(left_out - kNodesToldMax,
                                     " more nodes take no ranks; see `fathomctl get nodes`"));
  }
}

void CoordinatorCore::ExplainPast(const DurableJob& job, v1::ExplainJobResponse* response) const {
  std::vector<std::string> lines;
  for (auto it = state_.events().rbegin(); it != state_.events().rend(); ++it) {
    if (lines.size() >= kEventsToldMax) break;
    if (it->job() != job.id.value()) continue;
    lines.push_back(absl::StrCat(At(it->time_ms()), " ", it->kind(), ": ", it->message()));
  }
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) response->add_lines(*line);
}

}  // namespace fathom
