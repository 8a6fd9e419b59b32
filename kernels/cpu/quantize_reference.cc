#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/check.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference_ops.h"
#include "kernels/cpu/shape_checks.h"
#include "kernels/fp8.h"

namespace fathom::kernels {
namespace {

// x or its transpose, in FP32.
struct FloatView {
  const Matrix& x;
  bool transpose;

  float operator()(int64_t r, int64_t c) const {
    return static_cast<float>(transpose ? Get(x, c, r) : Get(x, r, c));
  }
};

// Rows [row, row_end) and columns [col, col_end) share one scale; NaN does not count for it.
void QuantizeTile(const FloatView& in, ScaleRule rule, const Fp8Matrix& out, int64_t row,
                  int64_t row_end, int64_t col, int64_t col_end, float* scale) {
  float amax = 0;
  for (int64_t r = row; r < row_end; ++r) {
    for (int64_t c = col; c < col_end; ++c) {
      amax = std::fmax(amax, std::fabs(in(r, c)));
    }
  }
  *scale = E4M3Scale(amax, rule);
  for (int64_t r = row; r < row_end; ++r) {
    for (int64_t c = col; c < col_end; ++c) {
      out.codes[r * out.cols + c] = E4M3FromFloat(in(r, c) / *scale);
    }
  }
}

void QuantizeAll(const FloatView& in, ScaleRule rule, const Fp8Matrix& out) {
  const int64_t tile_rows = out.scaling == Fp8Scaling::kTile1x128 ? 1 : kFp8Tile;
  float* scale = out.scales;
  for (int64_t row = 0; row < out.rows; row += tile_rows) {
    for (int64_t col = 0; col < out.cols; col += kFp8Tile) {
      QuantizeTile(in, rule, out, row, std::min(row + tile_rows, out.rows), col,
                   std::min(col + kFp8Tile, out.cols), scale++);
    }
  }
}

}  // namespace

void ReferenceOps::Quantize(const Matrix& x, ScaleRule rule, const Fp8Matrix& out) {
  CheckQuantize(x, out, /*transposed=*/false);
  QuantizeAll({.x = x, .transpose = false}, rule, out);
}

void ReferenceOps::QuantizeTransposed(const Matrix& x, ScaleRule rule, const Fp8Matrix& out) {
  CheckQuantize(x, out, /*transposed=*/true);
  QuantizeAll({.x = x, .transpose = true}, rule, out);
}

void ReferenceOps::Dequantize(const Fp8Matrix& in, const Matrix& out) {
  CheckDequantize(in, out);
  for (int64_t r = 0; r < in.rows; ++r) {
    const int64_t scale_row = in.scaling == Fp8Scaling::kTile1x128 ? r : r / kFp8Tile;
    for (int64_t c = 0; c < in.cols; ++c) {
      const float scale = in.scales[scale_row * TileCount(in.cols) + c / kFp8Tile];
      Set(out, r, c, FloatFromE4M3(in.codes[r * in.cols + c]) * scale);
    }
  }
}

void ReferenceOps::TransposeBlocks(const Fp8Matrix& in, const Fp8Matrix& out) {
  CheckTransposeBlocks(in, out);
  for (int64_t r = 0; r < in.rows; ++r) {
    for (int64_t c = 0; c < in.cols; ++c) {
      out.codes[c * out.cols + r] = in.codes[r * in.cols + c];
    }
  }
  for (int64_t r = 0; r < TileCount(in.rows); ++r) {
    for (int64_t c = 0; c < TileCount(in.cols); ++c) {
      out.scales[c * TileCount(out.cols) + r] = in.scales[r * TileCount(in.cols) + c];
    }
  }
}

void ReferenceOps::RoundToE5M6(const Matrix& x) {
  CheckSameShape("RoundToE5M6", x, "x", x);
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t col = 0; col < x.cols; col += kFp8Tile) {
      const int64_t col_end = std::min(col + kFp8Tile, x.cols);
      float amax = 0;
      for (int64_t c = col; c < col_end; ++c) {
        amax = std::fmax(amax, std::fabs(static_cast<float>(Get(x, r, c))));
      }
      const float scale = E5M6Scale(amax);
      for (int64_t c = col; c < col_end; ++c) {
        Set(x, r, c, kernels::RoundToE5M6(static_cast<float>(Get(x, r, c)) / scale) * scale);
      }
    }
  }
}

}  // namespace fathom::kernels
