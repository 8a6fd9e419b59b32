// fathom-worker: the daemon of one node.
#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/hash.h"
#include "common/base/metric_catalog.h"
#include "common/base/real_clock.h"
#include "common/base/status_util.h"
#include "common/metrics/metric_registry.h"
#include "common/metrics/metrics_http.h"
#include "common/plan/plan_check.h"
#include "worker/agent/agent_loop.h"
#include "worker/agent/agent_metrics.h"
#include "worker/agent/log_pages.h"
#include "worker/agent/node_probe.h"
#include "worker/agent/rank_logs.h"
#include "worker/agent/state_folder.h"
#include "worker/agent/synchronize_client.h"
#include "worker/agent/worker_config.h"
#include "worker/agent/worker_flags.h"
#include "worker/health/node_watch.h"

namespace fathom {
namespace {

constexpr absl::Duration kFarewell = absl::Seconds(2);  // for the last report at the end

// A descriptor that is readable once the daemon is asked to end. Called before there are threads,
// so that none of them takes the signals.
int BlockSignals() {
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, SIGINT);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  return ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
}

absl::StatusOr<std::unique_ptr<health::NodeWatch>> StartWatch(const v1::WorkerConfig& config,
                                                              const HostFacts& host,
                                                              MetricRegistry* registry,
                                                              const Clock* clock,
                                                              const DaemonLog* log) {
  return health::NodeWatch::Create(
      {.preflight_binary = FindPreflightBinary(config, host),
       .state_directory = config.state_directory(),
       .address = config.address(),
       .devices = config.devices(),
       .probe_interval = absl::Milliseconds(config.health_interval_ms()),
       .log = [log](const std::string& line) { log->Line(line); },
       .registry = registry,
       .clock = clock});
}

absl::Status RunDaemon(const v1::WorkerConfig& config, const HostFacts& host, int stop_fd) {
  const RealClock clock;
  const DaemonLog log(&clock, stderr);
  FATHOM_ASSIGN_OR_RETURN(const std::string rank_binary, FindRankBinary(config, host));
  FATHOM_ASSIGN_OR_RETURN(const StateFolder folder,
                          StateFolder::Open(config.state_directory(), ::getpid()));
  FATHOM_ASSIGN_OR_RETURN(const int64_t incarnation,
                          folder.NextIncarnation(absl::ToUnixMicros(clock.Wall())));
  FATHOM_ASSIGN_OR_RETURN(const int64_t memory_bytes, ProbeMemory());

  MetricRegistry registry;
  registry.Set(metrics::kBuildInfo, {"fathom-worker", "1"}, 1);
  registry.Set(metrics::kStartTime, absl::ToDoubleSeconds(clock.Wall() - absl::UnixEpoch()));
  AgentMetrics agent_metrics(&registry);
  const RankLogs rank_logs(config.state_directory());
  MetricsHttp http(&registry, [&agent_metrics] { agent_metrics.Refresh(); });
  AddLogPages(&rank_logs, &http);
  FATHOM_RETURN_IF_ERROR(http.Start(config.metrics_address()));

  FATHOM_ASSIGN_OR_RETURN(const auto watch, StartWatch(config, host, &registry, &clock, &log));
  AgentOptions core;
  core.node = DescribeNode(config, memory_bytes);
  core.node.set_machine(host.host_name);
  core.node.set_cores(host.cores);
  core.node.set_echo_endpoint(watch->echo_endpoint());
  core.node.set_metrics_address(ReachableAddress(http.address(), config.address()));
  core.incarnation = incarnation;
  core.pid = ::getpid();
  core.spare = config.spare();
  core.check_plan = plan::CheckPlan;

  std::unique_ptr<SynchronizeClient> client;
  AgentLoop loop({.rank_binary = rank_binary,
                  .stop_fd = stop_fd,
                  .publish = [&client](const v1::NodeReport& report,
                                       bool urgent) { client->Report(report, urgent); },
                  .on_preflight = [&watch](const auto& request) { watch->Request(request); },
                  .rank_logs = &rank_logs,
                  .clock = &clock,
                  .metrics = &agent_metrics,
                  .log = &log},
                 core);
  FATHOM_ASSIGN_OR_RETURN(
      client, SynchronizeClient::Create(
                  {.coordinator_address = config.coordinator_address(),
                   .tls = config.has_tls() ? &config.tls() : nullptr,
                   .seed = Xxh64(config.node_name(), static_cast<uint64_t>(incarnation)),
                   .on_desired = [&loop](v1::DesiredState d) { loop.Desire(std::move(d)); },
                   .on_stream = [&agent_metrics](bool open) { agent_metrics.StreamState(open); },
                   .on_report_sent = [&agent_metrics] { agent_metrics.ReportSent(); },
                   .log = [&log](const std::string& line) { log.Line(line); }}));
  FATHOM_RETURN_IF_ERROR(
      folder.Announce(config.node_name(), ::getpid(), core.node.metrics_address()));
  log.Line(absl::StrCat("fathom-worker of node ", config.node_name(), " is up: ", config.devices(),
                        " devices, metrics at http://", core.node.metrics_address(), "/metrics"));
  FATHOM_RETURN_IF_ERROR(
      watch->Begin([&loop](v1::PreflightReport r) { loop.SetPreflight(std::move(r)); },
                   [&loop](v1::NodeHealth h) { loop.SetHealth(std::move(h)); }));
  const absl::Status status = loop.Run();
  watch->Stop();
  client->Stop(kFarewell);
  log.Line(status.ok() ? "ended" : absl::StrCat("ended: ", status.message()));
  return status;
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  const int stop_fd = fathom::BlockSignals();
  const auto fail = [](const absl::Status& status, int code) {
    std::fprintf(stderr, "fathom-worker: %s\n", std::string(status.message()).c_str());
    return code;
  };
  const auto flags = fathom::ParseWorkerFlags(argc, argv);
  if (!flags.ok()) return fail(flags.status(), 2);
  if (!flags->has_value()) return 0;
  fathom::v1::WorkerConfig config = **flags;
  const absl::StatusOr<fathom::HostFacts> host = fathom::ProbeHost();
  if (!host.ok()) return fail(host.status(), 1);
  const absl::Status complete = fathom::CompleteWorkerConfig(*host, &config);
  if (!complete.ok()) return fail(complete, 2);
  const absl::Status status = fathom::RunDaemon(config, *host, stop_fd);
  return status.ok() ? 0 : fail(status, 1);
}
