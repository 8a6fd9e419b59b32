// Holds the number formats against their definitions, bit for bit. The definitions here are slow
// and independent: a list of all values, and a search for the nearest.
#include "kernels/fp8.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/bf16.h"

namespace fathom::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A format's values >= 0, ascending; the index is the code. Even codes have an even last place.
struct Format {
  std::vector<double> values;

  Format(int exponent_bits, int mantissa_bits, int bias, int codes) {
    for (int code = 0; code < codes; ++code) {
      const int exponent = (code >> mantissa_bits) & ((1 << exponent_bits) - 1);
      const int mantissa = code & ((1 << mantissa_bits) - 1);
      const double fraction = std::ldexp(mantissa, -mantissa_bits);
      values.push_back(exponent == 0 ? std::ldexp(fraction, 1 - bias)
                                     : std::ldexp(1 + fraction, exponent - bias));
    }
  }

  // Code of the value nearest to magnitude, ties to the even code; the largest beyond its end.
  int Nearest(double magnitude) const {
    int best = 0;
    int low = 0;
    int high = static_cast<int>(values.size()) - 1;
    while (low < high) {  // first value >= magnitude
      const int middle = (low + high) / 2;
      (values[middle] >= magnitude ? high : low) =
          values[middle] >= magnitude ? middle : middle + 1;
    }
    best = low;
    if (low > 0 && magnitude < values[low]) {
      const double up = values[low] - magnitude;
      const double down = magnitude - values[low - 1];
      if (down < up || (down == up && (low - 1) % 2 == 0)) {
        best = low - 1;
      }
    }
    return best;
  }
};

const Format& E4M3() {
  static const Format format(4, 3, 7, 127);  // 0x7F is NaN
  return format;
}

const Format& E5M6() {
  static const Format format(5, 6, 15, 31 << 6);
  return format;
}

// 0x7F80 stands for 2^128, to which what is nearest becomes infinite.
const Format& Bf16() {
  static const Format format(8, 7, 127, 0x7F81);
  return format;
}

uint8_t E4M3Definition(float x) {
  const int sign = std::signbit(x) ? 0x80 : 0;
  return static_cast<uint8_t>(sign | (std::isnan(x) ? 0x7F : E4M3().Nearest(std::fabs(x))));
}

float E5M6Definition(float x) {
  return static_cast<float>(
      std::copysign(E5M6().values[E5M6().Nearest(std::fabs(x))], static_cast<double>(x)));
}

uint16_t Bf16Definition(float x) {
  const int sign = std::signbit(x) ? 0x8000 : 0;
  return static_cast<uint16_t>(sign | Bf16().Nearest(std::fabs(x)));
}

// All values of a format, all midpoints of neighbours, each with the floats next to it, both signs.
std::vector<float> EdgesOf(const Format& format) {
  std::vector<float> edges;
  const auto add = [&edges](double value) {
    const float x = static_cast<float>(value);
    for (const float y : {x, std::nextafter(x, 0.0f), std::nextafter(x, kInfinity)}) {
      edges.push_back(y);
      edges.push_back(-y);
    }
  };
  for (size_t i = 0; i < format.values.size(); ++i) {
    add(format.values[i]);
    if (i + 1 < format.values.size()) {
      add((format.values[i] + format.values[i + 1]) / 2);
    }
  }
  return edges;
}

// Floats of every exponent: each stride-th bit pattern, NaN left out.
template <typename F>
void ForBitPatterns(uint32_t stride, F f) {
  for (uint64_t bits = 0; bits <= 0xFFFFFFFFu; bits += stride) {
    const float x = std::bit_cast<float>(static_cast<uint32_t>(bits));
    if (!std::isnan(x)) {
      f(x);
    }
  }
}

uint32_t Bits(float x) { return std::bit_cast<uint32_t>(x); }

TEST(E4M3Test, EveryCode_DecodesToItsDefinition) {
  for (int code = 0; code < 256; ++code) {
    const float value = FloatFromE4M3(static_cast<uint8_t>(code));
    if ((code & 0x7F) == 0x7F) {
      EXPECT_TRUE(std::isnan(value)) << code;
      EXPECT_EQ(std::signbit(value), code == 0xFF);
      continue;
    }
    const float want = static_cast<float>(E4M3().values[code & 0x7F]) * (code >= 0x80 ? -1 : 1);
    EXPECT_EQ(Bits(value), Bits(want)) << code;
  }
}

TEST(E4M3Test, EveryCode_SurvivesARoundTrip) {
  for (int code = 0; code < 256; ++code) {
    EXPECT_EQ(E4M3FromFloat(FloatFromE4M3(static_cast<uint8_t>(code))), code);
  }
}

TEST(E4M3Test, ValuesTiesAndTheirNeighbours_RoundToNearestEven) {
  for (const float x : EdgesOf(E4M3())) {
    EXPECT_EQ(E4M3FromFloat(x), E4M3Definition(x)) << x;
  }
}

TEST(E4M3Test, KnownTies_GoToTheEvenCode) {
  EXPECT_EQ(E4M3FromFloat(0x1p-10f), 0x00);   // between 0 and the smallest subnormal
  EXPECT_EQ(E4M3FromFloat(0x1.8p-9f), 0x02);  // between subnormals 1 and 2
  EXPECT_EQ(E4M3FromFloat(0x1.Ep-7f), 0x08);  // between the last subnormal and the first normal
  EXPECT_EQ(E4M3FromFloat(17.0f), 0x58);      // between 16 and 18
  EXPECT_EQ(E4M3FromFloat(19.0f), 0x5A);      // between 18 and 20
  EXPECT_EQ(E4M3FromFloat(464.0f), 0x7E);     // between 448 and what would be 480
}

TEST(E4M3Test, BeyondTheLargest_Saturates) {
  for (const float x : {448.0f, 449.0f, 463.9f, 464.1f, 480.0f, 1e6f,
                        std::numeric_limits<float>::max(), kInfinity}) {
    EXPECT_EQ(E4M3FromFloat(x), 0x7E) << x;
    EXPECT_EQ(E4M3FromFloat(-x), 0xFE) << x;
  }
}

TEST(E4M3Test, Nan_StaysNanAndKeepsItsSign) {
  for (const uint32_t bits : {0x7F800001u, 0x7FC00000u, 0x7FFFFFFFu}) {
    EXPECT_EQ(E4M3FromFloat(std::bit_cast<float>(bits)), 0x7F);
    EXPECT_EQ(E4M3FromFloat(std::bit_cast<float>(bits | 0x80000000u)), 0xFF);
  }
}

TEST(E4M3Test, SignedZerosAndFloatSubnormals_KeepTheirSign) {
  EXPECT_EQ(E4M3FromFloat(0.0f), 0x00);
  EXPECT_EQ(E4M3FromFloat(-0.0f), 0x80);
  EXPECT_EQ(E4M3FromFloat(std::numeric_limits<float>::denorm_min()), 0x00);
  EXPECT_EQ(E4M3FromFloat(-std::numeric_limits<float>::denorm_min()), 0x80);
}

TEST(E4M3Test, FloatsOfEveryExponent_RoundAsDefined) {
  int64_t wrong = 0;
  ForBitPatterns(4093, [&](float x) { wrong += E4M3FromFloat(x) != E4M3Definition(x); });
  EXPECT_EQ(wrong, 0);
}

TEST(E5M6Test, ValuesTiesAndTheirNeighbours_RoundToNearestEven) {
  for (const float x : EdgesOf(E5M6())) {
    EXPECT_EQ(Bits(RoundToE5M6(x)), Bits(E5M6Definition(x))) << x;
  }
}

TEST(E5M6Test, FloatsOfEveryExponent_RoundAsDefined) {
  int64_t wrong = 0;
  ForBitPatterns(16411, [&](float x) { wrong += Bits(RoundToE5M6(x)) != Bits(E5M6Definition(x)); });
  EXPECT_EQ(wrong, 0);
}

TEST(E5M6Test, InfinityAndNan_SaturateAndStay) {
  EXPECT_EQ(RoundToE5M6(kInfinity), kE5M6Max);
  EXPECT_EQ(RoundToE5M6(-kInfinity), -kE5M6Max);
  EXPECT_TRUE(std::isnan(RoundToE5M6(std::numeric_limits<float>::quiet_NaN())));
}

TEST(E5M6Test, EveryValue_IsExactInBf16) {
  for (const double value : E5M6().values) {
    const float x = static_cast<float>(value);
    EXPECT_EQ(FloatFromBf16(Bf16FromFloat(x)), x);
  }
}

TEST(Bf16Test, ValuesTiesAndTheirNeighbours_RoundToNearestEven) {
  for (const float x : EdgesOf(Bf16())) {
    if (!std::isnan(x)) {
      EXPECT_EQ(Bf16FromFloat(x), Bf16Definition(x)) << x;
    }
  }
}

TEST(Bf16Test, FloatsOfEveryExponent_RoundAsDefined) {
  int64_t wrong = 0;
  ForBitPatterns(16411, [&](float x) { wrong += Bf16FromFloat(x) != Bf16Definition(x); });
  EXPECT_EQ(wrong, 0);
}

TEST(Bf16Test, EveryPattern_SurvivesARoundTrip) {
  for (int bits = 0; bits < 0x10000; ++bits) {
    const float x = FloatFromBf16(static_cast<uint16_t>(bits));
    const uint16_t back = Bf16FromFloat(x);
    if (std::isnan(x)) {
      EXPECT_TRUE(std::isnan(FloatFromBf16(back)));
      EXPECT_EQ(back | 0x40, bits | 0x40);
    } else {
      EXPECT_EQ(back, bits);
    }
  }
}

TEST(ScaleTest, Amax_IsClampedAndDivided) {
  for (const float amax : {0.0f, 1e-9f, 1e-4f, std::nextafter(1e-4f, 1.0f), 0.3f, 448.0f, 3e38f}) {
    EXPECT_EQ(E4M3Scale(amax, ScaleRule::kAmax), (amax < 1e-4f ? 1e-4f : amax) / 448.0f) << amax;
  }
}

TEST(ScaleTest, PowerOfTwo_IsTheSmallestThatIsNotBelow) {
  for (float amax = 1e-5f; amax < 1e30f; amax *= 1.37f) {
    const float exact = E4M3Scale(amax, ScaleRule::kAmax);
    const float scale = E4M3Scale(amax, ScaleRule::kPowerOfTwo);
    int exponent = 0;
    EXPECT_EQ(std::frexp(scale, &exponent), 0.5f) << amax;
    EXPECT_GE(scale, exact);
    EXPECT_LT(scale / 2, exact);
    const float e5m6 = E5M6Scale(amax);
    EXPECT_EQ(std::frexp(e5m6, &exponent), 0.5f) << amax;
    EXPECT_GE(e5m6 * kE5M6Max, amax);
  }
  EXPECT_EQ(RoundUpToPowerOfTwo(4.0f), 4.0f);
  EXPECT_EQ(RoundUpToPowerOfTwo(std::nextafter(4.0f, 5.0f)), 8.0f);
}

TEST(ScaleTest, InfiniteAmax_GivesAnInfiniteScale) {
  EXPECT_EQ(E4M3Scale(kInfinity, ScaleRule::kAmax), kInfinity);
  EXPECT_EQ(E4M3Scale(kInfinity, ScaleRule::kPowerOfTwo), kInfinity);
}

}  // namespace
}  // namespace fathom::kernels
