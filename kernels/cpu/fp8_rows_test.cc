#include "kernels/cpu/fp8_rows.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <vector>

#include "kernels/fp8.h"

namespace fathom::kernels {
namespace {

TEST(Bf16FromE4M3Test, EveryCodeAtEveryPlace_IsExact) {
  std::vector<uint8_t> codes(256 + 37);
  for (int first = 0; first < 256; ++first) {
    for (size_t i = 0; i < codes.size(); ++i) {
      codes[i] = static_cast<uint8_t>(first + i);
    }
    std::vector<uint16_t> out(codes.size());
    Bf16FromE4M3(codes.data(), static_cast<int64_t>(codes.size()), out.data());
    for (size_t i = 0; i < codes.size(); ++i) {
      ASSERT_EQ(uint32_t{out[i]} << 16, std::bit_cast<uint32_t>(FloatFromE4M3(codes[i]))) << i;
    }
  }
}

TEST(TransposeBytesTest, RaggedSizes_MoveEveryByteAndNoOther) {
  for (const auto& [rows, cols] : std::vector<std::pair<int64_t, int64_t>>{
           {1, 1}, {16, 16}, {16, 1}, {1, 40}, {33, 50}, {128, 128}, {17, 15}}) {
    const int64_t in_stride = cols + 3;
    const int64_t out_stride = rows + 5;
    std::vector<uint8_t> in(rows * in_stride);
    for (size_t i = 0; i < in.size(); ++i) {
      in[i] = static_cast<uint8_t>(i * 37 + i / 256);
    }
    std::vector<uint8_t> out(cols * out_stride, 0xEE);
    TransposeBytes(in.data(), in_stride, rows, cols, out.data(), out_stride);
    for (int64_t c = 0; c < cols; ++c) {
      for (int64_t r = 0; r < out_stride; ++r) {
        ASSERT_EQ(out[c * out_stride + r], r < rows ? in[r * in_stride + c] : 0xEE)
            << rows << "x" << cols << " at " << r << ", " << c;
      }
    }
  }
}

}  // namespace
}  // namespace fathom::kernels
