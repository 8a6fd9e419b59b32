// Runs a rank's instruction list: the one place where the pipeline schedule meets the model.
//
// Every instruction receives what it needs from the neighbouring ranks, runs its passes, and sends
// what it made. An overlapped pair advances its forward and its backward in turn, so that each
// one's exchanges of tokens travel while the other computes. Deferred weight gradients wait in one
// FIFO.
#ifndef FATHOM_WORKER_ENGINE_SCHEDULE_EXECUTOR_H_
#define FATHOM_WORKER_ENGINE_SCHEDULE_EXECUTOR_H_

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "common/schedule/instruction.h"
#include "worker/engine/step_meter.h"
#include "worker/model/stage.h"
#include "worker/transport/channel.h"

namespace fathom::engine {

// A stage on this rank and the channels to its neighbours; a null channel means that the pipeline
// ends there.
struct Chunk {
  model::Stage* stage = nullptr;
  transport::ChannelReceiver* activations_in = nullptr;
  transport::ChannelSender* activations_out = nullptr;
  transport::ChannelReceiver* gradients_in = nullptr;
  transport::ChannelSender* gradients_out = nullptr;
};

// Samples of a micro-batch, int32 [sequences, sample_length]; valid for the whole step.
using SampleSource = std::function<const int32_t*(int direction, int micro_batch)>;

// Losses of the micro-batches whose last stage this rank holds.
struct ScheduleLosses {
  // By direction, then micro-batch; empty where the last stage is elsewhere.
  std::vector<std::vector<model::MicroBatchLoss>> by_direction;
  double balance_loss = 0;  // of all stages on this rank
};

class ScheduleExecutor {
 public:
  // chunks[d] is the stage that direction d has on this rank. Activations between stages are [T,
  // D].
  ScheduleExecutor(std::vector<Chunk> chunks, kernels::Ops* ops, int64_t tokens, int64_t hidden,
                   kernels::DType activation_dtype, StepMeter* meter);
  ~ScheduleExecutor();
  ScheduleExecutor(const ScheduleExecutor&) = delete;
  ScheduleExecutor& operator=(const ScheduleExecutor&) = delete;

  // Called after every instruction; an error of it ends the run.
  void SetBetween(std::function<absl::Status()> between) { between_ = std::move(between); }

  // Runs the list to its end. With keep == false the forwards keep nothing (validation).
  // Errors are those of the transport; the step is then lost and the executor is not used again.
  absl::StatusOr<ScheduleLosses> Run(absl::Span<const schedule::Instruction> list,
                                     const SampleSource& samples, bool keep);

 private:
  struct Running;  // a pass with its chunk, op and buffers

  absl::StatusOr<Running> Begin(const schedule::Op& op);
  absl::StatusOr<absl::Span<const std::byte>> Receive(transport::ChannelReceiver* from);
  absl::Status Finish(Running& running);
  absl::Status RunToEnd(const schedule::Op& op, Part part);
  absl::Status RunPair(const schedule::Op& forward, const schedule::Op& backward);
  absl::Status RunWeight();
  void RecordLoss(const schedule::Op& op, const Chunk& chunk);

  // Constant.
  const std::vector<Chunk> chunks_;
  std::function<absl::Status()> between_;
  kernels::Ops* const ops_;
  StepMeter* const meter_;
  kernels::Matrix output_;      // [T, D] of the forward that runs
  kernels::Matrix grad_input_;  // [T, D] of the backward that runs
  // While a list runs.
  const SampleSource* samples_ = nullptr;
  bool keep_ = true;
  std::deque<model::WeightWork> deferred_;
  ScheduleLosses losses_;
};

}  // namespace fathom::engine

#endif  // FATHOM_WORKER_ENGINE_SCHEDULE_EXECUTOR_H_
