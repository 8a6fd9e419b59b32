// The number formats of FP8 training: E4M3 codes, E5M6 rounding, and the scales of their tiles.
//
// E4M3 (OCP, without infinities): sign, 4 exponent bits with bias 7, 3 mantissa bits. Largest value
// 448 (code 0x7E), smallest normal 2^-6, smallest subnormal 2^-9; 0x7F and 0xFF are NaN.
// E5M6 is a 12-bit format: 5 exponent bits with bias 15, 6 mantissa bits, the top exponent left to
// NaN. Largest value 65024, smallest normal 2^-14, smallest subnormal 2^-20. Each fits in a BF16.
//
// All of it is branch-free integer arithmetic on FP32 bits, so that loops over it vectorise, and is
// the one implementation that both backends use; fp8_test.cc holds it against the definition.
#ifndef FATHOM_KERNELS_FP8_H_
#define FATHOM_KERNELS_FP8_H_

#include <bit>
#include <cstdint>

#include "kernels/ops.h"

namespace fathom::kernels {

inline constexpr float kE4M3Max = 448.0f;
inline constexpr uint8_t kE4M3MaxCode = 0x7E;
inline constexpr uint8_t kE4M3NanCode = 0x7F;
inline constexpr float kE5M6Max = 65024.0f;

// A tile's largest magnitude is taken as at least this (DeepSeek-V3 practice), so that a tile of
// zeros has a scale.
inline constexpr float kAmaxMin = 1e-4f;

// condition ? yes : no, by a mask: a plain conditional becomes a jump, which does not vectorise.
inline uint32_t Select(bool condition, uint32_t yes, uint32_t no) {
  const uint32_t mask = 0u - static_cast<uint32_t>(condition);
  return (yes & mask) | (no & ~mask);
}

// Nearest E4M3 code, ties to even; magnitudes beyond 448 (infinity too) give 448; NaN gives NaN.
// The sign is kept, of zero and NaN too.
inline uint8_t E4M3FromFloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  // Normal: round 23 mantissa bits to 3, then take the exponent's bias from 127 to 7.
  const uint32_t rounded = (magnitude + 0x7FFFFu + ((magnitude >> 20) & 1u)) >> 20;
  const uint32_t normal = rounded - ((127u - 7u) << 3);
  // Subnormal: adding 2^14, whose last place is 2^-9, makes the adder round; the code is what is
  // left above it. A value that rounds up to 2^-6 yields 8, that number's code.
  const float shifted = std::bit_cast<float>(magnitude) + 0x1p14f;
  const uint32_t subnormal = std::bit_cast<uint32_t>(shifted) - std::bit_cast<uint32_t>(0x1p14f);
  uint32_t code = Select(magnitude < std::bit_cast<uint32_t>(0x1p-6f), subnormal, normal);
  code = code < kE4M3MaxCode ? code : kE4M3MaxCode;
  // A NaN has become the largest code too; the next one is NaN's.
  code += static_cast<uint32_t>(magnitude > 0x7F800000u);
  return static_cast<uint8_t>(code | ((bits >> 24) & 0x80u));
}

inline float FloatFromE4M3(uint8_t code) {
  const uint32_t magnitude = code & 0x7Fu;
  const uint32_t normal = (magnitude << 20) + ((127u - 7u) << 23);
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-9f);
  uint32_t bits = Select(magnitude < 8u, subnormal, normal);
  bits = Select(magnitude == kE4M3NanCode, 0x7FC00000u, bits);
  return std::bit_cast<float>(bits | ((code & 0x80u) << 24));
}

// Nearest E5M6 value, ties to even; saturates at 65024; NaN stays NaN; the sign is kept.
inline float RoundToE5M6(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  const uint32_t normal = (magnitude + 0xFFFFu + ((magnitude >> 17) & 1u)) & ~0x1FFFFu;
  // 8's last place is 2^-20, the step of the subnormals.
  const uint32_t subnormal =
      std::bit_cast<uint32_t>((std::bit_cast<float>(magnitude) + 8.0f) - 8.0f);
  uint32_t rounded = Select(magnitude < std::bit_cast<uint32_t>(0x1p-14f), subnormal, normal);
  const uint32_t largest = std::bit_cast<uint32_t>(kE5M6Max);
  rounded = Select(rounded < largest, rounded, largest);
  rounded = Select(magnitude > 0x7F800000u, magnitude, rounded);
  return std::bit_cast<float>(rounded | (bits & 0x80000000u));
}

// Smallest power of two that is >= value; value is positive and normal. Infinity and NaN stay.
inline float RoundUpToPowerOfTwo(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t up = (bits + 0x7FFFFFu) & 0x7F800000u;
  return std::bit_cast<float>(bits >= 0x7F800000u ? bits : up);
}

// Scale of a tile whose largest magnitude is amax: max(amax, 1e-4) / 448 in FP32, for kPowerOfTwo
// rounded up to a power of two. An infinite amax gives an infinite scale: such a tile decodes to
// NaN throughout, so a diverged activation is seen instead of being clipped.
inline float E4M3Scale(float amax, ScaleRule rule) {
  const float scale = (amax > kAmaxMin ? amax : kAmaxMin) / kE4M3Max;
  return rule == ScaleRule::kPowerOfTwo ? RoundUpToPowerOfTwo(scale) : scale;
}

// Power-of-two scale of an E5M6 tile: max(amax, 1e-4) / 65024, rounded up.
inline float E5M6Scale(float amax) {
  return RoundUpToPowerOfTwo((amax > kAmaxMin ? amax : kAmaxMin) / kE5M6Max);
}

}  // namespace fathom::kernels

#endif  // FATHOM_KERNELS_FP8_H_
