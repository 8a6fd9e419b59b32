// An E4M3 value is exact in BF16, and so is the product of two in FP32: each 128 of K is a BF16
// product with FP32 sums, whose results are then scaled and added in FP32.
#include <algorithm>
#include <cstdint>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/float_rows.h"
#include "kernels/cpu/fp8_rows.h"
#include "kernels/cpu/shape_checks.h"

namespace fathom::kernels {
namespace {

// Rows of c worked on at once, and partial products kept at once: what is added up should still be
// in the second-level cache, and oneDNN unpacks b anew for each call.
constexpr int64_t kPanelRows = 256;
constexpr int64_t kPartialFloatsMax = 1 << 17;

// total += partial * (a_scale * b_scale[column]), or without `total +` for the first of K.
void AddScaled(const float* __restrict partial, const float* __restrict b_scale, int64_t n,
               float a_scale, bool first, float* __restrict total) {
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

// The scale of each of b's rows at each tile of K, [tiles, n].
void BScales(const Fp8Matrix& b, float* out) {
  const int64_t tiles = TileCount(b.cols);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    for (int64_t j = 0; j < b.rows; ++j) {
      const int64_t scale_row = b.scaling == Fp8Scaling::kTile1x128 ? j : j / kFp8Tile;
      out[tile * b.rows + j] = b.scales[scale_row * tiles + tile];
    }
  }
}

// Row r of c from its total; buffer is for what c held.
void StoreTotal(const Matrix& c, int64_t r, bool accumulate, float* total, float* buffer) {
  if (accumulate) {
    const float* old = ReadRow(c, r, 0, c.cols, buffer);
    for (int64_t j = 0; j < c.cols; ++j) {
      total[j] += old[j];
    }
  }
  if (c.dtype == DType::kF32) {
    std::copy_n(total, c.cols, static_cast<float*>(RowData(c, r)));
  } else {
    StoreRow(c, r, 0, c.cols, total);
  }
}

}  // namespace

// Rows [row, row + rows) of a times all of b, over one 128 of K.
void CpuOps::MultiplyTile(int64_t row, int64_t rows, int64_t n, int64_t k, int64_t tile,
                          float* partial) {
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
}

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
  Bf16FromE4M3(a.codes, m * k, a_bf16_.data());
  Bf16FromE4M3(b.codes, n * k, b_bf16_.data());
  const int64_t tiles = TileCount(k);
  const int64_t panel_rows = std::min(m, kPanelRows);
  const int64_t group_tiles = std::clamp<int64_t>(kPartialFloatsMax / (panel_rows * n), 1, tiles);
  float* buffer = Scratch(n + tiles * n + (group_tiles + 1) * panel_rows * n);
  float* b_scales = buffer + n;
  float* totals = b_scales + tiles * n;       // [rows of the panel, n]
  float* partials = totals + panel_rows * n;  // [group_tiles, rows of the panel, n]
  BScales(b, b_scales);
  for (int64_t row = 0; row < m; row += panel_rows) {
    const int64_t rows = std::min(panel_rows, m - row);
    for (int64_t first = 0; first < tiles; first += group_tiles) {
      const int64_t end = std::min(tiles, first + group_tiles);
      for (int64_t tile = first; tile < end; ++tile) {
        MultiplyTile(row, rows, n, k, tile, partials + (tile - first) * rows * n);
      }
      for (int64_t r = 0; r < rows; ++r) {
        float* total = totals + r * n;
        for (int64_t tile = first; tile < end; ++tile) {
          AddScaled(partials + ((tile - first) * rows + r) * n, b_scales + tile * n, n,
                    a.scales[(row + r) * tiles + tile], tile == 0, total);
        }
        if (end == tiles) {
          StoreTotal(c, row + r, accumulate, total, buffer);
        }
      }
    }
  }
}

}  // namespace fathom::kernels
