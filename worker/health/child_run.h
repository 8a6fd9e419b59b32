// Runs a helper program to its end and hands back what it wrote to standard output, with a
// deadline, bounds and a way to break off.
//
// The child gets a process group of its own, /dev/null as input, the daemon's standard error, no
// other descriptor, default signals and an empty environment but for OMP_NUM_THREADS=1. At the
// deadline the group is killed. The kernel kills the child when the thread that started it ends.
//
// A child stuck inside the kernel survives SIGKILL. It is then left alone and reaped when it ends;
// until then the runner refuses to start another, so at most one is ever stuck. One thread.
#ifndef FATHOM_WORKER_HEALTH_CHILD_RUN_H_
#define FATHOM_WORKER_HEALTH_CHILD_RUN_H_

#include <sys/types.h>

#include <cstddef>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"
#include "worker/agent/unique_fd.h"

namespace fathom::health {

struct ChildRunOptions {
  absl::Duration time = absl::Seconds(5);
  // From SIGKILL on: to be gone.
  absl::Duration kill_time = absl::Seconds(1);
  size_t max_output_bytes = 4 << 20;
  // Readable once the run is to be broken off; -1: never. Not read.
  int cancel_fd = -1;
};

class ChildRunner {
 public:
  explicit ChildRunner(const Clock* clock) : clock_(clock) {}
  ~ChildRunner();

  // Standard output of a child that exited with 0 or 1. DEADLINE_EXCEEDED: it was killed.
  // CANCELLED: cancel_fd. ABORTED: it ended otherwise. RESOURCE_EXHAUSTED: it wrote too much.
  // UNAVAILABLE: an earlier one is still stuck. Codes of ErrnoStatus: it could not be started.
  absl::StatusOr<std::string> Run(const std::string& binary,
                                  const std::vector<std::string>& arguments,
                                  const ChildRunOptions& options);

 private:
  struct Child;

  absl::StatusOr<Child> Spawn(const std::string& binary, const std::vector<std::string>& arguments);
  absl::Status Await(const Child& child, const ChildRunOptions& options, std::string* output);
  absl::Status End(Child* child, absl::Duration kill_time);
  bool ReapStuck();

  const Clock* const clock_;
  pid_t stuck_ = 0;
};

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_CHILD_RUN_H_
