#include <cstdint>

#include "kernels/check.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference_ops.h"

namespace fathom::kernels {
namespace {

// FP32 arithmetic unless a matrix is F64: the float result is what gets rounded to a BF16.
bool InFloat(const Matrix& a, const Matrix& b) {
  return a.dtype != DType::kF64 && b.dtype != DType::kF64;
}

double AddRounded(double x, double y, bool in_float) {
  return in_float ? static_cast<float>(x) + static_cast<float>(y) : x + y;
}

double MultiplyRounded(double x, double y, bool in_float) {
  return in_float ? static_cast<float>(x) * static_cast<float>(y) : x * y;
}

}  // namespace

void ReferenceOps::Fill(const Matrix& out, double value) {
  CheckSameShape("Fill", out, "out", out);
  for (int64_t r = 0; r < out.rows; ++r) {
    for (int64_t c = 0; c < out.cols; ++c) {
      Set(out, r, c, value);
    }
  }
}

void ReferenceOps::Copy(const Matrix& in, const Matrix& out) {
  CheckSameShape("Copy", in, "in", in);
  CheckSameShape("Copy", in, "out", out);
  for (int64_t r = 0; r < in.rows; ++r) {
    for (int64_t c = 0; c < in.cols; ++c) {
      Set(out, r, c, Get(in, r, c));
    }
  }
}

void ReferenceOps::Add(const Matrix& a, const Matrix& b, const Matrix& out) {
  CheckSameShape("Add", a, "b", b);
  CheckSameShape("Add", a, "out", out);
  const bool in_float = InFloat(a, b);
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t c = 0; c < a.cols; ++c) {
      Set(out, r, c, AddRounded(Get(a, r, c), Get(b, r, c), in_float));
    }
  }
}

void ReferenceOps::Scale(const Matrix& x, double factor) {
  CheckSameShape("Scale", x, "x", x);
  const bool in_float = InFloat(x, x);
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) {
      Set(x, r, c, MultiplyRounded(Get(x, r, c), factor, in_float));
    }
  }
}

void ReferenceOps::ScaleRows(const Matrix& in, const float* factors, const Matrix& out) {
  CheckSameShape("ScaleRows", in, "out", out);
  const bool in_float = InFloat(in, in);
  for (int64_t r = 0; r < in.rows; ++r) {
    for (int64_t c = 0; c < in.cols; ++c) {
      Set(out, r, c, MultiplyRounded(Get(in, r, c), factors[r], in_float));
    }
  }
}

void ReferenceOps::RowDot(const Matrix& a, const Matrix& b, float* out) {
  CheckSameShape("RowDot", a, "b", b);
  for (int64_t r = 0; r < a.rows; ++r) {
    double sum = 0;
    for (int64_t c = 0; c < a.cols; ++c) {
      sum += Get(a, r, c) * Get(b, r, c);
    }
    out[r] = static_cast<float>(sum);
  }
}

double ReferenceOps::SumOfSquares(const Matrix& x) {
  CheckSameShape("SumOfSquares", x, "x", x);
  double sum = 0;
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) {
      sum += Get(x, r, c) * Get(x, r, c);
    }
  }
  return sum;
}

void ReferenceOps::GatherRows(const Matrix& in, const int32_t* indices, const Matrix& out) {
  CheckShape("GatherRows", "out", out, out.rows, in.cols);
  for (int64_t r = 0; r < out.rows; ++r) {
    CheckIndex("GatherRows", "row", indices[r], in.rows);
    for (int64_t c = 0; c < out.cols; ++c) {
      Set(out, r, c, Get(in, indices[r], c));
    }
  }
}

void ReferenceOps::ScatterAddRows(const Matrix& in, const int32_t* indices, const Matrix& out) {
  CheckShape("ScatterAddRows", "in", in, in.rows, out.cols);
  const bool in_float = InFloat(in, out);
  for (int64_t r = 0; r < in.rows; ++r) {
    CheckIndex("ScatterAddRows", "row", indices[r], out.rows);
    for (int64_t c = 0; c < in.cols; ++c) {
      Set(out, indices[r], c, AddRounded(Get(out, indices[r], c), Get(in, r, c), in_float));
    }
  }
}

}  // namespace fathom::kernels
