#include "worker/agent/state_folder.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/atomic_file.h"
#include "common/base/errno_status.h"
#include "common/base/status_util.h"

namespace fathom {
namespace {

constexpr int64_t kMaxIncarnationBytes = 64;

// Names and addresses have been checked, so no more than this can stand in them.
std::string JsonString(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "\"";
}

}  // namespace

absl::StatusOr<StateFolder> StateFolder::Open(const std::string& path, int64_t pid) {
  FATHOM_RETURN_IF_ERROR(EnsureDirectory(path));
  const std::string lock_path = absl::StrCat(path, "/lock");
  UniqueFd lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!lock.ok()) return ErrnoStatus(errno, "open", lock_path);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return ErrnoStatus(errno, "lock", lock_path);
    std::array<char, 32> holder = {};
    const ssize_t got = ::pread(lock.get(), holder.data(), holder.size() - 1, 0);
    return absl::FailedPreconditionError(absl::StrCat(
        "another fathom-worker",
        got > 0 ? absl::StrCat(" (process ", absl::StripAsciiWhitespace(holder.data()), ")") : "",
        " uses ", path, "; stop it or give this one a folder of its own (--state-directory)"));
  }
  const std::string text = absl::StrCat(pid, "\n");
  if (::ftruncate(lock.get(), 0) != 0 ||
      ::pwrite(lock.get(), text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) {
    return ErrnoStatus(errno, "write", lock_path);
  }
  return StateFolder(path, std::move(lock));
}

absl::StatusOr<int64_t> StateFolder::NextIncarnation(int64_t wall_us) const {
  const std::string file = absl::StrCat(path_, "/incarnation");
  const absl::StatusOr<std::string> text = ReadFile(file, kMaxIncarnationBytes);
  if (!text.ok() && text.status().code() != absl::StatusCode::kNotFound) return text.status();
  int64_t last = 0;
  if (text.ok() && !absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &last)) {
    return absl::DataLossError(absl::StrCat(file, " holds no number; remove it"));
  }
  const int64_t next = std::max(wall_us, last + 1);
  FATHOM_RETURN_IF_ERROR(WriteFileAtomically(file, absl::StrCat(next, "\n")));
  return next;
}

absl::Status StateFolder::Announce(const std::string& node, int64_t pid,
                                   const std::string& metrics_address) const {
  return WriteFileAtomically(
      absl::StrCat(path_, "/worker.json"),
      absl::StrCat("{\"node\": ", JsonString(node), ", \"pid\": ", pid,
                   ", \"metrics_address\": ", JsonString(metrics_address), "}\n"));
}

}  // namespace fathom
