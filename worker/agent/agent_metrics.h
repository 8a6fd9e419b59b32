// The daemon's metrics: what its report says of ranks and steps, and counts of what happened. Safe
// to use from several threads.
#ifndef FATHOM_WORKER_AGENT_AGENT_METRICS_H_
#define FATHOM_WORKER_AGENT_AGENT_METRICS_H_

#include <cstdint>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "common/metrics/metric_registry.h"
#include "proto/fathom/v1/worker.pb.h"

namespace fathom {

class AgentMetrics {
 public:
  // `registry` outlives this.
  explicit AgentMetrics(MetricRegistry* registry);

  // What the report doesn't say of the processes.
  struct Processes {
    int idle = 0;
    int64_t moves_at_boundary = 0;  // since the start, as below
    int64_t moves_at_once = 0;
  };
  // The newest report.
  void Show(const v1::NodeReport& report, const Processes& processes);

  void RankStarted();
  void RankExited(absl::string_view how);  // "finished", "failed", "signal" and such
  void StreamState(bool open);
  void ReportSent();

  // Just before the metrics are read: sets those of the newest report, and what only the kernel
  // knows of its ranks. Series of ranks that it no longer names are removed.
  void Refresh();

 private:
  // Of a rank in its newest epoch.
  using Series = std::pair<std::string, std::string>;  // job, rank

  void ShowRank(const Series& series, const v1::RankStatus& rank);
  void ShowStep(const Series& series, const v1::StepReport& step);
  void RemoveSeries(const Series& series);

  MetricRegistry* const registry_;
  absl::Mutex mutex_;
  v1::NodeReport report_;   // guarded by mutex_
  Processes processes_;     // guarded by mutex_
  std::set<Series> shown_;  // guarded by mutex_
};

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_AGENT_METRICS_H_
