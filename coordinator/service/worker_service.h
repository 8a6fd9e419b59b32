// Synchronize over gRPC: one stream per node. Reports become events of the loop, one at a time per
// stream; desired states go out whenever they changed, only ever the newest.
#ifndef FATHOM_COORDINATOR_SERVICE_WORKER_SERVICE_H_
#define FATHOM_COORDINATOR_SERVICE_WORKER_SERVICE_H_

#include <memory>

#include "coordinator/service/event_loop.h"

namespace grpc {
class Service;
}

namespace fathom {

class WorkerService {
 public:
  // Adds a hook to the loop, which outlives this.
  explicit WorkerService(EventLoop* loop);
  ~WorkerService();

  grpc::Service* service();
  int stream_count() const;  // nodes connected right now

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_SERVICE_WORKER_SERVICE_H_
