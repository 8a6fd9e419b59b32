#include "kernels/cpu/shape_checks.h"

#include "kernels/check.h"

namespace fathom::kernels {
namespace {

void CheckFp8(std::string_view op, const Fp8Matrix& m) {
  Check(m.rows >= 0 && m.cols >= 0, op, "an FP8 matrix has a negative size");
  Check((m.codes != nullptr && m.scales != nullptr) || m.rows == 0 || m.cols == 0, op,
        "an FP8 matrix has no codes or no scales");
}

bool IsF32OrF64(const Matrix& m) { return m.dtype == DType::kF32 || m.dtype == DType::kF64; }

}  // namespace

GemmShape CheckGemm(const Matrix& a, bool transpose_a, const Matrix& b, bool transpose_b,
                    const Matrix& c) {
  const GemmShape shape = {
      .m = transpose_a ? a.cols : a.rows,
      .n = transpose_b ? b.rows : b.cols,
      .k = transpose_a ? a.rows : a.cols,
  };
  CheckShape("Gemm", "a", a, a.rows, a.cols);
  CheckShape("Gemm", "b", b, transpose_b ? shape.n : shape.k, transpose_b ? shape.k : shape.n);
  CheckShape("Gemm", "c", c, shape.m, shape.n);
  Check(a.dtype == b.dtype, "Gemm", "a and b differ in dtype");
  Check(c.dtype == a.dtype || c.dtype == DType::kF32, "Gemm", "c is neither of a's dtype nor F32");
  return shape;
}

void CheckGemmFp8(const Fp8Matrix& a, const Fp8Matrix& b, const Matrix& c) {
  CheckFp8("GemmFp8", a);
  CheckFp8("GemmFp8", b);
  CheckShape("GemmFp8", "c", c, a.rows, b.rows);
  Check(a.cols == b.cols, "GemmFp8", "a and b differ in columns");
  Check(a.scaling == Fp8Scaling::kTile1x128, "GemmFp8", "a is not scaled 1x128");
  Check(c.dtype != DType::kF64, "GemmFp8", "c is F64, want F32 or BF16");
}

void CheckQuantize(const Matrix& x, const Fp8Matrix& out, bool transposed) {
  const char* op = transposed ? "QuantizeTransposed" : "Quantize";
  CheckFp8(op, out);
  CheckShape(op, "x", x, transposed ? out.cols : out.rows, transposed ? out.rows : out.cols);
}

void CheckDequantize(const Fp8Matrix& in, const Matrix& out) {
  CheckFp8("Dequantize", in);
  CheckShape("Dequantize", "out", out, in.rows, in.cols);
}

void CheckTransposeBlocks(const Fp8Matrix& in, const Fp8Matrix& out) {
  CheckFp8("TransposeBlocks", in);
  CheckFp8("TransposeBlocks", out);
  Check(in.scaling == Fp8Scaling::kBlock128x128 && out.scaling == Fp8Scaling::kBlock128x128,
        "TransposeBlocks", "in and out are not both scaled 128x128");
  Check(out.rows == in.cols && out.cols == in.rows, "TransposeBlocks",
        "out does not have the shape of in's transpose");
}

void CheckRmsNorm(const Matrix& x, const Matrix& weight, const Matrix& y) {
  CheckShape("RmsNorm", "x", x, x.rows, x.cols);
  CheckShape("RmsNorm", "weight", weight, 1, x.cols);
  CheckSameShape("RmsNorm", x, "y", y);
}

void CheckRmsNormBackward(const Matrix& x, const Matrix& weight, const Matrix& dy, const Matrix& dx,
                          const Matrix& dweight) {
  CheckRmsNorm(x, weight, dy);
  CheckSameShape("RmsNormBackward", x, "dx", dx);
  if (dweight.data != nullptr) {
    CheckShape("RmsNormBackward", "dweight", dweight, 1, x.cols);
    Check(IsF32OrF64(dweight), "RmsNormBackward", "dweight is neither F32 nor F64");
  }
}

void CheckRope(const RopeView& x) {
  Check(x.dim >= 0 && x.dim % 2 == 0, "Rope", "dim is odd");
  Check(x.tokens == 0 || x.sequence_length > 0, "Rope", "sequence_length is not positive");
  Check(x.data != nullptr || x.tokens == 0 || x.heads == 0 || x.dim == 0, "Rope", "no data");
}

void CheckAttention(const AttentionShape& shape, const Matrix& q, const Matrix& k, const Matrix& v,
                    const Matrix& out, const Matrix& lse) {
  const int64_t tokens = shape.sequences * shape.sequence_length;
  CheckShape("Attention", "q", q, tokens, shape.heads * shape.qk_head_dim);
  CheckSameShape("Attention", q, "k", k);
  CheckShape("Attention", "v", v, tokens, shape.heads * shape.v_head_dim);
  CheckSameShape("Attention", v, "out", out);
  CheckShape("Attention", "lse", lse, tokens, shape.heads);
  Check(IsF32OrF64(lse), "Attention", "lse is neither F32 nor F64");
}

void CheckSwiGlu(const Matrix& gate_up, const Matrix& y) {
  CheckShape("SwiGlu", "gate_up", gate_up, y.rows, 2 * y.cols);
  CheckShape("SwiGlu", "y", y, y.rows, y.cols);
}

void CheckRowWeights(const Matrix& weights, int64_t tokens) {
  CheckShape("WeightedSwiGlu", "weights", weights, tokens, 1);
  Check(IsF32OrF64(weights), "WeightedSwiGlu", "weights are neither F32 nor F64");
}

void CheckRouter(const RouterShape& shape, const Matrix& logits, const Matrix& weights) {
  CheckShape("Router", "logits", logits, shape.tokens, shape.experts);
  CheckShape("Router", "weights", weights, shape.tokens, shape.top_k);
  Check(IsF32OrF64(logits), "Router", "logits are neither F32 nor F64");
  Check(shape.groups >= 1 && shape.experts % shape.groups == 0, "Router",
        "experts do not divide into groups");
  Check(shape.groups_kept >= 1 && shape.groups_kept <= shape.groups, "Router",
        "groups_kept is outside [1, groups]");
  Check(shape.top_k >= 1 && shape.top_k <= shape.experts / shape.groups * shape.groups_kept,
        "Router", "top_k is below 1 or more than the experts of the kept groups");
  Check(shape.balance_alpha == 0 ||
            (shape.sequence_length > 0 && shape.tokens % shape.sequence_length == 0),
        "Router", "tokens are no whole number of sequences");
}

void CheckAdamW(const AdamWSettings& settings, const Matrix& gradient, const AdamWState& in,
                const AdamWState& out) {
  CheckShape("AdamW", "master", in.master, in.master.rows, in.master.cols);
  CheckSameShape("AdamW", in.master, "gradient", gradient);
  CheckSameShape("AdamW", in.master, "m", in.m);
  CheckSameShape("AdamW", in.master, "v", in.v);
  CheckSameShape("AdamW", in.master, "new master", out.master);
  CheckSameShape("AdamW", in.master, "new m", out.m);
  CheckSameShape("AdamW", in.master, "new v", out.v);
  Check(settings.step >= 1, "AdamW", "step is below 1");
}

}  // namespace fathom::kernels
