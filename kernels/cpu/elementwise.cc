#include <algorithm>
#include <cstdint>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/float_rows.h"
#include "kernels/cpu/vector_math.h"

namespace fathom::kernels {
namespace {

// out[r] = in[from(r)], where neither is F64.
template <typename From>
void CopyRows(const Matrix& in, From from, const Matrix& out) {
  float buffer[kRun];
  ForEachRun(out, [&](int64_t r, int64_t col, int64_t n) {
    if (in.dtype == out.dtype) {
      const int64_t size = SizeOf(in.dtype);
      std::memcpy(static_cast<char*>(RowData(out, r)) + col * size,
                  static_cast<char*>(RowData(in, from(r))) + col * size, n * size);
    } else if (out.dtype == DType::kF32) {
      ReadRow(in, from(r), col, n, WriteRow(out, r, col, buffer));
    } else {
      StoreRow(out, r, col, n, ReadRow(in, from(r), col, n, buffer));
    }
  });
}

// out[to(r)] = a[r] + b[at_b(r)], for r of a's rows.
template <typename AtB, typename To>
void AddRows(const Matrix& a, const Matrix& b, AtB at_b, const Matrix& out, To to) {
  float a_buffer[kRun];
  float b_buffer[kRun];
  float out_buffer[kRun];
  ForEachRun(a, [&](int64_t r, int64_t col, int64_t n) {
    const float* x = ReadRow(a, r, col, n, a_buffer);
    const float* y = ReadRow(b, at_b(r), col, n, b_buffer);
    float* sum = WriteRow(out, to(r), col, out_buffer);
#pragma GCC ivdep  // in place or apart, never shifted
    for (int64_t i = 0; i < n; ++i) {
      sum[i] = x[i] + y[i];
    }
    StoreRow(out, to(r), col, n, sum);
  });
}

template <typename Factor>
void MultiplyRows(const Matrix& in, Factor factor, const Matrix& out) {
  float in_buffer[kRun];
  float out_buffer[kRun];
  ForEachRun(in, [&](int64_t r, int64_t col, int64_t n) {
    const float* x = ReadRow(in, r, col, n, in_buffer);
    float* y = WriteRow(out, r, col, out_buffer);
    const float by = factor(r);
#pragma GCC ivdep  // in place or apart, never shifted
    for (int64_t i = 0; i < n; ++i) {
      y[i] = x[i] * by;
    }
    StoreRow(out, r, col, n, y);
  });
}

int64_t SameRow(int64_t r) { return r; }

}  // namespace

void CpuOps::Fill(const Matrix& out, double value) {
  CheckSameShape("Fill", out, "out", out);
  if (AnyF64({&out})) {
    ReferenceOps::Fill(out, value);
    return;
  }
  const float rounded = static_cast<float>(value);
  for (int64_t r = 0; r < out.rows; ++r) {
    if (out.dtype == DType::kF32) {
      std::fill_n(static_cast<float*>(RowData(out, r)), out.cols, rounded);
    } else {
      std::fill_n(static_cast<uint16_t*>(RowData(out, r)), out.cols, Bf16FromFloat(rounded));
    }
  }
}

void CpuOps::Copy(const Matrix& in, const Matrix& out) {
  CheckSameShape("Copy", in, "in", in);
  CheckSameShape("Copy", in, "out", out);
  if (AnyF64({&in, &out})) {
    ReferenceOps::Copy(in, out);
  } else if (AllDense({&in, &out})) {
    CopyRows(Flat(in), SameRow, Flat(out));
  } else {
    CopyRows(in, SameRow, out);
  }
}

void CpuOps::Add(const Matrix& a, const Matrix& b, const Matrix& out) {
  CheckSameShape("Add", a, "b", b);
  CheckSameShape("Add", a, "out", out);
  if (AnyF64({&a, &b, &out})) {
    ReferenceOps::Add(a, b, out);
  } else if (AllDense({&a, &b, &out})) {
    AddRows(Flat(a), Flat(b), SameRow, Flat(out), SameRow);
  } else {
    AddRows(a, b, SameRow, out, SameRow);
  }
}

void CpuOps::Scale(const Matrix& x, double factor) {
  CheckSameShape("Scale", x, "x", x);
  if (AnyF64({&x})) {
    ReferenceOps::Scale(x, factor);
    return;
  }
  const Matrix flat = AllDense({&x}) ? Flat(x) : x;
  MultiplyRows(
      flat, [factor](int64_t) { return static_cast<float>(factor); }, flat);
}

void CpuOps::ScaleRows(const Matrix& in, const float* factors, const Matrix& out) {
  CheckSameShape("ScaleRows", in, "out", out);
  if (AnyF64({&in, &out})) {
    ReferenceOps::ScaleRows(in, factors, out);
    return;
  }
  MultiplyRows(
      in, [factors](int64_t r) { return factors[r]; }, out);
}

void CpuOps::RowDot(const Matrix& a, const Matrix& b, float* out) {
  CheckSameShape("RowDot", a, "b", b);
  if (AnyF64({&a, &b})) {
    ReferenceOps::RowDot(a, b, out);
    return;
  }
  float a_buffer[kRun];
  float b_buffer[kRun];
  for (int64_t r = 0; r < a.rows; ++r) {
    double sum = 0;
    for (int64_t col = 0; col < a.cols; col += kRun) {
      const int64_t n = std::min(kRun, a.cols - col);
      const float* x = ReadRow(a, r, col, n, a_buffer);
      const float* y = ReadRow(b, r, col, n, b_buffer);
      sum += SumOf<double>(n, [x, y](int64_t i) { return static_cast<double>(x[i]) * y[i]; });
    }
    out[r] = static_cast<float>(sum);
  }
}

double CpuOps::SumOfSquares(const Matrix& x) {
  CheckSameShape("SumOfSquares", x, "x", x);
  if (AnyF64({&x})) {
    return ReferenceOps::SumOfSquares(x);
  }
  float buffer[kRun];
  double sum = 0;
  ForEachRun(x, [&](int64_t r, int64_t col, int64_t n) {
    const float* in = ReadRow(x, r, col, n, buffer);
    for (int64_t i = 0; i < n; ++i) {
      sum += static_cast<double>(in[i]) * in[i];
    }
  });
  return sum;
}

void CpuOps::GatherRows(const Matrix& in, const int32_t* indices, const Matrix& out) {
  if (AnyF64({&in, &out})) {
    ReferenceOps::GatherRows(in, indices, out);
    return;
  }
  CheckShape("GatherRows", "out", out, out.rows, in.cols);
  for (int64_t r = 0; r < out.rows; ++r) {
    CheckIndex("GatherRows", "row", indices[r], in.rows);
  }
  CopyRows(
      in, [indices](int64_t r) { return indices[r]; }, out);
}

void CpuOps::ScatterAddRows(const Matrix& in, const int32_t* indices, const Matrix& out) {
  if (AnyF64({&in, &out})) {
    ReferenceOps::ScatterAddRows(in, indices, out);
    return;
  }
  CheckShape("ScatterAddRows", "in", in, in.rows, out.cols);
  for (int64_t r = 0; r < in.rows; ++r) {
    CheckIndex("ScatterAddRows", "row", indices[r], out.rows);
  }
  const auto target = [indices](int64_t r) -> int64_t { return indices[r]; };
  AddRows(in, out, target, out, target);
}

}  // namespace fathom::kernels
