#include "common/base/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/atomic_file.h"
#include "common/base/check.h"
#include "common/base/errno_status.h"
#include "common/base/status_util.h"

namespace fathom {
namespace {

constexpr size_t kBufferBytes = 1 << 18;

}  // namespace

absl::StatusOr<OutputFile> OutputFile::Create(const std::string& path) {
  OutputFile file;
  file.path_ = path;
  // In the same folder, so that the rename stays on one file system.
  file.temporary_path_ = absl::StrCat(path, ".partial.", getpid());
  file.descriptor_ =
      open(file.temporary_path_.c_str(), O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0644);
  if (file.descriptor_ < 0) return ErrnoStatus(errno, "create", file.temporary_path_);
  file.buffer_.reserve(kBufferBytes);
  return file;
}

OutputFile::OutputFile(OutputFile&& other) noexcept { *this = std::move(other); }

OutputFile& OutputFile::operator=(OutputFile&& other) noexcept {
  if (this == &other) return *this;
  Discard();
  path_ = std::move(other.path_);
  temporary_path_ = std::move(other.temporary_path_);
  descriptor_ = std::exchange(other.descriptor_, -1);
  size_ = other.size_;
  buffer_ = std::move(other.buffer_);
  return *this;
}

OutputFile::~OutputFile() { Discard(); }

void OutputFile::Discard() {
  if (descriptor_ < 0) return;
  close(descriptor_);
  descriptor_ = -1;
  unlink(temporary_path_.c_str());
}

absl::Status OutputFile::WriteFully(int64_t offset, const char* bytes, size_t count) {
  while (count > 0) {
    const ssize_t written = pwrite(descriptor_, bytes, count, offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ErrnoStatus(errno, "write", path_);
    bytes += written;
    offset += written;
    count -= static_cast<size_t>(written);
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Flush() {
  const int64_t offset = size_ - static_cast<int64_t>(buffer_.size());
  FATHOM_RETURN_IF_ERROR(WriteFully(offset, buffer_.data(), buffer_.size()));
  buffer_.clear();
  return absl::OkStatus();
}

absl::Status OutputFile::Append(const void* bytes, size_t count) {
  FATHOM_CHECK(descriptor_ >= 0) << path_ << " is not open";
  if (buffer_.size() + count > kBufferBytes) FATHOM_RETURN_IF_ERROR(Flush());
  if (count >= kBufferBytes) {
    FATHOM_RETURN_IF_ERROR(WriteFully(size_, static_cast<const char*>(bytes), count));
  } else {
    buffer_.append(static_cast<const char*>(bytes), count);
  }
  size_ += static_cast<int64_t>(count);
  return absl::OkStatus();
}

absl::Status OutputFile::WriteAt(int64_t offset, const void* bytes, size_t count) {
  FATHOM_CHECK(descriptor_ >= 0) << path_ << " is not open";
  FATHOM_CHECK(offset >= 0 && offset + static_cast<int64_t>(count) <= size_) << "offset " << offset;
  FATHOM_RETURN_IF_ERROR(Flush());
  return WriteFully(offset, static_cast<const char*>(bytes), count);
}

absl::Status OutputFile::Commit() {
  FATHOM_CHECK(descriptor_ >= 0) << path_ << " is not open";
  FATHOM_RETURN_IF_ERROR(Flush());
  if (fsync(descriptor_) != 0) return ErrnoStatus(errno, "sync", path_);
  if (rename(temporary_path_.c_str(), path_.c_str()) != 0) {
    return ErrnoStatus(errno, "rename the finished file to", path_);
  }
  const bool closed = close(std::exchange(descriptor_, -1)) == 0;
  if (!closed) return ErrnoStatus(errno, "close", path_);
  const size_t slash = path_.rfind('/');
  return SyncDirectory(slash == std::string::npos ? "." : path_.substr(0, slash + 1));
}

}  // namespace fathom
