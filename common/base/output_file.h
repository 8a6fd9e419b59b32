// A file that appears whole or not at all: written under a temporary name beside its final one,
// synced and renamed into place by Commit. Without a Commit it leaves nothing behind.
//
// Not for many threads at once. Errors name the path and the remedy; a full disk is
// RESOURCE_EXHAUSTED.
#ifndef FATHOM_COMMON_BASE_OUTPUT_FILE_H_
#define FATHOM_COMMON_BASE_OUTPUT_FILE_H_

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fathom {

class OutputFile {
 public:
  // Codes as in ErrnoStatus, such as NOT_FOUND: no such folder.
  static absl::StatusOr<OutputFile> Create(const std::string& path);

  OutputFile() = default;
  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&& other) noexcept;
  ~OutputFile();

  // Codes as in ErrnoStatus, such as RESOURCE_EXHAUSTED: the disk is full.
  absl::Status Append(const void* bytes, size_t count);

  // Over what has been appended already.
  absl::Status WriteAt(int64_t offset, const void* bytes, size_t count);

  // Flushes, syncs file and folder, renames. At most once, last.
  absl::Status Commit();

  // Bytes appended so far.
  int64_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  absl::Status Flush();
  absl::Status WriteFully(int64_t offset, const char* bytes, size_t count);
  void Discard();

  std::string path_;
  std::string temporary_path_;
  int descriptor_ = -1;
  int64_t size_ = 0;
  std::string buffer_;  // the appended bytes from size_ - buffer_.size() on, not yet written
};

}  // namespace fathom

#endif  // FATHOM_COMMON_BASE_OUTPUT_FILE_H_
