// The core's state as metrics, written when somebody scrapes. Series of jobs that ended stay for
// the newest few, so that a short job is seen too, and then go.
#ifndef FATHOM_COORDINATOR_SERVICE_CORE_METRICS_H_
#define FATHOM_COORDINATOR_SERVICE_CORE_METRICS_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "common/metrics/metric_registry.h"
#include "coordinator/core/coordinator_core.h"

namespace fathom {

class CoreMetrics {
 public:
  static constexpr int kEndedJobsMax = 20;

  explicit CoreMetrics(MetricRegistry* registry) : registry_(registry) {}

  // On the loop's thread only.
  void Export(const CoordinatorCore& core, Moment now);

 private:
  // What a job's counters and series say so far.
  struct Shown {
    int64_t restarts = 0;
    uint64_t token_epoch = 0;
    int64_t tokens = 0;            // counted in that epoch
    uint64_t recovered_epoch = 0;  // of the newest recovery counted
    std::string state;
  };

  void ExportJob(const CoordinatorCore& core, const DurableJob& job, Moment now);
  void ExportRecoveries(const DurableJob& job, Shown* shown);
  void ExportStep(const std::string& job, const v1::StepReport& step);
  void ExportStages(const std::string& job, const Gang& gang);
  void ExportExpectation(const std::string& job, const Expectation* expectation);
  void ExportCluster(const CoordinatorCore& core, Moment now);
  void ExportSchedulability(const CoordinatorCore& core);
  void CountEvents(const CoordinatorCore& core);
  void RemoveJob(const std::string& job);

  MetricRegistry* const registry_;
  std::map<std::string, Shown> shown_;
  std::map<std::string, bool> nodes_;       // with series
  std::optional<uint64_t> counted_events_;  // sequence of the newest
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_SERVICE_CORE_METRICS_H_
