// The daemon's metrics of its node's health: the newest preflight, and the faults that the system
// shows. Safe to use from several threads.
#ifndef FATHOM_WORKER_HEALTH_HEALTH_METRICS_H_
#define FATHOM_WORKER_HEALTH_HEALTH_METRICS_H_

#include <set>
#include <string>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/metrics/metric_registry.h"
#include "proto/fathom/v1/cluster.pb.h"

namespace fathom::health {

class HealthMetrics {
 public:
  explicit HealthMetrics(MetricRegistry* registry);  // outlives this

  void ShowPreflight(const v1::PreflightReport& report, absl::Duration took);
  void ShowHealth(const v1::NodeHealth& health);

 private:
  using Series = std::pair<std::string, std::string>;  // source, severity

  MetricRegistry* const registry_;
  absl::Mutex mutex_;
  std::set<Series> shown_;  // guarded by mutex_
};

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_HEALTH_METRICS_H_
