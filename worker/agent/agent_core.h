// What the node daemon decides, without doing any of it: the coordinator's DesiredState, what
// became of the rank processes and the time go in; actions and the NodeReport come out.
//
// Level-triggered: Reconcile compares what should be with what is and may be called at any moment;
// with nothing new it returns nothing. A process belongs to a device and outlives epochs; a rank is
// one (job, epoch, rank) and has a status of its own:
//
//   wanted --start--> STARTING --listening--> LISTENING --loading, training--> TRAINING --> ended
//                                                  any of these --held--> HELD
//
// A rank is started in a new process, in the idle one that a spare keeps ready on each device, or
// in the process that runs an earlier epoch of the job on its device. That one is told of the later
// epoch and belongs to it once it says so: LOADING or TRAINING when it leaves at a step boundary,
// LISTENING when it drops its epoch at once. The earlier rank is MOVED then. A process that does
// not drop its epoch within stop_grace is killed, and a new one started.
//
// ended: FINISHED or PARKED (said so and exited with 0), STOPPED (asked to), MOVED, or FAILED (all
// else, including a rank that could not be started). An ended rank is reported until the
// coordinator no longer lists it, and then forgotten; a process none of whose ranks is listed is
// asked to stop and killed after stop_grace.
//
// Promises: a rank that said that it listens is never started again in the daemon's life, as long
// as its job is among the newest that desired_jobs remembers; a job's epoch never goes back; a
// device never has two processes. Losing the coordinator is no event here: what was desired last
// stays desired.
#ifndef FATHOM_WORKER_AGENT_AGENT_CORE_H_
#define FATHOM_WORKER_AGENT_AGENT_CORE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/agent/desired_jobs.h"
#include "worker/agent/rank_id.h"

namespace fathom {

struct AgentOptions {
  v1::Node node;
  int64_t incarnation = 0;
  int64_t pid = 0;
  bool spare = false;
  // A process ready on every device that has none. Not said: as `spare`.
  std::optional<bool> keep_idle;
  // From the wish that a rank stops, or drops its epoch, to SIGKILL.
  absl::Duration stop_grace = absl::Seconds(5);
  // From a rank's last word to SIGKILL: it may have much memory to give back.
  absl::Duration exit_grace = absl::Seconds(30);
  // From a question to a rank what it is at to asking the kernel instead.
  absl::Duration diagnose_grace = absl::Seconds(2);
  // Asked once for every plan received.
  std::function<absl::Status(const v1::Plan&)> check_plan;
};

// Clock::Steady() for deadlines, Clock::WallMs() for stamps.
struct AgentMoment {
  absl::Duration steady;
  int64_t wall_ms = 0;
};

// Of one process, chosen by the core; never used again.
using ProcessId = uint64_t;

struct AgentAction {
  enum class Kind {
    kSpawn,    // start a process on `device`, and send it `command` unless that is empty (idle)
    kSend,     // send `command`
    kKill,     // SIGKILL
    kInspect,  // say with OnInspected what the kernel knows of it
  };
  Kind kind;
  ProcessId process = 0;
  int32_t device = -1;
  // Whom it is about. With a RankStart: the rank to be started; none when it is to leave.
  std::optional<RankId> rank;
  v1::RankCommand command;
};

class AgentCore {
 public:
  explicit AgentCore(AgentOptions options);

  // The newest state the coordinator wishes; replaces the one before.
  void OnDesired(const v1::DesiredState& desired);

  // What became of actions and of processes.
  void OnSpawned(ProcessId process, int64_t pid);
  void OnSpawnFailed(ProcessId process, const absl::Status& why);
  void OnEvent(ProcessId process, const v1::RankEvent& event, AgentMoment now);
  // `why` is OK when the rank closed its channel in order. The process may live on for a while.
  void OnChannelClosed(ProcessId process, const absl::Status& why, AgentMoment now);
  // `state` as the kernel sees it: "running", "stopped by a signal".
  void OnInspected(ProcessId process, absl::string_view state, AgentMoment now);
  // All events the process had sent must have been delivered before. `how` says how it ended.
  // Returns the state of the rank it ran; UNSPECIFIED if it was idle.
  v1::RankState OnExited(ProcessId process, bool exit_code_zero, absl::string_view how);

  // From here on nothing is started and everything is stopped.
  void Shutdown(absl::string_view reason);

  // What is to be done now. The caller does all of it and reports back with the methods above.
  std::vector<AgentAction> Reconcile(AgentMoment now);

  // When (steady) Reconcile must be called even if nothing happens.
  std::optional<absl::Duration> NextDeadline() const;

  // Without health and preflight, which are others' to fill in.
  v1::NodeReport Report() const;

  // Rises with every change in Report() other than a step report.
  uint64_t revision() const { return revision_; }

  bool AnyProcessAlive() const;
  int IdleProcesses() const;
  // Of processes from one epoch to a later one, since the start.
  int64_t moves_at_boundary() const { return moves_at_boundary_; }
  int64_t moves_at_once() const { return moves_at_once_; }
  // Nothing: it is not known (any more).
  std::optional<v1::RankState> StateOf(const RankId& id) const;

 private:
  struct Rank {
    v1::RankStatus status;
    int32_t device = -1;
    ProcessId process = 0;  // that runs it or is told of it; 0: none
    bool spawned = false;   // in a new process
    bool listened = false;
    bool peers_sent = false;
    bool hold_sent = false;
    bool park_sent = false;
    bool at_boundary = false;  // how its process was told of it
  };

  struct Process {
    int32_t device = -1;
    bool alive = false;  // else asked to be started
    int64_t pid = 0;
    std::optional<RankId> present;
    std::optional<RankId> next;          // told of, not yet moved to
    std::optional<uint64_t> leaves_for;  // epoch at whose beginning it ends
    uint64_t told_epoch = 0;             // newest
    int64_t dropped_ms = 0;              // when it said that it had dropped `present`
    bool leave_peers_sent = false;
    bool finished_said = false;
    bool parked_said = false;
    bool stop_sent = false;
    bool kill_sent = false;
    std::optional<absl::Duration> move_by;  // SIGKILL then, unless it has dropped its epoch
    std::optional<absl::Duration> end_by;   // SIGKILL then
    std::string overstayed;                 // why it was killed, should it be
    uint64_t diagnose_token = 0;
    std::optional<absl::Duration> answer_by;
    AgentMoment last_word;
  };
  using Actions = std::vector<AgentAction>;

  // What should be.
  void AddWantedRanks(const DesiredJobs::Entry& entry);
  absl::StatusOr<int32_t> DeviceFor(const v1::Plan& plan, int32_t rank) const;

  // What is.
  Process* Alive(ProcessId id);
  Rank* RankOf(Process* process, const v1::RankEvent& event, AgentMoment now);
  void OnListening(Process* process, Rank* rank, const std::string& endpoint, AgentMoment now);
  void OnTraining(Rank* rank, const v1::RankTraining& training, AgentMoment now);
  void OnHeld(Process* process, Rank* rank, const v1::RankHeld& held, AgentMoment now);
  void OnDiagnosis(Process* process, const v1::RankEvent& event);
  void Move(Process* process, AgentMoment now);
  void EndPresent(const Process& process, Rank* rank, bool exit_code_zero, absl::string_view how);
  void EndNext(const Process& process, Rank* rank, bool exit_code_zero, absl::string_view how);
  bool MayStartAgain(const Rank& rank) const;
  void SetState(Rank* rank, v1::RankState state, absl::string_view message);
  void ExpectEnd(Process* process, absl::Duration now, absl::Duration grace,
                 absl::string_view because);

  // The difference.
  void Advance(ProcessId id, Process* process, AgentMoment now, Actions* actions);
  void Steer(ProcessId id, Process* process, AgentMoment now, Actions* actions);
  void Tell(ProcessId id, Process* process, const RankId& rank, bool at_boundary, AgentMoment now,
            Actions* actions);
  void TellToLeave(ProcessId id, Process* process, const v1::DesiredJob& later, Actions* actions);
  void SendOrders(ProcessId id, const Process& process, Actions* actions);
  void SendPeers(ProcessId id, Process* process, Actions* actions);
  void Diagnose(ProcessId id, Process* process, AgentMoment now, Actions* actions);
  void Stop(ProcessId id, Process* process, AgentMoment now, Actions* actions);
  void EndOverdue(ProcessId id, Process* process, AgentMoment now, Actions* actions);
  void MaybeStart(const RankId& id, Rank* rank, AgentMoment now, Actions* actions);
  bool Superseded(const RankId& id, const Rank& rank) const;
  void Adopt(const RankId& id, Rank* rank, ProcessId process_id, Process* process, AgentMoment now);
  void Spawn(int32_t device, const RankId* id, AgentMoment now, Actions* actions);
  void KeepIdle(AgentMoment now, Actions* actions);
  void ForgetUnlisted();
  Process* OnDevice(int32_t device, ProcessId* id);
  std::optional<RankId> SuccessorOf(ProcessId id, const Process& process) const;
  v1::RankCommand StartCommand(const v1::DesiredJob& job, int32_t rank, bool at_boundary) const;

  const AgentOptions options_;
  DesiredJobs desired_;
  std::map<RankId, Rank> ranks_;
  std::map<ProcessId, Process> processes_;
  ProcessId last_process_ = 0;
  std::set<int32_t> no_idle_;  // devices whose idle process ended by itself
  uint64_t desired_version_ = 0;
  uint64_t acted_version_ = 0;
  uint64_t revision_ = 1;
  int64_t moves_at_boundary_ = 0;
  int64_t moves_at_once_ = 0;
  std::optional<std::string> shutdown_reason_;
};

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_AGENT_CORE_H_
