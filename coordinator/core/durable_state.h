// What survives a restart: the fold of the log's records. Jobs, their epochs and plans, the events
// that tell their story, and the commands already applied.
//
// Records may be applied ahead of their becoming durable: Mark, Apply..., then Commit, or Rollback
// when the log refuses them. A rolled-back state equals the marked one exactly.
#ifndef FATHOM_COORDINATOR_CORE_DURABLE_STATE_H_
#define FATHOM_COORDINATOR_CORE_DURABLE_STATE_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "common/base/ids.h"
#include "proto/fathom/v1/operator.pb.h"
#include "proto/fathom/v1/record.pb.h"

namespace fathom {

struct DurableJob {
  JobId id;
  JobName name;
  int64_t number = 0;                  // order of submission
  std::shared_ptr<const v1::Job> job;  // resolved
  v1::JobState state = v1::JOB_STATE_PENDING;
  std::string reason;
  uint64_t epoch = 0;                         // 0: never planned
  std::shared_ptr<const v1::Plan> plan;       // newest one in force; may be of an older epoch
  std::shared_ptr<const v1::Plan> next_plan;  // prepared for a change at a step boundary, or null
  uint64_t last_epoch = 0;  // highest number ever used, by a dropped next plan too
  // The newest few before `plan`, newest last: where ranks of older epochs may still live.
  std::vector<std::shared_ptr<const v1::Plan>> former_plans;
  // Oldest first; at most limits::kMaxRecoveries.
  std::vector<std::shared_ptr<const v1::RecoveryRecord>> recoveries;
  std::shared_ptr<const v1::ParkRequest> park;  // null: none
  int64_t diagnose = 0;                         // newest request for a diagnosis
  std::vector<v1::RankDiagnosis> diagnoses;     // of the last hang
  int64_t queued_ms = 0;                        // when it (re)joined the queue
  v1::ResumePoint resume_from;      // where the first epoch begins; empty manifest: initial weights
  v1::CheckpointReport checkpoint;  // newest durable one
  int64_t best_step = 0;            // furthest step known when the newest epoch began
  int64_t restarts = 0;
  int64_t stalled_restarts = 0;  // of those, the newest ones that began no further than best_step
  std::string weights_sha256;
  v1::StepReport last_step;  // once it ended
  v1::ValidationReport validation;
  double tokens_per_second = 0;
  int64_t submitted_ms = 0;
  int64_t started_ms = 0;
  int64_t finished_ms = 0;

  // The recovery that led to that epoch; else null.
  const v1::RecoveryRecord* RecoveryOf(uint64_t of_epoch) const;
  // The plan of that epoch, if it is still remembered; else null.
  const v1::Plan* PlanOf(uint64_t of_epoch) const;
  bool HasCurrentPlan() const { return plan != nullptr && epoch != 0 && plan->epoch() == epoch; }
};

// What was decided about a node, and outlives this program.
struct DurableNode {
  v1::NodeAdmin admin;
  bool drained = false;           // it drains, and its last rank has left
  v1::PreflightReport preflight;  // newest finished one
  std::string preflight_request;  // id of the newest asked for; answered once `preflight` has it
  int64_t preflights = 0;         // how many were asked for
};

// A command already applied, by its request_id.
struct AppliedCommand {
  std::string request_id;
  std::string kind;  // of its record
  JobId job;
  NodeName node;
};

class DurableState {
 public:
  using Jobs = std::map<int64_t, std::shared_ptr<const DurableJob>>;  // by number, so oldest first

  // DATA_LOSS: the record does not fit the state: a gap, an unknown job, a change that is not
  // allowed. The state is then unchanged.
  absl::Status Apply(const v1::Record& record);

  void Mark();
  void Commit();
  void Rollback();

  const Jobs& jobs() const { return jobs_; }
  const Jobs& unfinished() const { return unfinished_; }
  using Nodes = std::map<NodeName, std::shared_ptr<const DurableNode>>;
  const Nodes& nodes() const { return nodes_; }
  // Never null: a node about which nothing was decided has empty fields.
  std::shared_ptr<const DurableNode> FindNode(const NodeName& name) const;
  // Null if there is none. By id, or else by name (of several, the newest).
  std::shared_ptr<const DurableJob> Find(const JobId& id) const;
  std::shared_ptr<const DurableJob> FindByNameOrId(const std::string& name) const;
  std::shared_ptr<const DurableJob> FindUnfinished(const JobName& name) const;
  int UnfinishedCount() const { return static_cast<int>(unfinished_.size()); }

  const std::deque<v1::Event>& events() const { return events_; }
  const AppliedCommand* FindCommand(const std::string& request_id) const;

  uint64_t sequence() const { return sequence_; }  // of the newest record
  int64_t next_number() const { return next_number_; }

  // All of it as text, the same for equal states.
  std::string Fingerprint() const;

 private:
  absl::Status ApplySubmitted(const v1::Record& record);
  absl::Status ApplyJobChange(const v1::Record& record);
  absl::Status ApplyNodeChange(const v1::Record& record);
  void Put(std::shared_ptr<const DurableJob> job);
  void PutNode(const NodeName& name, std::shared_ptr<const DurableNode> node);
  void Remember(AppliedCommand command);
  void Erase(int64_t number);
  void Trim();

  Jobs jobs_;
  std::map<JobId, int64_t> number_of_;
  std::map<JobName, std::set<int64_t>> numbers_of_name_;
  Jobs unfinished_;
  Nodes nodes_;
  std::deque<v1::Event> events_;
  std::deque<AppliedCommand> commands_;
  // By request_id: which command, counted from the first ever.
  std::unordered_map<std::string, uint64_t> command_of_;
  uint64_t commands_forgotten_ = 0;
  uint64_t sequence_ = 0;
  int64_t next_number_ = 1;

  // Since Mark: what each touched job was before (null: not there), and how much was appended.
  struct Undo {
    std::map<int64_t, std::shared_ptr<const DurableJob>> before;
    std::map<NodeName, std::shared_ptr<const DurableNode>> nodes_before;
    size_t events = 0;
    size_t commands = 0;
    uint64_t sequence = 0;
    int64_t next_number = 1;
  };
  Undo undo_;
  bool marked_ = false;
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_CORE_DURABLE_STATE_H_
