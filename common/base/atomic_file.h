// Whole files: written so that a reader or a crash sees the old content or the new, never a
// mixture, and read with a bound.
#ifndef FATHOM_COMMON_BASE_ATOMIC_FILE_H_
#define FATHOM_COMMON_BASE_ATOMIC_FILE_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace fathom {

// Writes a temporary file beside `path`, fsyncs it, renames it to `path` and fsyncs the folder.
// After OK the content survives a power failure. On failure `path` is as it was and no temporary
// file stays. Codes as in ErrnoStatus.
absl::Status WriteFileAtomically(const std::string& path, absl::string_view contents);

// The same without durability, for one writer at a time: nothing is synced, so a power failure may
// leave the old content, the new, or an empty file.
absl::Status ReplaceFile(const std::string& path, absl::string_view contents);

// The content of a regular file. RESOURCE_EXHAUSTED if it is longer than `max_bytes`;
// FAILED_PRECONDITION if `path` is a folder, pipe or device; else codes as in ErrnoStatus.
absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes);

// Creates a folder and its parents; OK if it is there already.
absl::Status EnsureDirectory(const std::string& path);

// Makes a rename or a new file within the folder durable.
absl::Status SyncDirectory(const std::string& path);

}  // namespace fathom

#endif  // FATHOM_COMMON_BASE_ATOMIC_FILE_H_
