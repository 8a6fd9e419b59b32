#include "tests/sim/invariants.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tests/sim/random.h"

namespace fathom::sim {
namespace {

// From a daemon's hearing of a later epoch to its ranks' leaving the one before.
constexpr int64_t kLeaveUs = 500 * kMs;

bool IsFinal(v1::JobState state) {
  return state == v1::JOB_STATE_COMPLETED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

}  // namespace

int64_t SamplesPerStep(const v1::JobSpec& spec) {
  const v1::Parallelism& p = spec.parallelism();
  return int64_t{std::max(p.expert(), 1)} * std::max(p.replicas(), 1) *
         std::max<int64_t>(spec.training().micro_batches(), 1) *
         std::max<int64_t>(spec.training().micro_batch_sequences(), 1);
}

uint64_t StateAfter(uint64_t before, int64_t step, int64_t cursor) {
  return Mix(Mix(before, static_cast<uint64_t>(step)), static_cast<uint64_t>(cursor));
}

std::string WeightsName(uint64_t state) { return absl::StrFormat("%016x", state); }

void Invariants::Violate(const std::string& text) {
  if (broken()) return;
  violation_ = text;
  trace_->Add(1, {}, [&] { return absl::StrCat("VIOLATION: ", text); });
}

// --- The log ---

void Invariants::OnAppended(const v1::Record& record) {
  ++appended_;
  if (record.sequence() != appended_) Violate("the log has a gap");
  trace_->Add(2, {static_cast<int64_t>(record.sequence())}, [&] {
    return absl::StrCat("record ", record.sequence(), " ", record.kind(), " ", record.job(),
                        record.node(), ": ", record.message());
  });
  std::string request_id;
  if (record.has_submitted()) {
    const v1::JobSpec& spec = record.submitted().job().spec();
    request_id = record.submitted().request_id();
    jobs_[record.job()].steps = spec.training().steps();
    jobs_[record.job()].batch = SamplesPerStep(spec);
    if (!states_.emplace(record.job(), v1::JOB_STATE_PENDING).second) {
      Violate(absl::StrCat("job ", record.job(), " was submitted twice"));
    }
  } else if (record.has_job_change()) {
    request_id = record.job_change().request_id();
    CheckJobChange(record);
  } else if (record.has_node_change()) {
    request_id = record.node_change().request_id();
    if (record.node_change().drop_admin()) closed_.erase(record.node());
    if (record.node_change().has_admin()) {
      const v1::NodeAdmin& admin = record.node_change().admin();
      if (admin.cordoned() || admin.draining()) closed_.insert(record.node());
    }
  }
  if (!request_id.empty() && ++applied_[request_id] > 1) {
    Violate(absl::StrCat("request ", request_id, " was applied twice"));
  }
}

void Invariants::CheckPlan(const v1::Plan& plan) {
  JobFacts& facts = jobs_[plan.job()];
  if (!facts.epochs.emplace(plan.epoch(), appended_).second) {
    Violate(absl::StrCat("job ", plan.job(), " has two plans for epoch ", plan.epoch()));
  }
  if (plan.epoch() < facts.newest_epoch) {
    Violate(absl::StrCat("job ", plan.job(), "'s epoch fell to ", plan.epoch()));
  }
  facts.newest_epoch = std::max(facts.newest_epoch, plan.epoch());
  if (plan.has_resume() && checkpoints_->Find(plan.resume().manifest()) == nullptr) {
    Violate(absl::StrCat("epoch ", plan.epoch(), " of job ", plan.job(), " begins from ",
                         plan.resume().manifest(), ", which is not durable"));
  }
  CheckPlaces(plan, facts);
}

// Every rank on a device of its own, which no other active job's present plan has; none on a node
// that takes no ranks, unless the job is there already.
void Invariants::CheckPlaces(const v1::Plan& plan, JobFacts& facts) {
  std::set<std::string> here;
  for (const auto& [epoch, devices] : facts.devices) {
    for (const auto& [node, device] : devices) here.insert(node);
  }
  const std::string where = absl::StrCat("epoch ", plan.epoch(), " of job ", plan.job());
  auto& devices = facts.devices[plan.epoch()];
  for (const v1::RankAssignment& rank : plan.ranks()) {
    if (!devices.emplace(rank.node(), rank.device()).second) {
      Violate(
          absl::StrCat(where, " uses device ", rank.device(), " of node ", rank.node(), " twice"));
    }
    if (closed_.contains(rank.node()) && !here.contains(rank.node())) {
      Violate(absl::StrCat(where, " puts a rank on node ", rank.node(),
                           ", which is drained or cordoned"));
    }
  }
  for (const auto& [other, theirs] : jobs_) {
    if (other == plan.job() || IsFinal(states_[other])) continue;
    const bool holds =
        states_[other] == v1::JOB_STATE_RUNNING || states_[other] == v1::JOB_STATE_STARTING;
    const auto present = theirs.devices.find(theirs.present_epoch);
    if (!holds || present == theirs.devices.end()) continue;
    for (const auto& device : present->second) {
      if (devices.contains(device)) {
        Violate(absl::StrCat(where, " takes device ", device.second, " of node ", device.first,
                             " from job ", other));
      }
    }
  }
}

void Invariants::CheckJobChange(const v1::Record& record) {
  const v1::JobChange& change = record.job_change();
  v1::JobState& state = states_[record.job()];
  JobFacts& facts = jobs_[record.job()];
  if (IsFinal(state)) Violate(absl::StrCat("job ", record.job(), " changed after its end"));
  if (change.epoch() != 0) facts.present_epoch = change.epoch();
  if (change.promote_next_plan()) facts.present_epoch = facts.newest_epoch;
  if (change.has_plan()) CheckPlan(change.plan());
  if (change.has_next_plan()) CheckPlan(change.next_plan());
  if (change.has_checkpoint()) {
    const StoredCheckpoint* stored = checkpoints_->Find(change.checkpoint().manifest());
    if (stored == nullptr || stored->step != change.checkpoint().step()) {
      Violate(absl::StrCat("the log names checkpoint ", change.checkpoint().manifest(),
                           ", which is not durable"));
    }
  }
  if (change.state() != v1::JOB_STATE_UNSPECIFIED) state = change.state();
  if (change.state() == v1::JOB_STATE_COMPLETED &&
      change.weights_sha256() != WeightsName(HashOf(record.job(), facts.steps))) {
    Violate(absl::StrCat("job ", record.job(), " completed with weights '", change.weights_sha256(),
                         "' instead of those of all its ", facts.steps, " steps"));
  }
}

void Invariants::OnAcknowledged(const std::string& request_id) {
  if (applied_.contains(request_id)) return;
  Violate(absl::StrCat("request ", request_id, " was acknowledged and is not in the log"));
}

// --- The coordinator's words ---

void Invariants::OnDesiredSent(Place node, const v1::DesiredState& desired) {
  for (const v1::DesiredJob& job : desired.jobs()) {
    const auto facts = jobs_.find(job.plan().job());
    if (facts == jobs_.end() || !facts->second.epochs.contains(job.plan().epoch())) {
      Violate(absl::StrCat("node ", node, " was sent epoch ", job.plan().epoch(), " of job ",
                           job.plan().job(), ", which is not durable"));
    }
    const auto state = states_.find(job.plan().job());
    if (state != states_.end() && IsFinal(state->second)) {
      Violate(absl::StrCat("node ", node, " was sent job ", job.plan().job(), ", which has ended"));
    }
  }
}

void Invariants::OnReportTaken(Place node, int64_t incarnation, bool accepted) {
  int64_t& newest = newest_incarnation_[node];
  if (accepted && incarnation < newest) {
    Violate(absl::StrCat("a report of node ", node, "'s earlier incarnation was accepted"));
  }
  if (accepted) newest = std::max(newest, incarnation);
}

void Invariants::OnCoordinatorStarted() { newest_incarnation_.clear(); }

void Invariants::OnDesiredTaken(Place node, uint64_t appended, int64_t now_us) {
  std::vector<Told>& told = told_[node];
  if (told.empty() || told.back().appended < appended) told.push_back({appended, now_us});
}

// --- Ranks ---

void Invariants::OnSpawn(Place node, int32_t device, int pid) {
  const auto place = std::make_pair(node, device);
  const auto [holder, is_free] = device_holder_.emplace(place, pid);
  if (!is_free) {
    Violate(absl::StrCat("device ", device, " of node ", node, " got process ", pid, " beside ",
                         holder->second));
  }
  device_of_[pid] = place;
}

void Invariants::OnGone(int pid) {
  const auto device = device_of_.find(pid);
  if (device == device_of_.end()) return;
  device_holder_.erase(device->second);
  device_of_.erase(device);
}

void Invariants::OnTrains(const std::string& job, uint64_t epoch, int32_t rank, int pid) {
  const auto seat = std::make_tuple(job, epoch, rank);
  const auto [holder, is_free] = trainer_.emplace(seat, pid);
  if (!is_free && holder->second != pid) {
    Violate(absl::StrCat("processes ", holder->second, " and ", pid, " both train as rank ", rank,
                         " of epoch ", epoch, " of job ", job));
  }
  trains_[pid] = seat;
}

void Invariants::OnLeaves(int pid) {
  const auto seat = trains_.find(pid);
  if (seat == trains_.end()) return;
  trainer_.erase(seat->second);
  trains_.erase(seat);
}

uint64_t Invariants::HashOf(const std::string& job, int64_t step) {
  JobFacts& facts = jobs_[job];
  if (facts.hash_after.empty()) facts.hash_after.push_back(0);
  while (static_cast<int64_t>(facts.hash_after.size()) <= step) {
    const auto next = static_cast<int64_t>(facts.hash_after.size());
    facts.hash_after.push_back(StateAfter(facts.hash_after.back(), next, next * facts.batch));
  }
  return facts.hash_after[step];
}

void Invariants::OnStep(const std::string& job, uint64_t epoch, int64_t step, int64_t cursor,
                        uint64_t hash, const std::set<Place>& nodes, int64_t now_us) {
  JobFacts& facts = jobs_[job];
  if (cursor != step * facts.batch) {
    Violate(absl::StrCat("after step ", step, " job ", job, " has read ", cursor,
                         " samples instead of ", step * facts.batch));
  }
  if (hash != HashOf(job, step)) {
    Violate(absl::StrCat("step ", step, " of job ", job, " led to another state"));
  }
  if (step > facts.steps) Violate(absl::StrCat("job ", job, " went beyond its last step"));
  if (step <= facts.furthest) {
    ++facts.redone;
  } else if (step != facts.furthest + 1) {
    Violate(absl::StrCat("job ", job, " committed step ", step, " after step ", facts.furthest));
  }
  facts.furthest = std::max(facts.furthest, step);
  if (epoch >= facts.newest_committing) {
    facts.newest_committing = epoch;
    return;
  }
  // Cut off from the coordinator, with all its ranks, an epoch can't know that it is over. It may
  // if one of its nodes was told.
  const uint64_t durable = facts.epochs[facts.newest_committing];
  for (const Place node : nodes) {
    for (const Told& told : told_[node]) {
      if (told.appended < durable) continue;
      if (now_us - told.since_us <= kLeaveUs) break;
      return Violate(absl::StrCat("job ", job, " committed step ", step, " in epoch ", epoch,
                                  " after epoch ", facts.newest_committing,
                                  " had begun, though node ", node, " knew of it"));
    }
  }
}

void Invariants::OnRestored(const std::string& job, int64_t step, int64_t cursor, uint64_t hash) {
  if (hash != HashOf(job, step) || cursor != step * jobs_[job].batch) {
    Violate(absl::StrCat("job ", job, " was restored to a state that step ", step, " never had"));
  }
}

void Invariants::OnPublished(const std::string& job, int64_t step, uint64_t hash) {
  if (step > jobs_[job].furthest || hash != HashOf(job, step)) {
    Violate(
        absl::StrCat("job ", job, " published a checkpoint of step ", step, " that it never had"));
  }
}

// --- Jobs ---

int64_t Invariants::BatchOf(const std::string& job) const {
  const auto facts = jobs_.find(job);
  return facts == jobs_.end() ? 0 : facts->second.batch;
}

uint64_t Invariants::newest_epoch(const std::string& job) const {
  const auto facts = jobs_.find(job);
  return facts == jobs_.end() ? 0 : facts->second.newest_epoch;
}

int64_t Invariants::redone(const std::string& job) const {
  const auto facts = jobs_.find(job);
  return facts == jobs_.end() ? 0 : facts->second.redone;
}

}  // namespace fathom::sim
