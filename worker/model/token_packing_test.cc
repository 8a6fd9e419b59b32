#include "worker/model/token_packing.h"

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "worker/model/numerics.h"

namespace fathom::model {
namespace {

constexpr int64_t kHidden = 4;
constexpr int64_t kTopK = 2;

// Experts 0, 2 live on rank 0, experts 1, 3 on rank 1.
const std::vector<int32_t> kOwner = {0, 1, 0, 1};

// Token t's hidden values are 100 * base + t, its weights base + t / 10 and that plus 0.5.
struct Source {
  SourceLayout layout;
  std::vector<int32_t> experts;
  std::vector<std::byte> message;

  absl::Span<const std::byte> to(int rank, const RecordFormat& format) const {
    return absl::MakeConstSpan(message).subspan(layout.offsets[rank] * format.bytes,
                                                layout.count(rank) * format.bytes);
  }
};

Source MakeSource(const RecordFormat& format, float base, std::vector<int32_t> experts) {
  Source out;
  out.experts = experts;
  const ExpertMap map = ExpertMap::Make(kOwner, 2, 0);
  LayOutTokens(map, experts, kTopK, &out.layout);
  const auto tokens = static_cast<int64_t>(experts.size()) / kTopK;
  std::vector<float> hidden;
  std::vector<float> weights;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t d = 0; d < kHidden; ++d) hidden.push_back(100 * base + static_cast<float>(t));
    weights.push_back(base + static_cast<float>(t) / 10);
    weights.push_back(weights.back() + 0.5f);
  }
  HostRows rows;
  rows.Resize(format, tokens);
  std::memcpy(rows.hidden.data(), hidden.data(), rows.hidden.size());
  const auto* bytes = reinterpret_cast<const std::byte*>(weights.data());
  PackRecords(format, out.layout, rows, out.experts,
              absl::MakeConstSpan(bytes, weights.size() * sizeof(float)), &out.message);
  return out;
}

std::vector<float> Floats(const std::vector<std::byte>& bytes) {
  std::vector<float> out(bytes.size() / sizeof(float));
  std::memcpy(out.data(), bytes.data(), out.size() * sizeof(float));
  return out;
}

TEST(TokenPacking, TokensOfTwoSources_AreOrderedByExpertThenSourceThenToken) {
  const RecordFormat format = TokenRecord(Numerics(), kHidden, kTopK);
  EXPECT_EQ(format.bytes % 16, 0);
  const Source first = MakeSource(format, 1, {0, 1, 1, 3, 2, 0});
  const Source second = MakeSource(format, 2, {3, 2, 2, 1});
  EXPECT_EQ(first.layout.tokens, (std::vector<int32_t>{0, 2, 0, 1}));
  EXPECT_EQ(first.layout.offsets, (std::vector<int64_t>{0, 2, 4}));

  const ExpertMap map = ExpertMap::Make(kOwner, 2, 0);
  EXPECT_EQ(map.local, (std::vector<int32_t>{0, -1, 1, -1}));
  ExpertLayout layout;
  HostRows rows;
  std::vector<std::byte> weights;
  const Messages messages = {first.to(0, format), second.to(0, format)};
  ASSERT_TRUE(UnpackTokens(format, map, messages, 3, &layout, &rows, &weights).ok());
  EXPECT_EQ(layout.record_offsets, (std::vector<int64_t>{0, 2, 4}));
  // Expert 0: tokens 0 and 2 of the first; expert 2: token 2 of the first, 0 and 1 of the second.
  EXPECT_EQ(layout.pair_offsets, (std::vector<int64_t>{0, 2, 5}));
  EXPECT_EQ(layout.pair_record, (std::vector<int32_t>{0, 1, 1, 2, 3}));
  EXPECT_EQ(layout.pair_slot, (std::vector<int32_t>{0, 1, 0, 1, 0}));
  const std::vector<float> hidden = Floats(rows.hidden);
  ASSERT_EQ(hidden.size(), 5u * kHidden);
  const std::vector<float> expected = {100, 102, 102, 200, 201};
  for (size_t p = 0; p < expected.size(); ++p) EXPECT_EQ(hidden[p * kHidden + 3], expected[p]);
  EXPECT_EQ(Floats(weights), (std::vector<float>{1, 1.7f, 1.2f, 2.5f, 2.1f}));
}

TEST(TokenPacking, GradientsOfTheSameTokens_ArriveInTheOrderOfPairs) {
  const RecordFormat tokens = TokenRecord(Numerics(), kHidden, kTopK);
  const Source source = MakeSource(tokens, 1, {0, 2, 2, 1, 3, 0});
  const ExpertMap map = ExpertMap::Make(kOwner, 2, 0);
  ExpertLayout layout;
  HostRows rows;
  std::vector<std::byte> weights;
  const Messages messages = {source.to(0, tokens), {}};
  ASSERT_TRUE(UnpackTokens(tokens, map, messages, 3, &layout, &rows, &weights).ok());

  const RecordFormat format = GradientRecord(Numerics(), kHidden);
  HostRows gradients;
  gradients.Resize(format, 3);
  const std::vector<float> values = {7, 7, 7, 7, 8, 8, 8, 8, 9, 9, 9, 9};
  std::memcpy(gradients.hidden.data(), values.data(), gradients.hidden.size());
  std::vector<std::byte> message;
  PackRecords(format, source.layout, gradients, {}, {}, &message);
  const Messages gradient_messages = {
      absl::MakeConstSpan(message).first(source.layout.count(0) * format.bytes), {}};
  ASSERT_TRUE(UnpackGradients(format, layout, gradient_messages, &rows).ok());
  const std::vector<float> hidden = Floats(rows.hidden);
  // Expert 0: tokens 0 and 2; expert 2: tokens 0 and 1.
  EXPECT_EQ(hidden[0], 7);
  EXPECT_EQ(hidden[kHidden], 9);
  EXPECT_EQ(hidden[2 * kHidden], 7);
  EXPECT_EQ(hidden[3 * kHidden], 8);
}

TEST(TokenPacking, Fp8Record_CarriesCodesScalesExpertsAndWeights) {
  Numerics numerics;
  numerics.fp8 = numerics.fp8_dispatch = true;
  const RecordFormat format = TokenRecord(numerics, 200, 3);
  EXPECT_EQ(format.hidden_bytes, 200);
  EXPECT_EQ(format.scale_bytes, 8);
  EXPECT_EQ(format.scales_at, 208);
  EXPECT_EQ(format.experts_at, 224);
  EXPECT_EQ(format.weights_at, 240);
  EXPECT_EQ(format.bytes, 256);
  // DeepSeek-V3's token: 7168 codes, 56 scales, 8 experts and weights.
  EXPECT_EQ(TokenRecord(numerics, 7168, 8).bytes, 7168 + 224 + 32 + 32);
  EXPECT_EQ(MaxMessageBytes(numerics, 7168, 8, 4096, Lane::kDispatchForward), 4096 * 7456);
  EXPECT_EQ(MaxMessageBytes(numerics, 7168, 8, 4096, Lane::kCombineBackward), 4096 * 7392);
}

TEST(TokenPacking, LyingMessages_AreDataLoss) {
  const RecordFormat format = TokenRecord(Numerics(), kHidden, kTopK);
  Source source = MakeSource(format, 1, {0, 2, 2, 0});
  const ExpertMap map = ExpertMap::Make(kOwner, 2, 0);
  ExpertLayout layout;
  HostRows rows;
  std::vector<std::byte> weights;
  const auto unpack = [&](const Messages& messages, int64_t max_tokens) {
    return UnpackTokens(format, map, messages, max_tokens, &layout, &rows, &weights);
  };
  const absl::Span<const std::byte> whole = source.to(0, format);
  EXPECT_TRUE(unpack({whole, {}}, 2).ok());
  const absl::Status cut = unpack({{}, whole.first(whole.size() - 1)}, 2);
  EXPECT_EQ(cut.code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(std::string(cut.message()).find("expert rank 1"), std::string::npos) << cut;
  EXPECT_EQ(unpack({whole, {}}, 1).code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(unpack({whole, {}}, 2).ok());
  EXPECT_EQ(UnpackGradients(format, layout, {whole.first(format.bytes), {}}, &rows).code(),
            absl::StatusCode::kDataLoss);
  for (const int32_t wrong : {4, -1}) {
    std::memcpy(source.message.data() + format.experts_at, &wrong, sizeof(wrong));
    EXPECT_EQ(unpack({source.to(0, format), {}}, 2).code(), absl::StatusCode::kDataLoss);
  }
}

}  // namespace
}  // namespace fathom::model
