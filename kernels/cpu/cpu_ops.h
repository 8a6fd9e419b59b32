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

  void Gemm(const Matrix& a, bool transpose_a, const Matrix& b, bool transpose_b, const Matrix& c,
            bool accumulate) override;

 private:
  DnnlGemm gemm_;

  // Only for the length of one call; kept so that the step path does not allocate.
  std::vector<float> product_;
};

}  // namespace fathom::kernels

#endif  // FATHOM_KERNELS_CPU_CPU_OPS_H_
