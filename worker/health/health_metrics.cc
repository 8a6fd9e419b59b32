#include "worker/health/health_metrics.h"

#include <map>

#include "common/base/metric_catalog.h"

namespace fathom::health {

HealthMetrics::HealthMetrics(MetricRegistry* registry) : registry_(registry) {
  // A series that is there from the start is one whose increase can be seen.
  registry_->Add(metrics::kPreflightRuns, {"passed"}, 0);
  registry_->Add(metrics::kPreflightRuns, {"failed"}, 0);
  registry_->Add(metrics::kProbeFailures, 0);
}

void HealthMetrics::ShowPreflight(const v1::PreflightReport& report, absl::Duration took) {
  registry_->Set(metrics::kPreflightPassed, report.passed() ? 1 : 0);
  registry_->Set(metrics::kPreflightSeconds, absl::ToDoubleSeconds(took));
  registry_->Add(metrics::kPreflightRuns, {report.passed() ? "passed" : "failed"});
}

void HealthMetrics::ShowHealth(const v1::NodeHealth& health) {
  absl::MutexLock lock(&mutex_);
  if (!health.probe_error().empty()) registry_->Add(metrics::kProbeFailures);
  std::map<Series, int> counts;
  for (const Series& series : shown_) counts[series] = 0;
  for (const v1::HealthSignal& signal : health.signals()) {
    if (signal.severity() == v1::SEVERITY_WARNING) ++counts[{signal.source(), "warning"}];
    if (signal.severity() == v1::SEVERITY_FATAL) ++counts[{signal.source(), "fatal"}];
  }
  for (const auto& [series, count] : counts) {
    registry_->Set(metrics::kHealthSignals, {series.first, series.second}, count);
    shown_.insert(series);
  }
}

}  // namespace fathom::health
