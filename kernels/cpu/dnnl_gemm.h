// Matrix products on oneDNN, one thread, on row-major operands with leading dimensions.
//
// oneDNN picks a different kernel for few rows, and then another order of summation. Products made
// here choose the kernel by the number of columns and the depth alone: few rows are padded, and on
// CPUs without AVX-512 all products are made in bands of one height. So a row of c has the same
// bits however many rows there are beside it.
#ifndef FATHOM_KERNELS_CPU_DNNL_GEMM_H_
#define FATHOM_KERNELS_CPU_DNNL_GEMM_H_

#include <cstdint>
#include <memory>
#include <vector>

namespace fathom::kernels {

// c[m, n] = op(a)[m, k] op(b)[k, n], added to c when accumulate. stride: elements between stored
// rows.
template <typename T>
struct GemmCall {
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  const T* a = nullptr;
  int64_t a_stride = 0;
  bool transpose_a = false;
  const T* b = nullptr;
  int64_t b_stride = 0;
  bool transpose_b = false;
  float* c = nullptr;
  int64_t c_stride = 0;
  bool accumulate = false;
};

// oneDNN's sgemm as it is: no padding, so the bits of a row may depend on m. Allocates inside.
void RawSgemm(const GemmCall<float>& call);

class DnnlGemm {
 public:
  DnnlGemm();
  ~DnnlGemm();

  void Run(const GemmCall<float>& call);
  // BF16 operands, FP32 sums. Without AVX-512 the operands are widened to FP32 first, which is
  // exact.
  void Run(const GemmCall<uint16_t>& call);

 private:
  struct Primitives;

  template <typename T>
  void RunInBands(const GemmCall<T>& call);
  template <typename T>
  void RunPadded(const GemmCall<T>& call, int64_t rows);
  void RunRaw(const GemmCall<float>& call);
  void RunRaw(const GemmCall<uint16_t>& call);

  const bool has_avx512_;
  std::unique_ptr<Primitives> primitives_;

  // Only for the length of one call; kept so that the step path does not allocate.
  std::vector<float> padded_c_;
  std::vector<float> padded_a_float_;
  std::vector<uint16_t> padded_a_bf16_;
  std::vector<float> wide_a_;
  std::vector<float> wide_b_;
};

}  // namespace fathom::kernels

#endif  // FATHOM_KERNELS_CPU_DNNL_GEMM_H_
