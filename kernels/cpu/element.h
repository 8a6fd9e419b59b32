// Reads and writes single elements of a Matrix, whatever its dtype, by way of FP64 or FP32.
//
// FP64 -> BF16 goes through FP32, like every narrowing in the house.
#ifndef FATHOM_KERNELS_CPU_ELEMENT_H_
#define FATHOM_KERNELS_CPU_ELEMENT_H_

#include <cstdint>
#include <vector>

#include "kernels/bf16.h"
#include "kernels/ops.h"

namespace fathom::kernels {

inline double LoadAt(const void* data, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kF64:
      return static_cast<const double*>(data)[index];
    case DType::kF32:
      return static_cast<const float*>(data)[index];
    case DType::kBF16:
      break;
  }
  return FloatFromBf16(static_cast<const uint16_t*>(data)[index]);
}

inline void StoreAt(void* data, DType dtype, int64_t index, double value) {
  switch (dtype) {
    case DType::kF64:
      static_cast<double*>(data)[index] = value;
      return;
    case DType::kF32:
      static_cast<float*>(data)[index] = static_cast<float>(value);
      return;
    case DType::kBF16:
      break;
  }
  static_cast<uint16_t*>(data)[index] = Bf16FromFloat(static_cast<float>(value));
}

inline double Get(const Matrix& m, int64_t r, int64_t c) {
  return LoadAt(m.data, m.dtype, r * m.stride + c);
}

inline void Set(const Matrix& m, int64_t r, int64_t c, double value) {
  StoreAt(m.data, m.dtype, r * m.stride + c, value);
}

// The elements of m, row after row, transposed when asked.
inline std::vector<double> Elements(const Matrix& m, bool transpose) {
  std::vector<double> out(m.rows * m.cols);
  for (int64_t r = 0; r < m.rows; ++r) {
    for (int64_t c = 0; c < m.cols; ++c) {
      out[transpose ? c * m.rows + r : r * m.cols + c] = Get(m, r, c);
    }
  }
  return out;
}

// Where row r starts.
inline void* RowData(const Matrix& m, int64_t r) {
  return static_cast<char*>(m.data) + r * m.stride * SizeOf(m.dtype);
}

}  // namespace fathom::kernels

#endif  // FATHOM_KERNELS_CPU_ELEMENT_H_
