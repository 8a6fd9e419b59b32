// The daemon's own words on standard error: one line each, with the time.
#ifndef FATHOM_WORKER_AGENT_DAEMON_LOG_H_
#define FATHOM_WORKER_AGENT_DAEMON_LOG_H_

#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/clock.h"

namespace fathom {

class DaemonLog {
 public:
  // Both outlive this.
  DaemonLog(const Clock* clock, std::FILE* stream) : clock_(clock), stream_(stream) {}

  // From any thread; lines are written whole.
  void Line(absl::string_view text) const {
    const std::string line =
        absl::StrCat(absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", clock_->Wall(), absl::UTCTimeZone()),
                     " ", text, "\n");
    std::fwrite(line.data(), 1, line.size(), stream_);
    std::fflush(stream_);
  }

 private:
  const Clock* const clock_;
  std::FILE* const stream_;
};

}  // namespace fathom

#endif  // FATHOM_WORKER_AGENT_DAEMON_LOG_H_
