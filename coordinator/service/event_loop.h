// The one thread that feeds the core: takes what gRPC and HTTP threads post, lets the core decide,
// makes the records durable, and only then answers and sends.
//
// Events that wait together are decided together and committed with one append (group commit). What
// is in no hurry waits a little for company: most of a large fleet's reports say that all is as it
// was, and waking this thread for each would cost more than handling it. When
// the log refuses, the core rolls back: every command of the batch is refused with the reason,
// nothing has changed, and the coordinator stays up, since ranks train on without it. The core
// decides again with the next event.
#ifndef FATHOM_COORDINATOR_SERVICE_EVENT_LOOP_H_
#define FATHOM_COORDINATOR_SERVICE_EVENT_LOOP_H_

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "common/metrics/metric_registry.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/store/state_log.h"

namespace fathom {

class EventLoop {
 public:
  struct Options {
    const Clock* clock = nullptr;
    StateLog* log = nullptr;
    MetricRegistry* metrics = nullptr;
    CoreOptions core;
    std::function<void(const std::string&)> say;  // a line for the operator
  };
  // On the loop's thread, before the commit.
  using Decide = std::function<void(CoordinatorCore&, Moment)>;
  // On the loop's thread, after it. `durable`: OK, or why the batch was rolled back.
  using Done = std::function<void(const absl::Status& durable, const CoordinatorCore&)>;
  // After every commit, with the nodes whose desired state changed.
  using Hook = std::function<void(const CoordinatorCore&, const std::vector<NodeName>& changed)>;

  // Replays the log. All of the options outlive this. Codes as in StateLog::Replay.
  static absl::StatusOr<std::unique_ptr<EventLoop>> Create(Options options);
  ~EventLoop();  // stops

  void AddHook(Hook hook);  // before Start
  void Start();
  // Handles what was posted, then ends. What is posted later is refused.
  void Stop();

  // Of either function null means nothing to do. `kind` labels the event's metric. False: the loop
  // is stopped or its queue full; neither function will be called.
  bool Post(const std::string& kind, Decide decide, Done done);
  // As Post, but handled with the next event in a hurry, or after a tenth of a heartbeat.
  bool PostUnhurried(const std::string& kind, Decide decide, Done done);

  // Runs `ask` on the loop's thread and waits. UNAVAILABLE: stopped, or the queue is full.
  absl::Status Ask(const std::function<void(const CoordinatorCore&, Moment)>& ask);

  int pending() const;

 private:
  struct Event {
    std::string kind;
    Decide decide;
    Done done;
  };

  explicit EventLoop(Options options);
  bool Enqueue(const std::string& kind, Decide decide, Done done, bool hurried);
  void Run();
  void HandleBatch(const std::deque<Event>& batch);
  absl::Status Append();
  Moment Now() const;

  const Options options_;
  std::vector<Hook> hooks_;
  const absl::Duration tick_;
  const absl::Duration patience_;  // how long an event in no hurry waits

  // Only on the loop's thread, once started.
  CoordinatorCore core_;
  bool log_failed_ = false;
  int64_t last_tick_ms_ = 0;
  absl::Duration idle_;  // waited for events in vain since the last tick

  mutable std::mutex mutex_;
  std::condition_variable work_;
  std::deque<Event> queue_;  // guarded by mutex_
  bool hurried_ = false;     // guarded by mutex_: an event there is in a hurry
  bool stopping_ = false;    // guarded by mutex_

  std::thread thread_;
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_SERVICE_EVENT_LOOP_H_
