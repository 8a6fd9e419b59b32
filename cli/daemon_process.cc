#include "cli/daemon_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/errno_status.h"
#include "common/base/status_util.h"
#include "common/base/text.h"

namespace fathom::cli {
namespace {

constexpr absl::Duration kPollEvery = absl::Milliseconds(20);
constexpr absl::Duration kKillGrace = absl::Seconds(5);
constexpr size_t kLogLineMax = 400;

// Files of /proc have no size, and change between two reads: one read of all.
std::string ReadProcFile(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return "";
  char text[4096];
  const ssize_t got = read(descriptor, text, sizeof(text));
  close(descriptor);
  return got > 0 ? std::string(text, static_cast<size_t>(got)) : "";
}

// Waits until none is alive, or for about `limit`. What is left.
std::vector<ProcessIdentity> AwaitEnd(std::vector<ProcessIdentity> processes, absl::Duration limit,
                                      Pause& pause) {
  absl::Duration waited = absl::ZeroDuration();
  while (true) {
    std::erase_if(processes, [](const ProcessIdentity& process) { return !IsAlive(process); });
    if (processes.empty() || waited >= limit || !pause.For(kPollEvery)) return processes;
    waited += kPollEvery;
  }
}

}  // namespace

absl::StatusOr<ProcessIdentity> Identify(int64_t pid) {
  const absl::Status gone = absl::NotFoundError(absl::StrCat("no process ", pid));
  if (pid <= 0) return gone;
  const std::string stat = ReadProcFile(absl::StrCat("/proc/", pid, "/stat"));
  // "pid (name) state ppid ...": the name may hold anything, so fields count from its last ')'.
  const size_t after_name = stat.rfind(')');
  if (after_name == std::string::npos) return gone;
  const std::vector<std::string> fields =
      absl::StrSplit(stat.substr(after_name + 1), ' ', absl::SkipEmpty());
  constexpr size_t kState = 0;
  constexpr size_t kStartTime = 19;
  if (fields.size() <= kStartTime || fields[kState] == "Z" || fields[kState] == "X") return gone;
  ProcessIdentity process;
  process.pid = pid;
  if (!absl::SimpleAtoi(fields[kStartTime], &process.start_ticks)) return gone;
  process.boot_id =
      std::string(absl::StripAsciiWhitespace(ReadProcFile("/proc/sys/kernel/random/boot_id")));
  return process;
}

bool IsAlive(const ProcessIdentity& process) {
  const auto now = Identify(process.pid);
  return now.ok() && *now == process;
}

absl::StatusOr<ProcessIdentity> SpawnDaemon(const std::vector<std::string>& arguments,
                                            const std::string& log_path) {
  const int log = open(log_path.c_str(), O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0644);
  if (log < 0) return ErrnoStatus(errno, "open log", log_path);
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, log, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, log, STDERR_FILENO);
  // Whoever waits for this command's pipes to close must not wait for the daemon.
  posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  posix_spawnattr_setsigmask(&attributes, &none);
  // What fathomctl ignores for itself is the daemon's own choice.
  sigset_t defaults;
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGPIPE);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);

  pid_t pid = 0;
  const int error = posix_spawn(&pid, argv[0], &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  close(log);
  if (error != 0) return ErrnoStatus(error, "start", arguments[0]);
  auto process = Identify(pid);
  if (process.ok()) return process;
  int status = 0;
  waitpid(pid, &status, WNOHANG);
  return absl::UnavailableError(
      absl::StrCat(arguments[0], " ended at once: ", LastLogLine(log_path)));
}

absl::StatusOr<int> StopProcesses(const std::vector<ProcessIdentity>& processes,
                                  absl::Duration grace, Pause& pause) {
  for (const ProcessIdentity& process : processes) {
    if (IsAlive(process)) kill(static_cast<pid_t>(process.pid), SIGTERM);
  }
  const std::vector<ProcessIdentity> stubborn = AwaitEnd(processes, grace, pause);
  for (const ProcessIdentity& process : stubborn) {
    if (IsAlive(process)) kill(static_cast<pid_t>(process.pid), SIGKILL);
  }
  const std::vector<ProcessIdentity> left = AwaitEnd(stubborn, kKillGrace, pause);
  if (left.empty()) return static_cast<int>(stubborn.size());
  return absl::DeadlineExceededError(
      absl::StrCat("process ", left.front().pid, " does not end, not even by SIGKILL"));
}

std::string LastLogLine(const std::string& log_path) {
  std::FILE* file = std::fopen(log_path.c_str(), "re");
  if (file == nullptr) return "";
  std::string tail(4096, '\0');
  if (std::fseek(file, -static_cast<long>(tail.size()), SEEK_END) != 0) std::rewind(file);
  tail.resize(std::fread(tail.data(), 1, tail.size(), file));
  std::fclose(file);
  const std::vector<std::string> lines = absl::StrSplit(tail, '\n', absl::SkipWhitespace());
  return lines.empty() ? "" : CutText(lines.back(), kLogLineMax);
}

}  // namespace fathom::cli
