#include "cli/profile_machine_verb.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <ostream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cli/find_program.h"
#include "cli/render.h"
#include "cli/value.h"
#include "common/base/atomic_file.h"
#include "common/base/config_loader.h"
#include "common/base/errno_status.h"
#include "common/base/status_util.h"
#include "coordinator/planner/calibration/sharing_fit.h"
#include "proto/fathom/v1/hardware.pb.h"

namespace fathom::cli {
namespace {

// Runs a program to its end and gives what it printed; its errors go where this program's go.
absl::StatusOr<std::string> OutputOf(const std::vector<std::string>& command) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe for", command[0]);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  std::vector<char*> arguments;
  for (const std::string& argument : command) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  pid_t child = 0;
  const int spawned =
      posix_spawn(&child, command[0].c_str(), &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  std::string output;
  char buffer[4096];
  ssize_t got = 0;
  while (spawned == 0 && ((got = read(ends[0], buffer, sizeof(buffer))) > 0 || errno == EINTR)) {
    if (got > 0) output.append(buffer, static_cast<size_t>(got));
    if (got == 0) break;
  }
  close(ends[0]);
  if (spawned != 0) return ErrnoStatus(spawned, "start", command[0]);
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return output;
  return absl::InternalError(absl::StrCat(
      command[0], WIFEXITED(status) ? absl::StrCat(" ended with ", WEXITSTATUS(status))
                                    : absl::StrCat(" was ended by signal ", WTERMSIG(status))));
}

Value ValueOf(const std::string& file, const v1::OpTimes& times) {
  double error = 0;
  int fitted = 0;
  for (const v1::OpTime& entry : times.ops()) {
    if (entry.relative_error() <= 0) continue;
    error += entry.relative_error();
    ++fitted;
  }
  Value value = Value::Object();
  value.Set("file", file)
      .Set("machine", times.machine())
      .Set("cores", times.cores())
      .Set("entries", times.ops_size())
      .Set("mean_relative_error", fitted > 0 ? error / fitted : 0.0)
      .Set("busy_slowdown", times.busy_slowdown())
      .Set("turns_slowdown", times.turns_slowdown())
      .Set("group_slowdown", times.group_slowdown());
  return value;
}

std::string SharingSummary(const std::vector<planner::FittedGroup>& groups,
                           const v1::OpTimes& times) {
  if (groups.empty()) return "";
  std::string out = absl::StrFormat("%-24s %12s %12s %8s %12s %12s\n", "several ranks",
                                    "measured ms", "fitted ms", "error", "core ms", "fitted ms");
  for (const planner::FittedGroup& group : groups) {
    absl::StrAppendFormat(&out, "%-24s %12.3f %12.3f %+7.1f%% %12.3f %12.3f\n", group.name,
                          1e3 * group.measured_s, 1e3 * group.fitted_s,
                          100 * (group.fitted_s / group.measured_s - 1),
                          1e3 * group.measured_core_s, 1e3 * group.fitted_core_s);
  }
  absl::StrAppendFormat(&out,
                        "work takes %.2f times as long while %d cores are busy, and %.2f times "
                        "that while ranks take turns; steps of several ranks take %.2f times as "
                        "long as work and waits explain\n",
                        times.busy_slowdown(), times.cores(), times.turns_slowdown(),
                        times.group_slowdown());
  return out;
}

}  // namespace

absl::Status RunProfileMachine(const ProfileMachineOptions& options, Session& session) {
  const Environment& environment = session.environment();
  std::string file = session.AbsolutePath(options.file);
  if (options.file.empty()) {
    const std::string folder = LocalStateFolder(environment, session.options());
    FATHOM_RETURN_IF_ERROR(EnsureDirectory(folder));
    file = CpuProfilePath(folder);
  }
  FATHOM_ASSIGN_OR_RETURN(const std::string program,
                          FindProgram(environment, "fathom-profile", "worker/calibration"));
  std::vector<std::string> command = {program, "-o", file};
  for (const std::string& precision : options.precisions) {
    command.push_back("--precision");
    command.push_back(precision);
  }
  if (options.rounds > 0) {
    command.push_back("--rounds");
    command.push_back(absl::StrCat(options.rounds));
  }
  FATHOM_ASSIGN_OR_RETURN(const std::string summary, OutputOf(command));
  v1::DeviceProfile profile;
  FATHOM_RETURN_IF_ERROR(LoadYamlFile(file, &profile));
  FATHOM_ASSIGN_OR_RETURN(const std::vector<planner::FittedGroup> groups,
                          planner::FitSharing(profile.mutable_op_times()));
  FATHOM_RETURN_IF_ERROR(WriteFileAtomically(file, fathom::ToYaml(profile)));
  if (session.for_people()) {
    session.out() << summary << SharingSummary(groups, profile.op_times()) << "written to " << file
                  << "\n";
  } else {
    session.out() << RenderOne(file, ValueOf(file, profile.op_times()), session.format());
  }
  return absl::OkStatus();
}

}  // namespace fathom::cli
