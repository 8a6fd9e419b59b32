// BF16 as the upper half of an FP32: conversions that round to nearest even.
//
// Every 16-bit pattern is exact in FP32; a NaN stays a NaN (made quiet); what is nearest to 2^128
// becomes an infinity. Branch-free, so that loops over them vectorise.
#ifndef FATHOM_KERNELS_BF16_H_
#define FATHOM_KERNELS_BF16_H_

#include <bit>
#include <cstdint>

namespace fathom::kernels {

inline float FloatFromBf16(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}

inline uint16_t Bf16FromFloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? quiet_nan : rounded);
}

}  // namespace fathom::kernels

#endif  // FATHOM_KERNELS_BF16_H_
