#include "common/metrics/metric_registry.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "common/base/check.h"

namespace fathom {
namespace {

using LabelValues = std::vector<std::string>;

template <typename Metric>
struct FamilyTable {
  prometheus::Family<Metric>* family = nullptr;
  std::map<LabelValues, Metric*> series;
};

// From 50 microseconds (a commit to fast storage) to 10 seconds (a storage about to fail).
prometheus::Histogram::BucketBoundaries LatencyBuckets() {
  return {50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3,
          50e-3, 0.1,    0.25,   0.5,    1,    2.5,    5,    10};
}

template <typename Metric>
auto Build() {
  if constexpr (std::is_same_v<Metric, prometheus::Gauge>) {
    return prometheus::BuildGauge();
  } else if constexpr (std::is_same_v<Metric, prometheus::Counter>) {
    return prometheus::BuildCounter();
  } else {
    return prometheus::BuildHistogram();
  }
}

}  // namespace

struct MetricRegistry::Tables {
  template <typename Metric>
  using Families = std::map<const MetricSpec*, FamilyTable<Metric>>;

  template <typename Metric>
  Metric& Series(Families<Metric>& families, MetricKind kind, const MetricSpec& spec,
                 const LabelValues& values) {
    FATHOM_CHECK(spec.kind == kind) << spec.name << " is of another kind";
    FATHOM_CHECK(static_cast<int>(values.size()) == spec.label_count()) << spec.name << " labels";
    FamilyTable<Metric>& table = families[&spec];
    if (table.family == nullptr) {
      auto catalog = MetricCatalog();
      FATHOM_CHECK(std::count(catalog.begin(), catalog.end(), &spec) == 1)
          << spec.name << " is not in the catalog";
      table.family = &Build<Metric>()
                          .Name(std::string(spec.name))
                          .Help(std::string(spec.help))
                          .Register(registry);
    }
    auto [place, is_new] = table.series.try_emplace(values, nullptr);
    if (is_new) {
      prometheus::Labels labels;
      for (size_t i = 0; i < values.size(); ++i) labels[std::string(spec.labels[i])] = values[i];
      if constexpr (std::is_same_v<Metric, prometheus::Histogram>) {
        place->second = &table.family->Add(labels, LatencyBuckets());
      } else {
        place->second = &table.family->Add(labels);
      }
    }
    return *place->second;
  }

  template <typename Metric>
  static void Remove(Families<Metric>& families, const MetricSpec& spec,
                     const LabelValues& values) {
    auto found = families.find(&spec);
    if (found == families.end()) return;
    auto& series = found->second.series;
    auto place = series.lower_bound(values);
    while (place != series.end() && place->first.size() >= values.size() &&
           std::equal(values.begin(), values.end(), place->first.begin())) {
      found->second.family->Remove(place->second);
      place = series.erase(place);
    }
  }

  std::mutex mutex;  // guards all of the following
  prometheus::Registry registry;
  Families<prometheus::Gauge> gauges;
  Families<prometheus::Counter> counters;
  Families<prometheus::Histogram> histograms;
};

MetricRegistry::MetricRegistry() : tables_(std::make_unique<Tables>()) {}
MetricRegistry::~MetricRegistry() = default;

void MetricRegistry::Set(const MetricSpec& gauge, const std::vector<std::string>& labels,
                         double value) {
  std::lock_guard lock(tables_->mutex);
  tables_->Series(tables_->gauges, MetricKind::kGauge, gauge, labels).Set(value);
}

void MetricRegistry::Add(const MetricSpec& counter, const std::vector<std::string>& labels,
                         double by) {
  FATHOM_CHECK(by >= 0) << counter.name << " went back by " << by;
  std::lock_guard lock(tables_->mutex);
  tables_->Series(tables_->counters, MetricKind::kCounter, counter, labels).Increment(by);
}

void MetricRegistry::Observe(const MetricSpec& histogram, const std::vector<std::string>& labels,
                             double value) {
  std::lock_guard lock(tables_->mutex);
  tables_->Series(tables_->histograms, MetricKind::kHistogram, histogram, labels).Observe(value);
}

void MetricRegistry::Remove(const MetricSpec& metric, const std::vector<std::string>& labels) {
  std::lock_guard lock(tables_->mutex);
  Tables::Remove(tables_->gauges, metric, labels);
  Tables::Remove(tables_->counters, metric, labels);
  Tables::Remove(tables_->histograms, metric, labels);
}

std::string MetricRegistry::Text() const {
  std::lock_guard lock(tables_->mutex);
  return prometheus::TextSerializer().Serialize(tables_->registry.Collect());
}

}  // namespace fathom
