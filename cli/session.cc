#include "cli/session.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/atomic_file.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"

namespace fathom::cli {
namespace {

constexpr char kDefaultAddress[] = "127.0.0.1:7070";

}  // namespace

std::string LocalStateFolder(const Environment& environment, const GlobalOptions& options) {
  if (!options.state_dir.empty()) return options.state_dir;
  const std::string variable = environment.variable("FATHOM_STATE_DIR");
  if (!variable.empty()) return variable;
  const std::string home = environment.variable("HOME");
  return absl::StrCat(home.empty() ? "." : home, "/.fathom/local");
}

std::string CoordinatorStateFolder(const std::string& local_state_folder) {
  return local_state_folder + "/coordinator";
}

std::string CpuProfilePath(const std::string& local_state_folder) {
  return local_state_folder + "/cpu-profile.yaml";
}

CoordinatorFile ReadCoordinatorFile(const std::string& coordinator_state_folder) {
  CoordinatorFile file;
  const auto text =
      ReadFile(coordinator_state_folder + "/coordinator.json", limits::kMaxConfigBytes);
  if (!text.ok()) return file;
  const auto json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return file;
  const auto read_text = [&json](const char* key, std::string& out) {
    if (json.contains(key) && json[key].is_string()) out = json[key].get<std::string>();
  };
  read_text("address", file.address);
  read_text("metrics_address", file.metrics_address);
  if (json.contains("pid") && json["pid"].is_number_integer())
    file.pid = json["pid"].get<int64_t>();
  return file;
}

std::string Session::CoordinatorAddress() const {
  if (!options_.coordinator.empty()) return options_.coordinator;
  std::string address = environment_.variable("FATHOM_COORDINATOR");
  if (!address.empty()) return address;
  address =
      ReadCoordinatorFile(CoordinatorStateFolder(LocalStateFolder(environment_, options_))).address;
  return address.empty() ? kDefaultAddress : address;
}

std::string Session::RequestId() const {
  return absl::StrCat("fathomctl-", environment_.user, "-", environment_.clock->WallMs(), "-",
                      absl::ToInt64Nanoseconds(environment_.clock->Steady()));
}

absl::StatusOr<OperatorClient*> Session::Client() {
  if (client_ == nullptr) {
    CoordinatorEndpoint endpoint;
    endpoint.address = CoordinatorAddress();
    endpoint.ca_file = options_.tls_ca;
    endpoint.certificate_file = options_.tls_certificate;
    endpoint.key_file = options_.tls_key;
    FATHOM_ASSIGN_OR_RETURN(client_, environment_.connect(endpoint));
  }
  return client_.get();
}

std::string Session::AbsolutePath(const std::string& path) const {
  if (path.empty() || path.front() == '/') return path;
  return absl::StrCat(environment_.working_folder, "/", path);
}

}  // namespace fathom::cli
