#include <cstdint>
#include <vector>

#include "kernels/cpu/element.h"
#include "kernels/cpu/reference_ops.h"
#include "kernels/cpu/shape_checks.h"
#include "kernels/fp8.h"

namespace fathom::kernels {

void ReferenceOps::Gemm(const Matrix& a, bool transpose_a, const Matrix& b, bool transpose_b,
                        const Matrix& c, bool accumulate) {
  const GemmShape shape = CheckGemm(a, transpose_a, b, transpose_b, c);
  const std::vector<double> a_MK = Elements(a, transpose_a);
  const std::vector<double> b_KN = Elements(b, transpose_b);
  std::vector<double> row_N(shape.n);
  for (int64_t i = 0; i < shape.m; ++i) {
    row_N.assign(shape.n, 0.0);
    for (int64_t p = 0; p < shape.k; ++p) {
      const double factor = a_MK[i * shape.k + p];
      for (int64_t j = 0; j < shape.n; ++j) {
        row_N[j] += factor * b_KN[p * shape.n + j];
      }
    }
    for (int64_t j = 0; j < shape.n; ++j) {
      Set(c, i, j, row_N[j] + (accumulate ? Get(c, i, j) : 0.0));
    }
  }
}

void ReferenceOps::GemmFp8(const Fp8Matrix& a, const Fp8Matrix& b, const Matrix& c,
                           bool accumulate) {
  CheckGemmFp8(a, b, c);
  const int64_t tiles = TileCount(a.cols);
  for (int64_t i = 0; i < a.rows; ++i) {
    for (int64_t j = 0; j < b.rows; ++j) {
      const int64_t b_scale_row = b.scaling == Fp8Scaling::kTile1x128 ? j : j / kFp8Tile;
      float total = 0;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        float partial = 0;
        for (int64_t p = tile * kFp8Tile; p < a.cols && p < (tile + 1) * kFp8Tile; ++p) {
          partial +=
              FloatFromE4M3(a.codes[i * a.cols + p]) * FloatFromE4M3(b.codes[j * b.cols + p]);
        }
        total += partial * (a.scales[i * tiles + tile] * b.scales[b_scale_row * tiles + tile]);
      }
      Set(c, i, j, total + (accumulate ? static_cast<float>(Get(c, i, j)) : 0.0f));
    }
  }
}

}  // namespace fathom::kernels
