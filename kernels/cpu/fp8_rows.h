// Loops over E4M3 codes that the compiler does not vectorise well on its own, in AVX2.
#ifndef FATHOM_KERNELS_CPU_FP8_ROWS_H_
#define FATHOM_KERNELS_CPU_FP8_ROWS_H_

#include <cstdint>

namespace fathom::kernels {

// out[i] = the BF16 that equals codes[i] (each does, exactly), NaN as 0x7FC0 with its sign.
void Bf16FromE4M3(const uint8_t* codes, int64_t n, uint16_t* out);

// out[c * out_stride + r] = in[r * in_stride + c] for r < rows, c < cols.
void TransposeBytes(const uint8_t* in, int64_t in_stride, int64_t rows, int64_t cols, uint8_t* out,
                    int64_t out_stride);

}  // namespace fathom::kernels

#endif  // FATHOM_KERNELS_CPU_FP8_ROWS_H_
