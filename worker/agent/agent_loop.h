// Does what agent_core decides: one thread that waits (epoll) for ranks that speak or end, for a
// new desired state, for the signal to end, and for the next deadline; tells the core; carries out
// its actions; and hands out the report. Never waits for a rank.
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

  // Until stop_fd is readable and no rank is left. UNAVAILABLE or the codes of ErrnoStatus: the
  // kernel refused what the loop itself rests on; ranks are killed then.
  absl::Status Run();

 private:
  struct Running {
    RankProcess process;
    uint64_t key;  // of its two entries in the epoll set
    bool awaits_writable = false;
  };

  absl::Status SetUp();
  absl::Status Wait();
  void Converge();
  void Do(const AgentAction& action);
  absl::Status StartRank(const RankId& id, const v1::RankCommand& start);
  void SendTo(const RankId& id, const v1::RankCommand& command);
  void OnChannelReady(const RankId& id, uint32_t events);
  void OnEnded(const RankId& id);
  void Listen(const RankId& id, Running* running);
  void WatchWritable(Running* running);
  std::string DescribeEnd(const RankId& id, const RankExit& exit) const;
  void Publish();
  void TakeDesired();
  int WaitMs() const;

  const AgentLoopOptions options_;
  const std::string node_;

  absl::Mutex mutex_;
  std::optional<v1::DesiredState> desired_;  // guarded by mutex_

  // Only the thread in Run.
  AgentCore core_;
  UniqueFd epoll_;
  UniqueFd wake_;
  bool stopping_ = false;
  bool steps_changed_ = true;
  uint64_t published_revision_ = 0;
  uint64_t next_key_;
  std::map<RankId, Running> running_;
  std::map<uint64_t, RankId> by_key_;
};

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_AGENT_LOOP_H_
