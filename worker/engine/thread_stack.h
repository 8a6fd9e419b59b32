// Where another thread of this process is right now, for the diagnosis of a hang.
//
// The thread is interrupted by SIGUSR1 and writes its return addresses into memory kept for that;
// the asking thread turns them into names. One thread is asked at a time.
#ifndef FATHOM_WORKER_ENGINE_THREAD_STACK_H_
#define FATHOM_WORKER_ENGINE_THREAD_STACK_H_

#include <pthread.h>
#include <sys/types.h>

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace fathom::engine {

// Takes SIGUSR1 for itself, for the whole process, and lets the calling thread be interrupted by
// it. To be called before the first question.
void InstallStackHandler();

// The thread's stack, a function per line, innermost first. The thread must not have been joined.
// DEADLINE_EXCEEDED: it did not answer for so long. NOT_FOUND: there is no such thread any more.
absl::StatusOr<std::string> StackOfThread(pthread_t thread, absl::Duration patience);

// How the kernel sees a thread of this process: "running", "sleeping", "in disk wait",
// "stopped by a signal", "traced", "ended".
std::string KernelStateOfThread(pid_t thread_id);

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_THREAD_STACK_H_
