#include "worker/model/recording_ops.h"

#include <utility>

namespace fathom::model {
namespace {

using kernels::AttentionShape;
using kernels::DType;
using kernels::Fp8Matrix;
using kernels::Matrix;

Format FormatOf(DType dtype) {
  return dtype == DType::kF64   ? Format::kFp64
         : dtype == DType::kF32 ? Format::kFp32
                                : Format::kBf16;
}

int64_t BytesIn(const Matrix& m) { return m.rows * m.cols * kernels::SizeOf(m.dtype); }

int64_t BytesIn(const Fp8Matrix& m) {
  return m.rows * m.cols + 4 * kernels::ScaleCount(m.rows, m.cols, m.scaling);
}

template <typename... Operands>
int64_t BytesIn(const Operands&... operands) {
  return (BytesIn(operands) + ...);
}

class RecordingOps final : public kernels::Ops {
 public:
  RecordingOps(kernels::Ops* ops, std::vector<RecordedOp>* recorded, std::function<void()> on_call)
      : ops_(ops), recorded_(recorded), on_call_(std::move(on_call)) {}

  std::string_view name() const override { return ops_->name(); }
  void* Allocate(size_t bytes) override { return ops_->Allocate(bytes); }
  void Free(void* data) override { ops_->Free(data); }
  void CopyFromHost(void* device, const void* host, size_t bytes) override {
    ops_->CopyFromHost(device, host, bytes);
  }
  void CopyToHost(void* host, const void* device, size_t bytes) override {
    ops_->CopyToHost(host, device, bytes);
  }
  void Synchronize() override { ops_->Synchronize(); }

  void Fill(const Matrix& out, double value) override {
    Record("Fill", out, BytesIn(out));
    ops_->Fill(out, value);
  }
  void Copy(const Matrix& in, const Matrix& out) override {
    Record("Copy", in, BytesIn(in, out));
    ops_->Copy(in, out);
  }
  void Add(const Matrix& a, const Matrix& b, const Matrix& out) override {
    Record("Add", out, BytesIn(a, b, out), a.dtype);
    ops_->Add(a, b, out);
  }
  void Scale(const Matrix& x, double factor) override {
    Record("Scale", x, 2 * BytesIn(x));
    ops_->Scale(x, factor);
  }
  void ScaleRows(const Matrix& in, const float* factors, const Matrix& out) override {
    Record("ScaleRows", in, BytesIn(in, out) + 4 * in.rows);
    ops_->ScaleRows(in, factors, out);
  }
  void RowDot(const Matrix& a, const Matrix& b, float* out) override {
    Record("RowDot", a, BytesIn(a, b) + 4 * a.rows);
    ops_->RowDot(a, b, out);
  }
  double SumOfSquares(const Matrix& x) override {
    Record("SumOfSquares", x, BytesIn(x));
    return ops_->SumOfSquares(x);
  }
  void GatherRows(const Matrix& in, const int32_t* indices, const Matrix& out) override {
    Record("GatherRows", out, 2 * BytesIn(out) + 4 * out.rows);
    ops_->GatherRows(in, indices, out);
  }
  void ScatterAddRows(const Matrix& in, const int32_t* indices, const Matrix& out) override {
    const int64_t touched = in.rows * in.cols * kernels::SizeOf(out.dtype);
    Record("ScatterAddRows", in, BytesIn(in) + 2 * touched + 4 * in.rows);
    ops_->ScatterAddRows(in, indices, out);
  }
  void Gemm(const Matrix& a, bool transpose_a, const Matrix& b, bool transpose_b, const Matrix& c,
            bool accumulate) override {
    const int64_t k = transpose_a ? a.rows : a.cols;
    Note({"Gemm", FormatOf(a.dtype), c.rows, c.cols, k,
          BytesIn(a, b) + (accumulate ? 2 : 1) * BytesIn(c)});
    ops_->Gemm(a, transpose_a, b, transpose_b, c, accumulate);
  }
  void GemmFp8(const Fp8Matrix& a, const Fp8Matrix& b, const Matrix& c, bool accumulate) override {
    Note({"GemmFp8", Format::kE4M3, c.rows, c.cols, a.cols,
          BytesIn(a, b) + (accumulate ? 2 : 1) * BytesIn(c)});
    ops_->GemmFp8(a, b, c, accumulate);
  }
  void Quantize(const Matrix& x, kernels::ScaleRule rule, const Fp8Matrix& out) override {
    Record("Quantize", x, BytesIn(x, out));
    ops_->Quantize(x, rule, out);
  }
  void QuantizeTransposed(const Matrix& x, kernels::ScaleRule rule, const Fp8Matrix& out) override {
    Record("QuantizeTransposed", x, BytesIn(x, out));
    ops_->QuantizeTransposed(x, rule, out);
  }
  void Dequantize(const Fp8Matrix& in, const Matrix& out) override {
    Note({"Dequantize", Format::kE4M3, in.rows, in.cols, 1, BytesIn(in, out)});
    ops_->Dequantize(in, out);
  }
  void TransposeBlocks(const Fp8Matrix& in, const Fp8Matrix& out) override {
    Note({"TransposeBlocks", Format::kE4M3, in.rows, in.cols, 1, BytesIn(in, out)});
    ops_->TransposeBlocks(in, out);
  }
  void RoundToE5M6(const Matrix& x) override {
    Record("RoundToE5M6", x, 2 * BytesIn(x));
    ops_->RoundToE5M6(x);
  }
  void RmsNormForward(const Matrix& x, const Matrix& weight, double epsilon,
                      const Matrix& y) override {
    Record("RmsNormForward", x, BytesIn(x, weight, y));
    ops_->RmsNormForward(x, weight, epsilon, y);
  }
  void RmsNormBackward(const Matrix& x, const Matrix& weight, double epsilon, const Matrix& dy,
                       const Matrix& dx, const Matrix& dweight) override {
    Record("RmsNormBackward", x, BytesIn(x, weight, dy, dx, dweight, dweight));
    ops_->RmsNormBackward(x, weight, epsilon, dy, dx, dweight);
  }
  void Rope(const kernels::RopeView& x, bool inverse) override {
    const int64_t width = x.heads * x.dim;
    Note({"Rope", FormatOf(x.dtype), x.tokens, width, 1,
          2 * x.tokens * width * kernels::SizeOf(x.dtype)});
    ops_->Rope(x, inverse);
  }
  void AttentionForward(const AttentionShape& shape, const Matrix& q, const Matrix& k,
                        const Matrix& v, const Matrix& out, const Matrix& lse) override {
    Note({"AttentionForward", FormatOf(q.dtype), q.rows, q.cols + v.cols, shape.sequence_length,
          BytesIn(q, k, v, out, lse)});
    ops_->AttentionForward(shape, q, k, v, out, lse);
  }
  void AttentionBackward(const AttentionShape& shape, const Matrix& q, const Matrix& k,
                         const Matrix& v, const Matrix& out, const Matrix& lse, const Matrix& dout,
                         const Matrix& dq, const Matrix& dk, const Matrix& dv) override {
    Note({"AttentionBackward", FormatOf(q.dtype), q.rows, q.cols + v.cols, shape.sequence_length,
          BytesIn(q, k, v, out, lse, dout, dq, dk, dv)});
    ops_->AttentionBackward(shape, q, k, v, out, lse, dout, dq, dk, dv);
  }
  void SwiGluForward(const Matrix& gate_up, const Matrix& y) override {
    Record("SwiGluForward", y, BytesIn(gate_up, y), gate_up.dtype);
    ops_->SwiGluForward(gate_up, y);
  }
  void SwiGluBackward(const Matrix& gate_up, const Matrix& dy, const Matrix& dgate_up) override {
    Record("SwiGluBackward", dy, BytesIn(gate_up, dy, dgate_up));
    ops_->SwiGluBackward(gate_up, dy, dgate_up);
  }
  void WeightedSwiGluForward(const Matrix& gate_up, const Matrix& weights,
                             const Matrix& y) override {
    Record("WeightedSwiGluForward", y, BytesIn(gate_up, weights, y), gate_up.dtype);
    ops_->WeightedSwiGluForward(gate_up, weights, y);
  }
  void WeightedSwiGluBackward(const Matrix& gate_up, const Matrix& weights, const Matrix& dy,
                              const Matrix& dgate_up, const Matrix& dweights,
                              const Matrix& y) override {
    Record("WeightedSwiGluBackward", dy, BytesIn(gate_up, weights, dy, dgate_up, dweights, y));
    ops_->WeightedSwiGluBackward(gate_up, weights, dy, dgate_up, dweights, y);
  }
  void EmbeddingForward(const int32_t* tokens, const Matrix& table, const Matrix& out) override {
    const int64_t picked = out.rows * out.cols * kernels::SizeOf(table.dtype);
    Record("EmbeddingForward", out, picked + BytesIn(out) + 4 * out.rows, table.dtype);
    ops_->EmbeddingForward(tokens, table, out);
  }
  void EmbeddingBackward(const int32_t* tokens, const Matrix& dout, const Matrix& dtable) override {
    const int64_t touched = dout.rows * dout.cols * kernels::SizeOf(dtable.dtype);
    Record("EmbeddingBackward", dout, BytesIn(dout) + 2 * touched + 4 * dout.rows);
    ops_->EmbeddingBackward(tokens, dout, dtable);
  }
  void CrossEntropy(const Matrix& logits, const int32_t* labels, double gradient_scale,
                    double* loss) override {
    const int64_t moved = (gradient_scale == 0 ? 1 : 2) * BytesIn(logits);
    Record("CrossEntropy", logits, moved + 12 * logits.rows);
    ops_->CrossEntropy(logits, labels, gradient_scale, loss);
  }
  double RouterForward(const kernels::RouterShape& shape, const Matrix& logits, const Matrix& bias,
                       int32_t* experts, const Matrix& weights, int64_t* loads) override {
    const int64_t chosen = shape.tokens * shape.top_k;
    Record("RouterForward", logits,
           BytesIn(logits, bias, weights) + 4 * chosen + 16 * shape.experts);
    return ops_->RouterForward(shape, logits, bias, experts, weights, loads);
  }
  void RouterBackward(const kernels::RouterShape& shape, const Matrix& logits,
                      const int32_t* experts, const Matrix& dweights, double balance_scale,
                      const Matrix& dlogits) override {
    Record("RouterBackward", logits,
           BytesIn(logits, dweights, dlogits) + 4 * shape.tokens * shape.top_k);
    ops_->RouterBackward(shape, logits, experts, dweights, balance_scale, dlogits);
  }
  void AdamW(const kernels::AdamWSettings& settings, const Matrix& gradient,
             const kernels::AdamWState& in, const kernels::AdamWState& out) override {
    Record("AdamW", gradient, BytesIn(gradient) + 2 * BytesIn(in.master, in.m, in.v));
    ops_->AdamW(settings, gradient, in, out);
  }

 private:
  void Note(RecordedOp op) {
    if (on_call_ != nullptr) on_call_();
    if (recorded_ != nullptr) recorded_->push_back(std::move(op));
  }
  void Record(const char* op, const Matrix& like, int64_t bytes) {
    Record(op, like, bytes, like.dtype);
  }
  void Record(const char* op, const Matrix& like, int64_t bytes, DType first) {
    Note({op, FormatOf(first), like.rows, like.cols, 1, bytes});
  }

  kernels::Ops* const ops_;
  std::vector<RecordedOp>* const recorded_;
  const std::function<void()> on_call_;
};

}  // namespace

std::unique_ptr<kernels::Ops> CreateRecordingOps(kernels::Ops* ops,
                                                 std::vector<RecordedOp>* recorded,
                                                 std::function<void()> on_call) {
  return std::make_unique<RecordingOps>(ops, recorded, std::move(on_call));
}

}  // namespace fathom::model
