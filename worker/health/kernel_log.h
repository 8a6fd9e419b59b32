// The kernel's log as signals: reads /dev/kmsg from a record on, never waits, and counts the lines
// that tell of broken hardware (Xid, EDAC, machine checks, I/O errors) or of trouble that ends
// processes (out of memory, hangs).
//
// Format: Documentation/ABI/testing/dev-kmsg of Linux: one record per read,
// "priority,sequence,microseconds,flags;text", continuation lines begin with a space.
#ifndef FATHOM_WORKER_HEALTH_KERNEL_LOG_H_
#define FATHOM_WORKER_HEALTH_KERNEL_LOG_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "proto/fathom/v1/cluster.pb.h"

namespace fathom::health {

struct KernelLogRecord {
  int64_t sequence = 0;
  std::string text;
};

// Nothing: a continuation, or no such line.
std::optional<KernelLogRecord> ParseKernelLogRecord(absl::string_view line);

// Source, subject, name and message of what the line tells of. Nothing: of nothing that matters.
std::optional<v1::HealthSignal> ClassifyKernelLine(absl::string_view text);

// The lines after record `after` (-1: all there are), by signal: value is their number, message the
// newest. Last comes {kernel, log_sequence}, the newest record's number; {kernel, log_unreadable}
// instead of all where the log may not be read. No log at all: nothing.
std::vector<v1::HealthSignal> ReadKernelLog(const std::string& path, int64_t after);

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_KERNEL_LOG_H_
