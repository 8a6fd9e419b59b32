#include "worker/agent/desired_jobs.h"

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "common/base/hash.h"
#include "common/base/text.h"

namespace fathom {

DesiredJobs::DesiredJobs(std::function<absl::Status(const v1::Plan&)> check_plan)
    : check_plan_(std::move(check_plan)) {
  FATHOM_CHECK(check_plan_ != nullptr);
}

void DesiredJobs::Take(const v1::DesiredState& desired,
                       const std::function<bool(const JobId&)>& in_use) {
  ++lists_taken_;
  std::map<JobId, std::vector<const v1::DesiredJob*>> by_job;
  for (const v1::DesiredJob& job : desired.jobs()) by_job[JobId(job.plan().job())].push_back(&job);
  std::map<Key, Entry> next;
  for (const auto& [id, listed] : by_job) {
    const bool current = Remember(id, listed);
    for (const v1::DesiredJob* job : listed) {
      next[{id, job->plan().epoch()}] = {std::make_shared<v1::DesiredJob>(*job), Admit(*job)};
    }
    if (current) continue;
    // A coordinator that has fallen behind must not stop what a newer one started.
    for (const auto& [key, entry] : entries_) {
      if (key.first == id && entry.refusal.ok()) next.emplace(key, entry);
    }
  }
  entries_ = std::move(next);
  ranks_.clear();
  for (const auto& [key, entry] : entries_) {
    for (const int32_t rank : entry.job->ranks()) ranks_.insert({key.first, key.second, rank});
  }
  ForgetOldJobs(in_use);
}

bool DesiredJobs::Remember(const JobId& job, const std::vector<const v1::DesiredJob*>& listed) {
  JobMemory& memory = memory_[job];
  memory.last_listed = lists_taken_;
  const uint64_t newest = memory.epochs.empty() ? 0 : memory.epochs.rbegin()->first;
  std::map<uint64_t, EpochMemory> next;
  bool all_known = true;
  for (const v1::DesiredJob* one : listed) {
    const v1::Plan& plan = one->plan();
    const auto known = memory.epochs.find(plan.epoch());
    if (known != memory.epochs.end()) {
      next.emplace(*known);
    } else if (memory.epochs.empty() || plan.epoch() > newest) {
      next.emplace(plan.epoch(), EpochMemory{.plan_hash = Xxh64(plan.SerializeAsString()),
                                             .plan_status = check_plan_(plan),
                                             .asked = {}});
    } else {
      all_known = false;
    }
  }
  const bool up_to_date = !next.empty() && next.rbegin()->first >= newest;
  // Else a later epoch was given up before it began; it stays known as the newest.
  if (up_to_date) memory.epochs = std::move(next);
  return up_to_date || all_known;
}

absl::Status DesiredJobs::Admit(const v1::DesiredJob& job) const {
  const v1::Plan& plan = job.plan();
  if (!IsSafeJobId(plan.job())) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", CutText(plan.job(), 64), "' is no job's id; not started"));
  }
  if (plan.epoch() == 0) return absl::InvalidArgumentError("epochs count from 1; not started");
  const JobMemory& memory = memory_.at(JobId(plan.job()));
  const auto epoch = memory.epochs.find(plan.epoch());
  if (epoch == memory.epochs.end()) {
    return absl::FailedPreconditionError(
        absl::StrCat("epoch ", plan.epoch(), " is older than epoch ", memory.epochs.rbegin()->first,
                     " that this node has already seen; not started"));
  }
  if (!epoch->second.plan_status.ok()) return epoch->second.plan_status;
  if (Xxh64(plan.SerializeAsString()) != epoch->second.plan_hash) {
    return absl::FailedPreconditionError(absl::StrCat(
        "two different plans for epoch ", plan.epoch(), "; a new plan needs a new epoch"));
  }
  return absl::OkStatus();
}

const v1::DesiredJob* DesiredJobs::Find(const JobId& job, uint64_t epoch) const {
  const auto it = entries_.find({job, epoch});
  return it == entries_.end() ? nullptr : it->second.job.get();
}

std::vector<const v1::DesiredJob*> DesiredJobs::Later(const JobId& job, uint64_t epoch) const {
  std::vector<const v1::DesiredJob*> later;
  for (auto it = entries_.upper_bound({job, epoch}); it != entries_.end() && it->first.first == job;
       ++it) {
    if (it->second.refusal.ok()) later.insert(later.begin(), it->second.job.get());
  }
  return later;
}

bool DesiredJobs::ListsEarlier(const JobId& job, uint64_t epoch) const {
  for (auto it = entries_.lower_bound({job, 0}); it != entries_.end(); ++it) {
    if (it->first >= Key(job, epoch)) return false;
    if (it->second.refusal.ok()) return true;
  }
  return false;
}

bool DesiredJobs::WasAsked(const RankId& id) const {
  const auto job = memory_.find(id.job);
  if (job == memory_.end()) return false;
  const auto epoch = job->second.epochs.find(id.epoch);
  return epoch != job->second.epochs.end() && epoch->second.asked.contains(id.rank);
}

void DesiredJobs::SetAsked(const RankId& id) {
  memory_.at(id.job).epochs.at(id.epoch).asked.insert(id.rank);
}

void DesiredJobs::ForgetOldJobs(const std::function<bool(const JobId&)>& in_use) {
  while (memory_.size() > kMaxRememberedJobs) {
    auto oldest = memory_.end();
    for (auto it = memory_.begin(); it != memory_.end(); ++it) {
      if (it->second.last_listed == lists_taken_ || in_use(it->first)) continue;
      if (oldest == memory_.end() || it->second.last_listed < oldest->second.last_listed) {
        oldest = it;
      }
    }
    if (oldest == memory_.end()) return;
    memory_.erase(oldest);
  }
}

}  // namespace fathom
