#include "cli/cluster_record.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "cli/value.h"
#include "common/base/atomic_file.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"

namespace fathom::cli {
namespace {

using Json = nlohmann::json;

std::string RecordPath(const std::string& state_folder) { return state_folder + "/cluster.json"; }

// The member, or a default of that type when it is missing or of another.
template <typename T>
T Get(const Json& object, const char* key, T otherwise) {
  if (!object.is_object() || !object.contains(key)) return otherwise;
  const Json& value = object[key];
  if constexpr (std::is_same_v<T, std::string>) {
    if (!value.is_string()) return otherwise;
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!value.is_boolean()) return otherwise;
  } else {
    if (!value.is_number_integer()) return otherwise;
  }
  return value.get<T>();
}

Value DaemonValue(const DaemonRecord& daemon) {
  Value value = Value::Object();
  value.Set("name", daemon.name).Set("spare", daemon.spare).Set("pid", daemon.process.pid);
  value.Set("start_ticks", daemon.process.start_ticks).Set("boot_id", daemon.process.boot_id);
  value.Set("log", daemon.log);
  return value;
}

}  // namespace

absl::StatusOr<ClusterRecord> ReadClusterRecord(const std::string& state_folder) {
  const std::string path = RecordPath(state_folder);
  const auto text = ReadFile(path, limits::kMaxConfigBytes);
  if (absl::IsNotFound(text.status())) {
    return absl::NotFoundError(
        absl::StrCat("no local cluster in ", state_folder, "; start one with fathomctl local up"));
  }
  if (!text.ok()) return text.status();
  const Json json = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("daemons") || !json["daemons"].is_array()) {
    return absl::DataLossError(
        absl::StrCat(path, " is damaged; stop the daemons by hand and remove it"));
  }
  ClusterRecord record;
  record.shape.nodes = Get<int>(json, "nodes", 0);
  record.shape.ranks_per_node = Get<int>(json, "ranks_per_node", 0);
  record.shape.spares = Get<int>(json, "spares", 0);
  record.address = Get<std::string>(json, "address", "");
  record.metrics_address = Get<std::string>(json, "metrics_address", "");
  for (const Json& entry : json["daemons"]) {
    DaemonRecord daemon;
    daemon.name = Get<std::string>(entry, "name", "");
    daemon.spare = Get<bool>(entry, "spare", false);
    daemon.process.pid = Get<int64_t>(entry, "pid", 0);
    daemon.process.start_ticks = Get<uint64_t>(entry, "start_ticks", 0);
    daemon.process.boot_id = Get<std::string>(entry, "boot_id", "");
    daemon.log = Get<std::string>(entry, "log", "");
    record.daemons.push_back(daemon);
  }
  return record;
}

absl::Status WriteClusterRecord(const std::string& state_folder, const ClusterRecord& record) {
  Value daemons = Value::List();
  for (const DaemonRecord& daemon : record.daemons) daemons.Add(DaemonValue(daemon));
  Value value = Value::Object();
  value.Set("nodes", record.shape.nodes).Set("ranks_per_node", record.shape.ranks_per_node);
  value.Set("spares", record.shape.spares).Set("address", record.address);
  value.Set("metrics_address", record.metrics_address).Set("daemons", std::move(daemons));
  return WriteFileAtomically(RecordPath(state_folder), ToJson(value));
}

}  // namespace fathom::cli
