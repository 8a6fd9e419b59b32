#include "tests/bench/fleet/coordinator_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/atomic_file.h"
#include "common/base/errno_status.h"
#include "common/base/status_util.h"

namespace fathom::fleet {
namespace {

constexpr absl::Duration kStartLimit = absl::Seconds(60);
constexpr int kLookEveryMs = 1;

// Where the process of this id says that it listens; empty: not yet.
std::string AddressOf(const std::string& folder, int pid) {
  const auto text = ReadFile(folder + "/coordinator.json", 1 << 16);
  if (!text.ok()) return "";
  const auto json = nlohmann::json::parse(*text, nullptr, false);
  if (!json.is_object() || json.value("pid", 0) != pid) return "";
  return json.value("address", "");
}

}  // namespace

absl::StatusOr<std::unique_ptr<CoordinatorProcess>> CoordinatorProcess::Start(
    const std::string& program, const std::string& folder, const Clock* clock) {
  FATHOM_RETURN_IF_ERROR(EnsureDirectory(folder));
  const std::string log = folder + "/coordinator.log";
  std::vector<std::string> words = {
      program,       "--state-directory", folder,       "--listen-address",
      "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"};
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(),
                                     O_WRONLY | O_CREAT | O_APPEND, 0644);
  std::unique_ptr<CoordinatorProcess> process(new CoordinatorProcess);
  const int error =
      ::posix_spawn(&process->pid_, program.c_str(), &actions, nullptr, arguments.data(), environ);
  ::posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return ErrnoStatus(error, "start", program);
  const absl::Duration start = clock->Steady();
  while (clock->Steady() - start < kStartLimit) {
    process->address_ = AddressOf(folder, process->pid_);
    if (!process->address_.empty()) return process;
    if (::waitpid(process->pid_, nullptr, WNOHANG) == process->pid_) {
      process->pid_ = -1;
      return absl::UnavailableError(absl::StrCat(program, " ended at once; see ", log));
    }
    ::poll(nullptr, 0, kLookEveryMs);
  }
  return absl::DeadlineExceededError(absl::StrCat(program, " does not listen; see ", log));
}

CoordinatorProcess::~CoordinatorProcess() { Kill(); }

void CoordinatorProcess::Kill() {
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

absl::Duration CoordinatorProcess::CpuTime() const {
  const std::string text = ReadFile(absl::StrCat("/proc/", pid_, "/stat"), 1 << 16).value_or("");
  // After the program's name in brackets: state is field 0, user time 11, system time 12.
  const size_t end = text.rfind(')');
  if (end == std::string::npos) return absl::ZeroDuration();
  const std::vector<std::string> fields = absl::StrSplit(text.substr(end + 2), ' ');
  int64_t user = 0;
  int64_t system = 0;
  if (fields.size() < 13 || !absl::SimpleAtoi(fields[11], &user) ||
      !absl::SimpleAtoi(fields[12], &system)) {
    return absl::ZeroDuration();
  }
  return absl::Seconds(static_cast<double>(user + system) /
                       static_cast<double>(::sysconf(_SC_CLK_TCK)));
}

double CoordinatorProcess::MegabytesResident() const {
  const std::string text = ReadFile(absl::StrCat("/proc/", pid_, "/statm"), 1 << 12).value_or("");
  const std::vector<std::string> fields = absl::StrSplit(text, ' ');
  int64_t pages = 0;
  if (fields.size() < 2 || !absl::SimpleAtoi(fields[1], &pages)) return 0;
  return static_cast<double>(pages * ::sysconf(_SC_PAGESIZE)) / 1e6;
}

}  // namespace fathom::fleet
