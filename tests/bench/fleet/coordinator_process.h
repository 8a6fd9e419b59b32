// A real fathom-coordinator as a child process, and what it costs the machine.
#ifndef FATHOM_TESTS_BENCH_FLEET_COORDINATOR_PROCESS_H_
#define FATHOM_TESTS_BENCH_FLEET_COORDINATOR_PROCESS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/clock.h"

namespace fathom::fleet {

class CoordinatorProcess {
 public:
  // Returns when it listens, at any free port. Its state stays in `folder`.
  static absl::StatusOr<std::unique_ptr<CoordinatorProcess>> Start(const std::string& program,
                                                                   const std::string& folder,
                                                                   const Clock* clock);
  ~CoordinatorProcess();  // kills it

  void Kill();  // SIGKILL
  const std::string& address() const { return address_; }
  int pid() const { return pid_; }
  // Of all its threads, user and system.
  absl::Duration CpuTime() const;
  double MegabytesResident() const;

 private:
  CoordinatorProcess() = default;
  int pid_ = -1;
  std::string address_;
};

}  // namespace fathom::fleet

#endif  // FATHOM_TESTS_BENCH_FLEET_COORDINATOR_PROCESS_H_
