// What the calls of one op must agree on; both backends check it before they touch memory.
#ifndef FATHOM_KERNELS_CPU_SHAPE_CHECKS_H_
#define FATHOM_KERNELS_CPU_SHAPE_CHECKS_H_

#include "kernels/ops.h"

namespace fathom::kernels {

// [M, N] = [M, K] [K, N] after the transpositions.
struct GemmShape {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
};
GemmShape CheckGemm(const Matrix& a, bool transpose_a, const Matrix& b, bool transpose_b,
                    const Matrix& c);
void CheckGemmFp8(const Fp8Matrix& a, const Fp8Matrix& b, const Matrix& c);
void CheckQuantize(const Matrix& x, const Fp8Matrix& out, bool transposed);
void CheckDequantize(const Fp8Matrix& in, const Matrix& out);
void CheckTransposeBlocks(const Fp8Matrix& in, const Fp8Matrix& out);
void CheckRmsNorm(const Matrix& x, const Matrix& weight, const Matrix& y);
void CheckRmsNormBackward(const Matrix& x, const Matrix& weight, const Matrix& dy, const Matrix& dx,
                          const Matrix& dweight);
void CheckRope(const RopeView& x);
void CheckAttention(const AttentionShape& shape, const Matrix& q, const Matrix& k, const Matrix& v,
                    const Matrix& out, const Matrix& lse);
void CheckSwiGlu(const Matrix& gate_up, const Matrix& y);
void CheckRowWeights(const Matrix& weights, int64_t tokens);
void CheckRouter(const RouterShape& shape, const Matrix& logits, const Matrix& weights);
void CheckAdamW(const AdamWSettings& settings, const Matrix& gradient, const AdamWState& in,
                const AdamWState& out);

}  // namespace fathom::kernels

#endif  // FATHOM_KERNELS_CPU_SHAPE_CHECKS_H_
