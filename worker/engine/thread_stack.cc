#include "worker/engine/thread_stack.h"

#include <execinfo.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <mutex>

#include "absl/debugging/symbolize.h"
#include "absl/strings/str_cat.h"
#include "common/base/check.h"

namespace fathom::engine {
namespace {

constexpr int kFramesMax = 64;
// The handler and the kernel's return from it.
constexpr int kFramesOfHandler = 2;
// The kernel saves all vector registers there, which takes up to 11 KiB with AMX.
constexpr size_t kSignalStackBytes = size_t{128} << 10;

// One question at a time. An answer that comes after its question was given up finds another
// ticket here and leaves everything alone.
struct Question {
  std::atomic<int> ticket{0};  // of the question that waits for its answer; 0: none
  int answered = -1;           // eventfd
  void* frames[kFramesMax];
  int depth = 0;
};
Question question;  // a signal handler finds nothing else
std::mutex asking;

void Answer(int, siginfo_t* info, void*) {
  const int saved = errno;
  int ticket = info->si_value.sival_int;
  if (info->si_code == SI_QUEUE && ticket != 0) {
    if (question.ticket.compare_exchange_strong(ticket, 0)) {
      question.depth = backtrace(question.frames, kFramesMax);
      const uint64_t one = 1;
      [[maybe_unused]] const ssize_t written = write(question.answered, &one, sizeof(one));
    }
  }
  errno = saved;
}

bool Answered(int timeout_ms) {
  pollfd wait = {question.answered, POLLIN, 0};
  int ready = 0;
  do {
    ready = poll(&wait, 1, timeout_ms);
  } while (ready < 0 && errno == EINTR);
  uint64_t answers = 0;
  return ready > 0 && read(question.answered, &answers, sizeof(answers)) == sizeof(answers);
}

std::string NameOf(void* address) {
  char name[512];
  // The return address may be the first byte of the next function.
  if (absl::Symbolize(static_cast<char*>(address) - 1, name, sizeof(name))) return name;
  return absl::StrCat("0x", absl::Hex(reinterpret_cast<uintptr_t>(address)));
}

}  // namespace

AnswersForStack::AnswersForStack() : signal_stack_(kSignalStackBytes) {
  stack_t stack = {};
  stack.ss_sp = signal_stack_.data();
  stack.ss_size = signal_stack_.size();
  FATHOM_CHECK(sigaltstack(&stack, &before_) == 0) << "sigaltstack: " << errno;
  sigset_t own_signal;
  sigemptyset(&own_signal);
  sigaddset(&own_signal, SIGUSR1);
  FATHOM_CHECK(pthread_sigmask(SIG_UNBLOCK, &own_signal, nullptr) == 0) << "pthread_sigmask";
  const std::lock_guard lock(asking);
  if (question.answered >= 0) return;
  // The first call loads the unwinder, which a handler must not do.
  FATHOM_CHECK(backtrace(question.frames, 1) >= 0) << "backtrace";
  question.answered = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  FATHOM_CHECK(question.answered >= 0) << "eventfd: " << errno;
  struct sigaction action = {};
  action.sa_sigaction = Answer;
  action.sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK;
  sigemptyset(&action.sa_mask);
  FATHOM_CHECK(sigaction(SIGUSR1, &action, nullptr) == 0) << "sigaction: " << errno;
}

AnswersForStack::~AnswersForStack() {
  FATHOM_CHECK(sigaltstack(&before_, nullptr) == 0) << "sigaltstack: " << errno;
}

absl::StatusOr<std::string> StackOfThread(pthread_t thread, absl::Duration patience) {
  static int last_ticket = 0;  // guarded by `asking`
  const std::lock_guard lock(asking);
  FATHOM_CHECK(question.answered >= 0) << "no thread answers";
  // The answer to a question that was given up while it was being answered is of no use.
  Answered(0);

  const int ticket = ++last_ticket;
  question.ticket.store(ticket);
  sigval value = {};
  value.sival_int = ticket;
  if (const int error = pthread_sigqueue(thread, SIGUSR1, value); error != 0) {
    question.ticket.store(0);
    return absl::NotFoundError(absl::StrCat("the thread can't be asked: error ", error));
  }
  const int timeout_ms = static_cast<int>(absl::ToInt64Milliseconds(patience));
  if (!Answered(timeout_ms)) {
    int unanswered = ticket;
    if (question.ticket.compare_exchange_strong(unanswered, 0) || !Answered(timeout_ms)) {
      return absl::DeadlineExceededError(
          absl::StrCat("the thread did not answer for ", absl::FormatDuration(patience)));
    }
  }
  std::string stack;
  for (int i = kFramesOfHandler; i < question.depth; ++i) {
    absl::StrAppend(&stack, NameOf(question.frames[i]), "\n");
  }
  return stack;
}

std::string KernelStateOfThread(pid_t thread_id) {
  std::ifstream file(absl::StrCat("/proc/self/task/", thread_id, "/stat"));
  std::string stat;
  std::getline(file, stat);
  // "<id> (<name>) <state> ...", where the name may hold anything.
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos || name_end + 2 >= stat.size()) return "ended";
  switch (stat[name_end + 2]) {
    case 'R':
      return "running";
    case 'S':
      return "sleeping";
    case 'D':
      return "in disk wait";
    case 'T':
      return "stopped by a signal";
    case 't':
      return "traced";
    default:
      return "ended";
  }
}

}  // namespace fathom::engine
