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
  ExplainExpectation(job, &response);
  ExplainNextPlan(job, &response);
  ExplainDrains(job, &response);
  ExplainShed(job, &response);
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
    if (const Gang* gang = FindGang(job.id); gang != nullptr && job.HasCurrentPlan()) {
      say(absl::StrCat(gang->CountOf(v1::RANK_STATE_PARKED), " of its ", gang->Size(),
                       " ranks have saved their state and ended"));
    }
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
}

void CoordinatorCore::ExplainNextPlan(const DurableJob& job,
                                      v1::ExplainJobResponse* response) const {
  const Gang* next = FindNextGang(job.id);
  if (job.next_plan == nullptr || next == nullptr) return;
  const uint64_t epoch = job.next_plan->epoch();
  const v1::RecoveryRecord* change = job.RecoveryOf(epoch);
  std::string line = absl::StrCat("epoch ", epoch, " is being prepared");
  if (change != nullptr) absl::StrAppend(&line, ": ", change->message());
  absl::StrAppend(&line, "; taken at a step boundary once all its ranks listen");
  if (!next->AllListen()) absl::StrAppend(&line, " (", next->Laggard(), ")");
  response->add_lines(line);
}

// Of its own nodes, those that take no new ranks; and why its ranks are still there.
void CoordinatorCore::ExplainDrains(const DurableJob& job, v1::ExplainJobResponse* response) const {
  const Gang* gang = FindGang(job.id);
  if (!IsActive(job.state) || !job.HasCurrentPlan() || gang == nullptr) return;
  const Gang* next = FindNextGang(job.id);
  size_t told = 0;
  for (const auto& [name, ranks] : gang->ranks_on()) {
    const v1::NodeAdmin& admin = state_.FindNode(NodeName(name))->admin;
    if (!admin.draining() && !admin.cordoned()) continue;
    if (++told > kNodesToldMax) continue;
    std::string line =
        absl::StrCat("node ", name, " (", ranks.size(), " of its ranks) is ",
                     admin.draining() ? "being drained" : "cordoned", ", asked by ", admin.actor(),
                     " ", Ago(admin.since_ms(), last_decided_.wall_ms),
                     admin.reason().empty() ? "" : absl::StrCat(" (", admin.reason(), ")"), ": ");
    const std::string why = WhyRanksStay(job);
    if (!admin.draining()) {
      line += "its ranks stay there, and it gets no new ones";
    } else if (next != nullptr && !next->ranks_on().contains(name)) {
      absl::StrAppend(&line, "its ranks leave with epoch ", next->plan().epoch());
    } else if (next != nullptr) {
      absl::StrAppend(&line, "its ranks stay until epoch ", next->plan().epoch(),
                      ", which changes something else, has been taken");
    } else if (job.park != nullptr) {
      line += "its ranks end as the job gives its devices back";
    } else {
      line += why.empty() ? "its ranks are about to leave" : absl::StrCat("its ranks stay: ", why);
    }
    if (admin.draining() && admin.deadline_ms() > 0) {
      const int64_t left_ms = std::max<int64_t>(admin.deadline_ms() - last_decided_.wall_ms, 0);
      absl::StrAppend(&line, "; given up in ", TimeInWords(static_cast<double>(left_ms) / 1000));
    }
    response->add_lines(line);
  }
  if (told > kNodesToldMax) {
    response->add_lines(absl::StrCat(told - kNodesToldMax, " more of its nodes take no new ranks"));
  }
}

void CoordinatorCore::ExplainShed(const DurableJob& job, v1::ExplainJobResponse* response) const {
  if (job.plan == nullptr || !IsActive(job.state)) return;
  const int32_t asked = job.job->spec().parallelism().replicas();
  const int32_t has = job.plan->spec().parallelism().replicas();
  if (has >= asked) return;
  std::string line =
      absl::StrCat("it goes on with ", has, " of its ", asked,
                   " replicas, each with more micro-batches, as the others found no devices");
  const std::string why = WhyNotGrown(job);
  if (!why.empty()) absl::StrAppend(&line, "; to grow back it waits: ", why);
  response->add_lines(line);
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
