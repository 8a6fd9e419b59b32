#include "coordinator/core/queue_policy.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace fathom {
namespace {

constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
constexpr double kMsPerHour = 3'600'000;
constexpr size_t kNamedMax = 3;

bool ComesBefore(const WaitingJob& a, const WaitingJob& b) {
  const auto key = [](const WaitingJob& job) {
    return std::make_tuple(!job.recovering, job.recovering ? 0 : -int64_t{job.priority},
                           job.recovering ? 0 : job.queued_ms, job.number);
  };
  return key(a) < key(b);
}

int64_t AddMs(int64_t ms, double more_ms) {
  const double sum = static_cast<double>(ms) + more_ms;
  return sum >= 9e18 ? kNever : static_cast<int64_t>(sum);
}

// When `running` may be parked for `job`; kNever if not for it.
int64_t MayBeParkedFrom(const RunningJob& running, const WaitingJob& job, int64_t now_ms) {
  const int64_t since = running.running_since_ms == 0 ? now_ms : running.running_since_ms;
  int64_t from = kNever;
  if (running.preemptible && running.priority < job.priority) from = since + kRunBeforePreemptionMs;
  if (running.time_slice_s > 0 && running.priority <= job.priority) {
    from = std::min(from, AddMs(since, running.time_slice_s * 1000));
  }
  return from;
}

// First who is to be parked first.
bool IsParkedBefore(const RunningJob* a, const RunningJob* b) {
  return std::make_tuple(a->priority, -a->running_since_ms, -a->number) <
         std::make_tuple(b->priority, -b->running_since_ms, -b->number);
}

// The most that `count` of these (from `first` on) free together.
int64_t MostFreed(const std::vector<const RunningJob*>& jobs, size_t first, size_t count) {
  std::vector<int64_t> frees;
  for (size_t i = first; i < jobs.size(); ++i) frees.push_back(jobs[i]->frees);
  count = std::min(count, frees.size());
  std::partial_sort(frees.begin(), frees.begin() + static_cast<int64_t>(count), frees.end(),
                    std::greater<>());
  int64_t sum = 0;
  for (size_t i = 0; i < count; ++i) sum += frees[i];
  return sum;
}

// The fewest that free `missing` devices, of several such sets the first in order; empty if even
// all don't.
std::vector<const RunningJob*> ChooseParked(std::vector<const RunningJob*> jobs, int64_t missing) {
  std::sort(jobs.begin(), jobs.end(), IsParkedBefore);
  size_t count = 1;
  while (count <= jobs.size() && MostFreed(jobs, 0, count) < missing) ++count;
  std::vector<const RunningJob*> chosen;
  if (count > jobs.size()) return chosen;
  for (size_t i = 0; i < jobs.size() && chosen.size() < count; ++i) {
    const int64_t left = missing - jobs[i]->frees;
    if (MostFreed(jobs, i + 1, count - chosen.size() - 1) < left) continue;
    chosen.push_back(jobs[i]);
    missing = left;
  }
  return chosen;
}

class Decider {
 public:
  explicit Decider(const QueueInput& input) : input_(input), free_(input.free_devices) {
    for (const RunningJob& job : input.running) {
      held_[job.user] += job.devices;
      if (job.parking) {
        incoming_ += job.frees;
        incoming_from_.push_back(job.id.value());
      }
    }
  }

  QueueDecision Decide() {
    std::vector<const WaitingJob*> queue;
    for (const WaitingJob& job : input_.waiting) queue.push_back(&job);
    std::sort(queue.begin(), queue.end(),
              [](const WaitingJob* a, const WaitingJob* b) { return ComesBefore(*a, *b); });
    for (const WaitingJob* job : queue) {
      QueuedJob& place = decision_.order.emplace_back();
      place.id = job->id;
      if (OverQuota(*job, &place)) continue;
      if (head_ == nullptr) {
        InOrder(*job, &place);
      } else {
        Behind(*job, &place);
      }
    }
    return std::move(decision_);
  }

 private:
  bool OverQuota(const WaitingJob& job, QueuedJob* place) {
    const int64_t quota = input_.quotas.Of(job.user);
    if (job.recovering || quota < 0 || held_[job.user] + job.devices <= quota) return false;
    place->over_quota = true;
    place->waits_for = absl::StrCat("needs ", job.devices, " devices, and the jobs of user ",
                                    job.user, " hold ", held_[job.user], " of the ", quota,
                                    " of its quota; jobs of others may go first");
    return true;
  }

  void InOrder(const WaitingJob& job, QueuedJob* place) {
    if (!job.cannot.empty()) return BecomesHead(job, place);
    if (job.devices <= free_ && !job.recovering) return Start(job, place);
    if (job.devices > free_ + incoming_) Park(job);
    if (job.devices > free_ + incoming_) return BecomesHead(job, place);
    // All it needs is there or on its way; what it leaves over goes to the next.
    place->promised = true;
    const size_t named = std::min(incoming_from_.size(), kNamedMax);
    std::string from;
    for (size_t i = 0; i < named; ++i) {
      absl::StrAppend(&from, i == 0 ? "" : ", ", incoming_from_[i]);
    }
    if (incoming_from_.size() > named) {
      absl::StrAppend(&from, " and ", incoming_from_.size() - named, " more");
    }
    place->waits_for =
        absl::StrCat("needs ", job.devices, " devices, ", free_, " of ", input_.total_devices,
                     " are free; waits until ", from, incoming_from_.size() > 1 ? " have" : " has",
                     " saved a checkpoint and given back ", incoming_);
    const int64_t left = free_ + incoming_ - job.devices;
    free_ = std::min(free_, left);
    incoming_ = left - free_;
    held_[job.user] += job.recovering ? 0 : job.devices;
  }

  void Start(const WaitingJob& job, QueuedJob* place) {
    place->start = true;
    free_ -= job.devices;
    held_[job.user] += job.devices;
    started_.push_back(&job);
  }

  void Park(const WaitingJob& job) {
    std::vector<const RunningJob*> eligible;
    for (const RunningJob& running : input_.running) {
      const bool chosen = std::any_of(decision_.parkings.begin(), decision_.parkings.end(),
                                      [&](const Parking& p) { return p.job == running.id; });
      if (running.parking || !running.can_park || running.frees <= 0 || chosen) continue;
      if (running.running_since_ms == 0) continue;
      if (MayBeParkedFrom(running, job, input_.now_ms) <= input_.now_ms) {
        eligible.push_back(&running);
      }
    }
    for (const RunningJob* running : ChooseParked(eligible, job.devices - free_ - incoming_)) {
      decision_.parkings.push_back(
          {running->id, job.id, !(running->preemptible && running->priority < job.priority)});
      incoming_ += running->frees;
      incoming_from_.push_back(running->id.value());
    }
  }

  void BecomesHead(const WaitingJob& job, QueuedJob* place) {
    head_ = &job;
    if (!job.cannot.empty()) {
      place->waits_for = job.cannot;
      head_starts_ms_ = input_.now_ms;
      return;
    }
    ReserveForHead();
    place->waits_for = ShortageOf(job.devices, free_, input_.total_devices);
    const bool guessed =
        std::any_of(input_.running.begin(), input_.running.end(), [](const RunningJob& running) {
          return running.end_known_soon && running.expected_end_ms == 0;
        });
    if (head_starts_ms_ != kNever && !guessed) {
      absl::StrAppend(&place->waits_for, "; enough are expected in ",
                      TimeInWords(static_cast<double>(head_starts_ms_ - input_.now_ms) / 1000));
    }
  }

  // When enough devices are expected for the head, and how many more than it needs.
  void ReserveForHead() {
    std::vector<std::pair<int64_t, int64_t>> comes_free;  // when, how many
    for (const RunningJob& running : input_.running) {
      if (running.parking) continue;
      const int64_t unknown = running.end_known_soon ? input_.now_ms : kNever;
      const int64_t end = running.expected_end_ms == 0 ? unknown : running.expected_end_ms;
      const int64_t parked = running.can_park || running.running_since_ms == 0
                                 ? MayBeParkedFrom(running, *head_, input_.now_ms)
                                 : kNever;
      comes_free.emplace_back(std::max(std::min(end, parked), input_.now_ms), running.frees);
    }
    for (const WaitingJob* job : started_) {
      const bool known = job->expected_hours > 0;
      comes_free.emplace_back(
          known ? AddMs(input_.now_ms, job->expected_hours * kMsPerHour) : kNever, job->devices);
    }
    std::sort(comes_free.begin(), comes_free.end());
    int64_t available = free_ + incoming_;
    head_starts_ms_ = kNever;
    for (const auto& [when, count] : comes_free) {
      if (when == kNever || (head_starts_ms_ != kNever && when > head_starts_ms_)) break;
      available += count;
      if (available >= head_->devices) head_starts_ms_ = when;
    }
    left_by_head_ = head_starts_ms_ == kNever ? 0 : available - head_->devices;
  }

  void Behind(const WaitingJob& job, QueuedJob* place) {
    const bool estimated = job.expected_hours > 0;
    const bool fits = job.cannot.empty() && !job.recovering && job.devices <= free_;
    const bool ends_before =
        estimated && AddMs(input_.now_ms, job.expected_hours * kMsPerHour) <= head_starts_ms_;
    if (fits && ends_before && head_->cannot.empty()) return Start(job, place);
    if (fits && job.devices <= left_by_head_) {
      left_by_head_ -= job.devices;
      return Start(job, place);
    }
    place->behind = head_->id;
    place->waits_for =
        absl::StrCat("behind ", head_->id.value(), ", which waits for devices; place ",
                     decision_.order.size(), " in the queue");
    if (fits && !estimated) {
      absl::StrAppend(&place->waits_for,
                      "; with scheduling.expected_hours it might have gone ahead");
    } else if (fits && head_starts_ms_ != kNever) {
      absl::StrAppend(&place->waits_for, "; it would still run when the devices for ",
                      head_->id.value(), " are expected");
    }
  }

  const QueueInput& input_;
  QueueDecision decision_;
  int64_t free_;
  int64_t incoming_ = 0;  // given back by jobs that are being parked
  std::vector<std::string> incoming_from_;
  std::map<std::string, int64_t> held_;  // by user
  std::vector<const WaitingJob*> started_;

  const WaitingJob* head_ = nullptr;
  int64_t head_starts_ms_ = kNever;
  int64_t left_by_head_ = 0;
};

}  // namespace

int64_t Quotas::Of(const std::string& user) const {
  auto found = devices_of.find(user);
  if (found == devices_of.end()) found = devices_of.find("*");
  return found == devices_of.end() ? -1 : found->second;
}

QueueDecision DecideQueue(const QueueInput& input) { return Decider(input).Decide(); }

std::string ShortageOf(int64_t needed, int64_t free, int64_t total) {
  if (needed > total) {
    return absl::StrCat("needs ", needed, " devices, the cluster has ", total, ": ", needed - total,
                        " missing; start more worker daemons");
  }
  return absl::StrCat("needs ", needed, " devices, ", free, " of ", total,
                      " are free: ", needed - free, " missing until others are done");
}

std::string TimeInWords(double seconds) {
  if (seconds < 100) return absl::StrFormat("%.0f s", seconds);
  if (seconds < 6000) return absl::StrFormat("%.0f min", seconds / 60);
  return absl::StrFormat("%.1f h", seconds / 3600);
}

}  // namespace fathom
