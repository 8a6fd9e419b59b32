#include "worker/agent/rank_logs.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/atomic_file.h"
#include "common/base/errno_status.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/base/text.h"
#include "worker/agent/unique_fd.h"

namespace fathom {
namespace {

absl::Status CheckJob(const JobId& job) {
  if (IsSafeJobId(job.value())) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("'", CutText(job.value(), 64), "' is no job's id"));
}

std::string FileName(const RankId& id) { return absl::StrCat("rank-", id.rank, ".log"); }
std::string TimelineName(const RankId& id) { return absl::StrCat("rank-", id.rank, ".timeline"); }

// A folder within a folder, without following links.
absl::StatusOr<UniqueFd> Within(const UniqueFd& parent, const std::string& name, bool create) {
  if (create && ::mkdirat(parent.get(), name.c_str(), 0755) != 0 && errno != EEXIST) {
    return ErrnoStatus(errno, "create the log folder", name);
  }
  UniqueFd fd(
      ::openat(parent.get(), name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.ok()) return ErrnoStatus(errno, "open the log folder", name);
  return fd;
}

absl::StatusOr<UniqueFd> OpenRoot(const std::string& folder) {
  UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.ok()) return ErrnoStatus(errno, "open the log folder", folder);
  return fd;
}

absl::StatusOr<UniqueFd> OpenEpoch(const std::string& folder, const RankId& id, bool create) {
  FATHOM_RETURN_IF_ERROR(CheckJob(id.job));
  FATHOM_ASSIGN_OR_RETURN(const UniqueFd root, OpenRoot(folder));
  FATHOM_ASSIGN_OR_RETURN(const UniqueFd job, Within(root, id.job.value(), create));
  return Within(job, absl::StrCat(id.epoch), create);
}

absl::StatusOr<UniqueFd> OpenToRead(const std::string& folder, const RankId& id,
                                    const std::string& file) {
  FATHOM_ASSIGN_OR_RETURN(const UniqueFd epoch, OpenEpoch(folder, id, false));
  UniqueFd fd(::openat(epoch.get(), file.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.ok()) return ErrnoStatus(errno, absl::StrCat("open ", file, " of"), ToString(id));
  return fd;
}

// At most `max_bytes` from byte `from` on.
absl::StatusOr<RankLogs::Piece> ReadPiece(const UniqueFd& fd, const RankId& id, int64_t from,
                                          int64_t max_bytes) {
  struct stat info;
  if (::fstat(fd.get(), &info) != 0) return ErrnoStatus(errno, "read a file of", ToString(id));
  RankLogs::Piece piece;
  piece.log_bytes = info.st_size;
  piece.bytes.resize(std::clamp<int64_t>(info.st_size - from, 0, max_bytes));
  size_t done = 0;
  while (done < piece.bytes.size()) {
    const ssize_t got = ::pread(fd.get(), piece.bytes.data() + done, piece.bytes.size() - done,
                                from + static_cast<int64_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, "read a file of", ToString(id));
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  piece.bytes.resize(done);
  return piece;
}

}  // namespace

RankLogs::RankLogs(const std::string& state_directory)
    : folder_(absl::StrCat(state_directory, "/logs")) {}

absl::StatusOr<int> RankLogs::OpenForAppend(const RankId& id) const {
  FATHOM_RETURN_IF_ERROR(EnsureDirectory(folder_));
  const bool is_new = !OpenEpoch(folder_, id, false).ok();
  FATHOM_ASSIGN_OR_RETURN(const UniqueFd epoch, OpenEpoch(folder_, id, true));
  if (is_new) Prune(id.job, id.epoch);
  const int fd = ::openat(epoch.get(), FileName(id).c_str(),
                          O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "create the log of", ToString(id));
  return fd;
}

absl::StatusOr<std::string> RankLogs::Create(const RankId& id) const {
  FATHOM_ASSIGN_OR_RETURN(const int fd, OpenForAppend(id));
  const UniqueFd owned(fd);
  return absl::StrCat(folder_, "/", id.job.value(), "/", id.epoch, "/", FileName(id));
}

absl::StatusOr<int> RankLogs::OpenIdle(int32_t device) const {
  FATHOM_RETURN_IF_ERROR(EnsureDirectory(folder_));
  FATHOM_ASSIGN_OR_RETURN(const UniqueFd root, OpenRoot(folder_));
  const std::string name = absl::StrCat("idle-", device, ".log");
  const int fd = ::openat(root.get(), name.c_str(),
                          O_WRONLY | O_APPEND | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "create the log", name);
  return fd;
}

// What can't be removed stays: room is all it costs.
void RankLogs::Prune(const JobId& job, uint64_t made) const {
  const absl::StatusOr<std::vector<uint64_t>> epochs = Epochs(job);
  if (!epochs.ok()) return;
  const size_t surplus = epochs->size() > kEpochLogsKept ? epochs->size() - kEpochLogsKept : 0;
  for (size_t i = 0; i < surplus; ++i) {
    if ((*epochs)[i] == made) continue;
    std::error_code ignored;
    // Links inside are removed, not followed; the folder's own name is a number.
    std::filesystem::remove_all(absl::StrCat(folder_, "/", job.value(), "/", (*epochs)[i]),
                                ignored);
  }
}

absl::StatusOr<RankLogs::Piece> RankLogs::Read(const RankId& id, int64_t from,
                                               int64_t max_bytes) const {
  if (from < 0) return absl::InvalidArgumentError("a log begins at byte 0");
  FATHOM_ASSIGN_OR_RETURN(const UniqueFd fd, OpenToRead(folder_, id, FileName(id)));
  return ReadPiece(fd, id, from, max_bytes);
}

absl::StatusOr<std::string> RankLogs::TimelinePath(const RankId& id) const {
  FATHOM_RETURN_IF_ERROR(CheckJob(id.job));
  return absl::StrCat(folder_, "/", id.job.value(), "/", id.epoch, "/", TimelineName(id));
}

absl::StatusOr<std::string> RankLogs::ReadTimeline(const RankId& id) const {
  FATHOM_ASSIGN_OR_RETURN(const UniqueFd fd, OpenToRead(folder_, id, TimelineName(id)));
  FATHOM_ASSIGN_OR_RETURN(Piece piece, ReadPiece(fd, id, 0, limits::kMaxTimelineBytes));
  return std::move(piece.bytes);
}

absl::StatusOr<std::vector<uint64_t>> RankLogs::Epochs(const JobId& job) const {
  FATHOM_RETURN_IF_ERROR(CheckJob(job));
  FATHOM_ASSIGN_OR_RETURN(const UniqueFd root, OpenRoot(folder_));
  FATHOM_ASSIGN_OR_RETURN(UniqueFd folder, Within(root, job.value(), false));
  DIR* listing = ::fdopendir(folder.get());
  if (listing == nullptr) return ErrnoStatus(errno, "list the logs of", job.value());
  folder.release();  // closedir closes it
  std::vector<uint64_t> epochs;
  while (const dirent* entry = ::readdir(listing)) {
    uint64_t epoch;
    if (absl::SimpleAtoi(entry->d_name, &epoch)) epochs.push_back(epoch);
  }
  ::closedir(listing);
  std::sort(epochs.begin(), epochs.end());
  return epochs;
}

std::string RankLogs::Tail(const RankId& id) const {
  const absl::StatusOr<Piece> size = Read(id, 0, 0);
  if (!size.ok()) return "";
  const int64_t from = std::max<int64_t>(0, size->log_bytes - kTailBytes);
  absl::StatusOr<Piece> piece = Read(id, from, kTailBytes);
  if (!piece.ok()) return "";
  absl::string_view text = piece->bytes;
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  size_t begin = text.size();
  for (int line = 0; line < kTailLines && begin != absl::string_view::npos && begin > 0; ++line) {
    begin = text.rfind('\n', begin - 1);
  }
  if (begin != absl::string_view::npos && begin < text.size() && text[begin] == '\n') {
    text.remove_prefix(begin + 1);
  } else if (from > 0 && text.find('\n') != absl::string_view::npos) {
    text.remove_prefix(text.find('\n') + 1);  // the first line is cut
  }
  // Three bytes can come of one that is no UTF-8.
  return CutText(text, 3 * kTailBytes);
}

}  // namespace fathom
