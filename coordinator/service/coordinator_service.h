// A whole coordinator: the log, the loop, both gRPC services, the HTTP pages. What main starts, and
// what a test starts and kills within its own process.
#ifndef FATHOM_COORDINATOR_SERVICE_COORDINATOR_SERVICE_H_
#define FATHOM_COORDINATOR_SERVICE_COORDINATOR_SERVICE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/clock.h"
#include "coordinator/core/placement.h"
#include "coordinator/store/state_log.h"
#include "proto/fathom/v1/config.pb.h"

namespace fathom {

class CoordinatorService {
 public:
  struct Options {
    v1::CoordinatorConfig config;  // complete (coordinator_config.h)
    const Clock* clock = nullptr;
    StateLog* log = nullptr;
    PlanningFunctions planning;
    int64_t pid = 0;
    std::function<void(const std::string&)> say;  // a line for the operator
  };

  // Replays the log and listens. Once it answers, <state_directory>/coordinator.json says where.
  // UNAVAILABLE: an address is taken. Also the codes of ReadFile (TLS files), StateLog::Replay and
  // WriteFileAtomically.
  static absl::StatusOr<std::unique_ptr<CoordinatorService>> Start(Options options);
  ~CoordinatorService();  // stops

  // Ends the streams, answers what was asked, and stops listening.
  void Stop();

  const std::string& address() const;          // host:port as bound
  const std::string& metrics_address() const;  // host:port as bound

 private:
  class Impl;
  explicit CoordinatorService(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_SERVICE_COORDINATOR_SERVICE_H_
