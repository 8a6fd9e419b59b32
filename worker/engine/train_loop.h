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
#include "worker/engine/weights_check.h"

namespace fathom::engine {

// What is to happen at the next boundary between two steps, as this rank knows it.
struct BoundaryWish {
  uint64_t ready_for = 0;  // epoch that this rank can leave the present one for; 0: none
  // With it: the change takes some rank's state and its buddy's copy out of the job together.
  bool leaves_state_behind = false;
  bool park = false;
};

// Who is told what happens, and asked what is to happen. Called from the training thread.
class TrainObserver {
 public:
  virtual ~TrainObserver() = default;
  virtual void OnTraining(const v1::RankTraining& training) = 0;
  virtual void OnStep(const v1::StepReport& report) = 0;
  virtual void OnCheckpoint(const v1::CheckpointReport& report) = 0;
  virtual void OnValidation(const v1::ValidationReport& report) = 0;
  // Of the step just done, on this rank.
  virtual void OnTimeline(const v1::Timeline& /*timeline*/) {}
  virtual BoundaryWish WishAtBoundary(const v1::Plan& /*present*/) { return {}; }
};

// How the training of an epoch ended, after a whole step.
struct TrainEnd {
  enum class Kind {
    kFinished,  // all steps done
    kParked,    // one rank or more were asked to
    kMoved,     // every rank is ready for the same later epoch
  };
  Kind kind = Kind::kFinished;
  int64_t step = 0;            // steps done
  uint64_t next_epoch = 0;     // kMoved
  std::string weights_sha256;  // of the checkpoint of that step; rank 0, not of kMoved
};

// Whether an error of a running epoch is a peer's, so that this rank can go on in a later epoch.
bool IsFaultOfPeer(const absl::Status& error);

class TrainLoop {
 public:
  // The parts must outlive the loop. `checkpoints` is null where nothing is to be saved (tests).
  TrainLoop(RankParts* parts, CheckpointWriter* checkpoints, const Clock* clock,
            TrainObserver* observer);

  // Restores or initialises, and trains to the last step, or to a boundary at which the ranks agree
  // to park or to move. Finished or parked, the checkpoint of that step is published.
  // Errors: as the transport, naming the peer; ABORTED: another rank could not save its shard.
  // Those are faults of peers (IsFaultOfPeer), all others this rank's own: of the file system for
  // the last checkpoint, INTERNAL when the loss or gradient is no longer finite.
  absl::StatusOr<TrainEnd> Run();

  // Pieces of Run, for tests that stop between them.
  absl::Status Restore();
  absl::Status RunStep();
  int64_t steps_done() const { return steps_done_; }
  // Every rank's newest state to its buddy, at once. All ranks together, between steps: afterwards
  // any of them may leave and its state lives on.
  absl::Status SnapshotNow();
  const v1::RestoreReport& restored() const { return restored_; }
  const ScheduleLosses& last_losses() const { return losses_; }

 private:
  struct StepTotals;
  // What all ranks know of the boundary that the step in progress ends at.
  struct Boundary {
    uint64_t next_epoch = 0;
    bool leaves_state_behind = false;
    bool park = false;
  };

  absl::StatusOr<StepTotals> SumOverRanks(const ScheduleLosses& losses);
  void BeginSnapshot();
  Boundary AgreeOnBoundary(absl::Span<const double> sums) const;
  absl::Status UpdateWeights(const StepTotals& totals);
  void UpdateRouterBiases();
  absl::StatusOr<std::vector<double>> SumExpertLoads();
  void Report(const StepTotals& totals, absl::Duration elapsed);
  void ReportTimeline(absl::Time now);
  absl::Status Validate();
  absl::StatusOr<v1::ResumePoint> CheckpointToRestore();
  absl::Status NoteDurable(const v1::ResumePoint& checkpoint);
  absl::StatusOr<TrainEnd> MoveOn();
  absl::StatusOr<TrainEnd> SaveAndEnd(TrainEnd::Kind kind);
  void BeginCheckpoint();
  absl::Status PublishCheckpointWhenDurable(bool wait);

  // Constant.
  RankParts* const parts_;
  CheckpointWriter* const checkpoints_;
  const Clock* const clock_;
  TrainObserver* const observer_;
  const v1::Training& training_;

  WeightsCheck weights_check_;

  // State between steps.
  bool first_step_ = true;  // of this epoch
  int64_t steps_done_ = 0;
  bool checkpoint_due_ = false;
  int64_t pending_checkpoint_ = 0;  // step of the one being written on any rank; 0: none
  int64_t last_checkpoint_ = 0;     // newest published
  std::string weights_sha256_;      // of the newest published checkpoint; rank 0
  v1::RestoreReport restored_;
  Boundary boundary_;           // after steps_done_
  bool record_next_ = false;    // the next step's timeline; all ranks the same
  absl::Duration recorded_at_;  // when the newest was
  absl::Status publish_error_;  // of the newest checkpoint that failed at that; rank 0

  // Scratch of the step in progress.
  LaneBatch batch_;
  ScheduleLosses losses_;
  std::vector<double>
      expert_loads_;  // [router biases of this rank's stages, E], over the whole job
};

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_TRAIN_LOOP_H_
