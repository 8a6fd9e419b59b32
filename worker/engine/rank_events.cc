#include "worker/engine/rank_events.h"

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace fathom::engine {

void RankEvents::Log(uint64_t epoch, absl::string_view line) {
  absl::PrintF("epoch %d: %s\n", epoch, line);
  std::fflush(stdout);
}

absl::Status RankEvents::Send(uint64_t epoch, absl::string_view line, v1::RankEvent event) {
  event.set_epoch(epoch);
  const std::lock_guard lock(mutex_);
  Log(epoch, line);
  const absl::Status sent = channel_->Send(event);
  if (!sent.ok()) std::fprintf(stderr, "%s\n", std::string(sent.message()).c_str());
  return sent;
}

absl::Status RankEvents::Listening(uint64_t epoch, const std::string& endpoint) {
  v1::RankEvent event;
  event.set_listening(endpoint);
  return Send(epoch, absl::StrCat("listening at ", endpoint), std::move(event));
}

void RankEvents::Loading(uint64_t epoch) {
  v1::RankEvent event;
  event.mutable_loading();
  Send(epoch, "connected, loading", std::move(event)).IgnoreError();
}

void RankEvents::Training(uint64_t epoch, const v1::RankTraining& training) {
  v1::RankEvent event;
  *event.mutable_training() = training;
  const v1::RestoreReport& restored = training.restored();
  Send(epoch,
       absl::StrCat("training from step ", training.first_step(), ", state from ",
                    restored.source(), restored.note().empty() ? "" : "; ", restored.note()),
       std::move(event))
      .IgnoreError();
}

void RankEvents::Step(uint64_t epoch, const v1::StepReport& report) {
  v1::RankEvent event;
  *event.mutable_step() = report;
  Send(epoch,
       absl::StrFormat("step %d loss %.4f norm %.3f lr %.3g %.3f s (wait %.3f, reduce %.3f)",
                       report.step(), report.loss(), report.gradient_norm(), report.learning_rate(),
                       report.seconds(), report.wait_seconds(), report.reduce_seconds()),
       std::move(event))
      .IgnoreError();
}

void RankEvents::Checkpoint(uint64_t epoch, const v1::CheckpointReport& report) {
  v1::RankEvent event;
  *event.mutable_checkpoint() = report;
  Send(epoch, absl::StrCat("checkpoint ", report.manifest(), " weights ", report.weights_sha256()),
       std::move(event))
      .IgnoreError();
}

void RankEvents::Validation(uint64_t epoch, const v1::ValidationReport& report) {
  v1::RankEvent event;
  *event.mutable_validation() = report;
  Send(epoch, absl::StrFormat("validation at step %d: loss %.4f", report.step(), report.loss()),
       std::move(event))
      .IgnoreError();
}

void RankEvents::Held(uint64_t epoch, const v1::RankHeld& held) {
  v1::RankEvent event;
  *event.mutable_held() = held;
  Send(epoch, absl::StrCat("held at step ", held.step(), ": ", held.message()), std::move(event))
      .IgnoreError();
}

void RankEvents::Parked(uint64_t epoch, int64_t step) {
  v1::RankEvent event;
  event.mutable_parked()->set_step(step);
  Send(epoch, absl::StrCat("parked at step ", step), std::move(event)).IgnoreError();
}

absl::Status RankEvents::Finished(uint64_t epoch, const std::string& weights_sha256) {
  v1::RankEvent event;
  event.mutable_finished()->set_weights_sha256(weights_sha256);
  return Send(epoch, "finished", std::move(event));
}

void RankEvents::Failed(uint64_t epoch, const absl::Status& error) {
  v1::RankEvent event;
  event.set_failed(error.ToString());
  Send(epoch, absl::StrCat("failed: ", error.ToString()), std::move(event)).IgnoreError();
}

void RankEvents::Diagnosis(uint64_t epoch, const v1::RankDiagnosis& diagnosis) {
  v1::RankEvent event;
  *event.mutable_diagnosis() = diagnosis;
  Send(epoch,
       absl::StrFormat("diagnosis %d: step %d, %s for %.3f s, %s", diagnosis.token(),
                       diagnosis.step(), diagnosis.instruction(), diagnosis.seconds(),
                       diagnosis.process()),
       std::move(event))
      .IgnoreError();
}

}  // namespace fathom::engine
