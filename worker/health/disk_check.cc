#include "worker/health/disk_check.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <random>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "common/base/errno_status.h"
#include "common/base/status_util.h"
#include "common/health/preflight_verdict.h"
#include "worker/agent/unique_fd.h"

namespace fathom::health {
namespace {

constexpr size_t kBlockBytes = 1 << 20;

// Differs from block to block, so that one given back in another's place is noticed.
std::string Block(uint64_t seed, int64_t index) {
  std::mt19937_64 generator(seed + static_cast<uint64_t>(index));
  std::string block;
  block.reserve(kBlockBytes);
  while (block.size() < kBlockBytes) {
    const uint64_t word = generator();
    block.append(reinterpret_cast<const char*>(&word), sizeof(word));
  }
  return block;
}

absl::StatusOr<UniqueFd> OpenNameless(const std::string& folder) {
  std::string path = absl::StrCat(folder, "/preflight-XXXXXX");
  UniqueFd fd(::mkostemp(path.data(), O_CLOEXEC));
  if (!fd.ok()) return ErrnoStatus(errno, "create a file in", folder);
  if (::unlink(path.c_str()) != 0) return ErrnoStatus(errno, "remove", path);
  return fd;
}

absl::Status WriteBlock(int fd, const std::string& block, int64_t offset,
                        const std::string& folder) {
  for (size_t done = 0; done < block.size();) {
    const ssize_t written = ::pwrite(fd, block.data() + done, block.size() - done,
                                     static_cast<off_t>(offset + static_cast<int64_t>(done)));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, "write a test file in", folder);
    done += static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

absl::Status VerifyBlock(int fd, const std::string& block, int64_t offset,
                         const std::string& folder) {
  std::string got(block.size(), '\0');
  for (size_t done = 0; done < got.size();) {
    const ssize_t count = ::pread(fd, got.data() + done, got.size() - done,
                                  static_cast<off_t>(offset + static_cast<int64_t>(done)));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return ErrnoStatus(errno, "read back a test file in", folder);
    if (count == 0) return absl::DataLossError("a test file came back shorter than written");
    done += static_cast<size_t>(count);
  }
  if (got == block) return absl::OkStatus();
  size_t at = 0;
  while (got[at] == block[at]) ++at;
  return absl::DataLossError(absl::StrCat("a test file in ", folder, " came back altered at byte ",
                                          offset + static_cast<int64_t>(at), "; replace the disk"));
}

absl::StatusOr<double> MeasureMegabytesPerSecond(const std::string& folder, int64_t blocks,
                                                 uint64_t seed, const Clock* clock) {
  FATHOM_ASSIGN_OR_RETURN(const UniqueFd fd, OpenNameless(folder));
  absl::Duration spent = absl::ZeroDuration();  // without making the blocks
  for (int64_t i = 0; i < blocks; ++i) {
    const std::string block = Block(seed, i);
    const absl::Duration before = clock->Steady();
    FATHOM_RETURN_IF_ERROR(
        WriteBlock(fd.get(), block, i * static_cast<int64_t>(kBlockBytes), folder));
    spent += clock->Steady() - before;
  }
  const absl::Duration before = clock->Steady();
  if (::fsync(fd.get()) != 0) return ErrnoStatus(errno, "sync a test file in", folder);
  spent += clock->Steady() - before;
  ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED);
  for (int64_t i = 0; i < blocks; ++i) {
    FATHOM_RETURN_IF_ERROR(
        VerifyBlock(fd.get(), Block(seed, i), i * static_cast<int64_t>(kBlockBytes), folder));
  }
  return static_cast<double>(blocks) * kBlockBytes / 1e6 / absl::ToDoubleSeconds(spent);
}

absl::StatusOr<double> FreeGigabytes(const std::string& folder) {
  struct statvfs info {};
  if (::statvfs(folder.c_str(), &info) != 0) {
    return ErrnoStatus(errno, "ask for the free space of", folder);
  }
  return static_cast<double>(info.f_bavail) * static_cast<double>(info.f_frsize) / 1e9;
}

v1::PreflightCheck Check(absl::string_view name, absl::string_view unit, const std::string& folder,
                         const absl::StatusOr<double>& value) {
  v1::PreflightCheck check;
  check.set_name(std::string(name));
  check.set_unit(std::string(unit));
  check.set_subject(folder);
  check.set_passed(value.ok());
  if (value.ok()) {
    check.set_value(*value);
  } else {
    check.set_message(std::string(value.status().message()));
  }
  return check;
}

}  // namespace

std::vector<v1::PreflightCheck> CheckDisk(const std::string& folder, int64_t bytes, uint64_t seed,
                                          const Clock* clock) {
  const int64_t blocks = std::max<int64_t>(1, bytes / static_cast<int64_t>(kBlockBytes));
  return {
      Check(kDiskBandwidth, "MB/s", folder, MeasureMegabytesPerSecond(folder, blocks, seed, clock)),
      Check(kDiskFree, "GB", folder, FreeGigabytes(folder))};
}

}  // namespace fathom::health
