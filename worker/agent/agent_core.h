// What the node daemon decides, without doing any of it: the coordinator's DesiredState, what
// became of the rank processes and the time go in; actions and the NodeReport come out.
//
// Level-triggered: Reconcile compares what should be with what is and may be called at any moment;
// with nothing new it returns nothing. A rank's life here:
//
//   wanted --kStart--> STARTING --listening--> LISTENING --peers, training--> TRAINING --> ended
//
// ended: FINISHED (said so and exited with 0), STOPPED (asked to), or FAILED (all else, including a
// rank that could not be started). An ended rank is reported until the coordinator no longer lists
// it, and then forgotten; a rank no longer listed is asked to stop and killed after stop_grace.
//
// Promises: a rank of one job and epoch is started at most once in the daemon's life, as long as
// its job is among the kMaxRememberedJobs newest; a job's epoch never goes back; a device never has
// two processes. Losing the coordinator is no event here: what was desired last stays desired.
#ifndef FATHOM_WORKER_AGENT_AGENT_CORE_H_
#define FATHOM_WORKER_AGENT_AGENT_CORE_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/agent/rank_id.h"

namespace fathom {

struct AgentOptions {
  v1::Node node;
  int64_t incarnation = 0;
  int64_t pid = 0;
  bool spare = false;
  // From the wish that a rank stops to SIGKILL.
  absl::Duration stop_grace = absl::Seconds(5);
  // From a rank's last word to SIGKILL: it may have much memory to give back.
  absl::Duration exit_grace = absl::Seconds(30);
  // Asked once for every plan received.
  std::function<absl::Status(const v1::Plan&)> check_plan;
};

struct AgentAction {
  enum class Kind {
    kStart,      // start the process and send `command`, a RankStart
    kSendPeers,  // send `command`
    kStop,       // send `command`
    kKill,       // SIGKILL
    kForget,     // drop what is kept about it; its process is gone
  };
  Kind kind;
  RankId id;
  v1::RankCommand command;
};

class AgentCore {
 public:
  static constexpr int kMaxRememberedJobs = 1024;

  explicit AgentCore(AgentOptions options);

  // The newest state the coordinator wishes; replaces the one before.
  void OnDesired(const v1::DesiredState& desired);

  // What became of actions and of processes. `now` is Clock::Steady(), as everywhere here.
  void OnStarted(const RankId& id, int64_t pid);
  void OnStartFailed(const RankId& id, const absl::Status& why);
  void OnEvent(const RankId& id, const v1::RankEvent& event, absl::Duration now);
  // `why` is OK when the rank closed its channel in order. The process may live on for a while.
  void OnChannelClosed(const RankId& id, const absl::Status& why, absl::Duration now);
  // All events the process had sent must have been delivered before. `how` says how it ended.
  void OnExited(const RankId& id, bool exit_code_zero, absl::string_view how);

  // From here on nothing is started and everything is stopped.
  void Shutdown(absl::string_view reason);

  // What is to be done now. The caller does all of it and reports back with the methods above.
  std::vector<AgentAction> Reconcile(absl::Duration now);

  // When Reconcile must be called even if nothing happens.
  std::optional<absl::Duration> NextDeadline() const;

  v1::NodeReport Report() const;

  // Rises with every change in Report() other than a step report.
  uint64_t revision() const { return revision_; }

  bool AnyProcessAlive() const;
  // Nothing: it is not known (any more).
  std::optional<v1::RankState> StateOf(const RankId& id) const;

 private:
  // One rank as desired. The plan is shared by the ranks of its job.
  struct WantedJob {
    std::shared_ptr<const v1::DesiredJob> job;
    absl::Status refusal;  // OK, or why none of its ranks is started
  };
  using JobEpoch = std::pair<JobId, uint64_t>;

  enum class Process { kNone, kStartAsked, kAlive, kGone };

  struct Rank {
    v1::RankStatus status;
    Process process = Process::kNone;
    int32_t device = -1;
    bool peers_sent = false;
    bool finished_said = false;
    bool stop_sent = false;
    bool kill_sent = false;
    std::optional<absl::Duration> end_by;  // SIGKILL then
    std::string overstayed;                // set with end_by: why it was killed, should it be
  };

  // What outlives a job's ranks, so that epochs never go back and nothing starts twice.
  struct JobMemory {
    uint64_t newest_epoch = 0;
    uint64_t plan_hash = 0;    // of newest_epoch
    absl::Status plan_status;  // what check_plan said of it
    std::set<int32_t> asked;   // ranks of newest_epoch that kStart was returned for
    uint64_t last_wanted = 0;
  };

  absl::Status Admit(const v1::DesiredJob& job);
  absl::StatusOr<int32_t> DeviceFor(const v1::Plan& plan, int32_t rank) const;
  void AddWantedRanks(const WantedJob& wanted);
  void EndUnwanted(absl::Duration now, std::vector<AgentAction>* actions);
  void StartAndConnect(std::vector<AgentAction>* actions);
  void MaybeStart(const RankId& id, Rank* rank, const v1::DesiredJob& job,
                  std::vector<AgentAction>* actions);
  bool IsWanted(const RankId& id) const;
  const Rank* DeviceHolder(int32_t device) const;
  Rank* Alive(const RankId& id);
  void SetState(Rank* rank, v1::RankState state, absl::string_view message);
  void ExpectEnd(Rank* rank, absl::Duration now, absl::Duration grace, absl::string_view because);
  void ForgetOldJobs();

  const AgentOptions options_;
  std::map<JobEpoch, WantedJob> wanted_;
  std::set<RankId> wanted_ranks_;
  std::map<RankId, Rank> ranks_;
  std::map<JobId, JobMemory> memory_;
  uint64_t desired_count_ = 0;
  uint64_t desired_version_ = 0;
  uint64_t acted_version_ = 0;
  uint64_t revision_ = 1;
  std::optional<std::string> shutdown_reason_;
};

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_AGENT_CORE_H_
