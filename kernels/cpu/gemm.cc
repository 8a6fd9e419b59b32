#include <cstdint>

#include "kernels/bf16.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/shape_checks.h"

namespace fathom::kernels {
namespace {

template <typename T>
GemmCall<T> CallOf(const GemmShape& shape, const Matrix& a, bool transpose_a, const Matrix& b,
                   bool transpose_b) {
  return {.m = shape.m,
          .n = shape.n,
          .k = shape.k,
          .a = static_cast<const T*>(a.data),
          .a_stride = a.stride,
          .transpose_a = transpose_a,
          .b = static_cast<const T*>(b.data),
          .b_stride = b.stride,
          .transpose_b = transpose_b};
}

}  // namespace

void CpuOps::Gemm(const Matrix& a, bool transpose_a, const Matrix& b, bool transpose_b,
                  const Matrix& c, bool accumulate) {
  const GemmShape shape = CheckGemm(a, transpose_a, b, transpose_b, c);
  if (a.dtype == DType::kF64 || shape.k == 0) {
    ReferenceOps::Gemm(a, transpose_a, b, transpose_b, c, accumulate);
    return;
  }
  if (a.dtype == DType::kF32) {
    GemmCall<float> call = CallOf<float>(shape, a, transpose_a, b, transpose_b);
    call.c = static_cast<float*>(c.data);
    call.c_stride = c.stride;
    call.accumulate = accumulate;
    gemm_.Run(call);
    return;
  }
  GemmCall<uint16_t> call = CallOf<uint16_t>(shape, a, transpose_a, b, transpose_b);
  if (c.dtype == DType::kF32) {
    call.c = static_cast<float*>(c.data);
    call.c_stride = c.stride;
    call.accumulate = accumulate;
    gemm_.Run(call);
    return;
  }
  float* products = Scratch(shape.m * shape.n);
  call.c = products;
  call.c_stride = shape.n;
  gemm_.Run(call);
  for (int64_t i = 0; i < shape.m; ++i) {
    const float* product = products + i * shape.n;
    uint16_t* out = static_cast<uint16_t*>(c.data) + i * c.stride;
    for (int64_t j = 0; j < shape.n; ++j) {
      out[j] = Bf16FromFloat(accumulate ? product[j] + FloatFromBf16(out[j]) : product[j]);
    }
  }
}

}  // namespace fathom::kernels
