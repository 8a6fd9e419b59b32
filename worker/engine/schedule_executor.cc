#include "worker/engine/schedule_executor.h"

#include <utility>

#include "common/base/check.h"
#include "common/base/status_util.h"

namespace fathom::engine {

using schedule::Op;
using schedule::OpKind;

namespace {

absl::Span<const std::byte> Bytes(const kernels::Matrix& matrix) {
  return {static_cast<const std::byte*>(matrix.data),
          static_cast<size_t>(matrix.rows * matrix.cols * kernels::SizeOf(matrix.dtype))};
}

// A received message seen as a matrix of the shape of `like`.
absl::StatusOr<kernels::Matrix> View(absl::Span<const std::byte> message,
                                     const kernels::Matrix& like,
                                     const transport::ChannelSpec& spec) {
  if (message.size() != Bytes(like).size()) {
    return absl::InternalError(absl::StrCat("channel ", spec.name, " from rank ", spec.from,
                                            ": message of ", message.size(), " bytes where ",
                                            Bytes(like).size(), " were expected"));
  }
  kernels::Matrix view = like;
  view.data = const_cast<std::byte*>(message.data());
  return view;
}

}  // namespace

struct ScheduleExecutor::Running {
  Op op;
  const Chunk* chunk = nullptr;
  std::unique_ptr<model::Pass> pass;
  transport::ChannelReceiver* held = nullptr;   // whose message the first Advance still reads
  std::unique_ptr<model::WeightWork> deferred;  // at a fixed place: the pass fills it

  bool forward() const { return op.kind == OpKind::kForward; }

  absl::Status Advance() {
    FATHOM_RETURN_IF_ERROR(pass->Advance());
    if (held == nullptr) return absl::OkStatus();
    return std::exchange(held, nullptr)->Release();
  }
};

ScheduleExecutor::ScheduleExecutor(std::vector<Chunk> chunks, kernels::Ops* ops, int64_t tokens,
                                   int64_t hidden, kernels::DType activation_dtype,
                                   StepMeter* meter)
    : chunks_(std::move(chunks)), ops_(ops), meter_(meter) {
  const size_t bytes = tokens * hidden * kernels::SizeOf(activation_dtype);
  output_ = {ops_->Allocate(bytes), activation_dtype, tokens, hidden, hidden};
  grad_input_ = {ops_->Allocate(bytes), activation_dtype, tokens, hidden, hidden};
}

ScheduleExecutor::~ScheduleExecutor() {
  ops_->Free(output_.data);
  ops_->Free(grad_input_.data);
}

absl::StatusOr<ScheduleLosses> ScheduleExecutor::Run(absl::Span<const schedule::Instruction> list,
                                                     const SampleSource& samples, bool keep) {
  samples_ = &samples;
  keep_ = keep;
  losses_ = {};
  losses_.by_direction.resize(chunks_.size());
  for (const schedule::Instruction& instruction : list) {
    meter_->At(instruction);
    absl::Status status;
    if (instruction.overlapped) {
      status = RunPair(instruction.first, instruction.second);
    } else if (instruction.first.kind == OpKind::kWeight) {
      status = RunWeight();
    } else {
      status =
          RunToEnd(instruction.first,
                   instruction.first.kind == OpKind::kForward ? Part::kForward : Part::kBackward);
    }
    if (status.ok() && between_ != nullptr) status = between_();
    FATHOM_RETURN_IF_ERROR(WithContext(status, schedule::ToString(instruction)));
  }
  FATHOM_CHECK(deferred_.empty()) << deferred_.size() << " deferred weight gradients left";
  return std::move(losses_);
}

absl::StatusOr<ScheduleExecutor::Running> ScheduleExecutor::Begin(const Op& op) {
  Running running;
  running.op = op;
  running.chunk = &chunks_[op.direction];
  const Chunk& chunk = *running.chunk;
  running.held = running.forward() ? chunk.activations_in : chunk.gradients_in;
  kernels::Matrix input;
  if (running.held != nullptr) {
    FATHOM_ASSIGN_OR_RETURN(auto message, Receive(running.held));
    FATHOM_ASSIGN_OR_RETURN(input, View(message, output_, running.held->spec()));
  }
  if (running.forward()) {
    running.pass = chunk.stage->Forward(op.micro_batch, (*samples_)(op.direction, op.micro_batch),
                                        input, output_, keep_);
  } else {
    if (op.kind == OpKind::kBackwardInput) running.deferred = std::make_unique<model::WeightWork>();
    running.pass =
        chunk.stage->Backward(op.micro_batch, input, grad_input_, running.deferred.get());
  }
  return running;
}

absl::StatusOr<absl::Span<const std::byte>> ScheduleExecutor::Receive(
    transport::ChannelReceiver* from) {
  StepMeter::Scope scope(meter_, Part::kWait);
  return from->Receive();
}

absl::Status ScheduleExecutor::Finish(Running& running) {
  const Chunk& chunk = *running.chunk;
  if (running.forward()) {
    RecordLoss(running.op, chunk);
    if (chunk.activations_out != nullptr) return chunk.activations_out->Send(Bytes(output_));
    return absl::OkStatus();
  }
  if (running.deferred != nullptr) deferred_.push_back(*std::move(running.deferred));
  if (chunk.gradients_out != nullptr) return chunk.gradients_out->Send(Bytes(grad_input_));
  return absl::OkStatus();
}

void ScheduleExecutor::RecordLoss(const Op& op, const Chunk& chunk) {
  const model::MicroBatchLoss loss = chunk.stage->loss(op.micro_batch);
  losses_.balance_loss += loss.balance_loss;
  if (chunk.activations_out != nullptr) return;
  std::vector<model::MicroBatchLoss>& losses = losses_.by_direction[op.direction];
  if (losses.size() <= static_cast<size_t>(op.micro_batch)) losses.resize(op.micro_batch + 1);
  losses[op.micro_batch] = loss;
}

absl::Status ScheduleExecutor::RunToEnd(const Op& op, Part part) {
  StepMeter::Scope scope(meter_, part);
  FATHOM_ASSIGN_OR_RETURN(Running running, Begin(op));
  while (!running.pass->done()) FATHOM_RETURN_IF_ERROR(running.Advance());
  return Finish(running);
}

absl::Status ScheduleExecutor::RunPair(const Op& forward, const Op& backward) {
  StepMeter::Scope scope(meter_, Part::kOverlapped);
  FATHOM_ASSIGN_OR_RETURN(Running ahead, Begin(forward));
  FATHOM_ASSIGN_OR_RETURN(Running back, Begin(backward));
  while (!ahead.pass->done() || !back.pass->done()) {
    if (!ahead.pass->done()) FATHOM_RETURN_IF_ERROR(ahead.Advance());
    if (!back.pass->done()) FATHOM_RETURN_IF_ERROR(back.Advance());
  }
  FATHOM_RETURN_IF_ERROR(Finish(ahead));
  return Finish(back);
}

absl::Status ScheduleExecutor::RunWeight() {
  StepMeter::Scope scope(meter_, Part::kWeight);
  FATHOM_CHECK(!deferred_.empty()) << "W with nothing deferred";
  for (const std::function<void()>& work : deferred_.front()) work();
  deferred_.pop_front();
  return absl::OkStatus();
}

}  // namespace fathom::engine
