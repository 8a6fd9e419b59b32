// Who gets devices next, who gives them back for that, and what everybody else waits for.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/planted.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/job_state.h"

namespace fathom {
namespace {

constexpr double kDefaultStartTimeoutS = 120;

bool WantsPlan(const DurableJob& job) {
  return job.state == v1::JOB_STATE_RECOVERING && !job.HasCurrentPlan();
}

}  // namespace

// Recovering jobs come first, oldest first; then the queue, as its policy orders it.
void CoordinatorCore::PlaceWaitingJobs(Moment now) {
  NoteRunning(now);
  waiting_.clear();
  queue_.clear();
  PlaceRecoveringJobs(now);
  std::map<JobId, std::string> cannot;
  QueueDecision decision;
  std::optional<DeviceMap> open;
  if (AnyWaits()) open = DevicesFor(JobId(), false);
  for (bool again = open.has_value(); again;) {
    again = false;
    const QueueInput input = QueueNow(*open, cannot, now);
    if (input.waiting.empty()) break;
    decision = DecideQueue(input);
    for (const QueuedJob& place : decision.order) {
      if (!place.start) continue;
      std::string reason = TryToPlace(*state_.Find(place.id), true, &*open, now);
      if (reason.empty()) continue;
      // It waits after all, and that changes what those behind it may do.
      cannot[place.id] = std::move(reason);
      again = true;
      break;
    }
  }
  for (const Parking& parking : decision.parkings) AskToPark(parking, now);
  for (QueuedJob& place : decision.order) {
    if (place.start) continue;
    std::string& reason = waiting_[place.id];
    if (reason.empty()) {
      reason = place.waits_for;
    } else if (place.promised) {
      absl::StrAppend(&reason, "; ", place.waits_for);
    }
    place.waits_for = reason;
    queue_.push_back(std::move(place));
  }
  for (auto it = hopeless_.begin(); it != hopeless_.end();) {
    it = waiting_.contains(it->first) ? std::next(it) : hopeless_.erase(it);
  }
}

void CoordinatorCore::PlaceRecoveringJobs(Moment now) {
  std::vector<std::shared_ptr<const DurableJob>> recovering;
  for (const auto& [number, job] : state_.unfinished()) {
    if (WantsPlan(*job)) recovering.push_back(job);
  }
  for (const auto& job : recovering) {
    std::string reason = TryToPlace(*job, waiting_.empty(), nullptr, now);
    if (!reason.empty()) waiting_[job->id] = std::move(reason);
  }
}

void CoordinatorCore::NoteRunning(Moment now) {
  for (auto it = running_since_.begin(); it != running_since_.end();) {
    const auto job = state_.Find(it->first);
    const bool gone = job == nullptr || !IsActive(job->state);
    it = gone ? running_since_.erase(it) : std::next(it);
  }
  for (const auto& [number, job] : state_.unfinished()) {
    if (job->state == v1::JOB_STATE_RUNNING) running_since_.try_emplace(job->id, now.steady_ms);
  }
}

WaitingJob CoordinatorCore::WaitingOf(const DurableJob& job) const {
  const v1::Scheduling& scheduling = job.job->spec().scheduling();
  WaitingJob waiting;
  waiting.id = job.id;
  waiting.user = job.job->metadata().user();
  waiting.priority = scheduling.priority();
  waiting.queued_ms = job.queued_ms;
  waiting.number = job.number;
  waiting.devices = RanksOf(job.job->spec());
  // Of a job that was parked, only what is left.
  const auto steps = static_cast<double>(std::max<int64_t>(job.job->spec().training().steps(), 1));
  const auto done = static_cast<double>(job.checkpoint.step());
  waiting.expected_hours = scheduling.expected_hours() * std::clamp(1 - done / steps, 0.001, 1.0);
  return waiting;
}

RunningJob CoordinatorCore::RunningOf(const DurableJob& job, Moment now) const {
  const v1::Scheduling& scheduling = job.job->spec().scheduling();
  RunningJob running;
  running.id = job.id;
  running.user = job.job->metadata().user();
  running.priority = scheduling.priority();
  running.number = job.number;
  running.preemptible = !scheduling.has_preemptible() || scheduling.preemptible();
  running.parking = job.park != nullptr;
  running.can_park = job.state == v1::JOB_STATE_RUNNING && job.next_plan == nullptr;
  running.time_slice_s = scheduling.time_slice_s();
  if (job.plan != nullptr) running.devices = job.plan->ranks_size();
  if (!job.HasCurrentPlan()) return running;
  for (const v1::RankAssignment& rank : job.plan->ranks()) {
    const NodeEntry* node = nodes_.Find(NodeName(rank.node()));
    running.frees +=
        node != nullptr && node->state == v1::NODE_STATE_READY && TakesRanks(NodeName(rank.node()));
  }
  const auto since = running_since_.find(job.id);
  if (since != running_since_.end()) running.running_since_ms = since->second;
  // What its steps tell is better than what its user thought.
  const Gang* gang = FindGang(job.id);
  const double step_s = gang == nullptr ? 0 : gang->SecondsPerStep();
  if (step_s > 0) {
    const int64_t left = job.job->spec().training().steps() - gang->last_step().step();
    running.expected_end_ms =
        now.steady_ms +
        static_cast<int64_t>(1000 * step_s * static_cast<double>(std::max<int64_t>(left, 0)));
  } else if (scheduling.expected_hours() > 0) {
    const int64_t from_ms = running.running_since_ms > 0 ? running.running_since_ms : now.steady_ms;
    running.expected_end_ms =
        from_ms + static_cast<int64_t>(3'600'000 * scheduling.expected_hours());
  } else {
    running.end_known_soon = true;
  }
  return running;
}

bool CoordinatorCore::AnyWaits() const {
  return std::any_of(state_.unfinished().begin(), state_.unfinished().end(), [](const auto& entry) {
    return entry.second->state == v1::JOB_STATE_PENDING || WantsPlan(*entry.second);
  });
}

QueueInput CoordinatorCore::QueueNow(const DeviceMap& open,
                                     const std::map<JobId, std::string>& cannot, Moment now,
                                     const DurableJob* guest) const {
  QueueInput input;
  input.now_ms = now.steady_ms;
  input.quotas = quotas_;
  for (const auto& [number, job] : state_.unfinished()) {
    if (job->state == v1::JOB_STATE_PENDING) {
      input.waiting.push_back(WaitingOf(*job));
    } else if (WantsPlan(*job) && job->park == nullptr) {
      input.waiting.push_back(WaitingOf(*job));
      input.waiting.back().recovering = true;
    } else {
      continue;
    }
    const auto why = cannot.find(job->id);
    if (why != cannot.end()) input.waiting.back().cannot = why->second;
  }
  if (guest != nullptr) input.waiting.push_back(WaitingOf(*guest));
  if (input.waiting.empty()) return input;
  for (const auto& [number, job] : state_.unfinished()) {
    if (IsActive(job->state)) input.running.push_back(RunningOf(*job, now));
  }
  input.free_devices = open.CountFree(DeviceMap::Use::kReadyOnly);
  input.total_devices = open.CountAll(DeviceMap::Use::kReadyOnly);
  for (WaitingJob& job : input.waiting) {
    if (!job.recovering) continue;
    // Devices of its own and spares are for it alone, so that it needs so many fewer of the others.
    const int64_t own = DevicesFor(job.id, false).CountFree(DeviceMap::Use::kWithSpares);
    const int64_t missing = job.devices - own;
    if (missing <= 0) job.cannot = waiting_.contains(job.id) ? waiting_.at(job.id) : "no plan yet";
    job.devices = input.free_devices + missing;
  }
  return input;
}

void CoordinatorCore::AskToPark(const Parking& parking, Moment now) {
  const auto job = state_.Find(parking.job);
  const auto for_job = state_.Find(parking.for_job);
  std::string reason;
  if (parking.slice_over) {
    reason = absl::StrFormat("its time slice of %g s is over, and %s waits",
                             job->job->spec().scheduling().time_slice_s(), for_job->id.value());
  } else {
    reason = absl::StrCat("preempted for ", for_job->id.value(), " (priority ",
                          for_job->job->spec().scheduling().priority(), " over ",
                          job->job->spec().scheduling().priority(), ")");
  }
  v1::JobChange change;
  v1::ParkRequest& park = *change.mutable_park();
  park.set_reason(reason);
  park.set_actor("coordinator");
  park.set_since_ms(now.wall_ms);
  ChangeJob(*job, "JobParking", absl::StrCat(reason, "; it saves a checkpoint and queues again"),
            std::move(change), now);
}

bool CoordinatorCore::SettlePark(const DurableJob& job, const Gang* gang, Moment now) {
  if (job.park == nullptr) return false;
  const double given_s = job.job->spec().restart().start_timeout_s();
  const double timeout_s = given_s > 0 ? given_s : kDefaultStartTimeoutS;
  const double waited_s = static_cast<double>(now.wall_ms - job.park->since_ms()) / 1000;
  const bool parked = gang != nullptr && (gang->AllParked() || FATHOM_PLANT(kParkedBeforeSaved));
  if (!parked && waited_s <= timeout_s) return false;
  v1::JobChange change;
  change.set_state(job.park->suspend() ? v1::JOB_STATE_SUSPENDED : v1::JOB_STATE_PENDING);
  change.set_queued_ms(now.wall_ms);
  FillLastWords(gang, &change);
  std::string message = job.park->suspend() ? "suspended" : "back in the queue";
  if (parked) {
    absl::StrAppend(&message, " with its state of step ", job.checkpoint.step(), " saved");
  } else {
    absl::StrAppendFormat(&message,
                          ", though its ranks did not save their state within %g s "
                          "(restart.start_timeout_s): it will go on from ",
                          timeout_s);
    absl::StrAppend(&message, job.checkpoint.step() > 0
                                  ? absl::StrCat("the checkpoint of step ", job.checkpoint.step())
                                  : std::string("its beginning"));
  }
  absl::StrAppend(&message, ": ", job.park->reason());
  ChangeJob(job, "JobStateChanged", message, std::move(change), now);
  return true;
}

}  // namespace fathom
