#include "kernels/cpu/dnnl_gemm.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include <algorithm>
#include <array>
#include <oneapi/dnnl/dnnl.hpp>
#include <type_traits>

#include "kernels/bf16.h"
#include "kernels/check.h"

namespace fathom::kernels {
namespace {

// From this many rows on, oneDNN 2.6 with AVX-512 sums every element in one order
// (ops_test_cases.cc).
constexpr int64_t kRowsMin = 16;
// Height of a band without AVX-512.
constexpr int64_t kBandRows = 96;

constexpr int64_t kAnySize = DNNL_RUNTIME_DIM_VAL;

char Letter(bool transpose) { return transpose ? 'T' : 'N'; }

bool HasAvx512() { return dnnl_get_effective_cpu_isa() >= dnnl_cpu_isa_avx512_core; }

// What a stored operand's strides are to oneDNN, which sees op(x).
dnnl::memory::dims Strides(int64_t stride, bool transpose) {
  return transpose ? dnnl::memory::dims{1, stride} : dnnl::memory::dims{stride, 1};
}

void Widen(const uint16_t* in, int64_t stride, int64_t rows, int64_t cols, float* out) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      out[r * cols + c] = FloatFromBf16(in[r * stride + c]);
    }
  }
}

}  // namespace

// One primitive for each way to transpose and accumulate; sizes and strides come with the call, so
// that a new shape costs nothing.
struct DnnlGemm::Primitives {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  std::array<dnnl::matmul, 8> matmul;

  static int Index(const GemmCall<uint16_t>& call) {
    return (call.transpose_a ? 4 : 0) + (call.transpose_b ? 2 : 0) + (call.accumulate ? 1 : 0);
  }

  dnnl::matmul& For(const GemmCall<uint16_t>& call) {
    dnnl::matmul& primitive = matmul[Index(call)];
    if (!primitive) {
      using Desc = dnnl::memory::desc;
      const Desc a({kAnySize, kAnySize}, dnnl::memory::data_type::bf16,
                   Strides(kAnySize, call.transpose_a));
      const Desc b({kAnySize, kAnySize}, dnnl::memory::data_type::bf16,
                   Strides(kAnySize, call.transpose_b));
      const Desc c({kAnySize, kAnySize}, dnnl::memory::data_type::f32, Strides(kAnySize, false));
      dnnl::primitive_attr attributes;
      if (call.accumulate) {
        dnnl::post_ops sum;
        sum.append_sum(1.0f);
        attributes.set_post_ops(sum);
      }
      primitive = dnnl::matmul({dnnl::matmul::desc(a, b, c), attributes, engine});
    }
    return primitive;
  }
};

DnnlGemm::DnnlGemm() : has_avx512_(HasAvx512()), primitives_(std::make_unique<Primitives>()) {}

DnnlGemm::~DnnlGemm() = default;

void RawSgemm(const GemmCall<float>& call) {
  // The setting belongs to the calling thread, and costs nothing next to a product.
  omp_set_num_threads(1);
  const dnnl_status_t status = dnnl_sgemm(
      Letter(call.transpose_a), Letter(call.transpose_b), call.m, call.n, call.k, 1.0f, call.a,
      call.a_stride, call.b, call.b_stride, call.accumulate ? 1.0f : 0.0f, call.c, call.c_stride);
  Check(status == dnnl_success, "Gemm", "dnnl_sgemm refused the call");
}

void DnnlGemm::RunRaw(const GemmCall<float>& call) { RawSgemm(call); }

void DnnlGemm::RunRaw(const GemmCall<uint16_t>& call) {
  omp_set_num_threads(1);
  const auto operand = [this](const void* data, int64_t rows, int64_t cols,
                              dnnl::memory::data_type type, dnnl::memory::dims strides) {
    return dnnl::memory({{rows, cols}, type, strides}, primitives_->engine,
                        const_cast<void*>(data));
  };
  const auto bf16 = dnnl::memory::data_type::bf16;
  primitives_->For(call).execute(
      primitives_->stream,
      {{DNNL_ARG_SRC,
        operand(call.a, call.m, call.k, bf16, Strides(call.a_stride, call.transpose_a))},
       {DNNL_ARG_WEIGHTS,
        operand(call.b, call.k, call.n, bf16, Strides(call.b_stride, call.transpose_b))},
       {DNNL_ARG_DST, operand(call.c, call.m, call.n, dnnl::memory::data_type::f32,
                              Strides(call.c_stride, false))}});
}

// Runs the call with `rows` rows, of which the first m are its own.
template <typename T>
void DnnlGemm::RunPadded(const GemmCall<T>& call, int64_t rows) {
  GemmCall<T> padded = call;
  padded.m = rows;
  auto& a = [this]() -> auto& {
    if constexpr (std::is_same_v<T, float>) {
      return padded_a_float_;
    } else {
      return padded_a_bf16_;
    }
  }
  ();
  a.assign(rows * call.k, T{0});
  padded.a = a.data();
  padded.a_stride = call.transpose_a ? rows : call.k;
  const int64_t stored_rows = call.transpose_a ? call.k : call.m;
  const int64_t stored_cols = call.transpose_a ? call.m : call.k;
  for (int64_t r = 0; r < stored_rows; ++r) {
    std::copy_n(call.a + r * call.a_stride, stored_cols, a.data() + r * padded.a_stride);
  }
  padded_c_.resize(std::max<size_t>(padded_c_.size(), rows * call.n));
  padded.c = padded_c_.data();
  padded.c_stride = call.n;
  if (call.accumulate) {
    for (int64_t r = 0; r < call.m; ++r) {
      std::copy_n(call.c + r * call.c_stride, call.n, padded.c + r * call.n);
    }
    std::fill(padded.c + call.m * call.n, padded.c + rows * call.n, 0.0f);
  }
  RunRaw(padded);
  for (int64_t r = 0; r < call.m; ++r) {
    std::copy_n(padded.c + r * call.n, call.n, call.c + r * call.c_stride);
  }
}

template <typename T>
void DnnlGemm::RunInBands(const GemmCall<T>& call) {
  if (has_avx512_) {
    if (call.m < kRowsMin) {
      RunPadded(call, kRowsMin);
    } else {
      RunRaw(call);
    }
    return;
  }
  for (int64_t row = 0; row < call.m; row += kBandRows) {
    GemmCall<T> band = call;
    band.m = std::min(kBandRows, call.m - row);
    band.a = call.a + (call.transpose_a ? row : row * call.a_stride);
    band.c = call.c + row * call.c_stride;
    if (band.m < kBandRows) {
      RunPadded(band, kBandRows);
    } else {
      RunRaw(band);
    }
  }
}

void DnnlGemm::Run(const GemmCall<float>& call) {
  if (call.m > 0 && call.n > 0) {
    RunInBands(call);
  }
}

void DnnlGemm::Run(const GemmCall<uint16_t>& call) {
  if (call.m == 0 || call.n == 0) {
    return;
  }
  if (has_avx512_) {
    RunInBands(call);
    return;
  }
  const int64_t a_rows = call.transpose_a ? call.k : call.m;
  const int64_t a_cols = call.transpose_a ? call.m : call.k;
  const int64_t b_rows = call.transpose_b ? call.n : call.k;
  const int64_t b_cols = call.transpose_b ? call.k : call.n;
  wide_a_.resize(std::max<size_t>(wide_a_.size(), a_rows * a_cols));
  wide_b_.resize(std::max<size_t>(wide_b_.size(), b_rows * b_cols));
  Widen(call.a, call.a_stride, a_rows, a_cols, wide_a_.data());
  Widen(call.b, call.b_stride, b_rows, b_cols, wide_b_.data());
  RunInBands(GemmCall<float>{.m = call.m,
                             .n = call.n,
                             .k = call.k,
                             .a = wide_a_.data(),
                             .a_stride = a_cols,
                             .transpose_a = call.transpose_a,
                             .b = wide_b_.data(),
                             .b_stride = b_cols,
                             .transpose_b = call.transpose_b,
                             .c = call.c,
                             .c_stride = call.c_stride,
                             .accumulate = call.accumulate});
}

}  // namespace fathom::kernels
