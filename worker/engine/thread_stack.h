// Where another thread of this process is right now, for the diagnosis of a hang.
//
// The thread is interrupted by SIGUSR1 and writes its return addresses into memory kept for that;
// the asking thread turns them into names. One thread is asked at a time.
#ifndef FATHOM_WORKER_ENGINE_THREAD_STACK_H_
#define FATHOM_WORKER_ENGINE_THREAD_STACK_H_

#include <pthread.h>
#include <signal.h>
#include <sys/types.h>

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace fathom::engine {

// While it lives, the thread that made it can be asked, and ends it. Takes SIGUSR1 for the whole
// process.
//
// The signal is handled on a stack of its own: kernels made at run time may keep data below the
// stack pointer, or use it for something else altogether, and then whatever the signal wrote there
// would be lost or, worse, found.
class AnswersForStack {
 public:
  AnswersForStack();
  ~AnswersForStack();
  AnswersForStack(const AnswersForStack&) = delete;
  AnswersForStack& operator=(const AnswersForStack&) = delete;

 private:
  std::vector<std::byte> signal_stack_;
  stack_t before_ = {};
};

// The thread's stack, a function per line, innermost first. The thread has an AnswersForStack.
// DEADLINE_EXCEEDED: it did not answer for so long. NOT_FOUND: there is no such thread any more.
absl::StatusOr<std::string> StackOfThread(pthread_t thread, absl::Duration patience);

// How the kernel sees a thread of this process: "running", "sleeping", "in disk wait",
// "stopped by a signal", "traced", "ended".
std::string KernelStateOfThread(pid_t thread_id);

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_THREAD_STACK_H_
