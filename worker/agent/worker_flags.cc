#include "worker/agent/worker_flags.h"

#include <CLI/CLI.hpp>
#include <cstdint>

#include "common/base/config_loader.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"

namespace fathom {
namespace {

// `text` adds a flag that sets a string.
template <typename AddText>
void AddTlsFlags(const AddText& text, v1::WorkerConfig* given) {
  text(
      "--tls-certificate-file",
      [given](const std::string& v) { given->mutable_tls()->set_certificate_file(v); },
      "this node's certificate, PEM");
  text(
      "--tls-key-file", [given](const std::string& v) { given->mutable_tls()->set_key_file(v); },
      "its private key, PEM");
  text(
      "--tls-ca-file", [given](const std::string& v) { given->mutable_tls()->set_ca_file(v); },
      "who must have signed the coordinator's certificate, PEM; turns TLS on");
}

}  // namespace

absl::StatusOr<std::optional<v1::WorkerConfig>> ParseWorkerFlags(int argc,
                                                                 const char* const* argv) {
  CLI::App app(
      "fathom-worker: the daemon of one node. It keeps in touch with the coordinator, and runs "
      "the\n"
      "ranks that it asks for.");
  v1::WorkerConfig given;
  std::string file;
  std::optional<bool> spare;
  const auto text = [&app](const char* flag, auto setter, const char* help) {
    app.add_option_function<std::string>(flag, setter, help)->type_name("");
  };
  app.add_option("--config", file, "YAML file of these settings; flags win over it");
  text(
      "--coordinator-address", [&](const std::string& v) { given.set_coordinator_address(v); },
      "host:port of the coordinator");
  text(
      "--node-name", [&](const std::string& v) { given.set_node_name(v); },
      "this node's name, unique in the cluster; default: the host's name");
  text(
      "--address", [&](const std::string& v) { given.set_address(v); },
      "host that its ranks listen on; default 127.0.0.1");
  text(
      "--metrics-address", [&](const std::string& v) { given.set_metrics_address(v); },
      "host:port of /metrics, /healthz and /logs; default 127.0.0.1:0, any free port");
  text(
      "--state-directory", [&](const std::string& v) { given.set_state_directory(v); },
      "folder of this daemon's own, for the ranks' logs");
  app.add_option_function<int32_t>(
         "--devices", [&](int32_t v) { given.set_devices(v); },
         "CPU devices, so ranks, that this node offers; default 1")
      ->check(CLI::Range(1, limits::kMaxDevicesPerNode));
  app.add_flag("--spare,!--no-spare", spare, "hold this node back to replace another");
  text(
      "--rank-binary", [&](const std::string& v) { given.set_rank_binary(v); },
      "the program of a rank; default: fathom-rank beside this one");
  text(
      "--preflight-binary", [&](const std::string& v) { given.set_preflight_binary(v); },
      "the program that checks this node; default: fathom-preflight beside this one");
  app.add_option_function<int32_t>(
         "--health-interval-ms", [&](int32_t v) { given.set_health_interval_ms(v); },
         "time between probes of the system's own signals; default 10000")
      ->check(CLI::Range(limits::kMinHealthIntervalMs, limits::kMaxHealthIntervalMs));
  text(
      "--failure-domain", [&](const std::string& v) { given.set_failure_domain(v); },
      "what fails together with this node, such as its rack");
  text(
      "--leaf", [&](const std::string& v) { given.set_leaf(v); },
      "name of the leaf switch that this node is under");
  AddTlsFlags(text, &given);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    app.exit(help);
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(error.what());
  }
  v1::WorkerConfig config;
  if (!file.empty()) FATHOM_RETURN_IF_ERROR(LoadYamlFile(file, &config));
  config.MergeFrom(given);
  if (spare) config.set_spare(*spare);
  return config;
}

}  // namespace fathom
