// What a command works with: where its output goes, who and where the user is, and the coordinator.
//
// Environment holds everything that comes from outside the program, so that tests give their own.
#ifndef FATHOM_CLI_SESSION_H_
#define FATHOM_CLI_SESSION_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <ostream>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cli/operator_client.h"
#include "cli/options.h"
#include "cli/pause.h"
#include "common/base/clock.h"

namespace fathom::cli {

struct Environment {
  std::ostream* out = nullptr;
  std::ostream* err = nullptr;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  int terminal_columns = 80;
  const Clock* clock = nullptr;
  Pause* pause = nullptr;
  std::function<std::string(const std::string&)> variable;  // "" when unset
  std::string working_folder;
  std::string user;
  std::string program_folder;  // where fathomctl itself lies
  std::function<absl::StatusOr<std::unique_ptr<OperatorClient>>(const CoordinatorEndpoint&)>
      connect;
};

// Where a local cluster keeps its state: --state-dir, $FATHOM_STATE_DIR, or ~/.fathom/local.
std::string LocalStateFolder(const Environment& environment, const GlobalOptions& options);

// The coordinator's part of it.
std::string CoordinatorStateFolder(const std::string& local_state_folder);

// Where `fathomctl profile` leaves what it measured, and the local cluster's coordinator finds it.
std::string CpuProfilePath(const std::string& local_state_folder);

// The coordinator.json that a coordinator leaves in its state folder; empty where it doesn't say.
struct CoordinatorFile {
  std::string address;
  std::string metrics_address;
  int64_t pid = 0;
};
CoordinatorFile ReadCoordinatorFile(const std::string& coordinator_state_folder);

class Session {
 public:
  Session(const Environment& environment, const GlobalOptions& options)
      : environment_(environment), options_(options) {}

  const Environment& environment() const { return environment_; }
  const GlobalOptions& options() const { return options_; }
  OutputFormat format() const { return options_.output; }
  bool for_people() const {
    return format() == OutputFormat::kTable || format() == OutputFormat::kWide;
  }
  std::ostream& out() { return *environment_.out; }
  std::ostream& err() { return *environment_.err; }
  // Progress and notes: with the output where people read it, else apart from it.
  std::ostream& notes() { return for_people() ? out() : err(); }
  bool notes_on_terminal() const {
    return for_people() ? environment_.out_is_terminal : environment_.err_is_terminal;
  }

  // --coordinator, $FATHOM_COORDINATOR, the local cluster's, or 127.0.0.1:7070.
  std::string CoordinatorAddress() const;

  // For a request's request_id: the same for a repeated attempt of this command, never for another.
  std::string RequestId() const;
  // Who asks, unless the command line says otherwise.
  std::string Actor(const std::string& given) const {
    return given.empty() ? environment_.user : given;
  }

  // Connected on first use.
  absl::StatusOr<OperatorClient*> Client();
  // The next Client() looks the address up again: the coordinator may have come back elsewhere.
  void Reconnect() { client_.reset(); }

  // An absolute path as the user meant a relative one.
  std::string AbsolutePath(const std::string& path) const;

 private:
  const Environment& environment_;
  const GlobalOptions& options_;
  std::unique_ptr<OperatorClient> client_;
};

}  // namespace fathom::cli

#endif  // FATHOM_CLI_SESSION_H_
