// The daemon's watch over its own node: runs fathom-preflight at the start and whenever the
// coordinator asks with a new id, and in between probes the system's signals every so often.
//
// Both run in a child with a deadline: a call into a broken driver can hang for ever, and even
// survive SIGKILL in the kernel, which costs this class a zombie and nothing else (child_run.h).
// One child at a time, a preflight before a probe. A preflight that can't run, or overruns, is a
// report that has not passed and says why; a probe, a NodeHealth with probe_error and the signals
// that were known before.
//
// One thread of its own. The callbacks come from that thread.
#ifndef FATHOM_WORKER_HEALTH_HEALTH_MONITOR_H_
#define FATHOM_WORKER_HEALTH_HEALTH_MONITOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/agent/unique_fd.h"
#include "worker/health/child_run.h"
#include "worker/health/signal_history.h"

namespace fathom::health {

struct HealthMonitorOptions {
  std::string preflight_binary;
  std::string state_directory;  // for the disk check
  int devices = 1;
  std::string system_root = "/";  // where sys, proc and dev are looked for
  absl::Duration probe_interval = absl::Seconds(10);
  absl::Duration probe_time = absl::Seconds(5);       // before the child is killed
  absl::Duration preflight_time = absl::Seconds(60);  // before the child is killed
  std::vector<std::string> extra_arguments;           // of both, such as smaller sizes
  std::function<void(const v1::PreflightReport&, absl::Duration took)> on_preflight;
  std::function<void(const v1::NodeHealth&)> on_health;
  const Clock* clock = nullptr;  // outlives the monitor
};

class HealthMonitor {
 public:
  // Begins with the preflight "start". Codes of ErrnoStatus.
  static absl::StatusOr<std::unique_ptr<HealthMonitor>> Start(HealthMonitorOptions options);
  ~HealthMonitor();  // kills a child that runs; no callback after it

  HealthMonitor(const HealthMonitor&) = delete;
  HealthMonitor& operator=(const HealthMonitor&) = delete;

  // Does nothing if the newest request, done or not, has this id. Of requests that come while one
  // runs the newest is kept. From any thread; never waits.
  void Request(const v1::PreflightRequest& request);

 private:
  HealthMonitor(HealthMonitorOptions options, UniqueFd wake, UniqueFd stop);

  void Run();
  std::optional<v1::PreflightRequest> TakeRequest();
  void RunPreflight(const v1::PreflightRequest& request);
  void RunProbe();
  absl::StatusOr<std::string> RunChild(const std::vector<std::string>& arguments,
                                       absl::Duration time);
  bool Stopping() const;
  void AwaitWake(absl::Duration until);

  const HealthMonitorOptions options_;
  const UniqueFd wake_;  // readable: there is a request
  const UniqueFd stop_;  // readable: it is to end

  absl::Mutex mutex_;
  std::optional<v1::PreflightRequest> request_;  // guarded by mutex_
  std::string newest_id_;                        // guarded by mutex_

  // Only the thread.
  ChildRunner children_;
  SignalHistory history_;

  std::thread thread_;
};

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_HEALTH_MONITOR_H_
