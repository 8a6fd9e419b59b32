#include "worker/health/node_watch.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_util.h"

namespace fathom::health {

absl::StatusOr<std::unique_ptr<NodeWatch>> NodeWatch::Create(NodeWatchOptions options) {
  EchoServerOptions echo;
  echo.host = options.address;
  echo.clock = options.clock;
  FATHOM_ASSIGN_OR_RETURN(std::unique_ptr<EchoServer> server, EchoServer::Start(std::move(echo)));
  return std::unique_ptr<NodeWatch>(new NodeWatch(std::move(options), std::move(server)));
}

NodeWatch::NodeWatch(NodeWatchOptions options, std::unique_ptr<EchoServer> echo)
    : options_(std::move(options)), echo_(std::move(echo)), metrics_(options_.registry) {}

absl::Status NodeWatch::Begin(std::function<void(v1::PreflightReport)> on_preflight,
                              std::function<void(v1::NodeHealth)> on_health) {
  HealthMonitorOptions monitor;
  monitor.preflight_binary = options_.preflight_binary;
  monitor.state_directory = options_.state_directory;
  monitor.devices = options_.devices;
  monitor.probe_interval = options_.probe_interval;
  monitor.clock = options_.clock;
  monitor.on_preflight = [this, on_preflight = std::move(on_preflight)](
                             const v1::PreflightReport& report, absl::Duration took) {
    metrics_.ShowPreflight(report, took);
    LogPreflight(report, took);
    on_preflight(report);
  };
  monitor.on_health = [this, on_health = std::move(on_health)](const v1::NodeHealth& health) {
    metrics_.ShowHealth(health);
    LogHealth(health);
    on_health(health);
  };
  FATHOM_ASSIGN_OR_RETURN(monitor_, HealthMonitor::Start(std::move(monitor)));
  return absl::OkStatus();
}

void NodeWatch::LogPreflight(const v1::PreflightReport& report, absl::Duration took) const {
  options_.log(absl::StrFormat("preflight %s took %.1f s: %s", report.id(),
                               absl::ToDoubleSeconds(took), report.verdict()));
}

void NodeWatch::LogHealth(const v1::NodeHealth& health) {
  if (health.probe_error() != logged_error_ && !health.probe_error().empty()) {
    options_.log(absl::StrCat("health probe: ", health.probe_error()));
  }
  logged_error_ = health.probe_error();
  std::set<std::string> faults;
  for (const v1::HealthSignal& signal : health.signals()) {
    if (signal.severity() != v1::SEVERITY_FATAL) continue;
    const std::string fault = absl::StrCat(signal.source(), " ", signal.subject(), " ",
                                           signal.name(), " ", signal.message());
    faults.insert(fault);
    if (!logged_.contains(fault)) options_.log(absl::StrCat("health: ", fault));
  }
  logged_ = std::move(faults);
}

}  // namespace fathom::health
