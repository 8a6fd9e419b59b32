// Where the ranks' standard output and error go: <state directory>/logs/<job
// id>/<epoch>/rank-<n>.log, one file per rank, appended to by the rank itself, so a log is whole
// whatever becomes of the daemon. A process without a rank yet writes to logs/idle-<device>.log. Of
// each job the newest kEpochLogsKept epochs are kept; jobs stay until the operator deletes them.
//
// Job ids come from the network: they are checked by IsSafeJobId, and no symbolic link below the
// logs folder is followed. Safe to use from several threads. The newest recorded step lies beside
// the log, as rank-<n>.timeline.
#ifndef FATHOM_WORKER_AGENT_RANK_LOGS_H_
#define FATHOM_WORKER_AGENT_RANK_LOGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/ids.h"
#include "worker/agent/rank_id.h"

namespace fathom {

class RankLogs {
 public:
  // What the end of a log adds to the message about a rank's death.
  static constexpr int kTailLines = 8;
  static constexpr int kTailBytes = 2048;

  static constexpr int kEpochLogsKept = 20;

  explicit RankLogs(const std::string& state_directory);

  // A descriptor to append to, closed on exec; creates folders and file. The caller closes it.
  // INVALID_ARGUMENT: no safe job id. Codes of ErrnoStatus.
  absl::StatusOr<int> OpenForAppend(const RankId& id) const;

  // Creates folders and file; returns the file's path, for the rank to append to. Codes as above.
  absl::StatusOr<std::string> Create(const RankId& id) const;

  // As OpenForAppend, for a process without a rank; empties what an earlier one wrote.
  absl::StatusOr<int> OpenIdle(int32_t device) const;

  struct Piece {
    std::string bytes;
    int64_t log_bytes = 0;  // of the whole log
  };
  // At most `max_bytes` from byte `from` on; none when the log is not that long (yet).
  // NOT_FOUND: no such log. INVALID_ARGUMENT: no safe job id, or a negative `from`.
  absl::StatusOr<Piece> Read(const RankId& id, int64_t from, int64_t max_bytes) const;

  // Where the rank keeps its newest recorded step, beside its log.
  absl::StatusOr<std::string> TimelinePath(const RankId& id) const;
  // That file's bytes, a v1::Timeline. NOT_FOUND: none was recorded yet. INVALID_ARGUMENT: no safe
  // job id.
  absl::StatusOr<std::string> ReadTimeline(const RankId& id) const;

  // Ascending. NOT_FOUND: no logs of this job.
  absl::StatusOr<std::vector<uint64_t>> Epochs(const JobId& job) const;

  // The last lines as valid UTF-8; empty when there are none.
  std::string Tail(const RankId& id) const;

 private:
  void Prune(const JobId& job, uint64_t made) const;

  const std::string folder_;
};

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_RANK_LOGS_H_
