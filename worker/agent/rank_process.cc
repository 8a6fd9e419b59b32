#include "worker/agent/rank_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/check.h"
#include "common/base/errno_status.h"
#include "common/base/status_util.h"

namespace fathom {
namespace {

constexpr int kFirstSafeFd = 10;  // above those that the rank is given
constexpr size_t kReceiveBytes = 64 << 10;
// In one go, so that a rank that never stops talking leaves time for the others. What a dead rank
// left in the socket is far less.
constexpr int kReceivesAtOnce = 64;

// Everything the child needs, made before the fork: between fork and exec it may neither allocate
// nor take a lock.
struct ChildPlan {
  const char* binary;
  char* const* argv;
  char* const* envp;
  int input_fd;
  int log_fd;
  int channel_fd;
  int report_fd;  // an errno is written here when there is no exec
  pid_t parent;
};

// Only async-signal-safe calls.
[[noreturn]] void GiveUp(const ChildPlan& plan) {
  const int error = errno;
  const ssize_t ignored = ::write(plan.report_fd, &error, sizeof(error));
  ::_exit(ignored == sizeof(error) ? 127 : 126);
}

// Prefers the rank to the daemon when memory runs out. Not having this is no reason to fail.
void OfferToOomKiller() {
  const int fd = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  [[maybe_unused]] const ssize_t ignored = ::write(fd, "500", 3);
  ::close(fd);
}

void CloseFrom(int first, int last) {
  if (first > last) return;
  if (::syscall(SYS_close_range, first, last, 0) == 0) return;
  const long open_max = ::sysconf(_SC_OPEN_MAX);
  for (int fd = first; fd <= last && fd < open_max; ++fd) ::close(fd);
}

[[noreturn]] void RunChild(const ChildPlan& plan) {
  if (::setpgid(0, 0) != 0) GiveUp(plan);
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) GiveUp(plan);
  if (::getppid() != plan.parent) ::_exit(126);  // the daemon died before the line above
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  OfferToOomKiller();
  // All four are kFirstSafeFd or above, so none is overwritten before its turn.
  const bool placed =
      ::dup2(plan.input_fd, STDIN_FILENO) >= 0 && ::dup2(plan.log_fd, STDOUT_FILENO) >= 0 &&
      ::dup2(plan.log_fd, STDERR_FILENO) >= 0 && ::dup2(plan.channel_fd, kRankChannelFd) >= 0;
  if (!placed) GiveUp(plan);
  CloseFrom(kRankChannelFd + 1, plan.report_fd - 1);
  CloseFrom(plan.report_fd + 1, INT_MAX);
  ::execve(plan.binary, plan.argv, plan.envp);
  GiveUp(plan);
}

absl::StatusOr<UniqueFd> DuplicateHigh(int fd, const char* what) {
  UniqueFd high(::fcntl(fd, F_DUPFD_CLOEXEC, kFirstSafeFd));
  if (!high.ok()) return ErrnoStatus(errno, "duplicate", what);
  return high;
}

absl::StatusOr<UniqueFd> OpenPidFd(pid_t pid) {
  UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));  // closed on exec by itself
  if (!fd.ok()) {
    return ErrnoStatus(errno, "watch process", absl::StrCat(pid, " (pidfd_open, Linux 5.3)"));
  }
  return fd;
}

// From /proc/vmstat; -1 when the kernel does not say.
int64_t OomKills() {
  UniqueFd fd(::open("/proc/vmstat", O_RDONLY | O_CLOEXEC));
  if (!fd.ok()) return -1;
  std::string text;
  std::array<char, 4096> buffer;
  for (ssize_t got; (got = ::read(fd.get(), buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<size_t>(got));
  }
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    int64_t count;
    if (absl::StartsWith(line, "oom_kill ") && absl::SimpleAtoi(line.substr(9), &count)) {
      return count;
    }
  }
  return -1;
}

// Waits for the exec or its failure, which is told through the pipe.
absl::Status AwaitExec(UniqueFd report, const std::string& binary) {
  int error = 0;
  ssize_t got;
  do {
    got = ::read(report.get(), &error, sizeof(error));
  } while (got < 0 && errno == EINTR);
  if (got == 0) return absl::OkStatus();
  return ErrnoStatus(got == sizeof(error) ? error : EIO, "execute", binary);
}

}  // namespace

std::string DescribeExit(const RankExit& exit) {
  if (exit.signal == 0) return absl::StrCat("exited with ", exit.code);
  const char* name = ::sigabbrev_np(exit.signal);
  const char* description = ::sigdescr_np(exit.signal);
  std::string text =
      absl::StrCat("was killed by signal ", exit.signal, " (SIG", name != nullptr ? name : "?",
                   ", ", description != nullptr ? description : "unknown", ")");
  if (exit.core_dumped) absl::StrAppend(&text, ", core dumped");
  if (exit.signal != SIGKILL || exit.killed_by_us) return text;
  if (exit.oom_kills > 0) {
    absl::StrAppend(&text, "; out of memory: the kernel's out-of-memory killer struck ",
                    exit.oom_kills, " times while it ran; give it more memory or less to do");
  } else {
    absl::StrAppend(&text,
                    "; not by this daemon; perhaps out of memory: see dmesg and the memory limit "
                    "of the container");
  }
  return text;
}

absl::StatusOr<RankProcess> RankProcess::Start(const std::string& binary,
                                               const std::vector<std::string>& arguments,
                                               int log_fd) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
    return ErrnoStatus(errno, "create the channel of", binary);
  }
  UniqueFd ours(pair[0]);
  const UniqueFd theirs_low(pair[1]);
  // Ours alone: the two ends do not share flags.
  if (::fcntl(ours.get(), F_SETFL, O_NONBLOCK) != 0) {
    return ErrnoStatus(errno, "configure the channel of", binary);
  }
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return ErrnoStatus(errno, "create a pipe for", binary);
  UniqueFd report_read(pipe_fds[0]);
  UniqueFd report_low(pipe_fds[1]);
  const UniqueFd null_low(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null_low.ok()) return ErrnoStatus(errno, "open", "/dev/null");
  FATHOM_ASSIGN_OR_RETURN(const UniqueFd theirs, DuplicateHigh(theirs_low.get(), "a channel"));
  FATHOM_ASSIGN_OR_RETURN(UniqueFd report, DuplicateHigh(report_low.get(), "a pipe"));
  FATHOM_ASSIGN_OR_RETURN(const UniqueFd input, DuplicateHigh(null_low.get(), "/dev/null"));
  FATHOM_ASSIGN_OR_RETURN(const UniqueFd log, DuplicateHigh(log_fd, "a log"));

  std::vector<char*> argv = {const_cast<char*>(binary.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  std::string one_thread = "OMP_NUM_THREADS=1";
  char* envp[] = {one_thread.data(), nullptr};
  const ChildPlan plan{binary.c_str(), argv.data(),  envp,         input.get(),
                       log.get(),      theirs.get(), report.get(), ::getpid()};
  const int64_t oom_kills = OomKills();
  const pid_t pid = ::fork();
  if (pid < 0) return ErrnoStatus(errno, "start a process of", binary);
  if (pid == 0) RunChild(plan);

  report.reset();
  report_low.reset();
  absl::StatusOr<UniqueFd> pid_fd = OpenPidFd(pid);
  RankProcess process(pid, pid_fd.ok() ? *std::move(pid_fd) : UniqueFd(), std::move(ours));
  process.oom_kills_before_ = oom_kills;
  // From here on the destructor kills and reaps.
  FATHOM_RETURN_IF_ERROR(pid_fd.status());
  FATHOM_RETURN_IF_ERROR(AwaitExec(std::move(report_read), binary));
  return process;
}

RankProcess::RankProcess(pid_t pid, UniqueFd pid_fd, UniqueFd channel)
    : pid_(pid), pid_fd_(std::move(pid_fd)), channel_(std::move(channel)) {}

RankProcess::RankProcess(RankProcess&& other) noexcept
    : pid_(std::exchange(other.pid_, 0)),
      pid_fd_(std::move(other.pid_fd_)),
      channel_(std::move(other.channel_)),
      unsent_(std::move(other.unsent_)),
      decoder_(std::move(other.decoder_)),
      killed_(other.killed_),
      oom_kills_before_(other.oom_kills_before_) {}

RankProcess::~RankProcess() {
  if (pid_ == 0) return;
  Kill();
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

absl::Status RankProcess::Send(const v1::RankCommand& command) {
  FATHOM_ASSIGN_OR_RETURN(const std::string frame, EncodeRankMessage(command));
  if (!channel_.ok()) return absl::UnavailableError("the rank has closed its channel");
  unsent_ += frame;
  return Flush();
}

absl::Status RankProcess::Flush() {
  size_t done = 0;
  absl::Status status;
  while (done < unsent_.size() && channel_.ok()) {
    const ssize_t sent =
        ::send(channel_.get(), unsent_.data() + done, unsent_.size() - done, MSG_NOSIGNAL);
    if (sent >= 0) {
      done += static_cast<size_t>(sent);
      continue;
    }
    if (errno == EINTR) continue;
    if (errno == EAGAIN) break;
    status = absl::UnavailableError(
        absl::StrCat("the rank has closed its channel (", std::strerror(errno), ")"));
    done = unsent_.size();  // nobody will read it
  }
  unsent_.erase(0, done);
  return status;
}

RankProcess::Heard RankProcess::Receive() {
  Heard heard;
  std::vector<char> buffer(kReceiveBytes);
  for (int i = 0; i < kReceivesAtOnce && channel_.ok() && !heard.closed; ++i) {
    const ssize_t got = ::recv(channel_.get(), buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EAGAIN) break;
    if (got <= 0) {
      // ECONNRESET: it died with commands of ours unread. Its exit says more than half a message.
      heard.closed = true;
      break;
    }
    decoder_.Append(absl::string_view(buffer.data(), static_cast<size_t>(got)));
    for (;;) {
      absl::StatusOr<std::optional<std::string>> payload = decoder_.Next();
      v1::RankEvent event;
      if (payload.ok() && !payload->has_value()) break;
      if (payload.ok() && event.ParseFromString(**payload)) {
        heard.events.push_back(std::move(event));
        continue;
      }
      heard.closed = true;
      heard.why = payload.ok() ? absl::DataLossError("rank channel: the rank sent what is no event")
                               : payload.status();
      break;
    }
  }
  if (heard.closed) {
    channel_.reset();
    unsent_.clear();
  }
  return heard;
}

void RankProcess::Kill() {
  if (pid_ == 0) return;
  killed_ = true;
  ::kill(-pid_, SIGKILL);
  ::kill(pid_, SIGKILL);  // it may not have made its group yet
}

std::optional<RankExit> RankProcess::Reap() {
  FATHOM_CHECK(pid_ != 0) << "reaped twice";
  siginfo_t info = {};
  // Leaves the zombie in place, so that its number, which is its group's, can't be another's yet.
  if (::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
      info.si_pid == 0) {
    return std::nullopt;
  }
  ::kill(-pid_, SIGKILL);
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  pid_ = 0;
  RankExit exit;
  exit.killed_by_us = killed_;
  if (WIFSIGNALED(status)) {
    exit.signal = WTERMSIG(status);
    exit.core_dumped = WCOREDUMP(status);
  } else {
    exit.code = WEXITSTATUS(status);
  }
  const int64_t oom_kills = OomKills();
  const bool known = oom_kills >= 0 && oom_kills_before_ >= 0;
  exit.oom_kills = known ? oom_kills - oom_kills_before_ : -1;
  return exit;
}

}  // namespace fathom
