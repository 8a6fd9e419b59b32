// How far a backend may be from the reference, op by op: the one table all backends' tests use.
//
// An element passes when |got - want| <= relative * |want| + of_largest * L, where L is the largest
// magnitude in the wanted matrix, or of what is summed: a sum's error grows with its terms, not
// with its result. F32 figures are two to ten times the worst seen on random data of unit variance
// and depths up to 2048. Two values that round to neighbouring BF16 differ by up to 2^-7 of the
// larger, so every BF16 result has that on top.
#ifndef FATHOM_KERNELS_TOLERANCES_H_
#define FATHOM_KERNELS_TOLERANCES_H_

#include <array>
#include <cstdint>

#include "kernels/ops.h"

namespace fathom::kernels {

struct Tolerance {
  double relative = 0;
  double of_largest = 0;
};

enum class OpKind : uint8_t {
  kElementwise,  // fill, copy, add, scale, rows by index, embedding: one right answer
  kQuantize,     // codes, scales, decoded values, E5M6: one right answer
  kRowDot,
  kGemm,
  kGemmFp8,
  kRmsNorm,
  kRope,
  kAttention,
  kAttentionBackward,
  kSwiGlu,
  kCrossEntropy,
  kRouter,
  kAdamW,
};

// For results stored in F32.
inline constexpr std::array<Tolerance, 13> kF32Tolerances = {{
    {0, 0},        // kElementwise
    {0, 0},        // kQuantize
    {1e-7, 1e-7},  // kRowDot: FP64 inside, one rounding
    {0, 2e-6},     // kGemm
    {0, 2e-7},     // kGemmFp8
    {1e-6, 1e-6},  // kRmsNorm
    {0, 2e-7},     // kRope
    {0, 4e-6},     // kAttention
    {0, 4e-6},     // kAttentionBackward
    {1e-6, 1e-7},  // kSwiGlu
    {1e-6, 1e-6},  // kCrossEntropy
    {1e-7, 0},     // kRouter: FP64 inside
    {1e-6, 1e-7},  // kAdamW
}};

constexpr Tolerance ToleranceOf(OpKind op, DType dtype) {
  Tolerance tolerance = kF32Tolerances[static_cast<size_t>(op)];
  const bool exact = tolerance.relative == 0 && tolerance.of_largest == 0;
  if (dtype == DType::kBF16 && !exact) {
    tolerance.relative += 0x1p-7;
  }
  return tolerance;
}

}  // namespace fathom::kernels

#endif  // FATHOM_KERNELS_TOLERANCES_H_
