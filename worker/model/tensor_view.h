// Views of matrices that somebody else owns: runs of rows or columns, and a matrix of heads seen as
// one row per head. They only move pointers; nothing is copied and nothing is kept alive.
#ifndef FATHOM_WORKER_MODEL_TENSOR_VIEW_H_
#define FATHOM_WORKER_MODEL_TENSOR_VIEW_H_

#include <cstddef>
#include <cstdint>

#include "common/base/check.h"
#include "kernels/ops.h"

namespace fathom::model {

inline void* ElementAt(const kernels::Matrix& m, int64_t row, int64_t col) {
  // A matrix without rows has no memory to point into.
  if (m.data == nullptr) return nullptr;
  return static_cast<std::byte*>(m.data) + (row * m.stride + col) * kernels::SizeOf(m.dtype);
}

// Rows [begin, begin + count).
inline kernels::Matrix RowsOf(const kernels::Matrix& m, int64_t begin, int64_t count) {
  FATHOM_CHECK(begin >= 0 && count >= 0 && begin + count <= m.rows)
      << "rows " << begin << " + " << count << " of " << m.rows;
  kernels::Matrix out = m;
  out.data = ElementAt(m, begin, 0);
  out.rows = count;
  return out;
}

// Columns [begin, begin + count).
inline kernels::Matrix ColsOf(const kernels::Matrix& m, int64_t begin, int64_t count) {
  FATHOM_CHECK(begin >= 0 && count >= 0 && begin + count <= m.cols)
      << "columns " << begin << " + " << count << " of " << m.cols;
  kernels::Matrix out = m;
  out.data = ElementAt(m, 0, begin);
  out.cols = count;
  return out;
}

// [T, heads * w] without gaps between rows, seen as [T * heads, w].
inline kernels::Matrix PerHead(const kernels::Matrix& m, int64_t heads) {
  FATHOM_CHECK(m.stride == m.cols && m.cols % heads == 0)
      << "stride " << m.stride << ", cols " << m.cols << ", heads " << heads;
  kernels::Matrix out = m;
  out.rows = m.rows * heads;
  out.cols = m.cols / heads;
  out.stride = out.cols;
  return out;
}

// Rows [begin, begin + count) of codes whose scales are per row.
inline kernels::Fp8Matrix RowsOf(const kernels::Fp8Matrix& m, int64_t begin, int64_t count) {
  FATHOM_CHECK(m.scaling == kernels::Fp8Scaling::kTile1x128 && begin >= 0 && count >= 0 &&
               begin + count <= m.rows)
      << "rows " << begin << " + " << count << " of " << m.rows;
  kernels::Fp8Matrix out = m;
  if (m.codes != nullptr) {
    out.codes = m.codes + begin * m.cols;
    out.scales = m.scales + begin * kernels::TileCount(m.cols);
  }
  out.rows = count;
  return out;
}

}  // namespace fathom::model

#endif  // FATHOM_WORKER_MODEL_TENSOR_VIEW_H_
