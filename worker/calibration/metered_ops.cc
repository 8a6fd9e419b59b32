#include "worker/calibration/metered_ops.h"

#include <utility>

namespace fathom::calibration {
namespace {

using kernels::DType;
using kernels::Fp8Matrix;
using kernels::Matrix;
using model::Format;

Format FormatOf(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return Format::kFp64;
    case DType::kF32:
      return Format::kFp32;
    case DType::kBF16:
      return Format::kBf16;
  }
  return Format::kFp32;
}

double Bytes(const Matrix& x) {
  return static_cast<double>(x.rows * x.cols * kernels::SizeOf(x.dtype));
}
double Bytes(const Fp8Matrix& x) {
  return static_cast<double>(x.rows * x.cols + 4 * kernels::ScaleCount(x.rows, x.cols, x.scaling));
}

// Rows and columns of `like`; what is read and written.
template <typename... Operands>
OpShape Rows(std::string_view op, Format format, const Matrix& like, const Operands&... moved) {
  return {op, format, like.rows, like.cols, 1, 0, (Bytes(moved) + ...)};
}

// Of experts chosen, their ids and weights.
double ChosenBytes(const Matrix& weights) {
  return Bytes(weights) + static_cast<double>(weights.rows * weights.cols * sizeof(int32_t));
}

class MeteredOps final : public kernels::Ops {
 private:
  template <typename Call>
  auto Time(const OpShape& shape, Call call) {
    if (!meter_->on()) return call();
    const absl::Duration start = clock_->Steady();
    if constexpr (std::is_void_v<decltype(call())>) {
      call();
      meter_->Add(shape, absl::ToDoubleSeconds(clock_->Steady() - start));
    } else {
      auto result = call();
      meter_->Add(shape, absl::ToDoubleSeconds(clock_->Steady() - start));
      return result;
    }
  }

 public:
  MeteredOps(std::unique_ptr<kernels::Ops> ops, const Clock* clock, OpMeter* meter)
      : ops_(std::move(ops)), clock_(clock), meter_(meter) {}

  std::string_view name() const override { return ops_->name(); }
  void* Allocate(size_t bytes) override { return ops_->Allocate(bytes); }
  void Free(void* data) override { ops_->Free(data); }
  void CopyFromHost(void* device, const void* host, size_t bytes) override {
    Time(HostCopy("CopyFromHost", bytes), [&] { ops_->CopyFromHost(device, host, bytes); });
  }
  void CopyToHost(void* host, const void* device, size_t bytes) override {
    Time(HostCopy("CopyToHost", bytes), [&] { ops_->CopyToHost(host, device, bytes); });
  }
  void Synchronize() override { ops_->Synchronize(); }

  void Fill(const Matrix& out, double value) override {
    Time(Rows("Fill", FormatOf(out.dtype), out, out), [&] { ops_->Fill(out, value); });
  }
  void Copy(const Matrix& in, const Matrix& out) override {
    Time(Rows("Copy", FormatOf(in.dtype), in, in, out), [&] { ops_->Copy(in, out); });
  }
  void Add(const Matrix& a, const Matrix& b, const Matrix& out) override {
    Time(Rows("Add", FormatOf(a.dtype), a, a, b, out), [&] { ops_->Add(a, b, out); });
  }
  void Scale(const Matrix& x, double factor) override {
    Time(Rows("Scale", FormatOf(x.dtype), x, x, x), [&] { ops_->Scale(x, factor); });
  }
  void ScaleRows(const Matrix& in, const float* factors, const Matrix& out) override {
    Time(Rows("ScaleRows", FormatOf(in.dtype), in, in, out),
         [&] { ops_->ScaleRows(in, factors, out); });
  }
  void RowDot(const Matrix& a, const Matrix& b, float* out) override {
    Time(Rows("RowDot", FormatOf(a.dtype), a, a, b), [&] { ops_->RowDot(a, b, out); });
  }
  double SumOfSquares(const Matrix& x) override {
    return Time(Rows("SumOfSquares", FormatOf(x.dtype), x, x),
                [&] { return ops_->SumOfSquares(x); });
  }
  void GatherRows(const Matrix& in, const int32_t* indices, const Matrix& out) override {
    Time(Rows("GatherRows", FormatOf(in.dtype), out, out, out),
         [&] { ops_->GatherRows(in, indices, out); });
  }
  void ScatterAddRows(const Matrix& in, const int32_t* indices, const Matrix& out) override {
    const Matrix touched = {nullptr, out.dtype, in.rows, in.cols, in.cols};
    Time(Rows("ScatterAddRows", FormatOf(in.dtype), in, in, touched, touched),
         [&] { ops_->ScatterAddRows(in, indices, out); });
  }
  void Gemm(const Matrix& a, bool transpose_a, const Matrix& b, bool transpose_b, const Matrix& c,
            bool accumulate) override {
    const int64_t k = transpose_a ? a.rows : a.cols;
    const double moved = Bytes(a) + Bytes(b) + Bytes(c) * (accumulate ? 2 : 1);
    Time({"Gemm", FormatOf(a.dtype), c.rows, c.cols, k, Products(c, k), moved},
         [&] { ops_->Gemm(a, transpose_a, b, transpose_b, c, accumulate); });
  }
  void GemmFp8(const Fp8Matrix& a, const Fp8Matrix& b, const Matrix& c, bool accumulate) override {
    const double moved = Bytes(a) + Bytes(b) + Bytes(c) * (accumulate ? 2 : 1);
    Time({"GemmFp8", Format::kE4M3, c.rows, c.cols, a.cols, Products(c, a.cols), moved},
         [&] { ops_->GemmFp8(a, b, c, accumulate); });
  }
  void Quantize(const Matrix& x, kernels::ScaleRule rule, const Fp8Matrix& out) override {
    Time(Rows("Quantize", FormatOf(x.dtype), x, x, out), [&] { ops_->Quantize(x, rule, out); });
  }
  void QuantizeTransposed(const Matrix& x, kernels::ScaleRule rule, const Fp8Matrix& out) override {
    Time(Rows("QuantizeTransposed", FormatOf(x.dtype), x, x, out),
         [&] { ops_->QuantizeTransposed(x, rule, out); });
  }
  void Dequantize(const Fp8Matrix& in, const Matrix& out) override {
    Time(Rows("Dequantize", Format::kE4M3, out, in, out), [&] { ops_->Dequantize(in, out); });
  }
  void TransposeBlocks(const Fp8Matrix& in, const Fp8Matrix& out) override {
    Time({"TransposeBlocks", Format::kE4M3, in.rows, in.cols, 1, 0, Bytes(in) + Bytes(out)},
         [&] { ops_->TransposeBlocks(in, out); });
  }
  void RoundToE5M6(const Matrix& x) override {
    Time(Rows("RoundToE5M6", FormatOf(x.dtype), x, x, x), [&] { ops_->RoundToE5M6(x); });
  }
  void RmsNormForward(const Matrix& x, const Matrix& weight, double epsilon,
                      const Matrix& y) override {
    Time(Rows("RmsNormForward", FormatOf(x.dtype), x, x, y),
         [&] { ops_->RmsNormForward(x, weight, epsilon, y); });
  }
  void RmsNormBackward(const Matrix& x, const Matrix& weight, double epsilon, const Matrix& dy,
                       const Matrix& dx, const Matrix& dweight) override {
    Time(Rows("RmsNormBackward", FormatOf(x.dtype), x, x, dy, dx),
         [&] { ops_->RmsNormBackward(x, weight, epsilon, dy, dx, dweight); });
  }
  void Rope(const kernels::RopeView& x, bool inverse) override {
    const Matrix touched = {nullptr, x.dtype, x.tokens, x.heads * x.dim, x.heads * x.dim};
    Time(Rows("Rope", FormatOf(x.dtype), touched, touched, touched),
         [&] { ops_->Rope(x, inverse); });
  }
  void AttentionForward(const kernels::AttentionShape& shape, const Matrix& q, const Matrix& k,
                        const Matrix& v, const Matrix& out, const Matrix& lse) override {
    const double moved = Bytes(q) + Bytes(k) + Bytes(v) + Bytes(out) + Bytes(lse);
    Time({"AttentionForward", FormatOf(q.dtype), q.rows, q.cols + out.cols, shape.sequence_length,
          Scores(shape) * 2 * static_cast<double>(shape.qk_head_dim + shape.v_head_dim), moved,
          shape.heads},
         [&] { ops_->AttentionForward(shape, q, k, v, out, lse); });
  }
  void AttentionBackward(const kernels::AttentionShape& shape, const Matrix& q, const Matrix& k,
                         const Matrix& v, const Matrix& out, const Matrix& lse, const Matrix& dout,
                         const Matrix& dq, const Matrix& dk, const Matrix& dv) override {
    const double moved = 2 * (Bytes(q) + Bytes(k) + Bytes(v) + Bytes(out)) + Bytes(lse);
    const auto width = static_cast<double>(3 * shape.qk_head_dim + 2 * shape.v_head_dim);
    Time({"AttentionBackward", FormatOf(q.dtype), q.rows, q.cols + out.cols, shape.sequence_length,
          Scores(shape) * 2 * width, moved, shape.heads},
         [&] { ops_->AttentionBackward(shape, q, k, v, out, lse, dout, dq, dk, dv); });
  }
  void SwiGluForward(const Matrix& gate_up, const Matrix& y) override {
    Time(Rows("SwiGluForward", FormatOf(gate_up.dtype), y, gate_up, y),
         [&] { ops_->SwiGluForward(gate_up, y); });
  }
  void SwiGluBackward(const Matrix& gate_up, const Matrix& dy, const Matrix& dgate_up) override {
    Time(Rows("SwiGluBackward", FormatOf(gate_up.dtype), dy, gate_up, dy, dgate_up),
         [&] { ops_->SwiGluBackward(gate_up, dy, dgate_up); });
  }
  void WeightedSwiGluForward(const Matrix& gate_up, const Matrix& weights,
                             const Matrix& y) override {
    Time(Rows("WeightedSwiGluForward", FormatOf(gate_up.dtype), y, gate_up, y),
         [&] { ops_->WeightedSwiGluForward(gate_up, weights, y); });
  }
  void WeightedSwiGluBackward(const Matrix& gate_up, const Matrix& weights, const Matrix& dy,
                              const Matrix& dgate_up, const Matrix& dweights,
                              const Matrix& y) override {
    Time(Rows("WeightedSwiGluBackward", FormatOf(gate_up.dtype), y, gate_up, dy, dgate_up, y),
         [&] { ops_->WeightedSwiGluBackward(gate_up, weights, dy, dgate_up, dweights, y); });
  }
  void EmbeddingForward(const int32_t* tokens, const Matrix& table, const Matrix& out) override {
    Time(Rows("EmbeddingForward", FormatOf(table.dtype), out, out, out),
         [&] { ops_->EmbeddingForward(tokens, table, out); });
  }
  void EmbeddingBackward(const int32_t* tokens, const Matrix& dout, const Matrix& dtable) override {
    const Matrix touched = {nullptr, dtable.dtype, dout.rows, dout.cols, dout.cols};
    Time(Rows("EmbeddingBackward", FormatOf(dout.dtype), dout, dout, touched, touched),
         [&] { ops_->EmbeddingBackward(tokens, dout, dtable); });
  }
  void CrossEntropy(const Matrix& logits, const int32_t* labels, double gradient_scale,
                    double* loss) override {
    Time(Rows("CrossEntropy", FormatOf(logits.dtype), logits, logits, logits),
         [&] { ops_->CrossEntropy(logits, labels, gradient_scale, loss); });
  }
  double RouterForward(const kernels::RouterShape& shape, const Matrix& logits, const Matrix& bias,
                       int32_t* experts, const Matrix& weights, int64_t* loads) override {
    OpShape call = Rows("RouterForward", FormatOf(logits.dtype), logits, logits, bias);
    call.bytes += ChosenBytes(weights) + static_cast<double>(2 * sizeof(int64_t) * shape.experts);
    return Time(call,
                [&] { return ops_->RouterForward(shape, logits, bias, experts, weights, loads); });
  }
  void RouterBackward(const kernels::RouterShape& shape, const Matrix& logits,
                      const int32_t* experts, const Matrix& dweights, double balance_scale,
                      const Matrix& dlogits) override {
    OpShape call = Rows("RouterBackward", FormatOf(logits.dtype), logits, logits, dlogits);
    call.bytes += ChosenBytes(dweights);
    Time(call,
         [&] { ops_->RouterBackward(shape, logits, experts, dweights, balance_scale, dlogits); });
  }
  void AdamW(const kernels::AdamWSettings& settings, const Matrix& gradient,
             const kernels::AdamWState& in, const kernels::AdamWState& out) override {
    Time(Rows("AdamW", FormatOf(in.m.dtype), gradient, gradient, in.master, in.m, in.v, out.master,
              out.m, out.v),
         [&] { ops_->AdamW(settings, gradient, in, out); });
  }

 private:
  static OpShape HostCopy(std::string_view op, size_t bytes) {
    const auto size = static_cast<int64_t>(bytes);
    return {op, Format::kFp32, 1, size, 1, 0, 2 * static_cast<double>(size)};
  }
  static double Products(const Matrix& c, int64_t k) {
    return 2.0 * static_cast<double>(c.rows) * static_cast<double>(c.cols) * static_cast<double>(k);
  }
  // Pairs of a query and a key it may look at, over all heads.
  static double Scores(const kernels::AttentionShape& shape) {
    const auto length = static_cast<double>(shape.sequence_length);
    return static_cast<double>(shape.sequences * shape.heads) * length * length / 2;
  }

  const std::unique_ptr<kernels::Ops> ops_;
  const Clock* const clock_;
  OpMeter* const meter_;
};

}  // namespace

std::unique_ptr<kernels::Ops> MeterOps(std::unique_ptr<kernels::Ops> ops, const Clock* clock,
                                       OpMeter* meter) {
  return std::make_unique<MeteredOps>(std::move(ops), clock, meter);
}

}  // namespace fathom::calibration
