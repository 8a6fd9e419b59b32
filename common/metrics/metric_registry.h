// The process's metrics. Only what common/base/metric_catalog.h lists can be created; a series
// comes into being with its first value and goes with Remove. Safe to use from several threads. Not
// for the step path: each call looks its series up under a mutex.
#ifndef FATHOM_COMMON_METRICS_METRIC_REGISTRY_H_
#define FATHOM_COMMON_METRICS_METRIC_REGISTRY_H_

#include <memory>
#include <string>
#include <vector>

#include "common/base/metric_catalog.h"

namespace fathom {

class MetricRegistry {
 public:
  MetricRegistry();
  ~MetricRegistry();

  // `labels` are the values of metric.labels, in order. Wrong kind or count: CHECK.
  void Set(const MetricSpec& gauge, const std::vector<std::string>& labels, double value);
  void Set(const MetricSpec& gauge, double value) { Set(gauge, {}, value); }
  // `by` >= 0.
  void Add(const MetricSpec& counter, const std::vector<std::string>& labels, double by = 1);
  void Add(const MetricSpec& counter, double by = 1) { Add(counter, {}, by); }
  void Observe(const MetricSpec& histogram, const std::vector<std::string>& labels, double value);
  void Observe(const MetricSpec& histogram, double value) { Observe(histogram, {}, value); }

  // Removes the series whose labels begin with `labels`, as of a job that has ended.
  void Remove(const MetricSpec& metric, const std::vector<std::string>& labels);

  // The text exposition format (version 0.0.4).
  std::string Text() const;

 private:
  struct Tables;
  std::unique_ptr<Tables> tables_;
};

}  // namespace fathom

#endif  // FATHOM_COMMON_METRICS_METRIC_REGISTRY_H_
