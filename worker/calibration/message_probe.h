// What messages between ranks cost on this machine: work of the cores, both ranks' together, and
// how long a waiting rank takes to run again.
#ifndef FATHOM_WORKER_CALIBRATION_MESSAGE_PROBE_H_
#define FATHOM_WORKER_CALIBRATION_MESSAGE_PROBE_H_

#include "absl/status/statusor.h"
#include "common/base/clock.h"

namespace fathom::calibration {

struct MessageTimes {
  double seconds_per_message = 0;  // of a core
  double seconds_per_byte = 0;     // of a core
  double latency_seconds = 0;      // until a receiver that slept runs, beyond that
};

enum class Wire : uint8_t { kShm, kTcp };

// Two ranks as threads that send each other messages, small ones and large ones. The process must
// do nothing else meanwhile. Errors: of the transport.
absl::StatusOr<MessageTimes> ProbeMessages(Wire wire, const Clock* clock);

// Seconds of a core per byte of gradients that comes from another rank and is added.
absl::StatusOr<double> ProbeReduce(const MessageTimes& shm);

// Seconds per byte hashed, as state is.
double ProbeHash(const Clock* clock);

// What a reading of the clock takes.
double ProbeClock(const Clock* clock);

}  // namespace fathom::calibration

#endif  // FATHOM_WORKER_CALIBRATION_MESSAGE_PROBE_H_
