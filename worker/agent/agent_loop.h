// Does what agent_core decides: one thread that waits (epoll) for ranks that speak or end, for a
// new desired state, for the signal to end, and for the next deadline; tells the core; carries out
// its actions; and hands out the report, with health and preflight as others set them. Never waits
// for a rank.
//
// The thread that calls Run starts the rank processes, and they die with it (rank_process.h).
#ifndef FATHOM_WORKER_AGENT_AGENT_LOOP_H_
#define FATHOM_WORKER_AGENT_AGENT_LOOP_H_

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "common/base/clock.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/agent/agent_core.h"
#include "worker/agent/agent_metrics.h"
#include "worker/agent/daemon_log.h"
#include "worker/agent/rank_logs.h"
#include "worker/agent/rank_process.h"
#include "worker/agent/unique_fd.h"

namespace fathom {

struct AgentLoopOptions {
  std::string rank_binary;
  // Readable once the daemon is to end, such as a signalfd. Not read, not closed.
  int stop_fd = -1;
  // Told after every change, on the loop's thread. `urgent`: more than step reports changed.
  std::function<void(const v1::NodeReport&, bool urgent)> publish;
  // Told of each request with a new id, on the loop's thread: shall return at once. May be empty.
  std::function<void(const v1::PreflightRequest&)> on_preflight = nullptr;
  // These outlive the loop.
  const RankLogs* rank_logs = nullptr;
  const Clock* clock = nullptr;
  AgentMetrics* metrics = nullptr;
  const DaemonLog* log = nullptr;
};

class AgentLoop {
 public:
  AgentLoop(AgentLoopOptions options, AgentOptions core);

  // The newest desired state; an older one not yet looked at is dropped. From any thread.
  void Desire(v1::DesiredState desired);

  // What reports say of the node's health, and its newest preflight. From any thread. At once when
  // fatal signals come or go, or a preflight's report changed; else with the next report.
  void SetHealth(v1::NodeHealth health);
  void SetPreflight(v1::PreflightReport preflight);

  // Until stop_fd is readable and no rank is left. UNAVAILABLE or the codes of ErrnoStatus: the
  // kernel refused what the loop itself rests on; ranks are killed then.
  absl::Status Run();

 private:
  struct Running {
    RankProcess process;
    int32_t device;
    std::vector<RankId> ranks;  // that it was told of, the newest last: where its log may be
    bool awaits_writable = false;
  };

  absl::Status SetUp();
  absl::Status Wait();
  void Converge();
  void Do(const AgentAction& action);
  absl::Status Spawn(const AgentAction& action);
  void SendTo(const AgentAction& action);
  void OnChannelReady(ProcessId id, uint32_t events);
  void OnEnded(ProcessId id);
  void Listen(ProcessId id, Running* running);
  void WatchWritable(ProcessId id, Running* running);
  std::string Name(const Running& running) const;
  std::string DescribeEnd(const Running& running, const RankExit& exit) const;
  AgentMoment Now() const;
  void Wake();
  void Publish();
  void TakeDesired();
  int WaitMs() const;

  const AgentLoopOptions options_;
  const std::string node_;

  absl::Mutex mutex_;
  // Guarded by mutex_.
  std::optional<v1::DesiredState> desired_;
  v1::NodeHealth health_;
  std::optional<v1::PreflightReport> preflight_;
  bool others_changed_ = false;  // health_ or preflight_
  bool others_urgent_ = false;

  // Only the thread in Run.
  AgentCore core_;
  UniqueFd epoll_;
  UniqueFd wake_;
  bool stopping_ = false;
  bool steps_changed_ = true;
  uint64_t published_revision_ = 0;
  std::string preflight_id_;  // of the newest request
  std::map<ProcessId, Running> running_;
};

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_AGENT_LOOP_H_
