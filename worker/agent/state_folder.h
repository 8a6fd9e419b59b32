// The daemon's own folder: held by one daemon at a time, and told when it is up.
//
//   lock              locked while the daemon lives; holds its process id
//   incarnation       of the daemon that ran last
//   worker.json       {"node", "pid", "metrics_address"}, once up
//   logs/             of the ranks (rank_logs.h)
#ifndef FATHOM_WORKER_AGENT_STATE_FOLDER_H_
#define FATHOM_WORKER_AGENT_STATE_FOLDER_H_

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/agent/unique_fd.h"

namespace fathom {

class StateFolder {
 public:
  // Creates the folder if need be. FAILED_PRECONDITION: another daemon holds it. Codes of
  // ErrnoStatus.
  static absl::StatusOr<StateFolder> Open(const std::string& path, int64_t pid);

  const std::string& path() const { return path_; }

  // This life's number: `wall_us`, Unix time in microseconds, or one more than the last life's if
  // the clock has gone back since. Durable before it returns.
  absl::StatusOr<int64_t> NextIncarnation(int64_t wall_us) const;

  absl::Status Announce(const std::string& node, int64_t pid,
                        const std::string& metrics_address) const;

 private:
  StateFolder(std::string path, UniqueFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}

  std::string path_;
  UniqueFd lock_;
};

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_STATE_FOLDER_H_
