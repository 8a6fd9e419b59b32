// ReferenceOps: the definition of every op, as plain loops that are meant to be read.
//
// Precision: elementwise ops work in FP32, or FP64 when an operand is FP64, and so have one right
// answer to the bit. The FP8 ops follow their definition step by step in FP32. All others compute
// in FP64 whatever the dtype and round once, at the end. It handles every dtype and is slow.
#ifndef FATHOM_KERNELS_CPU_REFERENCE_OPS_H_
#define FATHOM_KERNELS_CPU_REFERENCE_OPS_H_

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/ops.h"

namespace fathom::kernels {

class ReferenceOps : public Ops {
 public:
  std::string_view name() const override { return "reference"; }

  void* Allocate(size_t bytes) override;
  void Free(void* data) override;
  void CopyFromHost(void* device, const void* host, size_t bytes) override;
  void CopyToHost(void* host, const void* device, size_t bytes) override;
  void Synchronize() override {}

  void Fill(const Matrix& out, double value) override;
  void Copy(const Matrix& in, const Matrix& out) override;
  void Add(const Matrix& a, const Matrix& b, const Matrix& out) override;
  void Scale(const Matrix& x, double factor) override;
  void ScaleRows(const Matrix& in, const float* factors, const Matrix& out) override;
  void RowDot(const Matrix& a, const Matrix& b, float* out) override;
  double SumOfSquares(const Matrix& x) override;

  void GatherRows(const Matrix& in, const int32_t* indices, const Matrix& out) override;
  void ScatterAddRows(const Matrix& in, const int32_t* indices, const Matrix& out) override;

  void Gemm(const Matrix& a, bool transpose_a, const Matrix& b, bool transpose_b, const Matrix& c,
            bool accumulate) override;
  void GemmFp8(const Fp8Matrix& a, const Fp8Matrix& b, const Matrix& c, bool accumulate) override;

  void Quantize(const Matrix& x, ScaleRule rule, const Fp8Matrix& out) override;
  void QuantizeTransposed(const Matrix& x, ScaleRule rule, const Fp8Matrix& out) override;
  void Dequantize(const Fp8Matrix& in, const Matrix& out) override;
  void TransposeBlocks(const Fp8Matrix& in, const Fp8Matrix& out) override;
  void RoundToE5M6(const Matrix& x) override;

  void RmsNormForward(const Matrix& x, const Matrix& weight, double epsilon,
                      const Matrix& y) override;
  void RmsNormBackward(const Matrix& x, const Matrix& weight, double epsilon, const Matrix& dy,
                       const Matrix& dx, const Matrix& dweight) override;

  void Rope(const RopeView& x, bool inverse) override;

  void AttentionForward(const AttentionShape& shape, const Matrix& q, const Matrix& k,
                        const Matrix& v, const Matrix& out, const Matrix& lse) override;
  void AttentionBackward(const AttentionShape& shape, const Matrix& q, const Matrix& k,
                         const Matrix& v, const Matrix& out, const Matrix& lse, const Matrix& dout,
                         const Matrix& dq, const Matrix& dk, const Matrix& dv) override;

  void SwiGluForward(const Matrix& gate_up, const Matrix& y) override;
  void SwiGluBackward(const Matrix& gate_up, const Matrix& dy, const Matrix& dgate_up) override;
  void WeightedSwiGluForward(const Matrix& gate_up, const Matrix& weights,
                             const Matrix& y) override;
  void WeightedSwiGluBackward(const Matrix& gate_up, const Matrix& weights, const Matrix& dy,
                              const Matrix& dgate_up, const Matrix& dweights,
                              const Matrix& y) override;

  void EmbeddingForward(const int32_t* tokens, const Matrix& table, const Matrix& out) override;
  void EmbeddingBackward(const int32_t* tokens, const Matrix& dout, const Matrix& dtable) override;

  void CrossEntropy(const Matrix& logits, const int32_t* labels, double gradient_scale,
                    double* loss) override;

  double RouterForward(const RouterShape& shape, const Matrix& logits, const Matrix& bias,
                       int32_t* experts, const Matrix& weights, int64_t* loads) override;
  void RouterBackward(const RouterShape& shape, const Matrix& logits, const int32_t* experts,
                      const Matrix& dweights, double balance_scale, const Matrix& dlogits) override;

  void AdamW(const AdamWSettings& settings, const Matrix& gradient, const AdamWState& in,
             const AdamWState& out) override;
};

}  // namespace fathom::kernels

#endif  // FATHOM_KERNELS_CPU_REFERENCE_OPS_H_
