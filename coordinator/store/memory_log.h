// A log that lives as long as its object, for tests.
#ifndef FATHOM_COORDINATOR_STORE_MEMORY_LOG_H_
#define FATHOM_COORDINATOR_STORE_MEMORY_LOG_H_

#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_util.h"
#include "coordinator/store/state_log.h"

namespace fathom {

class MemoryLog final : public StateLog {
 public:
  absl::Status Append(const std::vector<v1::Record>& records) override {
    uint64_t expected = records_.size();
    for (const v1::Record& record : records) {
      if (record.sequence() == ++expected) continue;
      return absl::InvalidArgumentError(absl::StrCat("record ", expected, " is next"));
    }
    records_.insert(records_.end(), records.begin(), records.end());
    return absl::OkStatus();
  }
  absl::Status Replay(const std::function<absl::Status(const v1::Record&)>& take) override {
    for (const v1::Record& record : records_) FATHOM_RETURN_IF_ERROR(take(record));
    return absl::OkStatus();
  }

 private:
  std::vector<v1::Record> records_;
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_STORE_MEMORY_LOG_H_
