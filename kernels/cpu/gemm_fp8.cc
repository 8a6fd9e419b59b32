// An E4M3 value is exact in BF16, and so is the product of two in FP32: each 128 of K is a BF16
// product with FP32 sums, whose result is then scaled and added in FP32.
#include <algorithm>
#include <cstdint>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/float_rows.h"
#include "kernels/cpu/shape_checks.h"
#include "kernels/fp8.h"

namespace fathom::kernels {
namespace {

// Rows of c worked on at once, so that what is summed stays in the second-level cache. A multiple
// of every row tile oneDNN uses here, and the last panel takes the rest.
constexpr int64_t kPanelRows = 256;

void Bf16FromCodes(const uint8_t* codes, int64_t n, uint16_t* out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(FloatFromE4M3(codes[i])) >> 16);
  }
}

// total += partial * (a_scale * b_scale[column]), or without `total +` for the first of K.
void AddScaled(const float* partial, const float* b_scale, int64_t n, float a_scale, bool first,
               float* total) {
  if (first) {
    for (int64_t j = 0; j < n; ++j) {
      total[j] = partial[j] * (a_scale * b_scale[j]);
    }
    return;
  }
  for (int64_t j = 0; j < n; ++j) {
    total[j] += partial[j] * (a_scale * b_scale[j]);
  }
}

// The scales of b's rows [row, row + n) at one tile of K.
void BScales(const Fp8Matrix& b, int64_t row, int64_t n, int64_t tile, float* out) {
  const int64_t tiles = TileCount(b.cols);
  for (int64_t j = 0; j < n; ++j) {
    const int64_t scale_row = b.scaling == Fp8Scaling::kTile1x128 ? row + j : (row + j) / kFp8Tile;
    out[j] = b.scales[scale_row * tiles + tile];
  }
}

void StorePanel(const Matrix& c, int64_t row, int64_t rows, const float* total, bool accumulate) {
  float buffer[kRun];
  float sum[kRun];
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t col = 0; col < c.cols; col += kRun) {
      const int64_t n = std::min(kRun, c.cols - col);
      const float* from = total + r * c.cols + col;
      float* out = WriteRow(c, row + r, col, sum);
      if (accumulate) {
        const float* old = ReadRow(c, row + r, col, n, buffer);
#pragma GCC ivdep  // in place
        for (int64_t i = 0; i < n; ++i) {
          out[i] = from[i] + old[i];
        }
      } else {
        std::copy_n(from, n, out);
      }
      StoreRow(c, row + r, col, n, out);
    }
  }
}

}  // namespace

void CpuOps::GemmFp8(const Fp8Matrix& a, const Fp8Matrix& b, const Matrix& c, bool accumulate) {
  CheckGemmFp8(a, b, c);
  const int64_t m = a.rows;
  const int64_t n = b.rows;
  const int64_t k = a.cols;
  if (m == 0 || n == 0 || k == 0) {
    ReferenceOps::GemmFp8(a, b, c, accumulate);
    return;
  }
  a_bf16_.resize(std::max<size_t>(a_bf16_.size(), m * k));
  b_bf16_.resize(std::max<size_t>(b_bf16_.size(), n * k));
  Bf16FromCodes(a.codes, m * k, a_bf16_.data());
  Bf16FromCodes(b.codes, n * k, b_bf16_.data());
  const int64_t panel_rows = std::min(m, kPanelRows);
  float* total = Scratch(2 * panel_rows * n + n);
  float* partial = total + panel_rows * n;
  float* b_scale = partial + panel_rows * n;
  for (int64_t row = 0; row < m; row += panel_rows) {
    const int64_t rows = std::min(panel_rows, m - row);
    for (int64_t tile = 0; tile < TileCount(k); ++tile) {
      const int64_t depth = tile * kFp8Tile;
      gemm_.Run(GemmCall<uint16_t>{.m = rows,
                                   .n = n,
                                   .k = std::min(kFp8Tile, k - depth),
                                   .a = a_bf16_.data() + row * k + depth,
                                   .a_stride = k,
                                   .b = b_bf16_.data() + depth,
                                   .b_stride = k,
                                   .transpose_b = true,
                                   .c = partial,
                                   .c_stride = n});
      BScales(b, 0, n, tile, b_scale);
      for (int64_t r = 0; r < rows; ++r) {
        AddScaled(partial + r * n, b_scale, n, a.scales[(row + r) * TileCount(k) + tile], tile == 0,
                  total + r * n);
      }
    }
    StorePanel(c, row, rows, total, accumulate);
  }
}

}  // namespace fathom::kernels
