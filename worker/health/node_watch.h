// Everything a daemon does about its node's health, in one piece: the echo service for others'
// link checks, the preflights and probes, their metrics, and a line in the daemon's log for what an
// operator should see.
#ifndef FATHOM_WORKER_HEALTH_NODE_WATCH_H_
#define FATHOM_WORKER_HEALTH_NODE_WATCH_H_

#include <functional>
#include <memory>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/metrics/metric_registry.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/health/echo_server.h"
#include "worker/health/health_metrics.h"
#include "worker/health/health_monitor.h"

namespace fathom::health {

struct NodeWatchOptions {
  std::string preflight_binary = {};
  std::string state_directory = {};
  std::string address = {};  // host that the echo service listens on
  int devices = 1;
  absl::Duration probe_interval = absl::Seconds(10);
  std::function<void(const std::string&)> log;
  // These outlive the watch.
  MetricRegistry* registry = nullptr;
  const Clock* clock = nullptr;
};

class NodeWatch {
 public:
  // The echo service is up. UNAVAILABLE: it can't listen there. Codes of ErrnoStatus.
  static absl::StatusOr<std::unique_ptr<NodeWatch>> Create(NodeWatchOptions options);

  const std::string& echo_endpoint() const { return echo_->endpoint(); }

  // Begins with the preflight "start". Both are called from a thread of the watch's own, until
  // Stop. Once.
  absl::Status Begin(std::function<void(v1::PreflightReport)> on_preflight,
                     std::function<void(v1::NodeHealth)> on_health);

  // After Begin. See HealthMonitor::Request.
  void Request(const v1::PreflightRequest& request) { monitor_->Request(request); }

  // No callback after it. May be called twice.
  void Stop() { monitor_.reset(); }

 private:
  NodeWatch(NodeWatchOptions options, std::unique_ptr<EchoServer> echo);

  void LogPreflight(const v1::PreflightReport& report, absl::Duration took) const;
  void LogHealth(const v1::NodeHealth& health);

  const NodeWatchOptions options_;
  const std::unique_ptr<EchoServer> echo_;
  HealthMetrics metrics_;
  // Only the monitor's thread.
  std::set<std::string> logged_;  // fatal faults that were there at the last probe
  std::string logged_error_;      // of the last probe

  std::unique_ptr<HealthMonitor> monitor_;
};

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_NODE_WATCH_H_
