// The operator service over gRPC: each call becomes an event of the loop, and is answered when what
// it asked for is durable. Keeps no state but the open WatchJob streams.
#ifndef FATHOM_COORDINATOR_SERVICE_OPERATOR_SERVICE_H_
#define FATHOM_COORDINATOR_SERVICE_OPERATOR_SERVICE_H_

#include <functional>
#include <memory>

#include "coordinator/service/event_loop.h"
#include "proto/fathom/v1/operator.pb.h"

namespace grpc {
class Service;
}

namespace fathom {

class OperatorService {
 public:
  // Adds a hook to the loop, which outlives this. `about` tells what does not change: address,
  // version.
  OperatorService(EventLoop* loop, std::function<v1::CoordinatorStatus()> about);
  ~OperatorService();

  grpc::Service* service();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_SERVICE_OPERATOR_SERVICE_H_
