// absl::Status as grpc::Status: the same codes by number, the message within what a header may
// hold.
#ifndef FATHOM_COORDINATOR_SERVICE_GRPC_STATUS_SERVICE_H_
#define FATHOM_COORDINATOR_SERVICE_GRPC_STATUS_SERVICE_H_

#include <grpcpp/support/status.h>

#include <string>

#include "absl/status/status.h"
#include "common/base/limits.h"
#include "common/base/text.h"

namespace fathom {

inline grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const absl::string_view message = status.message();
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()),
                      CutText(message, limits::kMaxTextBytes));
}

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_SERVICE_GRPC_STATUS_SERVICE_H_
