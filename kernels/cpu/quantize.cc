#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/float_rows.h"
#include "kernels/cpu/fp8_rows.h"
#include "kernels/cpu/shape_checks.h"
#include "kernels/cpu/vector_math.h"
#include "kernels/fp8.h"

namespace fathom::kernels {
namespace {

// Up to 128 x 128 elements of x.
struct Tile {
  int64_t row = 0;
  int64_t col = 0;
  int64_t rows = 0;
  int64_t cols = 0;
};

using RowBuffer = std::array<float, kFp8Tile>;
using TileCodes = std::array<uint8_t, kFp8Tile * kFp8Tile>;  // [rows, 128]

template <typename F>
void ForEachTile(const Matrix& x, F f) {
  for (int64_t row = 0; row < x.rows; row += kFp8Tile) {
    for (int64_t col = 0; col < x.cols; col += kFp8Tile) {
      f(Tile{.row = row,
             .col = col,
             .rows = std::min(kFp8Tile, x.rows - row),
             .cols = std::min(kFp8Tile, x.cols - col)});
    }
  }
}

const float* ReadTileRow(const Matrix& x, const Tile& tile, int64_t r, RowBuffer& buffer) {
  return ReadRow(x, tile.row + r, tile.col, tile.cols, buffer.data());
}

float RowAmax(const float* x, int64_t n) {
  return MaxOf(n, 0.0f, [x](int64_t i) { return std::fabs(x[i]); });
}

float TileAmax(const Matrix& x, const Tile& tile) {
  RowBuffer buffer;
  float amax = 0;
  for (int64_t r = 0; r < tile.rows; ++r) {
    amax = std::max(amax, RowAmax(ReadTileRow(x, tile, r, buffer), tile.cols));
  }
  return amax;
}

void ColumnAmax(const Matrix& x, const Tile& tile, RowBuffer& amax) {
  RowBuffer buffer;
  amax.fill(0);
  for (int64_t r = 0; r < tile.rows; ++r) {
    const float* row = ReadTileRow(x, tile, r, buffer);
#pragma GCC ivdep  // amax is nobody else's
    for (int64_t c = 0; c < tile.cols; ++c) {
      const float magnitude = std::fabs(row[c]);
      amax[c] = magnitude > amax[c] ? magnitude : amax[c];
    }
  }
}

void EncodeRow(const float* x, int64_t n, float scale, uint8_t* __restrict codes) {
  for (int64_t i = 0; i < n; ++i) {
    codes[i] = E4M3FromFloat(x[i] / scale);
  }
}

// Each element with its own scale.
void EncodeRow(const float* x, int64_t n, const float* scales, uint8_t* __restrict codes) {
  for (int64_t i = 0; i < n; ++i) {
    codes[i] = E4M3FromFloat(x[i] / scales[i]);
  }
}

// Encodes a tile of x for out, which is x's transpose, into codes [rows, 128].
void EncodeTransposed(const Matrix& x, const Tile& tile, ScaleRule rule, const Fp8Matrix& out,
                      TileCodes& codes) {
  const int64_t scale_col = tile.row / kFp8Tile;
  RowBuffer scales;
  if (out.scaling == Fp8Scaling::kBlock128x128) {
    const float scale = E4M3Scale(TileAmax(x, tile), rule);
    scales.fill(scale);
    out.scales[tile.col / kFp8Tile * TileCount(out.cols) + scale_col] = scale;
  } else {
    RowBuffer amax;
    ColumnAmax(x, tile, amax);
    for (int64_t c = 0; c < tile.cols; ++c) {
      scales[c] = E4M3Scale(amax[c], rule);
      out.scales[(tile.col + c) * TileCount(out.cols) + scale_col] = scales[c];
    }
  }
  RowBuffer buffer;
  for (int64_t r = 0; r < tile.rows; ++r) {
    EncodeRow(ReadTileRow(x, tile, r, buffer), tile.cols, scales.data(),
              codes.data() + r * kFp8Tile);
  }
}

// Of 128x128 blocks.
void TransposeScales(const Fp8Matrix& in, const Fp8Matrix& out) {
  for (int64_t r = 0; r < TileCount(in.rows); ++r) {
    for (int64_t c = 0; c < TileCount(in.cols); ++c) {
      out.scales[c * TileCount(out.cols) + r] = in.scales[r * TileCount(in.cols) + c];
    }
  }
}

void DecodeRow(const uint8_t* codes, int64_t n, float scale, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = FloatFromE4M3(codes[i]) * scale;
  }
}

}  // namespace

void CpuOps::Quantize(const Matrix& x, ScaleRule rule, const Fp8Matrix& out) {
  CheckQuantize(x, out, /*transposed=*/false);
  if (AnyF64({&x})) {
    ReferenceOps::Quantize(x, rule, out);
    return;
  }
  const bool by_row = out.scaling == Fp8Scaling::kTile1x128;
  const int64_t tiles = TileCount(out.cols);
  RowBuffer buffer;
  ForEachTile(x, [&](const Tile& tile) {
    const int64_t scale_col = tile.col / kFp8Tile;
    float scale = 0;
    if (!by_row) {
      scale = E4M3Scale(TileAmax(x, tile), rule);
      out.scales[tile.row / kFp8Tile * tiles + scale_col] = scale;
    }
    for (int64_t r = 0; r < tile.rows; ++r) {
      const float* row = ReadTileRow(x, tile, r, buffer);
      if (by_row) {
        scale = E4M3Scale(RowAmax(row, tile.cols), rule);
        out.scales[(tile.row + r) * tiles + scale_col] = scale;
      }
      EncodeRow(row, tile.cols, scale, out.codes + (tile.row + r) * out.cols + tile.col);
    }
  });
}

void CpuOps::QuantizeTransposed(const Matrix& x, ScaleRule rule, const Fp8Matrix& out) {
  CheckQuantize(x, out, /*transposed=*/true);
  if (AnyF64({&x})) {
    ReferenceOps::QuantizeTransposed(x, rule, out);
    return;
  }
  TileCodes codes;
  ForEachTile(x, [&](const Tile& tile) {
    EncodeTransposed(x, tile, rule, out, codes);
    TransposeBytes(codes.data(), kFp8Tile, tile.rows, tile.cols,
                   out.codes + tile.col * out.cols + tile.row, out.cols);
  });
}

void CpuOps::Dequantize(const Fp8Matrix& in, const Matrix& out) {
  CheckDequantize(in, out);
  if (AnyF64({&out})) {
    ReferenceOps::Dequantize(in, out);
    return;
  }
  const int64_t tiles = TileCount(in.cols);
  float buffer[kFp8Tile];
  for (int64_t r = 0; r < in.rows; ++r) {
    const int64_t scale_row = in.scaling == Fp8Scaling::kTile1x128 ? r : r / kFp8Tile;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int64_t col = tile * kFp8Tile;
      const int64_t n = std::min(kFp8Tile, in.cols - col);
      float* to = WriteRow(out, r, col, buffer);
      DecodeRow(in.codes + r * in.cols + col, n, in.scales[scale_row * tiles + tile], to);
      StoreRow(out, r, col, n, to);
    }
  }
}

void CpuOps::TransposeBlocks(const Fp8Matrix& in, const Fp8Matrix& out) {
  CheckTransposeBlocks(in, out);
  TransposeBytes(in.codes, in.cols, in.rows, in.cols, out.codes, out.cols);
  TransposeScales(in, out);
}

void CpuOps::RoundToE5M6(const Matrix& x) {
  CheckSameShape("RoundToE5M6", x, "x", x);
  if (AnyF64({&x})) {
    ReferenceOps::RoundToE5M6(x);
    return;
  }
  float buffer[kFp8Tile];
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t col = 0; col < x.cols; col += kFp8Tile) {
      const int64_t n = std::min(kFp8Tile, x.cols - col);
      const float* in = ReadRow(x, r, col, n, buffer);
      const float scale = E5M6Scale(RowAmax(in, n));
      float* out = WriteRow(x, r, col, buffer);
#pragma GCC ivdep  // in place
      for (int64_t i = 0; i < n; ++i) {
        out[i] = kernels::RoundToE5M6(in[i] / scale) * scale;
      }
      StoreRow(x, r, col, n, out);
    }
  }
}

}  // namespace fathom::kernels
