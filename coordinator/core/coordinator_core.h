// What the coordinator decides, without doing any of it. Commands, reports and the time go in;
// records to make durable, answers and desired states come out. No I/O, clocks, threads or
// randomness.
//
// How the caller uses it, from one thread:
//
//   1. any number of commands, Report, StreamClosed and Tick: each decides at once, ahead of
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
//
// By file: coordinator_core.cc (events, records, what follows from reports), core_job_commands.cc,
// core_node_commands.cc, core_recovery.cc (epochs that fail), core_boundary.cc (changes at a step
// boundary), core_waiting.cc (who gets devices, who is parked), core_queue.cc (where),
// core_desires.cc, core_detectors.cc, core_explain.cc, coordinator_views.cc.
#ifndef FATHOM_COORDINATOR_CORE_COORDINATOR_CORE_H_
#define FATHOM_COORDINATOR_CORE_COORDINATOR_CORE_H_

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "coordinator/core/corruption_detector.h"
#include "coordinator/core/durable_state.h"
#include "coordinator/core/flap_detector.h"
#include "coordinator/core/gang.h"
#include "coordinator/core/hang_detector.h"
#include "coordinator/core/health_detector.h"
#include "coordinator/core/node_table.h"
#include "coordinator/core/placement.h"
#include "coordinator/core/queue_policy.h"
#include "coordinator/core/straggler_detector.h"
#include "proto/fathom/v1/config.pb.h"
#include "proto/fathom/v1/operator.pb.h"
#include "proto/fathom/v1/record.pb.h"
#include "proto/fathom/v1/worker.pb.h"

namespace fathom {

struct CoreOptions {
  int32_t heartbeat_ms = 1000;
  int32_t lease_ms = 5000;
  std::string checkpoint_root;  // a job without a folder of its own gets <root>/<job id>
  PlanningFunctions planning;
  v1::Detectors detectors;        // empty fields: the defaults of config.proto
  std::vector<v1::Quota> quotas;  // none: no bounds
  // Whether a node gets ranks only once it passed a preflight. What it has it keeps.
  bool require_preflight = false;
  // A job that dropped replicas grows back no sooner after its epoch began.
  int32_t grow_after_ms = 10'000;
};

// What the planner expects of a plan.
struct Expectation {
  std::shared_ptr<const v1::Plan> plan;
  std::shared_ptr<const v1::Prediction> prediction;  // null: it can't tell; `note` says why
  std::string note;
};

using SharedBytes = std::shared_ptr<const std::string>;

class CoordinatorCore {
 public:
  explicit CoordinatorCore(CoreOptions options);

  // Before anything else; fields of jobs that an older version left out get their defaults.
  // DATA_LOSS as in DurableState::Apply.
  absl::Status Replay(const v1::Record& record);

  // Codes as in operator.proto. `resume_from`: the checkpoint that the job's resume_from names.
  absl::StatusOr<v1::SubmitJobResponse> Submit(const v1::SubmitJobRequest& request,
                                               const v1::ResumePoint& resume_from, Moment now);
  absl::StatusOr<v1::CancelJobResponse> Cancel(const v1::CancelJobRequest& request, Moment now);
  absl::StatusOr<v1::SuspendJobResponse> Suspend(const v1::SuspendJobRequest& request, Moment now);
  absl::StatusOr<v1::ResumeJobResponse> ResumeJob(const v1::ResumeJobRequest& request, Moment now);
  absl::StatusOr<v1::DrainNodeResponse> Drain(const v1::DrainNodeRequest& request, Moment now);
  absl::StatusOr<v1::UndrainNodeResponse> Undrain(const v1::UndrainNodeRequest& request,
                                                  Moment now);
  absl::StatusOr<v1::CordonNodeResponse> Cordon(const v1::CordonNodeRequest& request, Moment now);
  absl::StatusOr<v1::PreflightNodeResponse> Preflight(const v1::PreflightNodeRequest& request,
                                                      Moment now);
  // Codes as in NodeTable::Report.
  absl::Status Report(const v1::NodeReport& report, Moment now);
  void StreamClosed(const NodeName& node, int64_t incarnation, Moment now);
  // At least a few times per lease.
  void Tick(Moment now);
  // Between these two, who gets devices is left open, and decided once at the end: for callers that
  // commit many events together.
  void BeginBatch() { in_batch_ = true; }
  void EndBatch(Moment now);

  // --- Durability ---
  const std::vector<v1::Record>& records() const { return records_; }
  void Commit();
  void Rollback();

  // --- Desired states, of what is committed ---
  // Nodes whose desired state changed since the last call; first those that have to start
  // processes for ranks, as a job had none there or one failed.
  std::vector<NodeName> TakeChangedNodes();
  v1::DesiredState DesiredFor(const NodeName& node) const;
  // The same, serialized, as pieces to be sent one after the other. What nodes have in common, a
  // job's plan above all, is the same piece for all of them.
  std::vector<SharedBytes> DesiredPiecesFor(const NodeName& node) const;

  // --- What is ---
  absl::StatusOr<v1::JobStatus> GetJob(const v1::GetJobRequest& request) const;
  absl::StatusOr<v1::ExplainJobResponse> Explain(const v1::ExplainJobRequest& request) const;
  v1::ListJobsResponse ListJobs(const v1::ListJobsRequest& request) const;
  v1::ListNodesResponse ListNodes() const;
  v1::ListEventsResponse ListEvents(const v1::ListEventsRequest& request) const;
  v1::JobStatus StatusOf(const DurableJob& job, bool include_ranks) const;
  const DurableState& state() const { return state_; }
  const NodeTable& nodes() const { return nodes_; }
  // The gang of a job's present plan; null if it has none. Of one that recovers and has no new plan
  // yet, that of its last.
  const Gang* FindGang(const JobId& id) const;
  // Of the job's plan; null before that ran.
  const Expectation* FindExpectation(const JobId& id) const;
  // The gang of its next plan, prepared for a change at a boundary; null if it has none.
  const Gang* FindNextGang(const JobId& id) const;
  // Why a drain doesn't proceed; empty if nothing stops it.
  std::string DrainObstacle(const NodeName& node) const;
  // What a job without a current plan waits for; empty for others.
  std::string WaitingReason(const JobId& id) const;
  // Jobs that wait for devices.
  int WaitingCount() const { return static_cast<int>(waiting_.size()); }

 private:
  void FillSpecs(v1::Record* record) const;

  // --- Records: each is applied at once (coordinator_core.cc) ---
  v1::Record NewRecord(const std::string& kind, const std::string& message, Moment now) const;
  void Put(v1::Record record);
  void ChangeJob(const DurableJob& job, const std::string& kind, const std::string& message,
                 v1::JobChange change, Moment now, const std::string& actor = "coordinator");
  void ChangeNode(const NodeName& node, const std::string& kind, const std::string& message,
                  v1::NodeChange change, Moment now, const std::string& actor = "coordinator");
  void EndJob(const DurableJob& job, v1::JobState state, const std::string& message, Moment now);
  // What is known at the end of a job, or of an epoch.
  static void FillLastWords(const Gang* gang, v1::JobChange* change);

  // --- Commands' common parts (core_job_commands.cc) ---
  static absl::Status CheckRequestId(const std::string& request_id);
  static std::string ActorOf(const std::string& actor);  // cut; "unknown" if empty
  // The command with this request_id, if it was applied before; null otherwise. INVALID_ARGUMENT:
  // the id is too long, or was another command's.
  absl::StatusOr<const AppliedCommand*> FindApplied(const std::string& request_id,
                                                    const std::string& kind) const;
  // NOT_FOUND.
  absl::StatusOr<std::shared_ptr<const DurableJob>> JobNamed(const std::string& name) const;
  absl::StatusOr<NodeName> NodeNamed(const std::string& name) const;

  absl::StatusOr<v1::Job> ResolveSubmitted(const v1::SubmitJobRequest& request) const;
  v1::SubmitJobResponse DryRun(const v1::SubmitJobRequest& request, DurableJob job) const;
  absl::Status CheckCanRun(const v1::Job& resolved, const v1::ResumePoint& resume_from) const;
  absl::Status CheckCheckpointFolder(const v1::Job& resolved) const;
  void NameJob(const v1::Job& resolved, DurableJob* job) const;
  static v1::SubmitJobResponse ResponseOf(const DurableJob& job);

  // --- The decisions, in order (coordinator_core.cc) ---
  void Decide(Moment now);
  void NoteNodeUp(const v1::NodeReport& report, const std::string& was, Moment now);
  void NotePreflight(const v1::NodeReport& report, Moment now);
  void LoseNode(const NodeName& name, Moment now);
  void AdvanceActiveJobs(Moment now);
  void AdvanceJob(const DurableJob& job, Moment now);

  // --- Epochs that fail (core_recovery.cc) ---
  // The present epoch can't go on: a new one, from the next plan if that is intact. Detectors call
  // it too, with a cause of their own.
  void FailEpoch(const DurableJob& job, const Gang& gang, const GangFailure& failure, Moment now);
  // Nothing: nothing is wrong, or whose fault it is isn't clear yet.
  std::optional<GangFailure> JudgeFailure(const DurableJob& job, const Gang& gang, Moment now);
  GangFailure BlameLink(const DurableJob& job, const Gang& gang, Moment now);
  v1::RecoveryRecord BeginRecovery(const DurableJob& job, const Gang& gang, uint64_t epoch,
                                   const GangFailure& failure, Moment now) const;
  // What the plan of its epoch says about a recovery.
  static void NotePlan(const v1::Plan& plan, const v1::Plan* before, Moment now,
                       v1::RecoveryRecord* recovery);
  void SuspectBlamed(const Gang& gang, Moment now);
  void NoteLastStep(const DurableJob& job, const Gang& gang);
  void FinishRecovery(const DurableJob& job, const Gang& gang, Moment now);

  // --- Changes at a boundary (core_boundary.cc) ---
  // True: something changed.
  bool AdvanceNextPlan(const DurableJob& job, Moment now);
  void PromoteNextPlan(const DurableJob& job, Moment now);
  // Why a next plan can't be used any more; empty if it can.
  std::string FlawOfNextPlan(const DurableJob& job) const;
  void PrepareChanges(Moment now);
  void PrepareChange(const DurableJob& job, Moment now);
  std::set<std::string> Unusable(const std::set<std::string>& vacate, const Gang& gang) const;
  std::string DrainCause(const v1::Plan& plan, const std::set<std::string>& vacate) const;
  // Who waits for devices and comes before it as it grows back; null: nobody.
  std::shared_ptr<const DurableJob> WaitsBefore(const DurableJob& job) const;
  // Why its ranks have not left the nodes that drain; empty if they are about to.
  std::string WhyRanksStay(const DurableJob& job) const;
  // Why a job that dropped replicas has not grown back; empty if it is about to.
  std::string WhyNotGrown(const DurableJob& job) const;
  void PrepareNext(const DurableJob& job, v1::Plan plan, const std::string& cause, Moment now);
  void AdvanceDrains(Moment now);

  // --- Nodes (core_node_commands.cc) ---
  // Drain and cordon as a detector wishes them. A deadline of now gives the ranks up at once.
  void StartDrain(const NodeName& node, v1::NodeAdmin admin, const std::string& request_id,
                  Moment now);
  void CordonNode(const NodeName& node, const std::string& reason, const std::string& actor,
                  const std::string& request_id, Moment now);
  std::vector<v1::DrainedJob> WhereTo(const NodeName& node, const std::string& replacement) const;
  // Up, neither cordoned nor draining, and preflighted where that is required.
  bool TakesRanks(const NodeName& node) const;
  void FillDecisions(const NodeName& name, const NodeEntry& entry, v1::NodeStatus* status) const;
  std::string WhyClosed(const NodeEntry& entry, const DurableNode& node) const;
  void TouchJobsOn(const NodeName& node);
  absl::Status CheckDrain(const v1::DrainNodeRequest& request) const;
  void FillDrained(const NodeName& node, const std::string& replacement,
                   v1::DrainNodeResponse* response) const;
  std::string WhyClosed(const NodeName& node) const;  // empty: it takes ranks
  std::set<std::string> ClosedNodes() const;
  bool HasRanks(const NodeName& node) const;  // by an active job's present or next plan

  // --- Expectations (core_expectation.cc) ---
  Expectation Expect(const std::shared_ptr<const v1::Plan>& plan) const;
  void ExpectOfRunning();  // at every tick; each plan is predicted once

  // --- Detectors (core_detectors.cc) ---
  void RunDetectors(Moment now);                        // at every tick
  void NodeReturned(const NodeName& node, Moment now);  // it was lost, and reports again
  struct JobDetectors {
    std::shared_ptr<const v1::Plan> plan;  // of what follows; another plan begins anew
    HangDetector hang;
    int64_t hung_step = -1;  // told last
    std::optional<StragglerDetector> straggler;
    std::set<int32_t> stragglers_told;
    std::optional<CorruptionDetector> corruption;
  };
  JobDetectors& DetectorsOf(const DurableJob& job);
  void DetectHang(const DurableJob& job, const Gang& gang, Moment now);
  void ConcludeHang(const DurableJob& job, const Gang& gang, bool act, Moment now);
  void DetectStraggler(const DurableJob& job, const Gang& gang, Moment now);
  void DetectCorruption(const DurableJob& job, const Gang& gang, Moment now);
  GangFailure JudgeCorruption(const DurableJob& job, GangFailure failure, Moment now);
  void DetectBadHealth(Moment now);
  void ReplaceNode(const DurableJob& job, const NodeName& node, const std::string& reason,
                   Moment now);
  // Nothing of it is trusted any more: its ranks move at once.
  void GiveUpNode(const NodeName& node, const std::string& reason, Moment now);
  void DetectorEvent(const std::string& kind, const JobId& job, const NodeName& node,
                     const std::string& message, Moment now);

  // --- Who gets devices, and who gives them back (core_waiting.cc) ---
  void PlaceWaitingJobs(Moment now);
  void PlaceRecoveringJobs(Moment now);
  bool AnyWaits() const;
  // What the policy is told. `open`: what a job that never ran may have; `cannot`: why jobs found
  // no plan although devices enough are free; `guest`: a job that isn't submitted, or null.
  QueueInput QueueNow(const DeviceMap& open, const std::map<JobId, std::string>& cannot, Moment now,
                      const DurableJob* guest = nullptr) const;
  WaitingJob WaitingOf(const DurableJob& job) const;
  RunningJob RunningOf(const DurableJob& job, Moment now) const;
  void NoteRunning(Moment now);
  void AskToPark(const Parking& parking, Moment now);
  // A job that is to be parked: whether that is done, or must be done without its last steps. True:
  // it has left its devices.
  bool SettlePark(const DurableJob& job, const Gang* gang, Moment now);

  // --- Explanations (core_explain.cc) ---
  void ExplainSelf(const DurableJob& job, v1::ExplainJobResponse* response) const;
  void ExplainNextPlan(const DurableJob& job, v1::ExplainJobResponse* response) const;
  void ExplainDrains(const DurableJob& job, v1::ExplainJobResponse* response) const;
  void ExplainShed(const DurableJob& job, v1::ExplainJobResponse* response) const;
  void ExplainQueue(const DurableJob& job, v1::ExplainJobResponse* response) const;
  void ExplainNodes(const DurableJob& job, v1::ExplainJobResponse* response) const;
  void ExplainPast(const DurableJob& job, v1::ExplainJobResponse* response) const;
  void ExplainExpectation(const DurableJob& job, v1::ExplainJobResponse* response) const;
  int64_t HeldBy(const std::string& user) const;  // devices

  // --- Where a job is placed (core_queue.cc) ---
  // Empty if the job got a plan, else what it waits for. `open`: what a job that never ran may
  // have, kept up to date; null for one that recovers.
  std::string TryToPlace(const DurableJob& job, bool first_in_line, DeviceMap* open, Moment now);
  absl::StatusOr<v1::Plan> FindNextOf(const DurableJob& job, bool first_in_line) const;
  absl::StatusOr<v1::Plan> FindPlan(const DurableJob& job, uint64_t epoch) const;
  absl::StatusOr<v1::Plan> FindPlanIn(const DeviceMap& devices, const DurableJob& job,
                                      uint64_t epoch) const;
  absl::StatusOr<v1::Plan> FindRecoveryPlan(const DurableJob& job, bool over_claims) const;
  // Nodes of the job's last plan whose ranks must leave, as their time to drain is over; or that
  // are to leave if that is possible.
  std::set<std::string> DrainingOf(const DurableJob& job, bool only_overdue) const;
  // What decides where the job can go; a plan that wasn't found is sought again when it changes.
  std::string TextOf(const DeviceMap& devices, const DurableJob& job) const;
  ReplanInput InputFor(const DurableJob& job, uint64_t epoch, const DeviceMap& devices) const;
  DeviceMap DevicesFor(const JobId& viewer, bool over_claims) const;

  // Gangs of the jobs in gangs_due_, as the state now has them.
  void RefreshGangs(Moment now);
  void RefreshGang(const JobId& id, Moment now);
  Gang MakeGang(const std::shared_ptr<const v1::Plan>& plan, bool seen, Moment now);
  void MarkChangedDesires();
  struct Desire;
  Desire DesireOf(const DurableJob& job) const;
  void AddDesiredJob(const DurableJob& job, const Gang& gang, const NodeName& node,
                     std::vector<SharedBytes>* pieces) const;
  // What all nodes are told of this epoch: a DesiredJob without ranks.
  SharedBytes CommonPieceOf(const DurableJob& job, const Gang& gang) const;
  void AddPreflight(const NodeName& name, v1::DesiredState* desired) const;

  const CoreOptions options_;
  DurableState state_;
  NodeTable nodes_;
  std::map<JobId, Gang> gangs_;       // of active jobs that have a plan, maybe of an older epoch
  std::map<JobId, Gang> next_gangs_;  // of their next plans
  std::map<NodeName, std::set<JobId>> jobs_on_;   // whose present or next plan names the node
  std::map<JobId, std::set<NodeName>> nodes_of_;  // the same the other way round
  std::map<JobId, std::string> waiting_;          // what each job without a current plan waits for
  struct Hopeless {
    std::string devices;  // the free ones, as text
    std::string reason;
  };
  // Where planning failed, so that it is not tried again there.
  std::map<JobId, Hopeless> hopeless_;
  std::map<JobId, Hopeless> hopeless_change_;  // the same for a change at a boundary
  // As the state and the nodes, of these numbers, have it; made anew when either has changed.
  mutable std::optional<DeviceUse> device_use_;
  mutable std::pair<uint64_t, uint64_t> device_use_seen_;
  Moment last_decided_;
  bool in_batch_ = false;
  bool started_ = false;  // an event was handled

  Quotas quotas_;
  std::map<JobId, int64_t> running_since_;  // steady; since a job that trains last left the queue
  std::vector<QueuedJob> queue_;            // as last decided, in order
  std::map<JobId, JobDetectors> job_detectors_;
  std::map<JobId, Expectation> expectations_;
  int64_t detected_ms_ = -1;  // steady; when the detectors last ran
  FlapDetector flaps_;
  HealthDetector health_;

  // Of changes at a boundary that came to nothing: when to try again, and where not. Steady.
  std::map<JobId, int64_t> change_not_before_;
  std::map<NodeName, int64_t> shunned_until_;

  // What the event at hand touched.
  std::set<JobId> touched_;       // jobs to advance
  std::set<JobId> gangs_due_;     // jobs whose plans changed
  bool placement_due_ = true;     // devices or the queue may have changed
  std::set<JobId> desire_dirty_;  // since the last commit

  // Steps as last known of an epoch that ended, until the next one's first step.
  std::map<JobId, StepMark> last_steps_;
  struct LinkFault {
    int64_t steady_ms = 0;
    std::string a;  // in order
    std::string b;
    std::string blamed;
  };
  std::deque<LinkFault> link_faults_;

  std::vector<v1::Record> records_;
  bool marked_ = false;

  struct Desire {
    std::string signature;  // changes exactly when the wish does; empty: none
    std::set<std::string> nodes;
  };
  std::map<JobId, Desire> desires_;  // as last marked
  std::map<NodeName, std::set<JobId>> desired_on_;
  // By epoch, as far as they were asked for since the job was last marked.
  mutable std::map<JobId, std::map<uint64_t, SharedBytes>> common_pieces_;
  std::set<NodeName> preflights_due_;  // nodes whose wished preflight may have changed
  std::set<NodeName> changed_nodes_;
  std::set<NodeName> starting_nodes_;  // of these, those that go first
  uint64_t desired_version_ = 1;
  std::map<NodeName, uint64_t> version_of_;
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_CORE_COORDINATOR_CORE_H_
