// From what one probe saw to what is wrong: keeps the values of the probes before, so that a
// counter that rises is the signal and one that has always stood at 40,000 is not. Pure: the time
// comes in.
//
// By its rule (signal_rules.h) a signal is
//   a counter   at fault when it rises by the rule's least rise between two probes. The first probe
//               sets the mark. One that falls was reset, and sets a new mark.
//   events      how many the newest probe saw for the first time (kernel log); summed up here. What
//               the log held before the first probe is a warning at most: it may have been mended.
//   a level     at fault as long as it is above zero. A warning while there is no rule for worse.
//   a port      1 while up; down is fatal if it was ever seen up, and nothing otherwise, since most
//               machines have a port without a cable.
// A fault of WARNING is over when `warning_time` has passed without another. A FATAL one stays
// until Forgive: a device that has failed is not well again because it fell silent.
#ifndef FATHOM_WORKER_HEALTH_SIGNAL_HISTORY_H_
#define FATHOM_WORKER_HEALTH_SIGNAL_HISTORY_H_

#include <cstdint>
#include <map>
#include <string>
#include <tuple>

#include "absl/time/time.h"
#include "proto/fathom/v1/cluster.pb.h"

namespace fathom::health {

class SignalHistory {
 public:
  static constexpr int kMaxSignals = 4096;  // remembered
  static constexpr int kMaxReported = 128;  // the worst ones, then by name

  explicit SignalHistory(absl::Duration warning_time = absl::Minutes(10))
      : warning_ms_(absl::ToInt64Milliseconds(warning_time)) {}

  // What to report after this probe: all faults, and counters that stand above zero.
  v1::NodeHealth Update(const v1::NodeHealth& probe, int64_t now_ms);

  // The same after a probe that told nothing; the signals stay as they were.
  v1::NodeHealth Failed(const std::string& probe_error, int64_t now_ms) const;

  // Fatal faults seen so far are over, as a preflight passed that began after the newest probe. A
  // level that is still there comes back with the next one.
  void Forgive();

  // Of the kernel's log: the newest record seen; -1: none yet.
  int64_t log_sequence() const { return log_sequence_; }

 private:
  using Key = std::tuple<std::string, std::string, std::string>;  // source, subject, name
  struct Memory {
    v1::HealthSignal signal;  // as last reported
    double last_value = 0;    // as last probed
    bool was_up = false;
  };

  void Judge(const v1::HealthSignal& probed, bool first_probe, int64_t now_ms);
  v1::NodeHealth Report(int64_t now_ms) const;

  const int64_t warning_ms_;
  std::map<Key, Memory> memory_;
  bool probed_ = false;
  int64_t log_sequence_ = -1;
};

}  // namespace fathom::health

#endif  // FATHOM_WORKER_HEALTH_SIGNAL_HISTORY_H_
