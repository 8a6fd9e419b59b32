// Every backward against central differences of its forward, on the reference in FP64; and facts
// about some forwards that do not come from reading their code.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#include "kernels/fp8.h"
#include "kernels/op_testing.h"
#include "kernels/ops.h"

namespace fathom::kernels {
namespace {

constexpr uint32_t kSeed = 7;
constexpr double kStep = 1e-5;  // a central difference's own error is about kStep^2

TestMatrix Normal(Random& random, int64_t rows, int64_t cols, double deviation = 1) {
  TestMatrix m(DType::kF64, rows, cols, 1);
  return m.FillNormal(random, deviation);
}

// Sum of the products of the elements.
double Inner(const TestMatrix& x, const TestMatrix& y) {
  double sum = 0;
  for (int64_t r = 0; r < x.view().rows; ++r) {
    for (int64_t c = 0; c < x.view().cols; ++c) {
      sum += x.at(r, c) * y.at(r, c);
    }
  }
  return sum;
}

// Expects gradient to be that of loss, which reads x.
void ExpectGradient(TestMatrix& x, const std::function<double()>& loss, const TestMatrix& gradient,
                    const char* what) {
  double largest = 0;
  for (int64_t r = 0; r < x.view().rows; ++r) {
    for (int64_t c = 0; c < x.view().cols; ++c) {
      largest = std::max(largest, std::fabs(gradient.at(r, c)));
    }
  }
  EXPECT_GT(largest, 0) << what;
  for (int64_t r = 0; r < x.view().rows; ++r) {
    for (int64_t c = 0; c < x.view().cols; ++c) {
      const double value = x.at(r, c);
      x.set(r, c, value + kStep);
      const double above = loss();
      x.set(r, c, value - kStep);
      const double below = loss();
      x.set(r, c, value);
      EXPECT_NEAR((above - below) / (2 * kStep), gradient.at(r, c), 1e-6 * largest)
          << what << " (" << r << ", " << c << ")";
    }
  }
}

class GradientTest : public testing::Test {
 protected:
  Random random_{kSeed};
  std::unique_ptr<Ops> ops_ = CreateReferenceOps();
};

TEST_F(GradientTest, RmsNorm_IsThatOfItsForward) {
  TestMatrix x = Normal(random_, 3, 7);
  TestMatrix weight = Normal(random_, 1, 7);
  const TestMatrix dy = Normal(random_, 3, 7);
  TestMatrix y = dy;
  TestMatrix dx = dy;
  TestMatrix dweight(DType::kF64, 1, 7);
  const auto loss = [&] {
    ops_->RmsNormForward(x, weight, 0.1, y);
    return Inner(y, dy);
  };
  ops_->RmsNormBackward(x, weight, 0.1, dy, dx, dweight);
  ExpectGradient(x, loss, dx, "dx");
  ExpectGradient(weight, loss, dweight, "dweight");
  TestMatrix twice = dweight;
  ops_->RmsNormBackward(x, weight, 0.1, dy, dx, twice);
  for (int64_t c = 0; c < 7; ++c) {
    EXPECT_NEAR(twice.at(0, c), 2 * dweight.at(0, c), 1e-12) << "dweight is not added to";
  }
}

TEST_F(GradientTest, Gemm_IsAGemmOfTheOther) {
  TestMatrix a = Normal(random_, 4, 5);
  TestMatrix b = Normal(random_, 3, 5);
  const TestMatrix dc = Normal(random_, 4, 3);
  TestMatrix c = dc;
  TestMatrix da = a;
  TestMatrix db = b;
  const auto loss = [&] {
    ops_->Gemm(a, false, b, true, c, false);
    return Inner(c, dc);
  };
  ops_->Gemm(dc, false, b, false, da, false);
  ops_->Gemm(dc, true, a, false, db, false);
  ExpectGradient(a, loss, da, "da");
  ExpectGradient(b, loss, db, "db");
}

TEST_F(GradientTest, Attention_IsThatOfItsForward) {
  const AttentionShape shape = {.sequences = 2,
                                .sequence_length = 5,
                                .heads = 2,
                                .qk_head_dim = 4,
                                .v_head_dim = 3,
                                .softmax_scale = 0.7};
  TestMatrix q = Normal(random_, 10, 8);
  TestMatrix k = Normal(random_, 10, 8);
  TestMatrix v = Normal(random_, 10, 6);
  const TestMatrix dout = Normal(random_, 10, 6);
  TestMatrix out = v;
  TestMatrix lse(DType::kF64, 10, 2);
  TestMatrix dq = q;
  TestMatrix dk = k;
  TestMatrix dv = v;
  const auto loss = [&] {
    ops_->AttentionForward(shape, q, k, v, out, lse);
    return Inner(out, dout);
  };
  loss();
  ops_->AttentionBackward(shape, q, k, v, out, lse, dout, dq, dk, dv);
  ExpectGradient(q, loss, dq, "dq");
  ExpectGradient(k, loss, dk, "dk");
  ExpectGradient(v, loss, dv, "dv");
}

TEST_F(GradientTest, SwiGlu_IsThatOfItsForward) {
  TestMatrix gate_up = Normal(random_, 3, 10, 2);
  const TestMatrix dy = Normal(random_, 3, 5);
  TestMatrix y = dy;
  TestMatrix dgate_up = gate_up;
  ops_->SwiGluBackward(gate_up, dy, dgate_up);
  const auto loss = [&] {
    ops_->SwiGluForward(gate_up, y);
    return Inner(y, dy);
  };
  ExpectGradient(gate_up, loss, dgate_up, "dgate_up");
}

TEST_F(GradientTest, WeightedSwiGlu_IsThatOfItsForward) {
  TestMatrix gate_up = Normal(random_, 3, 10, 2);
  TestMatrix weights = Normal(random_, 3, 1);
  const TestMatrix dy = Normal(random_, 3, 5);
  TestMatrix y = dy;
  TestMatrix dgate_up = gate_up;
  TestMatrix dweights = weights;
  ops_->WeightedSwiGluBackward(gate_up, weights, dy, dgate_up, dweights, y);
  const TestMatrix made_again = y;
  const auto loss = [&] {
    ops_->WeightedSwiGluForward(gate_up, weights, y);
    return Inner(y, dy);
  };
  loss();
  EXPECT_TRUE(SameBits(y, made_again));
  ExpectGradient(gate_up, loss, dgate_up, "dgate_up");
  ExpectGradient(weights, loss, dweights, "dweights");
}

TEST_F(GradientTest, Embedding_IsThatOfItsForward) {
  TestMatrix table = Normal(random_, 6, 4);
  const std::vector<int32_t> tokens = {3, 1, 3, 5, 0, 3};
  const TestMatrix dout = Normal(random_, 6, 4);
  TestMatrix out = dout;
  TestMatrix dtable(DType::kF64, 6, 4);
  ops_->EmbeddingBackward(tokens.data(), dout, dtable);
  const auto loss = [&] {
    ops_->EmbeddingForward(tokens.data(), table, out);
    return Inner(out, dout);
  };
  ExpectGradient(table, loss, dtable, "dtable");
}

TEST_F(GradientTest, CrossEntropy_IsThatOfItsLoss) {
  TestMatrix logits = Normal(random_, 4, 6, 2);
  const std::vector<int32_t> labels = {5, 0, 2, 2};
  std::vector<double> losses(4);
  TestMatrix gradient = logits;
  ops_->CrossEntropy(gradient, labels.data(), 0.25, losses.data());
  const auto loss = [&] {
    ops_->CrossEntropy(logits, labels.data(), 0, losses.data());
    return 0.25 * std::accumulate(losses.begin(), losses.end(), 0.0);
  };
  ExpectGradient(logits, loss, gradient, "dlogits");
}

TEST_F(GradientTest, Rope_IsItsInverse) {
  TestMatrix x = Normal(random_, 6, 8);
  const TestMatrix dy = Normal(random_, 6, 8);
  const auto view = [](const TestMatrix& m) {
    return RopeView{.data = m.view().data,
                    .dtype = DType::kF64,
                    .tokens = 6,
                    .heads = 2,
                    .dim = 4,
                    .token_stride = m.view().stride,
                    .head_stride = 4,
                    .sequence_length = 3,
                    .theta = 100};
  };
  TestMatrix dx = dy;
  ops_->Rope(view(dx), /*inverse=*/true);
  const auto loss = [&] {
    TestMatrix y = x;
    ops_->Rope(view(y), /*inverse=*/false);
    return Inner(y, dy);
  };
  ExpectGradient(x, loss, dx, "dx");
}

class RouterGradientTest : public testing::TestWithParam<double> {};

INSTANTIATE_TEST_SUITE_P(BalanceAlpha, RouterGradientTest, testing::Values(0.0, 0.3));

// The choice of experts is piecewise constant; the seed is one where no step changes it.
TEST_P(RouterGradientTest, Router_IsThatOfItsForward) {
  const RouterShape shape = {.tokens = 6,
                             .experts = 8,
                             .groups = 4,
                             .groups_kept = 2,
                             .top_k = 3,
                             .scaling_factor = 2.5,
                             .sequence_length = 3,
                             .balance_alpha = GetParam()};
  constexpr double kBalanceScale = 0.8;
  Random random(kSeed);
  const std::unique_ptr<Ops> ops = CreateReferenceOps();
  TestMatrix logits = Normal(random, 6, 8);
  const TestMatrix bias = Normal(random, 1, 8, 0.3);
  const TestMatrix dweights = Normal(random, 6, 3);
  TestMatrix weights = dweights;
  std::vector<int32_t> experts(18);
  std::vector<int32_t> first_experts;
  const auto loss = [&] {
    std::vector<int64_t> loads(8);
    const double balance =
        ops->RouterForward(shape, logits, bias, experts.data(), weights, loads.data());
    return Inner(weights, dweights) + kBalanceScale * balance;
  };
  loss();
  first_experts = experts;
  TestMatrix dlogits = logits;
  ops->RouterBackward(shape, logits, experts.data(), dweights, kBalanceScale, dlogits);
  ExpectGradient(
      logits,
      [&] {
        const double value = loss();
        EXPECT_EQ(experts, first_experts);
        return value;
      },
      dlogits, "dlogits");
}

// The facts' algorithm once more, by sorting.
std::vector<int32_t> ChosenBySorting(const RouterShape& shape, const std::vector<double>& biased) {
  const int64_t size = shape.experts / shape.groups;
  std::vector<std::pair<double, int64_t>> groups;  // minus the score, so that ties sort by id
  for (int64_t g = 0; g < shape.groups; ++g) {
    std::vector<double> members(biased.begin() + g * size, biased.begin() + (g + 1) * size);
    std::sort(members.rbegin(), members.rend());
    groups.emplace_back(-(members[0] + (size > 1 ? members[1] : 0)), g);
  }
  std::sort(groups.begin(), groups.end());
  groups.resize(shape.groups_kept);
  std::vector<std::pair<double, int32_t>> candidates;
  for (const auto& [score, g] : groups) {
    for (int64_t e = g * size; e < (g + 1) * size; ++e) {
      candidates.emplace_back(-biased[e], static_cast<int32_t>(e));
    }
  }
  std::sort(candidates.begin(), candidates.end());
  std::vector<int32_t> chosen;
  for (int64_t i = 0; i < shape.top_k; ++i) {
    chosen.push_back(candidates[i].second);
  }
  return chosen;
}

TEST(RouterTest, ChosenExperts_AreThoseOfASort) {
  const RouterShape shape = {.tokens = 400,
                             .experts = 32,
                             .groups = 8,
                             .groups_kept = 4,
                             .top_k = 8,
                             .scaling_factor = 2.5};
  for (const auto& ops : {CreateReferenceOps(), CreateCpuOps()}) {
    Random random(kSeed);
    TestMatrix logits(DType::kF32, shape.tokens, shape.experts);
    for (int64_t t = 0; t < shape.tokens; ++t) {
      for (int64_t e = 0; e < shape.experts; ++e) {
        // Few distinct values in every second token, so that there are many ties.
        logits.set(t, e, t % 2 == 0 ? random.Normal() : static_cast<double>(random.Below(3)));
      }
    }
    const TestMatrix bias(DType::kF32, 1, shape.experts);
    TestMatrix weights(DType::kF32, shape.tokens, shape.top_k);
    std::vector<int32_t> experts(shape.tokens * shape.top_k);
    std::vector<int64_t> loads(shape.experts);
    ops->RouterForward(shape, logits, bias, experts.data(), weights, loads.data());
    for (int64_t t = 0; t < shape.tokens; ++t) {
      std::vector<double> score(shape.experts);
      for (int64_t e = 0; e < shape.experts; ++e) {
        score[e] = 1 / (1 + std::exp(-logits.at(t, e)));
      }
      const int32_t* chosen = experts.data() + t * shape.top_k;
      EXPECT_EQ(std::vector<int32_t>(chosen, chosen + shape.top_k), ChosenBySorting(shape, score));
      double sum = 0;
      for (int64_t i = 0; i < shape.top_k; ++i) {
        sum += weights.at(t, i);
      }
      EXPECT_NEAR(sum, 2.5, 1e-6);
    }
    EXPECT_EQ(std::accumulate(loads.begin(), loads.end(), int64_t{0}), 400 * 8);
  }
}

// With every score equal, the raw choice is the first K experts and every P_i is 1 / E, so each
// sequence's loss is alpha * sum f_i / E = alpha.
TEST(RouterTest, EqualScores_GiveABalanceLossOfAlphaPerSequence) {
  const RouterShape shape = {
      .tokens = 12, .experts = 4, .top_k = 2, .sequence_length = 4, .balance_alpha = 0.01};
  for (const auto& ops : {CreateReferenceOps(), CreateCpuOps()}) {
    const TestMatrix logits(DType::kF32, 12, 4);
    TestMatrix weights(DType::kF32, 12, 2);
    std::vector<int32_t> experts(24);
    std::vector<int64_t> loads(4);
    const TestMatrix bias(DType::kF32, 1, 4);
    const double loss =
        ops->RouterForward(shape, logits, bias, experts.data(), weights, loads.data());
    EXPECT_NEAR(loss, 3 * 0.01, 1e-12);
    EXPECT_EQ(loads, (std::vector<int64_t>{12, 12, 0, 0}));
  }
}

TEST(RouterTest, NanLogits_StillChooseDistinctExperts) {
  const RouterShape shape = {.tokens = 1, .experts = 8, .groups = 2, .groups_kept = 1, .top_k = 4};
  for (const auto& ops : {CreateReferenceOps(), CreateCpuOps()}) {
    TestMatrix logits(DType::kF32, 1, 8);
    const TestMatrix bias(DType::kF32, 1, 8);
    for (int64_t e = 0; e < 8; ++e) {
      logits.set(0, e, std::nan(""));
    }
    TestMatrix weights(DType::kF32, 1, 4);
    std::vector<int32_t> experts(4);
    std::vector<int64_t> loads(8);
    ops->RouterForward(shape, logits, bias, experts.data(), weights, loads.data());
    EXPECT_EQ(experts, (std::vector<int32_t>{0, 1, 2, 3}));
  }
}

TEST(AttentionTest, EqualKeys_GiveTheRunningMean) {
  const AttentionShape shape = {.sequences = 2,
                                .sequence_length = 70,
                                .heads = 1,
                                .qk_head_dim = 4,
                                .v_head_dim = 1,
                                .softmax_scale = 0.5};
  for (const auto& ops : {CreateReferenceOps(), CreateCpuOps()}) {
    Random random(kSeed);
    TestMatrix q(DType::kF32, 140, 4);
    q.FillNormal(random);
    TestMatrix k(DType::kF32, 140, 4);
    ops->Fill(k, 0);
    TestMatrix v(DType::kF32, 140, 1);
    v.FillNormal(random);
    TestMatrix out(DType::kF32, 140, 1);
    TestMatrix lse(DType::kF32, 140, 1);
    ops->AttentionForward(shape, q, k, v, out, lse);
    double sum = 0;
    for (int64_t t = 0; t < 140; ++t) {
      const int64_t position = t % 70;
      sum = (position == 0 ? 0 : sum) + v.at(t, 0);
      EXPECT_NEAR(out.at(t, 0), sum / (position + 1), 1e-6);
      EXPECT_NEAR(lse.at(t, 0), std::log(position + 1.0), 1e-6);
    }
  }
}

TEST(RopeTest, Dot_DependsOnTheDistanceOfPositionsAlone) {
  for (const auto& ops : {CreateReferenceOps(), CreateCpuOps()}) {
    Random random(kSeed);
    TestMatrix x(DType::kF32, 40, 16);
    for (int64_t c = 0; c < 16; ++c) {
      const double value = random.Normal();
      for (int64_t t = 0; t < 40; ++t) {
        x.set(t, c, value);
      }
    }
    const TestMatrix before = x;
    ops->Rope({.data = x.view().data,
               .dtype = DType::kF32,
               .tokens = 40,
               .heads = 1,
               .dim = 16,
               .token_stride = 16,
               .head_stride = 16,
               .sequence_length = 40},
              false);
    EXPECT_EQ(x.Row(0), before.Row(0));
    const auto dot = [&](int64_t s, int64_t t) {
      double sum = 0;
      for (int64_t c = 0; c < 16; ++c) {
        sum += x.at(s, c) * x.at(t, c);
      }
      return sum;
    };
    EXPECT_NEAR(dot(3, 8), dot(30, 35), 1e-4);
    EXPECT_NEAR(dot(17, 17), dot(0, 0), 1e-4);
    EXPECT_GT(std::fabs(dot(3, 8) - dot(3, 9)), 1e-3);
  }
}

TEST(CrossEntropyTest, EqualLogits_LoseLogOfTheVocabulary) {
  for (const auto& ops : {CreateReferenceOps(), CreateCpuOps()}) {
    TestMatrix logits(DType::kF32, 1, 50);
    const int32_t label = 7;
    double loss = 0;
    ops->CrossEntropy(logits, &label, 1.0, &loss);
    EXPECT_NEAR(loss, std::log(50.0), 1e-6);
    double sum = 0;
    for (int64_t c = 0; c < 50; ++c) {
      sum += logits.at(0, c);
      EXPECT_NEAR(logits.at(0, c), c == 7 ? 1.0 / 50 - 1 : 1.0 / 50, 1e-7);
    }
    EXPECT_NEAR(sum, 0, 1e-6);
  }
}

// With m = v = 0 the first update is the learning rate against the gradient's sign, and the decay.
TEST(AdamWTest, FirstStep_IsTheLearningRateAgainstTheSign) {
  for (const auto& ops : {CreateReferenceOps(), CreateCpuOps()}) {
    TestMatrix master(DType::kF32, 1, 2);
    master.set(0, 0, 2);
    master.set(0, 1, -4);
    TestMatrix gradient(DType::kF32, 1, 2);
    gradient.set(0, 0, 0.5);
    gradient.set(0, 1, 80);
    TestMatrix m(DType::kBF16, 1, 2);
    TestMatrix v(DType::kBF16, 1, 2);
    const AdamWState state = {master, m, v};
    ops->AdamW({.learning_rate = 0.1, .weight_decay = 0.2, .step = 1}, gradient, state, state);
    EXPECT_NEAR(master.at(0, 0), 2 - 0.1 - 0.1 * 0.2 * 2, 1e-6);
    EXPECT_NEAR(master.at(0, 1), -4 - 0.1 + 0.1 * 0.2 * 4, 1e-6);
    EXPECT_NEAR(m.at(0, 1), 8, 0.05);
    EXPECT_NEAR(v.at(0, 0), 0.05 * 0.25, 0.0001);
  }
}

// 1 - 2 sum(xy) / sum(x^2 + y^2).
double Dissimilarity(const TestMatrix& x, const TestMatrix& y) {
  return 1 - 2 * Inner(x, y) / (Inner(x, x) + Inner(y, y));
}

class Fp8ProductTest : public testing::TestWithParam<Fp8Scaling> {};

INSTANTIATE_TEST_SUITE_P(Scaling, Fp8ProductTest,
                         testing::Values(Fp8Scaling::kTile1x128, Fp8Scaling::kBlock128x128));

TEST_P(Fp8ProductTest, QuantisedOperands_GiveNearlyTheFp64Product) {
  constexpr int64_t kM = 70, kN = 140, kK = 700;
  Random random(kSeed);
  TestMatrix a(DType::kF32, kM, kK);
  TestMatrix b(DType::kF32, kN, kK);
  a.FillNormal(random);
  b.FillNormal(random, 0.02);
  const std::unique_ptr<Ops> reference = CreateReferenceOps();
  TestMatrix exact(DType::kF64, kM, kN);
  reference->Gemm(a.As(DType::kF64), false, b.As(DType::kF64), true, exact, false);
  for (const auto& ops : {CreateReferenceOps(), CreateCpuOps()}) {
    TestFp8 a8(kM, kK, Fp8Scaling::kTile1x128);
    TestFp8 b8(kN, kK, GetParam());
    ops->Quantize(a, ScaleRule::kAmax, a8);
    ops->Quantize(b, ScaleRule::kAmax, b8);
    TestMatrix c(DType::kF32, kM, kN);
    ops->GemmFp8(a8, b8, c, false);
    TestMatrix a_decoded(DType::kF64, kM, kK);
    TestMatrix b_decoded(DType::kF64, kN, kK);
    for (auto* pair : {&a8, &b8}) {
      TestMatrix& decoded = pair == &a8 ? a_decoded : b_decoded;
      const Fp8Matrix m = pair->view();
      for (int64_t r = 0; r < m.rows; ++r) {
        const int64_t scale_row = m.scaling == Fp8Scaling::kTile1x128 ? r : r / 128;
        for (int64_t k = 0; k < kK; ++k) {
          decoded.set(r, k,
                      static_cast<double>(FloatFromE4M3(m.codes[r * kK + k])) *
                          m.scales[scale_row * TileCount(kK) + k / 128]);
        }
      }
    }
    TestMatrix want(DType::kF64, kM, kN);
    reference->Gemm(a_decoded, false, b_decoded, true, want, false);
    for (int64_t i = 0; i < kM; ++i) {
      for (int64_t j = 0; j < kN; ++j) {
        double terms = 0;
        for (int64_t k = 0; k < kK; ++k) {
          terms += std::fabs(a_decoded.at(i, k) * b_decoded.at(j, k));
        }
        // 128 roundings within a tile, then two to scale and one to add for each of 6 tiles.
        ASSERT_NEAR(c.at(i, j), want.at(i, j), (128 + 18) * 0x1p-24 * terms) << i << ", " << j;
      }
    }
    EXPECT_LT(Dissimilarity(c, exact), 0.001);
    EXPECT_GT(Dissimilarity(c, exact), 1e-6) << "nothing was quantised";
  }
}

}  // namespace
}  // namespace fathom::kernels
