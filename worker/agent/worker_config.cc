#include "worker/agent/worker_config.h"

#include <algorithm>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/host_port.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/base/text.h"

namespace fathom {
namespace {

bool IsNodeName(absl::string_view name) {
  return !name.empty() && name.size() <= limits::kMaxNodeNameBytes &&
         absl::ascii_isalnum(name[0]) && std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isalnum(c) || c == '-' || c == '.' || c == '_';
         });
}

absl::Status CheckAddresses(const v1::WorkerConfig& config) {
  if (config.coordinator_address().empty()) {
    return absl::InvalidArgumentError(
        "coordinator_address is required: host:port of fathom-coordinator, such as "
        "127.0.0.1:7070 (--coordinator-address)");
  }
  FATHOM_RETURN_IF_ERROR(
      WithContext(ParseHostPort(config.coordinator_address()).status(), "coordinator_address"));
  if (ParseHostPort(config.coordinator_address())->port == 0) {
    return absl::InvalidArgumentError("coordinator_address: port 0 cannot be connected to");
  }
  FATHOM_RETURN_IF_ERROR(
      WithContext(ParseHostPort(config.metrics_address()).status(), "metrics_address"));
  // Ranks choose their own ports, so this is a host alone; only that of IPv6 has colons, two at
  // least.
  const bool is_ipv6 = std::count(config.address().begin(), config.address().end(), ':') >= 2;
  const std::string with_port =
      is_ipv6 ? absl::StrCat("[", config.address(), "]:0") : absl::StrCat(config.address(), ":0");
  if (!ParseHostPort(with_port).ok()) {
    return absl::InvalidArgumentError(absl::StrCat("address: '", CutText(config.address(), 64),
                                                   "' is no host; give one without a port"));
  }
  return absl::OkStatus();
}

absl::Status CheckTls(const v1::Tls& tls) {
  if (tls.ca_file().empty()) {
    return absl::InvalidArgumentError("tls.ca_file is required with tls");
  }
  if (tls.certificate_file().empty() != tls.key_file().empty()) {
    return absl::InvalidArgumentError("tls.certificate_file and tls.key_file go together");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CompleteWorkerConfig(const HostFacts& host, v1::WorkerConfig* config) {
  if (config->node_name().empty()) config->set_node_name(host.host_name);
  if (config->address().empty()) config->set_address("127.0.0.1");
  if (config->metrics_address().empty()) config->set_metrics_address("127.0.0.1:0");
  if (config->devices() == 0) config->set_devices(1);
  if (config->health_interval_ms() == 0) {
    config->set_health_interval_ms(limits::kDefaultHealthIntervalMs);
  }
  FATHOM_RETURN_IF_ERROR(CheckAddresses(*config));
  if (config->state_directory().empty()) {
    return absl::InvalidArgumentError(
        "state_directory is required: a folder of this daemon's own for logs (--state-directory)");
  }
  if (!IsNodeName(config->node_name())) {
    return absl::InvalidArgumentError(
        absl::StrCat("node_name: '", CutText(config->node_name(), 64),
                     "' must be letters, digits, '-', '.' and '_', beginning with a letter or "
                     "digit, at most ",
                     limits::kMaxNodeNameBytes));
  }
  if (config->devices() < 1 || config->devices() > limits::kMaxDevicesPerNode) {
    return absl::InvalidArgumentError(absl::StrCat(
        "devices: ", config->devices(), " is not within 1 to ", limits::kMaxDevicesPerNode));
  }
  if (config->health_interval_ms() < limits::kMinHealthIntervalMs) {
    return absl::InvalidArgumentError(
        absl::StrCat("health_interval_ms: ", config->health_interval_ms(), " is less than ",
                     limits::kMinHealthIntervalMs));
  }
  return config->has_tls() ? CheckTls(config->tls()) : absl::OkStatus();
}

std::string ProgramBeside(absl::string_view program_folder, absl::string_view package_and_name) {
  return absl::StrCat(program_folder, "/",
                      package_and_name.substr(package_and_name.rfind('/') + 1));
}

std::string ProgramOfBuild(absl::string_view program_folder, absl::string_view package_and_name) {
  return absl::StrCat(program_folder, "/../", package_and_name);
}

std::string ReachableAddress(const std::string& bound, const std::string& host) {
  absl::StatusOr<HostPort> address = ParseHostPort(bound);
  if (!address.ok() || (address->host != "0.0.0.0" && address->host != "::")) return bound;
  address->host = host;
  return ToString(*address);
}

}  // namespace fathom
