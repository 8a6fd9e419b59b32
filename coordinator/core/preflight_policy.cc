#include "coordinator/core/preflight_policy.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "common/health/preflight_verdict.h"

namespace fathom {
namespace {

constexpr double kNormalPerMad = 1.4826;  // 1 / the 3/4 quantile of the standard normal
constexpr double kSigmas = 6;

// How far from the median a threshold lies, as shares of the median.
struct Margin {
  bool at_most;
  double least;
  double most;
};

const std::map<std::string, Margin, std::less<>>& Margins() {
  static const auto* const kMargins = new std::map<std::string, Margin, std::less<>>{
      {std::string(health::kComputeRateFp32), {false, 0.30, 0.45}},
      {std::string(health::kComputeRateBf16), {false, 0.30, 0.45}},
      {std::string(health::kLinkBandwidth), {false, 0.30, 0.45}},
      {std::string(health::kLinkLatency), {true, 2, 9}},
  };
  return *kMargins;
}

// `values` is not empty; it is reordered.
double Median(std::vector<double>* values) {
  const auto middle = values->begin() + values->size() / 2;
  std::nth_element(values->begin(), middle, values->end());
  if (values->size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values->begin(), middle)) / 2;
}

// The worst value of each calibrated check: what a threshold has to let pass.
std::map<std::string, double> WorstValues(const v1::PreflightReport& report) {
  std::map<std::string, double> worst;
  for (const v1::PreflightCheck& check : report.checks()) {
    const auto margin = Margins().find(check.name());
    // A link that failed within a passed report was not measured.
    if (margin == Margins().end() || !check.passed()) continue;
    if (!std::isfinite(check.value()) || check.value() <= 0) continue;
    const auto [entry, added] = worst.emplace(check.name(), check.value());
    if (added) continue;
    entry->second = margin->second.at_most ? std::max(entry->second, check.value())
                                           : std::min(entry->second, check.value());
  }
  return worst;
}

}  // namespace

std::vector<v1::PreflightThreshold> CalibratePreflight(
    absl::Span<const v1::PreflightReport* const> reports) {
  std::map<std::string, std::vector<double>> values;
  for (const v1::PreflightReport* report : reports) {
    if (!report->passed()) continue;
    for (const auto& [check, value] : WorstValues(*report)) values[check].push_back(value);
  }
  std::vector<v1::PreflightThreshold> thresholds;
  for (auto& [check, of_nodes] : values) {
    if (of_nodes.size() < kMinNodesToCalibrate) continue;
    const double median = Median(&of_nodes);
    for (double& value : of_nodes) value = std::abs(value - median);
    const double sigma = kNormalPerMad * Median(&of_nodes);
    const Margin& margin = Margins().find(check)->second;
    const double distance =
        std::clamp(kSigmas * sigma, margin.least * median, margin.most * median);
    v1::PreflightThreshold& threshold = thresholds.emplace_back();
    threshold.set_check(check);
    threshold.set_at_most(margin.at_most);
    threshold.set_value(margin.at_most ? median + distance : median - distance);
  }
  return thresholds;
}

v1::PreflightReport JudgePreflight(const v1::PreflightReport& report,
                                   absl::Span<const v1::PreflightThreshold> thresholds) {
  v1::PreflightReport judged = report;
  for (v1::PreflightCheck& check : *judged.mutable_checks()) {
    if (!check.calibrated() || !check.passed()) continue;
    check.clear_threshold();
    check.clear_at_most();
    check.clear_calibrated();
  }
  health::ApplyThresholds(thresholds, &judged);
  health::Judge(&judged);
  return judged;
}

std::vector<v1::PreflightPeer> ChoosePreflightPeers(const std::string& node,
                                                    absl::Span<const v1::Node* const> nodes,
                                                    uint64_t round) {
  std::vector<const v1::Node*> others;
  for (const v1::Node* other : nodes) {
    if (other->name() != node && !other->echo_endpoint().empty()) others.push_back(other);
  }
  // Beginning behind the node itself, so that not all of them measure to the same few.
  std::sort(others.begin(), others.end(), [&node](const v1::Node* a, const v1::Node* b) {
    return std::pair(a->name() < node, a->name()) < std::pair(b->name() < node, b->name());
  });
  std::vector<v1::PreflightPeer> peers;
  const size_t count = std::min<size_t>(others.size(), kPreflightPeers);
  for (size_t i = 0; i < count; ++i) {
    const uint64_t turn = (round % others.size()) * count + i;
    const v1::Node& other = *others[turn % others.size()];
    v1::PreflightPeer& peer = peers.emplace_back();
    peer.set_node(other.name());
    peer.set_endpoint(other.echo_endpoint());
  }
  return peers;
}

}  // namespace fathom
