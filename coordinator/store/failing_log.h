// A log around another that refuses to append while a test tells it to. Safe to tell from any
// thread.
#ifndef FATHOM_COORDINATOR_STORE_FAILING_LOG_H_
#define FATHOM_COORDINATOR_STORE_FAILING_LOG_H_

#include <mutex>
#include <utility>
#include <vector>

#include "coordinator/store/state_log.h"

namespace fathom {

class FailingLog final : public StateLog {
 public:
  explicit FailingLog(StateLog* inner) : inner_(inner) {}

  // OK: appends pass again.
  void FailWith(absl::Status status) {
    std::lock_guard lock(mutex_);
    failure_ = std::move(status);
  }
  absl::Status Append(const std::vector<v1::Record>& records) override {
    std::lock_guard lock(mutex_);
    return failure_.ok() ? inner_->Append(records) : failure_;
  }
  absl::Status Replay(const std::function<absl::Status(const v1::Record&)>& take) override {
    return inner_->Replay(take);
  }

 private:
  StateLog* const inner_;
  std::mutex mutex_;
  absl::Status failure_;  // guarded by mutex_
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_STORE_FAILING_LOG_H_
