#include "coordinator/service/coordinator_config.h"

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/config_loader.h"
#include "common/base/host_port.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"

namespace fathom {
namespace {

constexpr char kDefaultListenAddress[] = "127.0.0.1:7070";
constexpr char kDefaultMetricsAddress[] = "127.0.0.1:7071";

absl::Status CheckTls(const v1::Tls& tls) {
  if (tls.certificate_file().empty() != tls.key_file().empty()) {
    return absl::InvalidArgumentError(
        "--tls-certificate-file and --tls-key-file belong together: give both or neither");
  }
  if (!tls.ca_file().empty() && tls.certificate_file().empty()) {
    return absl::InvalidArgumentError(
        "--tls-ca-file asks clients for certificates, which needs --tls-certificate-file and "
        "--tls-key-file too");
  }
  return absl::OkStatus();
}

absl::Status CheckTimes(const v1::CoordinatorConfig& config) {
  if (config.heartbeat_ms() < limits::kMinHeartbeatMs ||
      config.heartbeat_ms() > limits::kMaxLeaseMs) {
    return absl::InvalidArgumentError(absl::StrCat("--heartbeat-ms ", config.heartbeat_ms(),
                                                   ": must be from ", limits::kMinHeartbeatMs,
                                                   " to ", limits::kMaxLeaseMs));
  }
  const int64_t least = int64_t{limits::kMinHeartbeatsPerLease} * config.heartbeat_ms();
  if (config.lease_ms() < least || config.lease_ms() > limits::kMaxLeaseMs) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--lease-ms ", config.lease_ms(), ": must be from ", limits::kMinHeartbeatsPerLease,
        " heartbeats (", least, ") to ", limits::kMaxLeaseMs));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::optional<v1::CoordinatorConfig>> ParseCoordinatorFlags(
    int argc, const char* const* argv) {
  CLI::App app(
      "fathom-coordinator: takes jobs, plans them, and keeps them training. One per cluster.");
  v1::CoordinatorConfig given;
  std::string file;
  const auto text = [&app](const char* flag, auto setter, const char* help) {
    app.add_option_function<std::string>(flag, setter, help)->type_name("");
  };
  app.add_option("--config", file, "YAML file of these settings; flags win over it");
  text(
      "--listen-address", [&](const std::string& v) { given.set_listen_address(v); },
      "host:port for fathomctl and the nodes; default 127.0.0.1:7070, port 0: any free one");
  text(
      "--metrics-address", [&](const std::string& v) { given.set_metrics_address(v); },
      "host:port of /metrics, /healthz and /sd; default 127.0.0.1:7071");
  text(
      "--state-directory", [&](const std::string& v) { given.set_state_directory(v); },
      "folder of the durable log; default place for checkpoints too");
  app.add_option_function<int32_t>(
      "--heartbeat-ms", [&](int32_t v) { given.set_heartbeat_ms(v); },
      "longest time between a node's reports; default 1000");
  app.add_option_function<int32_t>(
      "--lease-ms", [&](int32_t v) { given.set_lease_ms(v); },
      "silence after which a node is lost; default 5000");
  text(
      "--tls-certificate-file",
      [&](const std::string& v) { given.mutable_tls()->set_certificate_file(v); },
      "the coordinator's certificate, PEM; needed to listen beyond loopback");
  text(
      "--tls-key-file", [&](const std::string& v) { given.mutable_tls()->set_key_file(v); },
      "its private key, PEM");
  text(
      "--tls-ca-file", [&](const std::string& v) { given.mutable_tls()->set_ca_file(v); },
      "who must have signed every client's certificate, PEM");
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    app.exit(help);
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(absl::StrCat(error.what(), "; see --help"));
  }
  v1::CoordinatorConfig config;
  if (!file.empty()) FATHOM_RETURN_IF_ERROR(LoadYamlFile(file, &config));
  config.MergeFrom(given);
  return config;
}

absl::Status CompleteCoordinatorConfig(v1::CoordinatorConfig* config) {
  if (config->listen_address().empty()) config->set_listen_address(kDefaultListenAddress);
  if (config->metrics_address().empty()) config->set_metrics_address(kDefaultMetricsAddress);
  if (config->heartbeat_ms() == 0) config->set_heartbeat_ms(limits::kDefaultHeartbeatMs);
  if (config->lease_ms() == 0) config->set_lease_ms(limits::kDefaultLeaseMs);
  if (config->state_directory().empty()) {
    return absl::InvalidArgumentError("--state-directory is missing: name a folder for the log");
  }
  FATHOM_ASSIGN_OR_RETURN(const HostPort listen, ParseHostPort(config->listen_address()));
  FATHOM_RETURN_IF_ERROR(
      WithContext(ParseHostPort(config->metrics_address()).status(), "--metrics-address"));
  FATHOM_RETURN_IF_ERROR(CheckTimes(*config));
  FATHOM_RETURN_IF_ERROR(CheckTls(config->tls()));
  if (!IsLoopback(listen.host) && config->tls().certificate_file().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--listen-address ", config->listen_address(),
        " can be reached from other machines, where "
        "anyone could run jobs: give --tls-certificate-file, --tls-key-file and --tls-ca-file, or "
        "listen on 127.0.0.1"));
  }
  return absl::OkStatus();
}

}  // namespace fathom
