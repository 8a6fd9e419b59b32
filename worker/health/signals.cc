#include "worker/health/signals.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "worker/health/kernel_log.h"
#include "worker/health/sysfs_counters.h"

namespace fathom::health {
namespace {

// Of a file system: the smaller of the two is what must be free.
constexpr double kFreeShareMin = 0.01;
constexpr double kFreeBytesMin = 256 << 20;

std::vector<v1::HealthSignal> ProbeDisk(const std::string& folder) {
  struct statvfs info {};
  if (folder.empty() || ::statvfs(folder.c_str(), &info) != 0) return {};
  const double unit = static_cast<double>(info.f_frsize);
  const double free = unit * static_cast<double>(info.f_bavail);
  const double needed =
      std::min(kFreeShareMin * unit * static_cast<double>(info.f_blocks), kFreeBytesMin);
  v1::HealthSignal signal;
  signal.set_source("disk");
  signal.set_subject(folder);
  signal.set_name("nearly_full");
  signal.set_value(free < needed ? 1 : 0);
  signal.set_message(absl::StrFormat("%.0f MB are left", free / 1e6));
  return {signal};
}

void Append(const std::vector<v1::HealthSignal>& signals, v1::NodeHealth* health) {
  for (const v1::HealthSignal& signal : signals) *health->add_signals() = signal;
}

}  // namespace

v1::NodeHealth ProbeSignals(const SignalOptions& options) {
  v1::NodeHealth health;
  Append(ReadKernelLog(absl::StrCat(options.root, "dev/kmsg"), options.log_after), &health);
  Append(ReadMemoryControllers(options.root), &health);
  Append(ReadPcieErrors(options.root), &health);
  Append(ReadInfinibandPorts(options.root), &health);
  Append(ProbeDisk(options.state_directory), &health);
  Append(ProbeNvml(options.nvml_library), &health);
  return health;
}

}  // namespace fathom::health
