// For tests of ops: matrices that own their memory, random and guarded, and comparison by
// tolerance.
#ifndef FATHOM_KERNELS_OP_TESTING_H_
#define FATHOM_KERNELS_OP_TESTING_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cpu/element.h"
#include "kernels/ops.h"
#include "kernels/tolerances.h"

namespace fathom::kernels {

// Normal deviates of a printed seed.
class Random {
 public:
  explicit Random(uint32_t seed) : generator_(seed) {}

  double Normal() { return normal_(generator_); }
  int64_t Below(int64_t bound) {
    return std::uniform_int_distribution<int64_t>(0, bound - 1)(generator_);
  }

 private:
  std::mt19937 generator_;
  std::normal_distribution<double> normal_;
};

// A matrix with its memory, which starts `offset` elements into an allocation. The gap between rows
// holds a pattern that no op may touch.
class TestMatrix {
 public:
  TestMatrix(DType dtype, int64_t rows, int64_t cols, int64_t gap = 0, int64_t offset = 0)
      : bytes_((rows * (cols + gap) + offset) * SizeOf(dtype) + 1, kGuard),
        offset_(offset * SizeOf(dtype)),
        matrix_{.data = nullptr, .dtype = dtype, .rows = rows, .cols = cols, .stride = cols + gap} {
    for (int64_t r = 0; r < rows; ++r) {
      std::memset(static_cast<char*>(RowData(view(), r)), 0, cols * SizeOf(dtype));
    }
  }

  Matrix view() const {
    Matrix out = matrix_;
    out.data = const_cast<unsigned char*>(bytes_.data()) + offset_;
    return out;
  }
  operator Matrix() const { return view(); }  // NOLINT: a matrix is passed wherever ops take one

  double at(int64_t r, int64_t c) const { return Get(view(), r, c); }
  void set(int64_t r, int64_t c, double value) { Set(view(), r, c, value); }

  TestMatrix& FillNormal(Random& random, double deviation = 1, double mean = 0) {
    for (int64_t r = 0; r < matrix_.rows; ++r) {
      for (int64_t c = 0; c < matrix_.cols; ++c) {
        set(r, c, mean + deviation * random.Normal());
      }
    }
    return *this;
  }

  // The same elements, elsewhere and of another dtype.
  TestMatrix As(DType dtype, int64_t gap = 0, int64_t offset = 0) const {
    TestMatrix out(dtype, matrix_.rows, matrix_.cols, gap, offset);
    for (int64_t r = 0; r < matrix_.rows; ++r) {
      for (int64_t c = 0; c < matrix_.cols; ++c) {
        out.set(r, c, at(r, c));
      }
    }
    return out;
  }

  bool GuardsHold() const {
    const int64_t size = SizeOf(matrix_.dtype);
    for (int64_t r = 0; r < matrix_.rows; ++r) {
      const auto* row = static_cast<const unsigned char*>(RowData(view(), r));
      for (int64_t i = matrix_.cols * size; i < matrix_.stride * size; ++i) {
        if (row[i] != kGuard) {
          return false;
        }
      }
    }
    return bytes_.back() == kGuard;
  }

  std::vector<unsigned char> Row(int64_t r) const {
    const auto* row = static_cast<const unsigned char*>(RowData(view(), r));
    return {row, row + matrix_.cols * SizeOf(matrix_.dtype)};
  }

 private:
  static constexpr unsigned char kGuard = 0xA5;

  std::vector<unsigned char> bytes_;
  int64_t offset_;
  Matrix matrix_;
};

// An Fp8Matrix with its memory.
struct TestFp8 {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  Fp8Matrix matrix;

  TestFp8(int64_t rows, int64_t cols, Fp8Scaling scaling)
      : codes(rows * cols), scales(ScaleCount(rows, cols, scaling)) {
    matrix = {.rows = rows, .cols = cols, .scaling = scaling};
  }
  Fp8Matrix view() {
    matrix.codes = codes.data();
    matrix.scales = scales.data();
    return matrix;
  }
  operator Fp8Matrix() { return view(); }  // NOLINT: as TestMatrix
};

inline bool SameBits(const TestMatrix& x, const TestMatrix& y) {
  for (int64_t r = 0; r < x.view().rows; ++r) {
    if (x.Row(r) != y.Row(r)) {
      return false;
    }
  }
  return true;
}

// Expects every element of got within the table's tolerance of want, and got's guards untouched.
// terms: magnitude of what is summed, where the sums may cancel.
inline void ExpectNear(OpKind op, const TestMatrix& want, const TestMatrix& got,
                       const std::string& what, double terms = 0) {
  const Tolerance tolerance = ToleranceOf(op, got.view().dtype);
  double largest = terms;
  for (int64_t r = 0; r < want.view().rows; ++r) {
    for (int64_t c = 0; c < want.view().cols; ++c) {
      largest = std::max(largest, std::fabs(want.at(r, c)));
    }
  }
  double worst = 0;  // in units of what is allowed
  std::string where;
  for (int64_t r = 0; r < want.view().rows; ++r) {
    for (int64_t c = 0; c < want.view().cols; ++c) {
      const double error = std::fabs(want.at(r, c) - got.at(r, c));
      const double allowed =
          tolerance.relative * std::fabs(want.at(r, c)) + tolerance.of_largest * largest;
      if (error == 0) {
        continue;
      }
      if (!(error <= allowed * worst)) {
        worst = error / allowed;
        where = "(" + std::to_string(r) + ", " + std::to_string(c) + "): want " +
                std::to_string(want.at(r, c)) + ", got " + std::to_string(got.at(r, c));
      }
    }
  }
  EXPECT_LE(worst, 1.0) << what << " at " << where;
  EXPECT_TRUE(got.GuardsHold()) << what << " wrote between rows";
}

}  // namespace fathom::kernels

#endif  // FATHOM_KERNELS_OP_TESTING_H_
