// The coordinator's durable log. What Append has acknowledged, Replay gives back after any crash.
#ifndef FATHOM_COORDINATOR_STORE_STATE_LOG_H_
#define FATHOM_COORDINATOR_STORE_STATE_LOG_H_

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "proto/fathom/v1/record.pb.h"

namespace fathom {

// One user at a time; not thread-safe.
class StateLog {
 public:
  virtual ~StateLog() = default;

  // All of the records or none. OK: they are durable. RESOURCE_EXHAUSTED: the disk is full.
  // INVALID_ARGUMENT: their sequence does not follow the log's. Else the storage failed; the log is
  // as it was, and a later Append may succeed.
  virtual absl::Status Append(const std::vector<v1::Record>& records) = 0;

  // Every record in order, until `take` fails. DATA_LOSS: the log is damaged; nothing is changed in
  // it.
  virtual absl::Status Replay(const std::function<absl::Status(const v1::Record&)>& take) = 0;
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_STORE_STATE_LOG_H_
