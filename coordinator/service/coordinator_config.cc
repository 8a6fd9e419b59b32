#include "coordinator/service/coordinator_config.h"

#include <CLI/CLI.hpp>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/config_loader.h"
#include "common/base/host_port.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/cluster/device_profiles.h"

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

// The modes of the detectors, in the order of their fields.
struct DetectorField {
  const char* flag;
  const char* fallback;
  const char* help;
  std::string* (v1::Detectors::*mutable_get)();
};

using D = v1::Detectors;
const DetectorField kDetectors[] = {
    {"--detectors-hang", "act", "a job whose steps stand still", &D::mutable_hang},
    {"--detectors-straggler", "observe", "a rank slower than its plan", &D::mutable_straggler},
    {"--detectors-corruption", "act", "ranks whose weights differ", &D::mutable_corruption},
    {"--detectors-flapping", "act", "nodes and links that come and go", &D::mutable_flapping},
    {"--detectors-health", "observe", "fatal health signals of nodes", &D::mutable_health},
};

absl::Status CompleteDetectors(v1::Detectors* detectors) {
  for (const DetectorField& field : kDetectors) {
    std::string& mode = *(detectors->*field.mutable_get)();
    if (mode.empty()) mode = field.fallback;
    if (mode != "off" && mode != "observe" && mode != "act") {
      return absl::InvalidArgumentError(
          absl::StrCat(field.flag, " ", mode, ": write off, observe or act"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckQuotas(const v1::CoordinatorConfig& config) {
  std::set<std::string> users;
  for (const v1::Quota& quota : config.quotas()) {
    if (quota.user().empty()) {
      return absl::InvalidArgumentError(
          "--quotas: an entry without a user; write user=devices, or *=devices for everybody "
          "without an entry of their own");
    }
    if (quota.devices() < 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--quotas ", quota.user(), "=", quota.devices(), ": devices must not be negative"));
    }
    if (!users.insert(quota.user()).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("--quotas: user ", quota.user(), " is given twice"));
    }
  }
  return absl::OkStatus();
}

// "ada=16".
absl::StatusOr<v1::Quota> ParseQuota(const std::string& text) {
  const size_t equals = text.rfind('=');
  v1::Quota quota;
  int64_t devices = 0;
  if (equals == std::string::npos || !absl::SimpleAtoi(text.substr(equals + 1), &devices)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--quotas ", text, ": write user=devices, such as ada=16"));
  }
  quota.set_user(text.substr(0, equals));
  quota.set_devices(devices);
  return quota;
}

void AddPolicyFlags(CLI::App* app, v1::CoordinatorConfig* given, std::vector<std::string>* quotas) {
  for (const DetectorField& field : kDetectors) {
    app->add_option_function<std::string>(
           field.flag,
           [given, &field](const std::string& v) {
             *(given->mutable_detectors()->*field.mutable_get)() = v;
           },
           absl::StrCat("off, observe or act on ", field.help, "; default ", field.fallback))
        ->type_name("");
  }
  app->add_option("--quotas", *quotas,
                  "user=devices that one user's jobs may hold at once, *=devices for everybody "
                  "without an entry; several after each other, over those of the file")
      ->type_name("");
  app->add_option_function<std::vector<std::string>>(
         "--device-profiles",
         [given](const std::vector<std::string>& files) {
           for (const std::string& file : files) given->add_device_profiles(file);
         },
         "files of `fathomctl profile`, by which steps are predicted")
      ->type_name("");
  app->add_option_function<bool>(
         "--require-preflight", [given](bool v) { given->set_require_preflight(v); },
         "true or false: whether a node must pass a preflight before it gets ranks; default true")
      ->type_name("");
}

}  // namespace

absl::StatusOr<std::vector<v1::DeviceProfile>> LoadProfiles(const v1::CoordinatorConfig& config) {
  std::vector<v1::DeviceProfile> profiles;
  for (const std::string& file : config.device_profiles()) {
    v1::DeviceProfile& profile = profiles.emplace_back();
    FATHOM_RETURN_IF_ERROR(WithContext(LoadYamlFile(file, &profile), "--device-profiles"));
    FATHOM_RETURN_IF_ERROR(
        WithContext(cluster::CheckProfile(profile), absl::StrCat("--device-profiles ", file)));
  }
  return profiles;
}

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
  std::vector<std::string> quotas;
  AddPolicyFlags(&app, &given, &quotas);
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
  if (!given.device_profiles().empty()) config.clear_device_profiles();
  config.MergeFrom(given);
  if (!quotas.empty()) config.clear_quotas();
  for (const std::string& entry : quotas) {
    FATHOM_ASSIGN_OR_RETURN(*config.add_quotas(), ParseQuota(entry));
  }
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
  FATHOM_RETURN_IF_ERROR(CompleteDetectors(config->mutable_detectors()));
  FATHOM_RETURN_IF_ERROR(CheckQuotas(*config));
  if (!config->has_require_preflight()) config->set_require_preflight(true);
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
