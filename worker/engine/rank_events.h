// What a rank tells its daemon, and the line of its log for each: from the training thread and from
// the one that reads commands.
#ifndef FATHOM_WORKER_ENGINE_RANK_EVENTS_H_
#define FATHOM_WORKER_ENGINE_RANK_EVENTS_H_

#include <cstdint>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/agent/rank_channel.h"

namespace fathom::engine {

class RankEvents {
 public:
  explicit RankEvents(RankChannel* channel) : channel_(channel) {}

  // Each is about an epoch. Returns once the kernel has the event. UNAVAILABLE: the daemon is gone,
  // which the reader of commands notices too, so there is nothing to do about it.
  absl::Status Listening(uint64_t epoch, const std::string& endpoint);
  void Loading(uint64_t epoch);
  void Training(uint64_t epoch, const v1::RankTraining& training);
  void Step(uint64_t epoch, const v1::StepReport& report);
  void Checkpoint(uint64_t epoch, const v1::CheckpointReport& report);
  void Validation(uint64_t epoch, const v1::ValidationReport& report);
  void Held(uint64_t epoch, const v1::RankHeld& held);
  void Parked(uint64_t epoch, int64_t step);
  absl::Status Finished(uint64_t epoch, const std::string& weights_sha256);
  void Failed(uint64_t epoch, const absl::Status& error);
  void Diagnosis(uint64_t epoch, const v1::RankDiagnosis& diagnosis);

  // A line of the log alone.
  void Log(uint64_t epoch, absl::string_view line);

 private:
  absl::Status Send(uint64_t epoch, absl::string_view line, v1::RankEvent event);

  RankChannel* const channel_;
  std::mutex mutex_;  // one event after the other
};

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_RANK_EVENTS_H_
