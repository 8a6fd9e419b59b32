// What the coordinator decides, without doing any of it. Commands, reports and the time go in;
// records to make durable, answers and desired states come out. No I/O, clocks, threads or
// randomness.
//
// How the caller uses it, from one thread:
//
//   1. any number of Submit, Cancel, Report, StreamClosed and Tick: each decides at once, ahead of
//      durability, and adds to records()
//   2. append records() to the log; then Commit(), or Rollback() when the log refused them
//   3. only after Commit: answer the commands, and send the desired states of TakeChangedNodes()
//
// Decisions are level-triggered: they follow from what is durable and what was last observed, never
// from the event that brought it. So after Rollback nothing is lost: the next event, a Tick at the
// latest, decides the same again.
//
// Restart: Replay every record, then go on. Ranks that ran through the restart are found in the
// nodes' reports and kept; a node that does not report within a lease is lost.
#ifndef FATHOM_COORDINATOR_CORE_COORDINATOR_CORE_H_
#define FATHOM_COORDINATOR_CORE_COORDINATOR_CORE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/core/durable_state.h"
#include "coordinator/core/gang.h"
#include "coordinator/core/node_table.h"
#include "coordinator/core/placement.h"
#include "proto/fathom/v1/operator.pb.h"
#include "proto/fathom/v1/record.pb.h"
#include "proto/fathom/v1/worker.pb.h"

namespace fathom {

struct CoreOptions {
  int32_t heartbeat_ms = 1000;
  int32_t lease_ms = 5000;
  std::string checkpoint_root;  // a job without a folder of its own gets <root>/<job id>
  PlanningFunctions planning;
};

class CoordinatorCore {
 public:
  explicit CoordinatorCore(CoreOptions options);

  // Before anything else. DATA_LOSS as in DurableState::Apply.
  absl::Status Replay(const v1::Record& record);

  // Codes as in operator.proto. `resume_from`: the checkpoint that the job's resume_from names.
  absl::StatusOr<v1::SubmitJobResponse> Submit(const v1::SubmitJobRequest& request,
                                               const v1::ResumePoint& resume_from, Moment now);
  absl::StatusOr<v1::CancelJobResponse> Cancel(const v1::CancelJobRequest& request, Moment now);
  // Codes as in NodeTable::Report.
  absl::Status Report(const v1::NodeReport& report, Moment now);
  void StreamClosed(const NodeName& node, int64_t incarnation, Moment now);
  // At least a few times per lease.
  void Tick(Moment now);

  // --- Durability ---
  const std::vector<v1::Record>& records() const { return records_; }
  void Commit();
  void Rollback();

  // --- Desired states, of what is committed ---
  // Nodes whose desired state changed since the last call.
  std::vector<NodeName> TakeChangedNodes();
  v1::DesiredState DesiredFor(const NodeName& node) const;

  // --- What is ---
  absl::StatusOr<v1::JobStatus> GetJob(const v1::GetJobRequest& request) const;
  v1::ListJobsResponse ListJobs(const v1::ListJobsRequest& request) const;
  v1::ListNodesResponse ListNodes() const;
  v1::ListEventsResponse ListEvents(const v1::ListEventsRequest& request) const;
  v1::JobStatus StatusOf(const DurableJob& job, bool include_ranks) const;
  const DurableState& state() const { return state_; }
  const NodeTable& nodes() const { return nodes_; }
  // The gang of a job's newest plan; null if it has none.
  const Gang* FindGang(const JobId& id) const;
  // What a job without a current plan waits for; empty for others.
  std::string WaitingReason(const JobId& id) const;
  // Jobs that wait for devices.
  int WaitingCount() const { return static_cast<int>(waiting_.size()); }

 private:
  // Records: each is applied at once.
  v1::Record NewRecord(const std::string& kind, const std::string& message, Moment now) const;
  void Put(v1::Record record);
  void ChangeJob(const DurableJob& job, const std::string& kind, const std::string& message,
                 v1::JobChange change, Moment now, const std::string& actor = "coordinator");
  void EndJob(const DurableJob& job, v1::JobState state, const std::string& message, Moment now);

  // Submit's parts.
  absl::StatusOr<v1::Job> ResolveSubmitted(const v1::SubmitJobRequest& request) const;
  v1::SubmitJobResponse DryRun(const v1::SubmitJobRequest& request, DurableJob job) const;
  absl::Status CheckCanRun(const v1::Job& resolved, const v1::ResumePoint& resume_from) const;
  void NameJob(const v1::Job& resolved, DurableJob* job) const;
  static v1::SubmitJobResponse ResponseOf(const DurableJob& job);

  // The decisions, in order.
  void Decide(Moment now);
  void AdvanceActiveJobs(Moment now);
  void AdvanceJob(const DurableJob& job, Moment now);
  void FailEpoch(const DurableJob& job, const Gang& gang, const GangFailure& failure, Moment now);
  void PlaceWaitingJobs(Moment now);
  // Empty if the job got a plan, else what it waits for.
  std::string TryToPlace(const DurableJob& job, bool first_in_line, Moment now);
  absl::StatusOr<v1::Plan> FindPlan(const DurableJob& job, uint64_t epoch,
                                    bool first_in_line) const;
  std::string OldRankStillThere(const DurableJob& job) const;

  void RefreshGangs(Moment now);
  void MarkChangedDesires();
  std::string DesireOf(const DurableJob& job) const;

  const CoreOptions options_;
  DurableState state_;
  NodeTable nodes_;
  std::map<JobId, Gang> gangs_;  // of active jobs that have a plan, maybe of an older epoch
  std::map<JobId, std::string> waiting_;       // what each job without a current plan waits for
  std::map<JobId, int64_t> recovering_since_;  // steady; of jobs that want a new plan
  struct Hopeless {
    std::string devices;  // the free ones, as text
    std::string reason;
  };
  std::map<JobId, Hopeless>
      hopeless_;  // where planning failed, so that it is not tried again there
  Moment last_decided_;
  bool started_ = false;  // an event was handled

  std::vector<v1::Record> records_;
  bool marked_ = false;

  struct Desire {
    std::string signature;
    std::set<std::string> nodes;
  };
  std::map<JobId, Desire> desires_;  // as last marked
  std::set<NodeName> changed_nodes_;
  uint64_t desired_version_ = 1;
  std::map<NodeName, uint64_t> version_of_;
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_CORE_COORDINATOR_CORE_H_
