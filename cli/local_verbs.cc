#include "cli/local_verbs.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <ostream>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cli/cluster_record.h"
#include "cli/daemon_process.h"
#include "cli/find_program.h"
#include "cli/render.h"
#include "cli/resources.h"
#include "common/base/atomic_file.h"
#include "common/base/errno_status.h"
#include "common/base/status_util.h"

namespace fathom::cli {
namespace {

constexpr absl::Duration kLookEvery = absl::Milliseconds(50);
constexpr ClusterShape kDefaultShape = {2, 2, 0};
constexpr int kDefaultPort = 7070;
constexpr int kDefaultMetricsPort = 7071;
constexpr char kCoordinatorName[] = "coordinator";

// One fathomctl at a time changes a cluster.
class FolderLock {
 public:
  static absl::StatusOr<FolderLock> Take(const std::string& folder) {
    const std::string path = folder + "/lock";
    FolderLock lock;
    lock.descriptor_ = open(path.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0644);
    if (lock.descriptor_ < 0) return ErrnoStatus(errno, "open", path);
    if (flock(lock.descriptor_, LOCK_EX | LOCK_NB) == 0) return lock;
    return absl::FailedPreconditionError(
        absl::StrCat("another fathomctl local command is at work in ", folder, "; wait for it"));
  }
  FolderLock(FolderLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  FolderLock& operator=(FolderLock&&) = delete;
  ~FolderLock() {
    if (descriptor_ >= 0) close(descriptor_);
  }

 private:
  FolderLock() = default;
  int descriptor_ = -1;
};

std::string ShapeText(const ClusterShape& shape) {
  return absl::StrCat(shape.nodes, " nodes of ", shape.ranks_per_node, " ranks and ", shape.spares,
                      " spares");
}

bool AnyAlive(const ClusterRecord& record) {
  return std::any_of(record.daemons.begin(), record.daemons.end(),
                     [](const DaemonRecord& daemon) { return IsAlive(daemon.process); });
}

// Starts a cluster's missing daemons and waits for all.
class Starter {
 public:
  Starter(const LocalUpOptions& options, Session& session, std::string folder)
      : options_(options), session_(session), folder_(std::move(folder)) {}

  absl::Status Run() {
    auto record = ReadClusterRecord(folder_);
    if (!record.ok() && !absl::IsNotFound(record.status())) return record.status();
    if (record.ok()) record_ = *std::move(record);
    FATHOM_RETURN_IF_ERROR(Settle());
    start_ = session_.environment().clock->Steady();
    FATHOM_RETURN_IF_ERROR(EnsureDirectory(folder_ + "/logs"));
    FATHOM_RETURN_IF_ERROR(StartCoordinator());
    for (int i = 0; i < record_.shape.nodes; ++i) {
      FATHOM_RETURN_IF_ERROR(StartWorker(absl::StrCat("node-", i), false));
    }
    for (int i = 0; i < record_.shape.spares; ++i) {
      FATHOM_RETURN_IF_ERROR(StartWorker(absl::StrCat("spare-", i), true));
    }
    FATHOM_RETURN_IF_ERROR(AwaitNodes());
    if (session_.for_people()) {
      session_.out() << (started_ == 0 ? "already up: " : "up: ") << ShapeText(record_.shape)
                     << ", coordinator " << record_.address << ", state " << folder_ << "\n";
    }
    return absl::OkStatus();
  }

 private:
  // What shape the cluster is to have.
  absl::Status Settle() {
    const bool alive = AnyAlive(record_);
    const ClusterShape base = alive ? record_.shape : kDefaultShape;
    ClusterShape wanted;
    wanted.nodes = options_.nodes >= 0 ? options_.nodes : base.nodes;
    wanted.ranks_per_node =
        options_.ranks_per_node >= 0 ? options_.ranks_per_node : base.ranks_per_node;
    wanted.spares = options_.spares >= 0 ? options_.spares : base.spares;
    if (alive && wanted != record_.shape) {
      return absl::FailedPreconditionError(
          absl::StrCat("the local cluster in ", folder_, " runs with ", ShapeText(record_.shape),
                       ", not ", ShapeText(wanted), "; fathomctl local down first"));
    }
    if (!alive) record_ = ClusterRecord();
    record_.shape = wanted;
    return absl::OkStatus();
  }

  DaemonRecord& Daemon(const std::string& name) {
    for (DaemonRecord& daemon : record_.daemons) {
      if (daemon.name == name) return daemon;
    }
    DaemonRecord daemon;
    daemon.name = name;
    daemon.log = absl::StrCat(folder_, "/logs/", name, ".log");
    return record_.daemons.emplace_back(std::move(daemon));
  }

  // Recorded before anything else can go wrong: what runs is always known to `down`.
  absl::Status Start(DaemonRecord& daemon, const std::vector<std::string>& arguments) {
    FATHOM_RETURN_IF_ERROR(EnsureDirectory(absl::StrCat(folder_, "/", daemon.name)));
    FATHOM_ASSIGN_OR_RETURN(daemon.process, SpawnDaemon(arguments, daemon.log));
    ++started_;
    return WriteClusterRecord(folder_, record_);
  }

  absl::Status StartCoordinator() {
    DaemonRecord& daemon = Daemon(kCoordinatorName);
    if (IsAlive(daemon.process)) return absl::OkStatus();
    FATHOM_ASSIGN_OR_RETURN(
        const std::string program,
        FindProgram(session_.environment(), "fathom-coordinator", "coordinator/service"));
    const std::string state = CoordinatorStateFolder(folder_);
    // A new one comes back where the nodes look for it.
    const int port = options_.coordinator_port >= 0 ? options_.coordinator_port : kDefaultPort;
    int metrics_port = options_.metrics_port;
    if (metrics_port < 0) metrics_port = port == 0 ? 0 : kDefaultMetricsPort;
    const std::string address =
        record_.address.empty() ? absl::StrCat("127.0.0.1:", port) : record_.address;
    const std::string metrics_address = record_.metrics_address.empty()
                                            ? absl::StrCat("127.0.0.1:", metrics_port)
                                            : record_.metrics_address;
    std::vector<std::string> arguments = {
        program,         "--listen-address",  address, "--metrics-address",
        metrics_address, "--state-directory", state};
    if (!options_.coordinator_config.empty()) {
      arguments.push_back("--config");
      arguments.push_back(session_.AbsolutePath(options_.coordinator_config));
    }
    // What `fathomctl profile` measured of this machine.
    const std::string profile = CpuProfilePath(folder_);
    if (std::filesystem::exists(profile)) {
      arguments.push_back("--device-profiles");
      arguments.push_back(profile);
    }
    FATHOM_RETURN_IF_ERROR(Start(daemon, arguments));
    const int64_t pid = daemon.process.pid;
    FATHOM_RETURN_IF_ERROR(Await("the coordinator to listen", [&]() -> absl::StatusOr<bool> {
      const CoordinatorFile file = ReadCoordinatorFile(state);
      if (file.pid != pid || file.address.empty()) return false;
      record_.address = file.address;
      record_.metrics_address = file.metrics_address;
      return true;
    }));
    return WriteClusterRecord(folder_, record_);
  }

  absl::Status StartWorker(const std::string& name, bool spare) {
    DaemonRecord& daemon = Daemon(name);
    if (IsAlive(daemon.process)) return absl::OkStatus();
    daemon.spare = spare;
    FATHOM_ASSIGN_OR_RETURN(const std::string program,
                            FindProgram(session_.environment(), "fathom-worker", "worker/agent"));
    std::vector<std::string> arguments = {program,
                                          "--coordinator-address",
                                          record_.address,
                                          "--node-name",
                                          name,
                                          "--address",
                                          "127.0.0.1",
                                          "--metrics-address",
                                          "127.0.0.1:0",
                                          "--state-directory",
                                          absl::StrCat(folder_, "/", name),
                                          "--devices",
                                          absl::StrCat(record_.shape.ranks_per_node)};
    if (spare) arguments.push_back("--spare");
    return Start(daemon, arguments);
  }

  absl::Status AwaitNodes() {
    CoordinatorEndpoint endpoint;
    endpoint.address = record_.address;
    FATHOM_ASSIGN_OR_RETURN(const auto client, session_.environment().connect(endpoint));
    return Await(
        "all nodes to be READY and done with their preflight", [&]() -> absl::StatusOr<bool> {
          const auto nodes = client->ListNodes(v1::ListNodesRequest());
          // Not yet there, or refusing: the daemons' own end is noticed by Await.
          if (!nodes.ok()) return false;
          std::map<std::string, const v1::NodeStatus*> by_name;
          for (const v1::NodeStatus& node : nodes->nodes()) by_name[node.node().name()] = &node;
          return std::all_of(
              record_.daemons.begin(), record_.daemons.end(), [&](const auto& daemon) {
                if (daemon.name == kCoordinatorName) return true;
                const auto found = by_name.find(daemon.name);
                return found != by_name.end() && found->second->pid() == daemon.process.pid &&
                       found->second->state() != v1::NODE_STATE_LOST &&
                       !found->second->preflight().id().empty();
              });
        });
  }

  template <typename Condition>
  absl::Status Await(const char* what, const Condition& condition) {
    const Environment& environment = session_.environment();
    while (true) {
      FATHOM_ASSIGN_OR_RETURN(const bool holds, condition());
      if (holds) return absl::OkStatus();
      for (const DaemonRecord& daemon : record_.daemons) {
        if (IsAlive(daemon.process)) continue;
        return absl::UnavailableError(absl::StrCat(
            "the daemon ", daemon.name, " ended while it started: ", LastLogLine(daemon.log),
            " (log: ", daemon.log, "); fathomctl local down stops the others"));
      }
      if (environment.clock->Steady() - start_ > absl::Seconds(options_.timeout_s) ||
          !environment.pause->For(kLookEvery)) {
        return absl::DeadlineExceededError(absl::StrCat("waited ", options_.timeout_s, " s for ",
                                                        what, "; see the logs in ", folder_,
                                                        "/logs, and fathomctl local status"));
      }
    }
  }

  const LocalUpOptions& options_;
  Session& session_;
  const std::string folder_;
  ClusterRecord record_;
  absl::Duration start_;
  int started_ = 0;
};

absl::StatusOr<FolderLock> LockFolder(const std::string& folder) {
  FATHOM_RETURN_IF_ERROR(EnsureDirectory(folder));
  return FolderLock::Take(folder);
}

std::string StateFolder(const Session& session) {
  return session.AbsolutePath(LocalStateFolder(session.environment(), session.options()));
}

// What the coordinator says of each node; nothing if it can't be asked.
std::map<std::string, std::string> NodeStates(const ClusterRecord& record, Session& session) {
  std::map<std::string, std::string> states;
  CoordinatorEndpoint endpoint;
  endpoint.address = record.address;
  const auto client = session.environment().connect(endpoint);
  if (!client.ok()) return states;
  const auto nodes = (*client)->ListNodes(v1::ListNodesRequest());
  if (!nodes.ok()) return states;
  for (const v1::NodeStatus& node : nodes->nodes()) {
    states[node.node().name()] = StateText(node.state());
  }
  return states;
}

Table StatusTable(const ClusterRecord& record,
                  const std::map<std::string, std::string>& node_states) {
  Table table;
  table.columns = {{"NAME"}, {"PROCESS"}, {"STATE"}, {"PID", false, true}, {"ADDRESS"}, {"LOG"}};
  for (const DaemonRecord& daemon : record.daemons) {
    const bool alive = IsAlive(daemon.process);
    const bool coordinator = daemon.name == kCoordinatorName;
    const auto state = node_states.find(daemon.name);
    std::string state_text = state == node_states.end() ? "" : state->second;
    if (coordinator && alive) state_text = node_states.empty() ? "SILENT" : "READY";
    Row row;
    row.name = daemon.name;
    row.cells = {daemon.name,
                 alive ? "running" : "ended",
                 state_text,
                 alive ? absl::StrCat(daemon.process.pid) : "",
                 coordinator ? record.address : "",
                 daemon.log};
    row.value = Value::Object();
    row.value.Set("name", daemon.name).Set("running", alive).Set("state", TextOrNull(state_text));
    row.value.Set("pid", alive ? Value(daemon.process.pid) : Value()).Set("spare", daemon.spare);
    row.value.Set("address", coordinator ? Value(record.address) : Value());
    row.value.Set("log", daemon.log);
    table.rows.push_back(std::move(row));
  }
  return table;
}

}  // namespace

absl::Status RunLocalUp(const LocalUpOptions& options, Session& session) {
  const std::string folder = StateFolder(session);
  FATHOM_ASSIGN_OR_RETURN(const FolderLock lock, LockFolder(folder));
  FATHOM_RETURN_IF_ERROR(Starter(options, session, folder).Run());
  return RunLocalStatus(session);
}

absl::Status RunLocalDown(const LocalDownOptions& options, Session& session) {
  const std::string folder = StateFolder(session);
  FATHOM_RETURN_IF_ERROR(ReadClusterRecord(folder).status());
  FATHOM_ASSIGN_OR_RETURN(const FolderLock lock, LockFolder(folder));
  FATHOM_ASSIGN_OR_RETURN(const ClusterRecord record, ReadClusterRecord(folder));
  // Nodes first: the coordinator then sees them leave, rather than they it.
  std::vector<ProcessIdentity> nodes;
  std::vector<ProcessIdentity> coordinator;
  Value stopped = Value::List();
  int running = 0;
  for (const DaemonRecord& daemon : record.daemons) {
    (daemon.name == kCoordinatorName ? coordinator : nodes).push_back(daemon.process);
    if (!IsAlive(daemon.process)) continue;
    ++running;
    stopped.Add(daemon.name);
  }
  Pause& pause = *session.environment().pause;
  const absl::Duration grace = absl::Seconds(options.grace_s);
  FATHOM_ASSIGN_OR_RETURN(int killed, StopProcesses(nodes, grace, pause));
  FATHOM_ASSIGN_OR_RETURN(const int coordinator_killed, StopProcesses(coordinator, grace, pause));
  killed += coordinator_killed;
  if (session.for_people()) {
    session.out() << (running == 0 ? "already down" : "down") << ": " << running
                  << " daemons stopped"
                  << (killed > 0 ? absl::StrCat(", ", killed, " of them killed") : "")
                  << "; their state stays in " << folder << "\n";
    return absl::OkStatus();
  }
  Value value = Value::Object();
  value.Set("state_dir", folder).Set("stopped", std::move(stopped)).Set("killed", killed);
  session.out() << RenderOne(folder, value, session.format());
  return absl::OkStatus();
}

absl::Status RunLocalStatus(Session& session) {
  const std::string folder = StateFolder(session);
  FATHOM_ASSIGN_OR_RETURN(const ClusterRecord record, ReadClusterRecord(folder));
  session.out() << RenderTable(StatusTable(record, NodeStates(record, session)), session.format());
  const auto ended = std::count_if(record.daemons.begin(), record.daemons.end(),
                                   [](const auto& daemon) { return !IsAlive(daemon.process); });
  if (ended == 0) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(ended, " of ", record.daemons.size(),
                                             " daemons don't run; fathomctl local up starts them"));
}

}  // namespace fathom::cli
