// Exponential and sigmoid in FP32 that the compiler can vectorise, and sums and maxima over rows
// whose order is fixed.
//
// std::exp is a call per element and has branches. Exp here is a polynomial without branches,
// within 2e-7 of the true value relatively (vector_math_test.cc). Sums use 32 lanes, element i in
// lane i % 32, folded at the end: the order depends on the length alone.
#ifndef FATHOM_KERNELS_CPU_VECTOR_MATH_H_
#define FATHOM_KERNELS_CPU_VECTOR_MATH_H_

#include <bit>
#include <cstdint>
#include <limits>

namespace fathom::kernels {

inline constexpr int64_t kLanes = 32;

// e^x. Below -87.3 (where the result would be subnormal) 0; above 88.3 infinity, although e^88.7
// would still be finite; NaN stays NaN.
inline float Exp(float x) {
  constexpr float kLowest = -87.3f;
  constexpr float kHighest = 88.3f;
  constexpr float kRoundingShift = 0x1.8p23f;  // its last place is 1
  float clamped = x < kHighest ? x : kHighest;
  clamped = clamped > kLowest ? clamped : kLowest;
  // x = n ln 2 + r with |r| <= ln 2 / 2, and ln 2 in two parts so that r keeps its low bits.
  const float shifted = __builtin_fmaf(clamped, 0x1.715476p0f, kRoundingShift);
  const float n = shifted - kRoundingShift;
  float r = __builtin_fmaf(n, -0x1.62e400p-1f, clamped);
  r = __builtin_fmaf(n, -0x1.7f7d1cp-20f, r);
  // e^r = 1 + r + r^2 p(r); p has the smallest largest relative error, 4e-9 (own Remez exchange).
  float p = 0x1.6a23d0p-10f;
  p = __builtin_fmaf(p, r, 0x1.123a20p-7f);
  p = __builtin_fmaf(p, r, 0x1.5558f2p-5f);
  p = __builtin_fmaf(p, r, 0x1.555492p-3f);
  p = __builtin_fmaf(p, r, 0x1.fffffcp-2f);
  const float e_r = __builtin_fmaf(p, r * r, r) + 1.0f;
  // 2^n: n sits in the low bits of shifted; move it into the exponent.
  const float two_n = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3F800000u);
  float result = e_r * two_n;
  result = x < kLowest ? 0.0f : result;
  result = x > kHighest ? std::numeric_limits<float>::infinity() : result;
  return x != x ? x : result;
}

inline float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }

// Folds the lanes pairwise, halves first.
template <typename T>
T FoldSum(T (&lane)[kLanes]) {
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t i = 0; i < half; ++i) {
      lane[i] += lane[i + half];
    }
  }
  return lane[0];
}

// Sum over i < n of term(i), in T.
template <typename T, typename Term>
T SumOf(int64_t n, Term term) {
  T lane[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      lane[j] += term(i + j);
    }
  }
  for (int64_t j = 0; i + j < n; ++j) {
    lane[j] += term(i + j);
  }
  return FoldSum(lane);
}

// The larger of `least` and every term(i), i < n; a NaN is passed over.
template <typename Term>
float MaxOf(int64_t n, float least, Term term) {
  float lane[kLanes];
  for (float& value : lane) {
    value = least;
  }
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const float value = term(i + j);
      lane[j] = value > lane[j] ? value : lane[j];
    }
  }
  for (int64_t j = 0; i + j < n; ++j) {
    const float value = term(i + j);
    lane[j] = value > lane[j] ? value : lane[j];
  }
  for (int64_t half = kLanes / 2; half > 0; half /= 2) {
    for (int64_t j = 0; j < half; ++j) {
      lane[j] = lane[j + half] > lane[j] ? lane[j + half] : lane[j];
    }
  }
  return lane[0];
}

}  // namespace fathom::kernels

#endif  // FATHOM_KERNELS_CPU_VECTOR_MATH_H_
