// Shape letters: T tokens of this rank, D hidden width, F inner width of an expert, E routed
// experts, K chosen per token, R records received, P pairs of a record and an expert of this rank.
#include "worker/model/moe_layer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/check.h"
#include "worker/model/tensor_view.h"

namespace fathom::model {

using kernels::DType;
using kernels::Matrix;

namespace {

// Sums are converted to the format they travel in so many numbers at a time: 32 MiB of BF16.
constexpr int64_t kElementsAtOnce = int64_t{1} << 24;

}  // namespace

MoeLayer::MoeLayer(const LayerContext& context, const ModelConfig& model,
                   const RouterOptions& options, const std::string& prefix, ExpertGroup* group,
                   ParameterReader* reader)
    : context_(context),
      tokens_(options.sequences * options.sequence_length),
      hidden_(model.hidden_size),
      width_(model.moe_intermediate_size),
      top_k_(model.num_experts_per_tok),
      group_(group),
      norm_(reader->ReadNorm(absl::StrCat(prefix, "post_attention_layernorm.weight"), hidden_,
                             model.rms_norm_eps)),
      router_(context, model, options, prefix, reader) {
  if (model.n_shared_experts > 0) {
    const std::string name = absl::StrCat(prefix, "mlp.shared_experts");
    const int64_t shared_width = model.n_shared_experts * width_;
    Linear gate_up = reader->ReadGateUp(name, shared_width, hidden_);
    Linear down =
        reader->ReadLinear(absl::StrCat(name, ".down_proj.weight"), hidden_, shared_width);
    shared_.emplace(std::move(gate_up), std::move(down), context);
  }
  for (size_t e = 0; e < group->map.local.size(); ++e) {
    if (group->map.local[e] < 0) continue;
    const std::string name = absl::StrCat(prefix, "mlp.experts.", e);
    Linear gate_up = reader->ReadGateUp(name, width_, hidden_);
    Linear down = reader->ReadLinear(absl::StrCat(name, ".down_proj.weight"), hidden_, width_);
    experts_.push_back({std::move(gate_up), std::move(down)});
  }
}

void MoeLayer::RefreshWeights() {
  if (has_shared()) shared_->RefreshWeights();
  for (Expert& expert : experts_) {
    expert.gate_up.RefreshWeights();
    expert.down.RefreshWeights();
  }
}

absl::Status MoeLayer::PostRecords(Lane lane, const RecordFormat& format, const Operand& x,
                                   const Activations& state, bool with_routing) {
  HostRows& rows = group_->rows_scratch;
  rows.Resize(format, tokens_);
  if (format.scale_bytes > 0) {
    context_.ops->CopyToHost(rows.hidden.data(), x.fp8.matrix.codes, rows.hidden.size());
    context_.ops->CopyToHost(rows.scales.data(), x.fp8.matrix.scales, rows.scales.size());
  } else {
    context_.ops->CopyToHost(rows.hidden.data(), x.dense.matrix.data, rows.hidden.size());
  }
  context_.ops->Synchronize();
  PackRecords(
      format, state.sent, rows,
      with_routing ? absl::MakeConstSpan(state.routing.host_experts) : absl::Span<const int32_t>(),
      with_routing ? absl::MakeConstSpan(state.routing.host_weights)
                   : absl::Span<const std::byte>(),
      &group_->send_scratch);
  Messages& messages = group_->messages_scratch;
  messages.clear();
  for (int rank = 0; rank < group_->map.ranks; ++rank) {
    messages.emplace_back(group_->send_scratch.data() + state.sent.offsets[rank] * format.bytes,
                          state.sent.count(rank) * format.bytes);
  }
  return group_->exchange->Post(lane, messages);
}

void MoeLayer::CopyOut(const ExpertLayout& layout, const Matrix& rows, int64_t begin,
                       int64_t dweight_bytes) const {
  const int64_t row_bytes = hidden_ * kernels::SizeOf(rows.dtype);
  for (int rank = 0; rank < group_->map.ranks; ++rank) {
    const int64_t first = layout.record_offsets[rank];
    const int64_t from = std::max(begin, first);
    const int64_t count = std::min(begin + rows.rows, layout.record_offsets[rank + 1]) - from;
    if (count <= 0) continue;
    std::byte* to = group_->send_scratch.data() + first * (row_bytes + dweight_bytes) +
                    (from - first) * row_bytes;
    context_.ops->CopyToHost(to, ElementAt(rows, from - begin, 0), count * row_bytes);
  }
}

absl::Status MoeLayer::PostRows(Lane lane, const ExpertLayout& layout, const Tensor& sums,
                                absl::Span<const std::byte> dweights) {
  const kernels::DType combine = context_.numerics.combine;
  const int64_t row_bytes = hidden_ * kernels::SizeOf(combine);
  const int64_t dweight_bytes =
      dweights.empty() ? 0 : top_k_ * kernels::SizeOf(context_.numerics.sum);
  group_->send_scratch.resize(layout.records() * (row_bytes + dweight_bytes));
  if (combine == sums.matrix.dtype) {
    CopyOut(layout, sums, 0, dweight_bytes);
  } else {
    const int64_t at_once = std::max<int64_t>(1, kElementsAtOnce / hidden_);
    for (int64_t begin = 0; begin < layout.records(); begin += at_once) {
      const int64_t count = std::min(at_once, layout.records() - begin);
      const Tensor rows_RD = context_.pool->Dense(count, hidden_, combine);
      context_.ops->Copy(RowsOf(sums.matrix, begin, count), rows_RD);
      CopyOut(layout, rows_RD, begin, dweight_bytes);
    }
  }
  Messages& messages = group_->messages_scratch;
  messages.clear();
  std::byte* message = group_->send_scratch.data();
  for (int rank = 0; rank < group_->map.ranks; ++rank) {
    const int64_t first = layout.record_offsets[rank];
    const int64_t count = layout.record_offsets[rank + 1] - first;
    if (count > 0 && dweight_bytes > 0) {
      std::memcpy(message + count * row_bytes, dweights.data() + first * dweight_bytes,
                  count * dweight_bytes);
    }
    messages.emplace_back(message, count * (row_bytes + dweight_bytes));
    message += count * (row_bytes + dweight_bytes);
  }
  context_.ops->Synchronize();
  return group_->exchange->Post(lane, messages);
}

Operand MoeLayer::Upload(const HostRows& rows, int64_t count) const {
  Operand out;
  if (context_.numerics.fp8_dispatch) {
    out.fp8 = context_.pool->Fp8(count, hidden_, kernels::Fp8Scaling::kTile1x128);
    context_.ops->CopyFromHost(out.fp8.matrix.codes, rows.hidden.data(), rows.hidden.size());
    context_.ops->CopyFromHost(out.fp8.matrix.scales, rows.scales.data(), rows.scales.size());
  } else {
    out.dense = context_.pool->Dense(count, hidden_, context_.numerics.dispatch);
    context_.ops->CopyFromHost(out.dense.matrix.data, rows.hidden.data(), rows.hidden.size());
  }
  return out;
}

absl::Status MoeLayer::ForwardDispatch(const Tensor& x, bool keep, absl::Span<int64_t> loads,
                                       Activations* state) {
  Tensor normed_TD = norm_.Forward(x);
  const Operand normed = MakeOperand(context_, normed_TD, kernels::ScaleRule::kPowerOfTwo);
  router_.Forward(normed_TD, loads, &state->routing);
  LayOutTokens(group_->map, state->routing.host_experts, top_k_, &state->sent);
  const RecordFormat format = TokenRecord(context_.numerics, hidden_, top_k_);
  const absl::Status posted =
      PostRecords(Lane::kDispatchForward, format, normed, *state, /*with_routing=*/true);
  if (!posted.ok()) return posted;

  const size_t index_bytes = state->sent.tokens.size() * sizeof(int32_t);
  state->sent_tokens = context_.pool->Bytes(index_bytes);
  context_.ops->CopyFromHost(state->sent_tokens.data(), state->sent.tokens.data(), index_bytes);
  state->x_TD = x;
  state->sum_TD = context_.pool->Dense(tokens_, hidden_, context_.numerics.sum);
  if (has_shared()) {
    shared_->Forward(normed, state->sum_TD, keep ? &state->shared : nullptr);
  } else {
    context_.ops->Fill(state->sum_TD, 0);
  }
  return absl::OkStatus();
}

Tensor MoeLayer::SumPairs(const ExpertLayout& layout, const MakeRows& make_rows) const {
  TensorPool& pool = *context_.pool;
  Tensor sum_RD = pool.Dense(layout.records(), hidden_, context_.numerics.sum);
  const size_t index_bytes = layout.pair_record.size() * sizeof(int32_t);
  const Buffer index_P = pool.Bytes(index_bytes);
  context_.ops->CopyFromHost(index_P.data(), layout.pair_record.data(), index_bytes);
  context_.ops->Fill(sum_RD, 0);
  for (size_t e = 0; e < experts_.size(); ++e) {
    const int64_t first = layout.pair_offsets[e];
    const int64_t count = layout.pair_offsets[e + 1] - first;
    if (count == 0) continue;
    const Tensor rows_PD = pool.Dense(count, hidden_, context_.numerics.sum);
    make_rows(e, first, rows_PD);
    context_.ops->ScatterAddRows(rows_PD, index_P.as<int32_t>() + first, sum_RD);
  }
  return sum_RD;
}

absl::Status MoeLayer::ForwardExperts(bool keep, Activations* state) {
  auto messages = group_->exchange->Receive(Lane::kDispatchForward);
  if (!messages.ok()) return messages.status();
  const RecordFormat format = TokenRecord(context_.numerics, hidden_, top_k_);
  ExpertLayout& layout = state->received;
  absl::Status status = UnpackTokens(format, group_->map, *messages, tokens_, &layout,
                                     &group_->rows_scratch, &group_->weights_scratch);
  if (!status.ok()) return status;
  status = group_->exchange->Release(Lane::kDispatchForward);
  if (!status.ok()) return status;

  TensorPool& pool = *context_.pool;
  const int64_t pairs = layout.pairs();
  const DType dtype = context_.numerics.activation;
  Operand x_PD = Upload(group_->rows_scratch, pairs);
  const Tensor weights_P = pool.Dense(pairs, 1, context_.numerics.sum);
  context_.ops->CopyFromHost(weights_P.matrix.data, group_->weights_scratch.data(),
                             group_->weights_scratch.size());
  Operand inner;
  if (pairs > 0) {
    const Tensor gate_up_P2F = pool.Dense(pairs, 2 * width_, dtype);
    Tensor inner_PF = pool.Dense(pairs, width_, dtype);
    for (size_t e = 0; e < experts_.size(); ++e) {
      const int64_t first = layout.pair_offsets[e];
      const int64_t count = layout.pair_offsets[e + 1] - first;
      if (count == 0) continue;
      experts_[e].gate_up.Forward(RowsOf(OperandView(x_PD), first, count),
                                  RowsOf(gate_up_P2F.matrix, first, count));
    }
    context_.ops->WeightedSwiGluForward(gate_up_P2F, weights_P, inner_PF);
    if (keep) state->gate_up_P2F = KeepGateUp(context_, gate_up_P2F);
    inner = CodesOf(MakeOperand(context_, std::move(inner_PF)));
  }
  if (keep) {
    state->received_PD = std::move(x_PD);
    state->weights_P = weights_P;
  }
  const auto down = [&](size_t e, int64_t first, const Tensor& rows) {
    experts_[e].down.Forward(RowsOf(OperandView(inner), first, rows.matrix.rows), rows);
  };
  return PostRows(Lane::kCombineForward, layout, SumPairs(layout, down), {});
}

absl::Status MoeLayer::AddReturnedRows(Lane lane, const Activations& state, const Tensor& sum,
                                       std::vector<std::byte>* dweights) {
  auto messages = group_->exchange->Receive(lane);
  if (!messages.ok()) return messages.status();
  const int64_t row_bytes = hidden_ * kernels::SizeOf(context_.numerics.combine);
  const int64_t weight_bytes = kernels::SizeOf(context_.numerics.sum);
  const int64_t dweight_bytes = dweights == nullptr ? 0 : top_k_ * weight_bytes;
  for (int rank = 0; rank < group_->map.ranks; ++rank) {
    const int64_t count = state.sent.count(rank);
    const absl::Span<const std::byte> message = (*messages)[rank];
    if (static_cast<int64_t>(message.size()) != count * (row_bytes + dweight_bytes)) {
      return absl::DataLossError(absl::StrCat("expert rank ", rank, " returned ", message.size(),
                                              " bytes for ", count, " tokens of ",
                                              row_bytes + dweight_bytes));
    }
    if (count == 0) continue;
    const Tensor rows_RD = context_.pool->Dense(count, hidden_, context_.numerics.combine);
    context_.ops->CopyFromHost(rows_RD.matrix.data, message.data(), count * row_bytes);
    context_.ops->ScatterAddRows(rows_RD,
                                 state.sent_tokens.as<int32_t>() + state.sent.offsets[rank], sum);
    if (dweights == nullptr) continue;
    const std::byte* from = message.data() + count * row_bytes;
    for (const int32_t token : state.sent.tokens_of(rank)) {
      for (int64_t k = 0; k < top_k_; ++k) {
        const int64_t slot = token * top_k_ + k;
        if (group_->map.owner[state.routing.host_experts[slot]] == rank) {
          std::memcpy(dweights->data() + slot * weight_bytes, from + k * weight_bytes,
                      weight_bytes);
        }
      }
      from += dweight_bytes;
    }
  }
  return group_->exchange->Release(lane);
}

absl::Status MoeLayer::ForwardCombine(Activations* state, Tensor* y) {
  const absl::Status status =
      AddReturnedRows(Lane::kCombineForward, *state, state->sum_TD, nullptr);
  if (!status.ok()) return status;
  *y = context_.pool->Dense(tokens_, hidden_, context_.numerics.activation);
  context_.ops->Add(state->x_TD, state->sum_TD, *y);
  state->sum_TD = Tensor();
  return absl::OkStatus();
}

absl::Status MoeLayer::BackwardCombine(const Tensor& dy, Activations* state) {
  state->dy_TD = MakeOperand(context_, dy, kernels::ScaleRule::kPowerOfTwo);
  return PostRecords(Lane::kCombineBackward, GradientRecord(context_.numerics, hidden_),
                     state->dy_TD, *state, /*with_routing=*/false);
}

void MoeLayer::BackwardShared(Activations* state, WeightWork* work) {
  state->normed_again_TD = norm_.Forward(state->x_TD);
  state->sum_TD = context_.pool->Dense(tokens_, hidden_, context_.numerics.sum);
  if (!has_shared()) {
    context_.ops->Fill(state->sum_TD, 0);
    return;
  }
  const Operand normed_TD =
      MakeOperand(context_, state->normed_again_TD, kernels::ScaleRule::kPowerOfTwo);
  shared_->Backward(std::move(state->shared), normed_TD, state->dy_TD, state->sum_TD, work);
  state->dy_TD.fp8 = Fp8Tensor();
}

Operand MoeLayer::BackwardInner(Operand dy_PD, Activations* state,
                                std::vector<ExpertWeightWork>* works, Tensor* dweights_P) const {
  TensorPool& pool = *context_.pool;
  const ExpertLayout& layout = state->received;
  const DType dtype = context_.numerics.activation;
  const int64_t pairs = layout.pairs();
  Tensor dinner_PF = pool.Dense(pairs, width_, dtype);
  for (size_t e = 0; e < experts_.size(); ++e) {
    const int64_t first = layout.pair_offsets[e];
    const int64_t count = layout.pair_offsets[e + 1] - first;
    if (count == 0) continue;
    experts_[e].down.BackwardInput(RowsOf(OperandView(dy_PD), first, count),
                                   RowsOf(dinner_PF.matrix, first, count));
    ExpertWeightWork& work = works->emplace_back();
    work.expert = &experts_[e];
    work.dy = AlongTokens(context_, dy_PD, first, count);
    work.x = AlongTokens(context_, state->received_PD, first, count);
  }
  dy_PD = Operand();
  state->received_PD = Operand();
  Tensor gate_up_P2F = RestoreGateUp(context_, state->gate_up_P2F);
  state->gate_up_P2F = KeptGateUp();
  Tensor dgate_up_P2F = pool.Dense(pairs, 2 * width_, dtype);
  Tensor weighted_inner_PF = pool.Dense(pairs, width_, dtype);
  *dweights_P = pool.Dense(pairs, 1, context_.numerics.sum);
  context_.ops->WeightedSwiGluBackward(gate_up_P2F, state->weights_P, dinner_PF, dgate_up_P2F,
                                       *dweights_P, weighted_inner_PF);
  dinner_PF = Tensor();
  gate_up_P2F = Tensor();
  for (ExpertWeightWork& work : *works) {
    const size_t e = work.expert - experts_.data();
    const int64_t first = layout.pair_offsets[e];
    const int64_t count = layout.pair_offsets[e + 1] - first;
    work.weighted_inner = AlongTokens(context_, {weighted_inner_PF, {}}, first, count);
    work.dgate_up = AlongTokens(context_, {dgate_up_P2F, {}}, first, count);
  }
  return CodesOf(MakeOperand(context_, std::move(dgate_up_P2F)));
}

absl::Status MoeLayer::BackwardExperts(Activations* state, WeightWork* work) {
  auto messages = group_->exchange->Receive(Lane::kCombineBackward);
  if (!messages.ok()) return messages.status();
  const ExpertLayout& layout = state->received;
  absl::Status status = UnpackGradients(GradientRecord(context_.numerics, hidden_), layout,
                                        *messages, &group_->rows_scratch);
  if (!status.ok()) return status;
  status = group_->exchange->Release(Lane::kCombineBackward);
  if (!status.ok()) return status;

  const int64_t pairs = layout.pairs();
  const int64_t weight_bytes = kernels::SizeOf(context_.numerics.sum);
  std::vector<std::byte>& dweights_RK = group_->weights_scratch;
  dweights_RK.assign(layout.records() * top_k_ * weight_bytes, std::byte{0});
  Operand dgate_up;
  if (pairs > 0) {
    Tensor dweights_P;
    std::vector<ExpertWeightWork> works;
    dgate_up = BackwardInner(Upload(group_->rows_scratch, pairs), state, &works, &dweights_P);
    std::vector<std::byte>& host_P = group_->rows_scratch.hidden;
    host_P.resize(pairs * weight_bytes);
    context_.ops->CopyToHost(host_P.data(), dweights_P.matrix.data, host_P.size());
    context_.ops->Synchronize();
    for (int64_t p = 0; p < pairs; ++p) {
      const int64_t slot = layout.pair_record[p] * top_k_ + layout.pair_slot[p];
      std::memcpy(dweights_RK.data() + slot * weight_bytes, host_P.data() + p * weight_bytes,
                  weight_bytes);
    }
    work->push_back([works = std::move(works)] {
      for (const ExpertWeightWork& expert_work : works) {
        const Expert& expert = *expert_work.expert;
        expert.down.BackwardWeight(expert_work.dy, expert_work.weighted_inner);
        expert.gate_up.BackwardWeight(expert_work.dgate_up, expert_work.x);
      }
    });
  }
  const auto gate_up = [&](size_t e, int64_t first, const Tensor& rows) {
    experts_[e].gate_up.BackwardInput(RowsOf(OperandView(dgate_up), first, rows.matrix.rows), rows);
  };
  return PostRows(Lane::kDispatchBackward, layout, SumPairs(layout, gate_up), dweights_RK);
}

absl::Status MoeLayer::BackwardDispatch(Activations* state, WeightWork* work, Tensor* dx) {
  TensorPool& pool = *context_.pool;
  std::vector<std::byte> dweights_TK(state->routing.host_weights.size());
  const absl::Status status =
      AddReturnedRows(Lane::kDispatchBackward, *state, state->sum_TD, &dweights_TK);
  if (!status.ok()) return status;
  const Tensor dweights = pool.Dense(tokens_, top_k_, context_.numerics.sum);
  context_.ops->CopyFromHost(dweights.matrix.data, dweights_TK.data(), dweights_TK.size());
  router_.Backward(state->routing, state->normed_again_TD, dweights, state->sum_TD, work);
  norm_.Backward(state->x_TD, state->sum_TD, state->sum_TD);
  *dx = pool.Dense(tokens_, hidden_, context_.numerics.activation);
  context_.ops->Add(state->dy_TD.dense, state->sum_TD, *dx);
  return absl::OkStatus();
}

}  // namespace fathom::model
