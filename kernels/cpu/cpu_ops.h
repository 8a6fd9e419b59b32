// CpuOps: the reference with its hot ops replaced by oneDNN and vectorised loops, one thread.
//
// FP64 operands and what is not hot fall through to the reference. FP32 arithmetic throughout. Same
// inputs give the same bits: every sum has one order, which depends on shapes alone.
#ifndef FATHOM_KERNELS_CPU_CPU_OPS_H_
#define FATHOM_KERNELS_CPU_CPU_OPS_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/cpu/dnnl_gemm.h"
#include "kernels/cpu/reference_ops.h"
#include "kernels/ops.h"

namespace fathom::kernels {

class CpuOps : public ReferenceOps {
 public:
  std::string_view name() const override { return "cpu"; }

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

  void CrossEntropy(const Matrix& logits, const int32_t* labels, double gradient_scale,
                    double* loss) override;

  double RouterForward(const RouterShape& shape, const Matrix& logits, const Matrix& bias,
                       int32_t* experts, const Matrix& weights, int64_t* loads) override;
  void RouterBackward(const RouterShape& shape, const Matrix& logits, const int32_t* experts,
                      const Matrix& dweights, double balance_scale, const Matrix& dlogits) override;

  void AdamW(const AdamWSettings& settings, const Matrix& gradient, const AdamWState& in,
             const AdamWState& out) override;

 private:
  // Cosine and sine of every position and pair, [positions, dim / 2].
  struct RopeTable {
    int64_t dim = 0;
    int64_t positions = 0;
    double theta = 0;
    std::vector<float> cosine;
    std::vector<float> sine;
  };
  const RopeTable& RopeTableFor(const RopeView& x);

  void MultiplyTile(int64_t row, int64_t rows, int64_t n, int64_t k, int64_t tile, float* partial);

  void BalanceFactors(const RouterShape& shape, const double* score_SE, double* factor_E);
  double BalanceLoss(const RouterShape& shape, const double* score_TE, double* factor_E);

  // At least n floats, good until the next call.
  float* Scratch(int64_t n) {
    if (scratch_.size() < static_cast<size_t>(n)) {
      scratch_.resize(n);
    }
    return scratch_.data();
  }
  double* WideScratch(int64_t n) {
    if (wide_scratch_.size() < static_cast<size_t>(n)) {
      wide_scratch_.resize(n);
    }
    return wide_scratch_.data();
  }

  DnnlGemm gemm_;
  std::vector<RopeTable> rope_tables_;

  // Only for the length of one call; kept so that the step path does not allocate.
  std::vector<float> scratch_;
  std::vector<double> wide_scratch_;
  std::vector<int32_t> picked_;
  std::vector<uint16_t> a_bf16_;
  std::vector<uint16_t> b_bf16_;
};

}  // namespace fathom::kernels

#endif  // FATHOM_KERNELS_CPU_CPU_OPS_H_
