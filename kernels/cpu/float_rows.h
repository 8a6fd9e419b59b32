// Rows of F32 and BF16 matrices as FP32: in place where they are F32, through a buffer where not.
#ifndef FATHOM_KERNELS_CPU_FLOAT_ROWS_H_
#define FATHOM_KERNELS_CPU_FLOAT_ROWS_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "kernels/bf16.h"
#include "kernels/cpu/element.h"
#include "kernels/ops.h"

namespace fathom::kernels {

inline bool AnyF64(std::initializer_list<const Matrix*> matrices) {
  return std::any_of(matrices.begin(), matrices.end(),
                     [](const Matrix* m) { return m->dtype == DType::kF64; });
}

inline void FloatsFromBf16(const uint16_t* in, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = FloatFromBf16(in[i]);
  }
}

inline void Bf16FromFloats(const float* in, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = Bf16FromFloat(in[i]);
  }
}

// Columns [col, col + n) of row r: the matrix's own memory, or buffer filled with them.
inline const float* ReadRow(const Matrix& m, int64_t r, int64_t col, int64_t n, float* buffer) {
  if (m.dtype == DType::kF32) {
    return static_cast<const float*>(RowData(m, r)) + col;
  }
  FloatsFromBf16(static_cast<const uint16_t*>(RowData(m, r)) + col, n, buffer);
  return buffer;
}

// Where to write columns [col, ...) of row r; StoreRow then brings them home.
inline float* WriteRow(const Matrix& m, int64_t r, int64_t col, float* buffer) {
  return m.dtype == DType::kF32 ? static_cast<float*>(RowData(m, r)) + col : buffer;
}

inline void StoreRow(const Matrix& m, int64_t r, int64_t col, int64_t n, const float* buffer) {
  if (m.dtype == DType::kBF16) {
    Bf16FromFloats(buffer, n, static_cast<uint16_t*>(RowData(m, r)) + col);
  }
}

// Most elements that one call of ForEachRun's function gets.
inline constexpr int64_t kRun = 1024;

// Calls f(r, col, n) for pieces that together cover matrices of one shape, a row at a time.
template <typename F>
void ForEachRun(const Matrix& shape, F f) {
  for (int64_t r = 0; r < shape.rows; ++r) {
    for (int64_t col = 0; col < shape.cols; col += kRun) {
      f(r, col, std::min(kRun, shape.cols - col));
    }
  }
}

// A dense matrix as one long row, so that narrow rows make no short loops.
inline Matrix Flat(const Matrix& m) {
  const int64_t n = m.rows * m.cols;
  return {.data = m.data, .dtype = m.dtype, .rows = n > 0 ? 1 : 0, .cols = n, .stride = n};
}

inline bool AllDense(std::initializer_list<const Matrix*> matrices) {
  return std::all_of(matrices.begin(), matrices.end(),
                     [](const Matrix* m) { return m->stride == m->cols; });
}

}  // namespace fathom::kernels

#endif  // FATHOM_KERNELS_CPU_FLOAT_ROWS_H_
