// The log in one SQLite file: <folder>/coordinator.db, in WAL mode with synchronous=FULL, so that a
// commit is on the disk when it returns. One process at a time, held by a lock on
// <folder>/coordinator.lock. Every record carries a checksum, and the file its schema's version.
#ifndef FATHOM_COORDINATOR_STORE_SQLITE_LOG_H_
#define FATHOM_COORDINATOR_STORE_SQLITE_LOG_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/store/state_log.h"

namespace fathom {

class SqliteLog final : public StateLog {
 public:
  struct Options {
    int64_t max_pages = 0;  // of the database; 0: no bound but the disk's
  };

  // Creates the folder and file if need be. FAILED_PRECONDITION: another process has it open, or a
  // newer version wrote it. DATA_LOSS: the file is damaged; it is left as it is.
  static absl::StatusOr<std::unique_ptr<SqliteLog>> Open(const std::string& folder,
                                                         const Options& options);
  static absl::StatusOr<std::unique_ptr<SqliteLog>> Open(const std::string& folder) {
    return Open(folder, Options{});
  }
  ~SqliteLog() override;

  absl::Status Append(const std::vector<v1::Record>& records) override;
  absl::Status Replay(const std::function<absl::Status(const v1::Record&)>& take) override;

 private:
  struct Database;
  explicit SqliteLog(std::unique_ptr<Database> database);
  std::unique_ptr<Database> database_;
};

}  // namespace fathom

#endif  // FATHOM_COORDINATOR_STORE_SQLITE_LOG_H_
