// What the coordinator wishes of this node, admitted: each listed epoch of each job with its plan
// checked, or with the reason why nothing of it is started. Pure.
//
// A job's epochs never go back. A list that knows of the newest epoch ever seen of a job says which
// of its epochs go on; one that is left out, or was never listed before a newer one, is refused for
// ever. A list may give up the newest while an earlier one goes on. A list of older epochs only has
// fallen behind, and stops nothing that a newer one wished.
#ifndef FATHOM_WORKER_AGENT_DESIRED_JOBS_H_
#define FATHOM_WORKER_AGENT_DESIRED_JOBS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/base/ids.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/agent/rank_id.h"

namespace fathom {

class DesiredJobs {
 public:
  static constexpr int kMaxRememberedJobs = 1024;

  using Key = std::pair<JobId, uint64_t>;  // job, epoch
  struct Entry {
    std::shared_ptr<const v1::DesiredJob> job;
    absl::Status refusal;  // OK, or why none of its ranks is started
  };

  // Asked once for every plan.
  explicit DesiredJobs(std::function<absl::Status(const v1::Plan&)> check_plan);

  // Replaces the list before. Jobs for which `in_use` says no may be forgotten.
  void Take(const v1::DesiredState& desired, const std::function<bool(const JobId&)>& in_use);

  const std::map<Key, Entry>& entries() const { return entries_; }
  const std::set<RankId>& ranks() const { return ranks_; }
  bool Lists(const RankId& id) const { return ranks_.contains(id); }
  // Null: not listed.
  const v1::DesiredJob* Find(const JobId& job, uint64_t epoch) const;
  // The admitted epochs of the job above `epoch`, the newest first.
  std::vector<const v1::DesiredJob*> Later(const JobId& job, uint64_t epoch) const;

  // Whether an admitted epoch of the job below `epoch` is listed.
  bool ListsEarlier(const JobId& job, uint64_t epoch) const;

  // Whether a process was told to run this rank.
  bool WasAsked(const RankId& id) const;
  void SetAsked(const RankId& id);

 private:
  // What is kept of a plan as long as its epoch may run.
  struct EpochMemory {
    uint64_t plan_hash = 0;
    absl::Status plan_status;  // what check_plan said of it
    std::set<int32_t> asked;
  };
  struct JobMemory {
    std::map<uint64_t, EpochMemory> epochs;  // that may run; the last one is the newest ever seen
    uint64_t last_listed = 0;
  };

  // False: the list has fallen behind.
  bool Remember(const JobId& job, const std::vector<const v1::DesiredJob*>& listed);
  absl::Status Admit(const v1::DesiredJob& job) const;
  void ForgetOldJobs(const std::function<bool(const JobId&)>& in_use);

  const std::function<absl::Status(const v1::Plan&)> check_plan_;
  std::map<Key, Entry> entries_;
  std::set<RankId> ranks_;
  std::map<JobId, JobMemory> memory_;
  uint64_t lists_taken_ = 0;
};

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_DESIRED_JOBS_H_
