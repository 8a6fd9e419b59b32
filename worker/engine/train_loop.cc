#include "worker/engine/train_loop.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/base/limits.h"
#include "common/base/status_util.h"
#include "common/checkpoint/manifest.h"
#include "worker/engine/expert_balance.h"
#include "worker/engine/learning_rate.h"
#include "worker/engine/state_exchange.h"

namespace fathom::engine {

namespace {

// Of each rank, in the sum at a step's end: 1 if ready to leave, by how many epochs, its square;
// 1 if asked to park; 1 from rank 0 if the next step is to be recorded.
constexpr size_t kWishes = 5;
// 1 from each rank that found weights changed.
constexpr size_t kFindings = 1;

// A file system's error with a code that can't be taken for a peer's.
absl::Status OwnFault(const absl::Status& error) {
  return IsFaultOfPeer(error) ? absl::UnknownError(error.ToString()) : error;
}

}  // namespace

// What the ranks know together at the end of a step.
struct TrainLoop::StepTotals {
  double loss = 0;  // means per token, nats
  double mtp_loss = 0;
  double balance_loss = 0;
  double gradient_norm = 0;
  double learning_rate = 0;
  double max_violation = 0;
  std::vector<int64_t> expert_loads;  // [E], over all MoE layers
};

bool IsFaultOfPeer(const absl::Status& error) {
  switch (error.code()) {
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kCancelled:
      return true;
    default:
      return false;
  }
}

TrainLoop::TrainLoop(RankParts* parts, CheckpointWriter* checkpoints, const Clock* clock,
                     TrainObserver* observer)
    : parts_(parts),
      checkpoints_(checkpoints),
      clock_(clock),
      observer_(observer),
      training_(parts->plan.spec().training()),
      weights_check_(parts) {}

absl::StatusOr<TrainEnd> TrainLoop::Run() {
  FATHOM_RETURN_IF_ERROR(Restore());
  v1::RankTraining training;
  training.set_first_step(steps_done_);
  *training.mutable_restored() = restored_;
  observer_->OnTraining(training);
  const int64_t save_every = parts_->plan.spec().checkpoint().every_steps();
  const int64_t validate_every = training_.validation_every();
  while (steps_done_ < training_.steps()) {
    const absl::Status stepped = RunStep();
    if (!stepped.ok() && absl::StartsWith(stepped.message(), kCorruption)) return stepped;
    FATHOM_RETURN_IF_ERROR(WithContext(stepped, absl::StrCat("step ", steps_done_ + 1)));
    const bool last = steps_done_ == training_.steps();
    if (last || (validate_every > 0 && steps_done_ % validate_every == 0)) {
      parts_->meter->At("validation");
      FATHOM_RETURN_IF_ERROR(WithContext(Validate(), "validation"));
    }
    FATHOM_RETURN_IF_ERROR(PublishCheckpointWhenDurable(/*wait=*/false));
    if (last) break;
    if (boundary_.park) return SaveAndEnd(TrainEnd::Kind::kParked);
    if (boundary_.next_epoch != 0) {
      return MoveOn();
    }
    if (save_every > 0 && steps_done_ % save_every == 0) checkpoint_due_ = true;
    // One at a time: a slow disk delays the next checkpoint instead of piling up copies of the
    // state.
    if (checkpoint_due_ && pending_checkpoint_ == 0) BeginCheckpoint();
  }
  return SaveAndEnd(TrainEnd::Kind::kFinished);
}

// Every rank's state is where the next epoch finds it: in the memory of one that stays, or on disk.
absl::StatusOr<TrainEnd> TrainLoop::MoveOn() {
  if (boundary_.leaves_state_behind) {
    FATHOM_RETURN_IF_ERROR(SaveAndEnd(TrainEnd::Kind::kMoved).status());
  } else {
    FATHOM_RETURN_IF_ERROR(PublishCheckpointWhenDurable(/*wait=*/true));
    FATHOM_RETURN_IF_ERROR(SnapshotNow());
  }
  return TrainEnd{TrainEnd::Kind::kMoved, steps_done_, boundary_.next_epoch, ""};
}

absl::StatusOr<TrainEnd> TrainLoop::SaveAndEnd(TrainEnd::Kind kind) {
  if (checkpoints_ != nullptr) {
    parts_->meter->At("last checkpoint");
    FATHOM_RETURN_IF_ERROR(PublishCheckpointWhenDurable(/*wait=*/true));
    if (last_checkpoint_ != steps_done_) {
      BeginCheckpoint();
      const absl::Status agreed = PublishCheckpointWhenDurable(/*wait=*/true);
      // Published is published, even if a peer is gone before it could hear of it.
      if (last_checkpoint_ != steps_done_) {
        const std::string context = absl::StrCat("checkpoint of step ", steps_done_);
        // All know that it failed, and none goes on: they leave together.
        if (agreed.ok()) parts_->world->Barrier().IgnoreError();
        const absl::Status own =
            checkpoints_->error().ok() ? publish_error_ : checkpoints_->error();
        if (!own.ok()) return WithContext(OwnFault(own), context);
        FATHOM_RETURN_IF_ERROR(WithContext(agreed, context));
        return absl::AbortedError(
            absl::StrCat(context, ": another rank could not save its shard; see its log"));
      }
    }
  }
  return TrainEnd{kind, steps_done_, 0, weights_sha256_};
}

// The newer of memory and disk. On disk is what is left when memory doesn't have a whole step.
absl::Status TrainLoop::Restore() {
  Optimizer& optimizer = *parts_->optimizer;
  parts_->meter->At("restore");
  FATHOM_ASSIGN_OR_RETURN(const v1::ResumePoint checkpoint, CheckpointToRestore());
  FATHOM_ASSIGN_OR_RETURN(restored_, RestoreFromMemory(parts_, checkpoint.step()));
  if (!restored_.source().empty()) {
    steps_done_ = restored_.step();
    FATHOM_RETURN_IF_ERROR(NoteDurable(checkpoint));
  } else if (!checkpoint.manifest().empty()) {
    FATHOM_ASSIGN_OR_RETURN(const RestoredState restored,
                            LoadCheckpoint(checkpoint.manifest(), parts_));
    steps_done_ = last_checkpoint_ = restored.step;
    weights_sha256_ = restored.weights_sha256;
    restored_.set_source("checkpoint");
  } else {
    restored_.set_source("initial");
    optimizer.Initialise(parts_->model.initializer_range, training_.seed());
  }
  restored_.set_step(steps_done_);
  RecordRestore(parts_, steps_done_);
  optimizer.RoundMasters();
  FATHOM_RETURN_IF_ERROR(optimizer.GatherWeights());
  for (model::Stage* stage : parts_->stages_in_order()) stage->RefreshWeights();
  weights_check_.Remember(steps_done_);
  parts_->meter->SetStepsDone(steps_done_);
  // Nobody begins a step before every rank has all its weights.
  return parts_->world->Barrier();
}

// The plan names the newest checkpoint that the coordinator knew of. In a later epoch the job may
// have published a newer one that it never heard of, and have removed the one it names; rank 0
// looks, and all take the same.
absl::StatusOr<v1::ResumePoint> TrainLoop::CheckpointToRestore() {
  v1::ResumePoint checkpoint = parts_->plan.resume();
  if (parts_->plan.epoch() <= 1 || checkpoints_ == nullptr) return checkpoint;
  int64_t newest = std::numeric_limits<int64_t>::max();
  if (parts_->rank == 0) newest = checkpoints_->NewestPublished();
  FATHOM_RETURN_IF_ERROR(parts_->world->AllReduceMin({&newest, 1}));
  if (newest > checkpoint.step()) {
    checkpoint.set_step(newest);
    checkpoint.set_manifest(checkpoints_->ManifestPath(newest));
  }
  return checkpoint;
}

// A state taken from memory may be on disk as well, and is then not saved again.
absl::Status TrainLoop::NoteDurable(const v1::ResumePoint& checkpoint) {
  if (checkpoint.manifest().empty() || checkpoint.step() != steps_done_) return absl::OkStatus();
  int64_t readable = 1;
  if (parts_->rank == 0) {
    const absl::StatusOr<v1::CheckpointManifest> manifest =
        checkpoint::ReadManifest(checkpoint.manifest());
    readable = manifest.ok() && manifest->step() == steps_done_ ? 1 : 0;
    if (readable == 1) weights_sha256_ = manifest->weights_sha256();
  }
  FATHOM_RETURN_IF_ERROR(parts_->world->AllReduceMin({&readable, 1}));
  if (readable == 1) last_checkpoint_ = steps_done_;
  return absl::OkStatus();
}

// The state after the last step goes to the buddy while this one runs. An epoch's first one always
// does, because buddies may be others than before.
void TrainLoop::BeginSnapshot() {
  const v1::Recovery& recovery = parts_->plan.spec().recovery();
  const int64_t every = recovery.has_snapshot_every_steps() ? recovery.snapshot_every_steps() : 1;
  if (every == 0 || (!first_step_ && steps_done_ % every != 0)) return;
  // The optimizer's own buffers hold the newest two steps only.
  if (every > 1) parts_->memory->RetainCopy(*parts_->optimizer->current());
  parts_->snapshots->Begin(parts_->optimizer->current());
}

absl::Status TrainLoop::SnapshotNow() {
  parts_->meter->At("snapshot");
  if (parts_->snapshots->finished_step() != steps_done_) {
    parts_->snapshots->Begin(parts_->optimizer->current());
    FATHOM_RETURN_IF_ERROR(parts_->snapshots->Finish());
  }
  return parts_->world->Barrier();
}

absl::Status TrainLoop::RunStep() {
  const absl::Duration start = clock_->Steady();
  StepMeter& meter = *parts_->meter;
  meter.Reset();
  if (record_next_) meter.BeginTimeline();
  meter.At("read samples");
  parts_->window->Reset();
  FATHOM_RETURN_IF_ERROR(parts_->data->ReadTraining(steps_done_, parts_->lane, &batch_));
  BeginSnapshot();
  parts_->store->ZeroGradients();
  for (model::Stage* stage : parts_->stages_in_order()) stage->ResetExpertLoads();

  const SampleSource samples = [this](int direction, int micro_batch) {
    return batch_.micro_batch(direction * parts_->micro_batches_per_direction + micro_batch);
  };
  FATHOM_ASSIGN_OR_RETURN(losses_,
                          parts_->executor->Run(parts_->train_list, samples, /*keep=*/true));
  StepTotals totals;
  {
    StepMeter::Scope scope(&meter, Part::kReduce);
    meter.At("reduce gradients");
    FATHOM_RETURN_IF_ERROR(parts_->optimizer->ReduceGradients());
    // Before the sum: once it is formed, every shard of the last step is on two nodes, and the one
    // before it may be written over.
    meter.At("snapshot");
    FATHOM_RETURN_IF_ERROR(parts_->snapshots->Finish());
    meter.At("sum over ranks");
    FATHOM_ASSIGN_OR_RETURN(totals, SumOverRanks(losses_));
    if (first_step_) parts_->memory->DropForeign();
    first_step_ = false;
  }
  FATHOM_RETURN_IF_ERROR(UpdateWeights(totals));
  ++steps_done_;
  meter.SetStepsDone(steps_done_);
  Report(totals, clock_->Steady() - start);
  return absl::OkStatus();
}

void TrainLoop::ReportTimeline(absl::Time now) {
  v1::Timeline timeline;
  timeline.set_job(parts_->plan.job());
  timeline.set_epoch(parts_->plan.epoch());
  timeline.set_step(steps_done_);
  v1::RankTimes& times = *timeline.add_ranks();
  times = parts_->meter->EndTimeline(now);
  const v1::RankAssignment& self = parts_->plan.ranks(parts_->rank);
  times.set_rank(self.rank());
  times.set_pipeline_rank(self.pipeline_rank());
  times.set_node(self.node());
  recorded_at_ = clock_->Steady();
  observer_->OnTimeline(timeline);
}

absl::StatusOr<std::vector<double>> TrainLoop::SumExpertLoads() {
  std::vector<double> loads;
  for (model::Stage* stage : parts_->stages_in_order()) {
    const absl::Span<const int64_t> own = stage->expert_loads();
    loads.insert(loads.end(), own.begin(), own.end());
  }
  const size_t places = weights_check_.places();
  loads.resize(loads.size() + places);
  weights_check_.Fill(absl::MakeSpan(loads).last(places));
  FATHOM_RETURN_IF_ERROR(parts_->dense->AllReduceSum(absl::MakeSpan(loads)));
  weights_check_.Examine(absl::MakeConstSpan(loads).last(places));
  loads.resize(loads.size() - places);
  return loads;
}

absl::StatusOr<TrainLoop::StepTotals> TrainLoop::SumOverRanks(const ScheduleLosses& losses) {
  FATHOM_ASSIGN_OR_RETURN(expert_loads_, SumExpertLoads());
  const size_t experts = parts_->model.n_routed_experts;
  // Loss, MTP loss, balance loss, squares of gradients, MaxVio and its layers, loads by expert,
  // findings, and
  // wishes for the boundary.
  std::vector<double> sums(6 + experts + kFindings + kWishes);
  for (const auto& direction : losses.by_direction) {
    for (const model::MicroBatchLoss& loss : direction) {
      sums[0] += loss.loss;
      sums[1] += loss.mtp_loss;
    }
  }
  sums[2] = losses.balance_loss;
  sums[3] = parts_->optimizer->SumOfSquares();
  if (parts_->dense->index() == 0) {  // one rank of those that hold these layers speaks for them
    for (size_t row = 0; row + experts <= expert_loads_.size(); row += experts) {
      const absl::Span<const double> layer =
          absl::MakeConstSpan(expert_loads_).subspan(row, experts);
      sums[4] += MaxViolation(layer);
      sums[5] += 1;
      for (size_t e = 0; e < experts; ++e) sums[6 + e] += layer[e];
    }
  }
  const BoundaryWish wish = observer_->WishAtBoundary(parts_->plan);
  const absl::Span<double> wishes = absl::MakeSpan(sums).last(kWishes);
  if (wish.ready_for > parts_->plan.epoch()) {
    const double ahead = static_cast<double>(wish.ready_for - parts_->plan.epoch());
    wishes[0] = 1;
    wishes[1] = ahead;
    wishes[2] = ahead * ahead;
  }
  wishes[3] = wish.park ? 1 : 0;
  const absl::Duration since = clock_->Steady() - recorded_at_;
  wishes[4] =
      parts_->rank == 0 && !record_next_ && since >= absl::Milliseconds(limits::kTimelineIntervalMs)
          ? 1
          : 0;
  sums[6 + experts] = weights_check_.found() ? 1 : 0;
  FATHOM_RETURN_IF_ERROR(parts_->world->AllReduceSum(absl::MakeSpan(sums)));
  if (sums[6 + experts] > 0) return weights_check_.Conclude();
  boundary_ = AgreeOnBoundary(wishes);
  boundary_.leaves_state_behind = wish.leaves_state_behind;
  record_next_ = wishes[4] > 0;

  StepTotals totals;
  const double tokens = static_cast<double>(parts_->tokens_per_step);
  totals.loss = sums[0] / tokens;
  totals.mtp_loss = sums[1] / tokens;
  totals.balance_loss =
      sums[2] * static_cast<double>(parts_->plan.spec().data().sequence_length()) / tokens;
  totals.gradient_norm = std::sqrt(sums[3]);
  totals.max_violation = sums[5] > 0 ? sums[4] / sums[5] : 0;
  totals.learning_rate = LearningRate(training_, steps_done_ + 1);
  totals.expert_loads.assign(sums.begin() + 6, sums.begin() + 6 + experts);
  if (!std::isfinite(totals.loss) || !std::isfinite(totals.gradient_norm)) {
    return absl::InternalError(
        absl::StrCat("loss ", totals.loss, ", gradient norm ", totals.gradient_norm,
                     ": no longer finite; lower spec.training.learning_rate, or resume from an "
                     "earlier checkpoint"));
  }
  return totals;
}

// Every rank has the same sums, so all decide alike. The ranks may be ready for different epochs
// while a later plan takes the place of one that nobody has entered; N values are equal just when
// N times the sum of their squares is the square of their sum, and these are exact in a double.
TrainLoop::Boundary TrainLoop::AgreeOnBoundary(absl::Span<const double> sums) const {
  Boundary boundary;
  const double ranks = parts_->world->size();
  if (sums[0] == ranks && sums[2] * ranks == sums[1] * sums[1]) {
    boundary.next_epoch = parts_->plan.epoch() + static_cast<uint64_t>(sums[1] / ranks);
  }
  boundary.park = sums[3] > 0;
  return boundary;
}

absl::Status TrainLoop::UpdateWeights(const StepTotals& totals) {
  parts_->meter->At("optimizer");
  {
    StepMeter::Scope scope(parts_->meter.get(), Part::kOptimizer);
    kernels::AdamWSettings settings;
    settings.learning_rate = totals.learning_rate;
    settings.beta1 = training_.beta1();
    settings.beta2 = training_.beta2();
    settings.epsilon = training_.epsilon();
    settings.weight_decay = training_.weight_decay();
    settings.step = steps_done_ + 1;
    if (totals.gradient_norm > training_.clip_norm()) {
      settings.gradient_scale = training_.clip_norm() / totals.gradient_norm;
    }
    // First, because they are part of the state that the optimizer writes.
    UpdateRouterBiases();
    parts_->optimizer->Update(settings);
  }
  {
    StepMeter::Scope scope(parts_->meter.get(), Part::kReduce);
    parts_->meter->At("gather weights");
    FATHOM_RETURN_IF_ERROR(parts_->optimizer->GatherWeights());
  }
  StepMeter::Scope scope(parts_->meter.get(), Part::kOptimizer);
  for (model::Stage* stage : parts_->stages_in_order()) stage->RefreshWeights();
  weights_check_.Remember(steps_done_ + 1);
  return absl::OkStatus();
}

void TrainLoop::UpdateRouterBiases() {
  const size_t experts = parts_->model.n_routed_experts;
  absl::Span<const double> loads = expert_loads_;
  for (model::Stage* stage : parts_->stages_in_order()) {
    for (model::Parameter* bias : stage->router_biases()) {
      UpdateRouterBias(loads.subspan(0, experts), training_.bias_update_speed(),
                       {static_cast<float*>(bias->weight.data), experts});
      loads.remove_prefix(experts);
    }
  }
}

void TrainLoop::Report(const StepTotals& totals, absl::Duration elapsed) {
  const StepMeter& meter = *parts_->meter;
  v1::StepReport report;
  report.set_step(steps_done_);
  report.set_loss(totals.loss);
  report.set_mtp_loss(totals.mtp_loss);
  report.set_balance_loss(totals.balance_loss);
  report.set_gradient_norm(totals.gradient_norm);
  report.set_learning_rate(totals.learning_rate);
  report.set_tokens(parts_->tokens_per_step);
  report.set_seconds(absl::ToDoubleSeconds(elapsed));
  report.set_forward_seconds(meter.seconds(Part::kForward));
  report.set_backward_seconds(meter.seconds(Part::kBackward));
  report.set_weight_seconds(meter.seconds(Part::kWeight));
  report.set_overlapped_seconds(meter.seconds(Part::kOverlapped));
  report.set_wait_seconds(meter.seconds(Part::kWait));
  report.set_reduce_seconds(meter.seconds(Part::kReduce));
  report.set_optimizer_seconds(meter.seconds(Part::kOptimizer));
  report.set_max_violation(totals.max_violation);
  report.set_bytes_sent(parts_->window->Total().put_bytes);
  report.set_weights_hash(weights_check_.hash());
  report.set_snapshot_seconds(absl::ToDoubleSeconds(parts_->snapshots->TakeTimeSpent()));
  report.set_snapshot_step(std::max<int64_t>(parts_->snapshots->finished_step(), 0));
  const absl::Time now = clock_->Wall();
  report.set_finished_ms(absl::ToUnixMillis(now));
  for (int64_t load : totals.expert_loads) report.add_expert_loads(load);
  observer_->OnStep(report);
  if (meter.recording()) ReportTimeline(now);
}

absl::Status TrainLoop::Validate() {
  if (!parts_->data->has_validation()) return absl::OkStatus();
  FATHOM_RETURN_IF_ERROR(
      parts_->data->ReadValidation(parts_->lane, parts_->validation_micro_batches, &batch_));
  const int64_t per_direction =
      parts_->validation_micro_batches / static_cast<int64_t>(parts_->stages.size());
  const SampleSource samples = [this, per_direction](int direction, int micro_batch) {
    return batch_.micro_batch(direction * per_direction + micro_batch);
  };
  FATHOM_ASSIGN_OR_RETURN(const ScheduleLosses losses,
                          parts_->executor->Run(parts_->validation_list, samples, /*keep=*/false));
  double sum = 0;
  for (const auto& direction : losses.by_direction) {
    for (const model::MicroBatchLoss& loss : direction) sum += loss.loss;
  }
  FATHOM_RETURN_IF_ERROR(parts_->world->AllReduceSum({&sum, 1}));
  v1::ValidationReport report;
  report.set_step(steps_done_);
  report.set_loss(sum / static_cast<double>(parts_->validation_tokens));
  report.set_tokens(parts_->validation_tokens);
  observer_->OnValidation(report);
  return absl::OkStatus();
}

void TrainLoop::BeginCheckpoint() {
  checkpoint_due_ = false;
  if (checkpoints_ == nullptr) return;
  pending_checkpoint_ = steps_done_;
  checkpoints_->Begin(steps_done_);
}

absl::Status TrainLoop::PublishCheckpointWhenDurable(bool wait) {
  if (pending_checkpoint_ == 0) return absl::OkStatus();
  if (wait) checkpoints_->WaitUntilIdle();
  // 1: durable here, 0: still being written, -1: failed. All ranks decide from the same minimum.
  int64_t progress = static_cast<int64_t>(checkpoints_->progress());
  FATHOM_RETURN_IF_ERROR(parts_->world->AllReduceMin({&progress, 1}));
  if (progress == 0) return absl::OkStatus();
  const int64_t step = std::exchange(pending_checkpoint_, 0);
  // A failed save costs that checkpoint, not the training.
  if (progress < 0) return absl::OkStatus();
  int64_t published = 1;
  if (parts_->rank == 0) {
    absl::StatusOr<v1::CheckpointReport> report = checkpoints_->Publish(step);
    if (report.ok()) {
      weights_sha256_ = report->weights_sha256();
      last_checkpoint_ = step;
      observer_->OnCheckpoint(*report);
    } else {
      publish_error_ = report.status();
      published = 0;
    }
  }
  FATHOM_RETURN_IF_ERROR(parts_->world->AllReduceMin({&published, 1}));
  if (published == 1) last_checkpoint_ = step;
  return absl::OkStatus();
}

}  // namespace fathom::engine
