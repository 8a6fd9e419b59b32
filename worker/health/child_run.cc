#include "worker/health/child_run.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/errno_status.h"
#include "common/base/status_util.h"

namespace fathom::health {
namespace {

constexpr int kFirstSafeFd = 10;  // above those that the child is given

// Made before the fork: between fork and exec the child may neither allocate nor take a lock.
struct ChildPlan {
  const char* binary;
  char* const* argv;
  char* const* envp;
  int input_fd;
  int output_fd;
  int report_fd;  // an errno is written here when there is no exec
  pid_t parent;
};

// Only async-signal-safe calls.
[[noreturn]] void GiveUp(const ChildPlan& plan) {
  const int error = errno;
  [[maybe_unused]] const ssize_t ignored = ::write(plan.report_fd, &error, sizeof(error));
  ::_exit(127);
}

void CloseFrom(int first, int last) {
  if (first > last || ::syscall(SYS_close_range, first, last, 0) == 0) return;
  const long open_max = ::sysconf(_SC_OPEN_MAX);
  for (int fd = first; fd <= last && fd < open_max; ++fd) ::close(fd);
}

[[noreturn]] void RunChild(const ChildPlan& plan) {
  if (::setpgid(0, 0) != 0 || ::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) GiveUp(plan);
  if (::getppid() != plan.parent) ::_exit(126);  // the daemon died before the line above
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  if (::dup2(plan.input_fd, STDIN_FILENO) < 0 || ::dup2(plan.output_fd, STDOUT_FILENO) < 0) {
    GiveUp(plan);
  }
  CloseFrom(STDERR_FILENO + 1, plan.report_fd - 1);
  CloseFrom(plan.report_fd + 1, INT_MAX);
  ::execve(plan.binary, plan.argv, plan.envp);
  GiveUp(plan);
}

absl::StatusOr<UniqueFd> DuplicateHigh(int fd, const char* what) {
  UniqueFd high(::fcntl(fd, F_DUPFD_CLOEXEC, kFirstSafeFd));
  if (!high.ok()) return ErrnoStatus(errno, "duplicate", what);
  return high;
}

struct Pipe {
  UniqueFd read_end;
  UniqueFd write_end;
};

absl::StatusOr<Pipe> MakePipe(const std::string& binary) {
  int fds[2];
  if (::pipe2(fds, O_CLOEXEC) != 0) return ErrnoStatus(errno, "create a pipe for", binary);
  Pipe pipe{UniqueFd(fds[0]), UniqueFd(fds[1])};
  FATHOM_ASSIGN_OR_RETURN(pipe.write_end, DuplicateHigh(pipe.write_end.get(), "a pipe"));
  return pipe;
}

int PollMs(absl::Duration left) {
  return static_cast<int>(std::clamp<int64_t>(
      absl::ToInt64Milliseconds(absl::Ceil(left, absl::Milliseconds(1))), 0, INT_MAX));
}

// False: the pipe is empty for now or at its end.
bool ReadMore(int fd, std::string* output, bool* at_end) {
  std::array<char, 16 << 10> buffer;
  const ssize_t got = ::read(fd, buffer.data(), buffer.size());
  if (got > 0) {
    output->append(buffer.data(), static_cast<size_t>(got));
    return true;
  }
  if (got < 0 && errno == EINTR) return true;
  *at_end = got == 0;
  return false;
}

}  // namespace

struct ChildRunner::Child {
  pid_t pid = 0;
  UniqueFd pid_fd;
  UniqueFd output;
  std::string binary;
};

ChildRunner::~ChildRunner() { ReapStuck(); }

bool ChildRunner::ReapStuck() {
  if (stuck_ == 0) return true;
  const pid_t reaped = ::waitpid(stuck_, nullptr, WNOHANG);
  if (reaped == 0) return false;
  stuck_ = 0;
  return true;
}

absl::StatusOr<std::string> ChildRunner::Run(const std::string& binary,
                                             const std::vector<std::string>& arguments,
                                             const ChildRunOptions& options) {
  if (!ReapStuck()) {
    return absl::UnavailableError(
        absl::StrCat("an earlier ", binary, " (process ", stuck_,
                     ") was killed and still does not end: it hangs inside the kernel, as a rule "
                     "in a driver; look at /proc/",
                     stuck_, "/stack, and reboot the node"));
  }
  FATHOM_ASSIGN_OR_RETURN(Child child, Spawn(binary, arguments));
  std::string output;
  const absl::Status ended = Await(child, options, &output);
  const absl::Status exit = End(&child, options.kill_time);
  FATHOM_RETURN_IF_ERROR(ended);
  FATHOM_RETURN_IF_ERROR(exit);
  return output;
}

absl::StatusOr<ChildRunner::Child> ChildRunner::Spawn(const std::string& binary,
                                                      const std::vector<std::string>& arguments) {
  FATHOM_ASSIGN_OR_RETURN(Pipe output, MakePipe(binary));
  FATHOM_ASSIGN_OR_RETURN(Pipe report, MakePipe(binary));
  const UniqueFd null_low(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  if (!null_low.ok()) return ErrnoStatus(errno, "open", "/dev/null");
  FATHOM_ASSIGN_OR_RETURN(const UniqueFd input, DuplicateHigh(null_low.get(), "/dev/null"));
  if (::fcntl(output.read_end.get(), F_SETFL, O_NONBLOCK) != 0) {
    return ErrnoStatus(errno, "configure the output of", binary);
  }
  std::vector<char*> argv = {const_cast<char*>(binary.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  std::string one_thread = "OMP_NUM_THREADS=1";
  char* envp[] = {one_thread.data(), nullptr};
  const ChildPlan plan{
      binary.c_str(),         argv.data(), envp, input.get(), output.write_end.get(),
      report.write_end.get(), ::getpid()};
  Child child;
  child.binary = binary;
  child.pid = ::fork();
  if (child.pid < 0) return ErrnoStatus(errno, "start a process of", binary);
  if (child.pid == 0) RunChild(plan);
  report.write_end.reset();
  output.write_end.reset();
  child.output = std::move(output.read_end);
  child.pid_fd.reset(static_cast<int>(::syscall(SYS_pidfd_open, child.pid, 0)));
  const int pid_fd_error = errno;
  int error = 0;
  ssize_t got;
  do {
    got = ::read(report.read_end.get(), &error, sizeof(error));
  } while (got < 0 && errno == EINTR);
  absl::Status status;
  if (got != 0) status = ErrnoStatus(got == sizeof(error) ? error : EIO, "execute", binary);
  if (status.ok() && !child.pid_fd.ok()) {
    status = ErrnoStatus(pid_fd_error, "watch the process of", binary);
  }
  if (status.ok()) return child;
  ::kill(child.pid, SIGKILL);
  while (::waitpid(child.pid, nullptr, 0) < 0 && errno == EINTR) {
  }
  return status;
}

absl::Status ChildRunner::Await(const Child& child, const ChildRunOptions& options,
                                std::string* output) {
  const absl::Duration deadline = clock_->Steady() + options.time;
  bool at_end = false;
  for (;;) {
    const absl::Duration left = deadline - clock_->Steady();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError(absl::StrCat(child.binary, " did not end within ",
                                                      absl::FormatDuration(options.time),
                                                      " and was killed"));
    }
    std::array<pollfd, 3> polled = {{{child.pid_fd.get(), POLLIN, 0},
                                     {at_end ? -1 : child.output.get(), POLLIN, 0},
                                     {options.cancel_fd, POLLIN, 0}}};
    if (::poll(polled.data(), polled.size(), PollMs(left)) < 0 && errno != EINTR) {
      return ErrnoStatus(errno, "wait for", child.binary);
    }
    if (polled[2].revents != 0) return absl::CancelledError("broken off");
    // Once it has ended, what it wrote is all there. A grandchild may still hold the pipe.
    const bool ended = polled[0].revents != 0;
    while (!at_end && ReadMore(child.output.get(), output, &at_end)) {
      if (output->size() > options.max_output_bytes) {
        return absl::ResourceExhaustedError(absl::StrCat(child.binary, " wrote more than the ",
                                                         options.max_output_bytes,
                                                         " bytes allowed, and was killed"));
      }
    }
    if (ended) return absl::OkStatus();
  }
}

absl::Status ChildRunner::End(Child* child, absl::Duration kill_time) {
  pollfd polled{child->pid_fd.get(), POLLIN, 0};
  const bool by_itself = ::poll(&polled, 1, 0) == 1;
  ::kill(-child->pid, SIGKILL);  // the group, with what the child left behind
  if (!by_itself) {
    ::kill(child->pid, SIGKILL);
    const absl::Duration deadline = clock_->Steady() + kill_time;
    int ready = 0;
    while (ready == 0 || (ready < 0 && errno == EINTR)) {
      const absl::Duration left = deadline - clock_->Steady();
      if (left <= absl::ZeroDuration()) break;
      ready = ::poll(&polled, 1, PollMs(left));
    }
    if (ready != 1) {
      stuck_ = child->pid;
      return absl::OkStatus();
    }
  }
  int status = 0;
  while (::waitpid(child->pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) <= 1) return absl::OkStatus();
  return absl::AbortedError(
      WIFSIGNALED(status) ? absl::StrCat(child->binary, " was killed by signal ", WTERMSIG(status))
                          : absl::StrCat(child->binary, " exited with ", WEXITSTATUS(status)));
}

}  // namespace fathom::health
