#include "kernels/cpu/fp8_rows.h"

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "kernels/fp8.h"

namespace fathom::kernels {
namespace {

// A normal code eeeemmm is the BF16 (eeee - 7 + 127)mmm0000, so its bits are 0x3C00 + (eeeemmm <<
// 4); of 0 and the seven subnormals m * 2^-9 the two bytes come from tables.
struct Bytes {
  __m256i low;
  __m256i high;
};

Bytes Bf16Bytes(__m256i codes) {
  const __m256i low_table = _mm256_setr_epi8(
      0, 0, char(0x80), char(0xC0), 0, 0x20, 0x40, 0x60, 0, 0, 0, 0, 0, 0, 0, 0,  //
      0, 0, char(0x80), char(0xC0), 0, 0x20, 0x40, 0x60, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m256i high_table =
      _mm256_setr_epi8(0, 0x3B, 0x3B, 0x3B, 0x3C, 0x3C, 0x3C, 0x3C, 0, 0, 0, 0, 0, 0, 0, 0,  //
                       0, 0x3B, 0x3B, 0x3B, 0x3C, 0x3C, 0x3C, 0x3C, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m256i magnitude = _mm256_and_si256(codes, _mm256_set1_epi8(0x7F));
  const __m256i is_subnormal = _mm256_cmpgt_epi8(_mm256_set1_epi8(8), magnitude);
  const __m256i is_nan = _mm256_cmpeq_epi8(magnitude, _mm256_set1_epi8(kE4M3NanCode));
  __m256i low = _mm256_and_si256(_mm256_slli_epi16(codes, 4), _mm256_set1_epi8(char(0xF0)));
  __m256i high = _mm256_and_si256(_mm256_srli_epi16(magnitude, 4), _mm256_set1_epi8(0x07));
  high = _mm256_add_epi8(high, _mm256_set1_epi8(0x3C));
  low = _mm256_blendv_epi8(low, _mm256_shuffle_epi8(low_table, magnitude), is_subnormal);
  high = _mm256_blendv_epi8(high, _mm256_shuffle_epi8(high_table, magnitude), is_subnormal);
  low = _mm256_blendv_epi8(low, _mm256_set1_epi8(char(0xC0)), is_nan);
  high = _mm256_blendv_epi8(high, _mm256_set1_epi8(0x7F), is_nan);
  const __m256i sign = _mm256_and_si256(codes, _mm256_set1_epi8(char(0x80)));
  return {.low = low, .high = _mm256_or_si256(high, sign)};
}

// 16 x 16 bytes. Interleaving row i with row i + 8 four times over takes bit by bit of the column
// index to the front of the row index.
void Transpose16(const uint8_t* in, int64_t in_stride, uint8_t* out, int64_t out_stride) {
  __m128i rows[16];
  __m128i next[16];
  for (int i = 0; i < 16; ++i) {
    rows[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i * in_stride));
  }
  for (int stage = 0; stage < 4; ++stage) {
    for (int i = 0; i < 8; ++i) {
      next[2 * i] = _mm_unpacklo_epi8(rows[i], rows[i + 8]);
      next[2 * i + 1] = _mm_unpackhi_epi8(rows[i], rows[i + 8]);
    }
    std::swap(rows, next);
  }
  for (int i = 0; i < 16; ++i) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i * out_stride), rows[i]);
  }
}

}  // namespace

void Bf16FromE4M3(const uint8_t* codes, int64_t n, uint16_t* out) {
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    const Bytes bytes = Bf16Bytes(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + i)));
    // Within each 128-bit half: 0..7 and 16..23, then 8..15 and 24..31.
    const __m256i first = _mm256_unpacklo_epi8(bytes.low, bytes.high);
    const __m256i second = _mm256_unpackhi_epi8(bytes.low, bytes.high);
    auto* to = reinterpret_cast<__m256i*>(out + i);
    _mm256_storeu_si256(to, _mm256_permute2x128_si256(first, second, 0x20));
    _mm256_storeu_si256(to + 1, _mm256_permute2x128_si256(first, second, 0x31));
  }
  for (; i < n; ++i) {
    out[i] = static_cast<uint16_t>(std::bit_cast<uint32_t>(FloatFromE4M3(codes[i])) >> 16);
  }
}

void TransposeBytes(const uint8_t* in, int64_t in_stride, int64_t rows, int64_t cols, uint8_t* out,
                    int64_t out_stride) {
  constexpr int64_t kEdge = 16;
  for (int64_t r = 0; r < rows; r += kEdge) {
    for (int64_t c = 0; c < cols; c += kEdge) {
      if (r + kEdge <= rows && c + kEdge <= cols) {
        Transpose16(in + r * in_stride + c, in_stride, out + c * out_stride + r, out_stride);
        continue;
      }
      for (int64_t i = c; i < std::min(cols, c + kEdge); ++i) {
        for (int64_t j = r; j < std::min(rows, r + kEdge); ++j) {
          out[i * out_stride + j] = in[j * in_stride + i];
        }
      }
    }
  }
}

}  // namespace fathom::kernels
