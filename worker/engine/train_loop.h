// The page to read: how a rank trains.
//
// A step is: read the samples; run the schedule's instructions (forwards, backwards, deferred
// weight gradients); sum the gradients over the ranks that hold the same parameters; clip; update
// this rank's shard with AdamW; bring the new weights together; move the routers' biases towards an
// equal load of the experts. State changes only at the end, so a step that fails leaves the one
// before it whole.
//
// Every rank of the job runs this loop with the same step numbers; all waiting for each other is in
// the collectives and channels that it calls.
#ifndef FATHOM_WORKER_ENGINE_TRAIN_LOOP_H_
#define FATHOM_WORKER_ENGINE_TRAIN_LOOP_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/base/clock.h"
#include "proto/fathom/v1/worker.pb.h"
#include "worker/engine/checkpoint.h"
#include "worker/engine/rank_parts.h"

namespace fathom::engine {

// Who is told what happens. Called from the training thread.
class TrainObserver {
 public:
  virtual ~TrainObserver() = default;
  virtual void OnTraining(int64_t steps_done) = 0;
  virtual void OnStep(const v1::StepReport& report) = 0;
  virtual void OnCheckpoint(const v1::CheckpointReport& report) = 0;
  virtual void OnValidation(const v1::ValidationReport& report) = 0;
};

class TrainLoop {
 public:
  // The parts must outlive the loop. `checkpoints` is null where nothing is to be saved (tests).
  TrainLoop(RankParts* parts, CheckpointWriter* checkpoints, const Clock* clock,
            TrainObserver* observer);

  // Restores or initialises, trains to the last step, saves the final checkpoint, and returns the
  // hash of the final weights (rank 0; empty elsewhere). Errors: as the transport, naming the peer;
  // RESOURCE_EXHAUSTED or others of the file system for the final checkpoint; INTERNAL: the loss or
  // gradient is no longer finite.
  absl::StatusOr<std::string> Run();

  // Pieces of Run, for tests that stop between them.
  absl::Status Restore();
  absl::Status RunStep();
  int64_t steps_done() const { return steps_done_; }
  const ScheduleLosses& last_losses() const { return losses_; }

 private:
  struct StepTotals;

  absl::StatusOr<StepTotals> SumOverRanks(const ScheduleLosses& losses);
  absl::Status UpdateWeights(const StepTotals& totals);
  void UpdateRouterBiases();
  absl::StatusOr<std::vector<double>> SumExpertLoads();
  void Report(const StepTotals& totals, absl::Duration elapsed);
  absl::Status Validate();
  absl::StatusOr<std::string> ManifestToRestore();
  void BeginCheckpoint();
  absl::Status PublishCheckpointWhenDurable(bool wait);

  // Constant.
  RankParts* const parts_;
  CheckpointWriter* const checkpoints_;
  const Clock* const clock_;
  TrainObserver* const observer_;
  const v1::Training& training_;

  // State between steps.
  int64_t steps_done_ = 0;
  bool checkpoint_due_ = false;
  int64_t pending_checkpoint_ = 0;  // step of the one being written on any rank; 0: none
  int64_t last_checkpoint_ = 0;     // newest published
  std::string weights_sha256_;      // of the newest published checkpoint; rank 0

  // Scratch of the step in progress.
  LaneBatch batch_;
  ScheduleLosses losses_;
  std::vector<double>
      expert_loads_;  // [router biases of this rank's stages, E], over the whole job
};

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_TRAIN_LOOP_H_
