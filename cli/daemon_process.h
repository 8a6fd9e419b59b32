// Background processes on this machine that outlive the command that started them, and the
// certainty that a process found later is still that one: pids are used again, so a process is
// known by its pid, the kernel's start time of it, and the boot it belongs to.
#ifndef FATHOM_CLI_DAEMON_PROCESS_H_
#define FATHOM_CLI_DAEMON_PROCESS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "cli/pause.h"

namespace fathom::cli {

struct ProcessIdentity {
  int64_t pid = 0;  // 0: none
  uint64_t start_ticks = 0;
  std::string boot_id;

  friend bool operator==(const ProcessIdentity&, const ProcessIdentity&) = default;
};

// NOT_FOUND: no such process, or one that has ended and waits to be collected.
absl::StatusOr<ProcessIdentity> Identify(int64_t pid);

bool IsAlive(const ProcessIdentity& process);

// Starts arguments[0] in a session of its own, without input, with both outputs appended to the
// log. NOT_FOUND: no such program.
absl::StatusOr<ProcessIdentity> SpawnDaemon(const std::vector<std::string>& arguments,
                                            const std::string& log_path);

// Asks all of them to end (SIGTERM), waits up to `grace`, kills what is left (SIGKILL) and waits
// for that. Those that are gone already are fine. Returns how many had to be killed.
// DEADLINE_EXCEEDED: one lives on all the same.
absl::StatusOr<int> StopProcesses(const std::vector<ProcessIdentity>& processes,
                                  absl::Duration grace, Pause& pause);

// The last lines of a log, for a message about its daemon's death; "" if there are none.
std::string LastLogLine(const std::string& log_path);

}  // namespace fathom::cli

#endif  // FATHOM_CLI_DAEMON_PROCESS_H_
