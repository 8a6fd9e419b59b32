// The cpu backend against the reference, over shapes that fit no vector and no tile, with gaps
// between rows, in F32 and BF16; and what the op table promises beside numbers: the same bits
// again, rows that do not depend on each other, and a message when a shape does not fit.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/op_testing.h"
#include "kernels/ops.h"

namespace fathom::kernels {
namespace {

constexpr uint32_t kSeed = 20240607;

const std::vector<std::pair<int64_t, int64_t>> kShapes = {{1, 1},   {1, 7},    {3, 128},  {5, 33},
                                                          {16, 64}, {17, 129}, {2, 1100}, {70, 96},
                                                          {0, 5},   {130, 260}};

std::string Text(std::initializer_list<int64_t> sizes) {
  std::string text;
  for (const int64_t size : sizes) {
    text += (text.empty() ? "[" : ", ") + std::to_string(size);
  }
  return text + "]";
}

class OpsTest : public testing::TestWithParam<DType> {
 protected:
  // Random, of the test's dtype, with a gap between rows.
  TestMatrix Input(int64_t rows, int64_t cols, double deviation = 1, double mean = 0) {
    TestMatrix m(GetParam(), rows, cols, /*gap=*/rows % 3);
    m.FillNormal(random_, deviation, mean);
    return m;
  }

  // Runs f on each backend with its own copy of `out`, and compares the copies.
  template <typename F>
  void Compare(OpKind op, const TestMatrix& out, const std::string& what, F f, double terms = 0) {
    TestMatrix want = out;
    TestMatrix got = out;
    f(*reference_, want);
    f(*cpu_, got);
    ExpectNear(op, want, got, what, terms);
  }

  Random random_{kSeed};
  std::unique_ptr<Ops> reference_ = CreateReferenceOps();
  std::unique_ptr<Ops> cpu_ = CreateCpuOps();
};

INSTANTIATE_TEST_SUITE_P(DTypes, OpsTest, testing::Values(DType::kF32, DType::kBF16),
                         [](const testing::TestParamInfo<DType>& param) {
                           return param.param == DType::kF32 ? "F32" : "BF16";
                         });

TEST_P(OpsTest, Elementwise_MatchesToTheBit) {
  for (const auto& [rows, cols] : kShapes) {
    const std::string what = Text({rows, cols});
    const TestMatrix a = Input(rows, cols);
    for (const DType other : {DType::kF32, DType::kBF16, DType::kF64}) {
      TestMatrix b(other, rows, cols, 1);
      b.FillNormal(random_);
      const auto op = OpKind::kElementwise;
      Compare(op, b, "copy " + what, [&](Ops& ops, TestMatrix& m) { ops.Copy(a, m); });
      Compare(op, b, "add " + what, [&](Ops& ops, TestMatrix& m) { ops.Add(a, m, m); });
      Compare(op, b, "fill " + what, [&](Ops& ops, TestMatrix& m) { ops.Fill(m, 0.3); });
      Compare(op, b, "scale " + what, [&](Ops& ops, TestMatrix& m) { ops.Scale(m, 1.0 / 3); });
      std::vector<float> factors(rows + 1, 0.7f);
      Compare(op, b, "scale rows " + what,
              [&](Ops& ops, TestMatrix& m) { ops.ScaleRows(a, factors.data(), m); });
    }
  }
}

TEST_P(OpsTest, DenseElementwise_MatchesToTheBit) {
  TestMatrix a(GetParam(), 37, 59);
  a.FillNormal(random_);
  TestMatrix out(DType::kF32, 37, 59);
  out.FillNormal(random_);
  const auto op = OpKind::kElementwise;
  Compare(op, out, "copy", [&](Ops& ops, TestMatrix& m) { ops.Copy(a, m); });
  Compare(op, out, "add", [&](Ops& ops, TestMatrix& m) { ops.Add(m, a, m); });
  Compare(op, a, "scale", [&](Ops& ops, TestMatrix& m) { ops.Scale(m, 0.1); });
}

TEST_P(OpsTest, RowsByIndex_MatchToTheBit) {
  const TestMatrix table = Input(40, 100);
  std::vector<int32_t> indices;
  for (int i = 0; i < 90; ++i) {
    indices.push_back(static_cast<int32_t>(random_.Below(40)));
  }
  for (const DType other : {DType::kF32, DType::kBF16, DType::kF64}) {
    Compare(OpKind::kElementwise, TestMatrix(other, 90, 100, 2), "gather",
            [&](Ops& ops, TestMatrix& m) { ops.GatherRows(table, indices.data(), m); });
    Compare(OpKind::kElementwise, TestMatrix(other, 90, 100, 2), "embedding",
            [&](Ops& ops, TestMatrix& m) { ops.EmbeddingForward(indices.data(), table, m); });
    TestMatrix in(other, 90, 100, 3);
    in.FillNormal(random_);
    Compare(OpKind::kElementwise, table, "scatter",
            [&](Ops& ops, TestMatrix& m) { ops.ScatterAddRows(in, indices.data(), m); });
  }
}

TEST_P(OpsTest, RowDotAndSumOfSquares_Match) {
  for (const auto& [rows, cols] : kShapes) {
    const TestMatrix a = Input(rows, cols);
    const TestMatrix b = Input(rows, cols);
    TestMatrix want(DType::kF32, 1, rows);
    TestMatrix got(DType::kF32, 1, rows);
    reference_->RowDot(a, b, static_cast<float*>(want.view().data));
    cpu_->RowDot(a, b, static_cast<float*>(got.view().data));
    ExpectNear(OpKind::kRowDot, want, got, Text({rows, cols}));
    EXPECT_EQ(reference_->SumOfSquares(a), cpu_->SumOfSquares(a));
  }
}

TEST_P(OpsTest, Gemm_Matches) {
  const std::vector<std::tuple<int64_t, int64_t, int64_t>> shapes = {
      {1, 1, 1}, {1, 64, 128}, {7, 33, 17}, {16, 16, 16},  {33, 100, 72}, {130, 64, 257},
      {0, 4, 4}, {4, 0, 4},    {4, 4, 0},   {20, 8, 2048}, {64, 1, 40}};
  for (const auto& [m, n, k] : shapes) {
    for (int flags = 0; flags < 8; ++flags) {
      const bool ta = flags & 1;
      const bool tb = flags & 2;
      const bool accumulate = flags & 4;
      const TestMatrix a = ta ? Input(k, m) : Input(m, k);
      const TestMatrix b = tb ? Input(n, k) : Input(k, n);
      for (const DType c_dtype : {DType::kF32, GetParam()}) {
        TestMatrix c(c_dtype, m, n, /*gap=*/3);
        c.FillNormal(random_);
        Compare(OpKind::kGemm, c, Text({m, n, k, flags}),
                [&](Ops& ops, TestMatrix& out) { ops.Gemm(a, ta, b, tb, out, accumulate); });
      }
    }
  }
}

TEST_P(OpsTest, GemmFp8_Matches) {
  const std::vector<std::tuple<int64_t, int64_t, int64_t>> shapes = {
      {1, 1, 1}, {1, 128, 128}, {5, 130, 300}, {40, 96, 256}, {257, 40, 129}, {0, 4, 4}, {3, 4, 0}};
  for (const auto& [m, n, k] : shapes) {
    for (const Fp8Scaling scaling : {Fp8Scaling::kTile1x128, Fp8Scaling::kBlock128x128}) {
      for (const bool accumulate : {false, true}) {
        TestFp8 a(m, k, Fp8Scaling::kTile1x128);
        TestFp8 b(n, k, scaling);
        reference_->Quantize(Input(m, k), ScaleRule::kAmax, a);
        reference_->Quantize(Input(n, k), ScaleRule::kPowerOfTwo, b);
        Compare(OpKind::kGemmFp8, Input(m, n), Text({m, n, k}),
                [&](Ops& ops, TestMatrix& out) { ops.GemmFp8(a, b, out, accumulate); });
      }
    }
  }
}

// Elements of every size from below the clamp to 1e9, a NaN and an infinity.
TEST_P(OpsTest, Quantisation_MatchesToTheBit) {
  for (const auto& [rows, cols] : kShapes) {
    TestMatrix x = Input(rows, cols);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        x.set(r, c,
              x.at(r, c) * std::exp(static_cast<double>(random_.Below(20)) - 10) *
                  (r % 7 == 3 ? 1e-6 : 1) * (r % 7 == 5 ? 1e9 : 1));
      }
    }
    if (rows > 2) {
      x.set(1, cols / 2, std::nan(""));
      x.set(rows - 1, cols / 3, -HUGE_VAL);
    }
    for (const ScaleRule rule : {ScaleRule::kAmax, ScaleRule::kPowerOfTwo}) {
      for (const Fp8Scaling scaling : {Fp8Scaling::kTile1x128, Fp8Scaling::kBlock128x128}) {
        TestFp8 want(rows, cols, scaling);
        TestFp8 got(rows, cols, scaling);
        reference_->Quantize(x, rule, want);
        cpu_->Quantize(x, rule, got);
        EXPECT_EQ(want.codes, got.codes) << Text({rows, cols});
        EXPECT_EQ(want.scales, got.scales) << Text({rows, cols});
        TestFp8 want_t(cols, rows, scaling);
        TestFp8 got_t(cols, rows, scaling);
        reference_->QuantizeTransposed(x, rule, want_t);
        cpu_->QuantizeTransposed(x, rule, got_t);
        EXPECT_EQ(want_t.codes, got_t.codes) << Text({rows, cols});
        EXPECT_EQ(want_t.scales, got_t.scales) << Text({rows, cols});
        TestMatrix decoded = x;
        TestMatrix decoded_got = x;
        reference_->Dequantize(want, decoded);
        cpu_->Dequantize(want, decoded_got);
        EXPECT_TRUE(SameBits(decoded, decoded_got)) << Text({rows, cols});
        if (scaling == Fp8Scaling::kBlock128x128) {
          reference_->TransposeBlocks(want, want_t);
          cpu_->TransposeBlocks(want, got_t);
          EXPECT_EQ(want_t.codes, got_t.codes) << Text({rows, cols});
          EXPECT_EQ(want_t.scales, got_t.scales) << Text({rows, cols});
        }
      }
    }
    TestMatrix rounded = x;
    TestMatrix rounded_got = x;
    reference_->RoundToE5M6(rounded);
    cpu_->RoundToE5M6(rounded_got);
    EXPECT_TRUE(SameBits(rounded, rounded_got)) << Text({rows, cols});
  }
}

TEST_P(OpsTest, RmsNorm_Matches) {
  for (const auto& [rows, cols] : kShapes) {
    const std::string what = Text({rows, cols});
    const TestMatrix x = Input(rows, cols);
    const TestMatrix dy = Input(rows, cols);
    const TestMatrix weight = Input(1, cols, 0.1, 1);
    Compare(OpKind::kRmsNorm, Input(rows, cols), "y " + what,
            [&](Ops& ops, TestMatrix& y) { ops.RmsNormForward(x, weight, 1e-6, y); });
    TestMatrix dweight(DType::kF32, 1, cols);
    dweight.FillNormal(random_);
    Compare(
        OpKind::kRmsNorm, dy, "dx " + what,
        [&](Ops& ops, TestMatrix& dx) {
          ops.RmsNormBackward(x, weight, 1e-6, dx, dx, Matrix{});  // in place
        },
        /*terms=*/2);
    Compare(OpKind::kRmsNorm, dweight, "dweight " + what, [&](Ops& ops, TestMatrix& dw) {
      TestMatrix dx(GetParam(), rows, cols);
      ops.RmsNormBackward(x, weight, 1e-6, dy, dx, dw);
    });
  }
}

TEST_P(OpsTest, Rope_Matches) {
  for (const int64_t dim : {2, 6, 16, 64}) {
    TestMatrix x = Input(50, 3 * (dim + 5));
    for (const bool inverse : {false, true}) {
      Compare(OpKind::kRope, x, "dim " + std::to_string(dim), [&](Ops& ops, TestMatrix& m) {
        ops.Rope({.data = static_cast<char*>(m.view().data) + 5 * SizeOf(GetParam()),
                  .dtype = GetParam(),
                  .tokens = 50,
                  .heads = 3,
                  .dim = dim,
                  .token_stride = m.view().stride,
                  .head_stride = dim + 5,
                  .sequence_length = 25},
                 inverse);
      });
    }
  }
}

TEST_P(OpsTest, Attention_Matches) {
  const std::vector<AttentionShape> shapes = {{1, 1, 1, 4, 2, 0.5},      {2, 70, 3, 24, 16, 0.2},
                                              {1, 128, 2, 48, 32, 0.14}, {3, 5, 2, 3, 7, 1.0},
                                              {1, 200, 1, 16, 16, 2.0},  {0, 8, 2, 4, 4, 1.0}};
  for (const AttentionShape& shape : shapes) {
    const std::string what = Text({shape.sequences, shape.sequence_length, shape.heads});
    const int64_t tokens = shape.sequences * shape.sequence_length;
    const int64_t qk_cols = shape.heads * shape.qk_head_dim;
    const int64_t v_cols = shape.heads * shape.v_head_dim;
    const TestMatrix q = Input(tokens, qk_cols);
    const TestMatrix k = Input(tokens, qk_cols);
    const TestMatrix v = Input(tokens, v_cols);
    const TestMatrix dout = Input(tokens, v_cols);
    TestMatrix out(GetParam(), tokens, v_cols);
    TestMatrix lse(DType::kF32, tokens, shape.heads, 1);
    reference_->AttentionForward(shape, q, k, v, out, lse);
    Compare(OpKind::kAttention, out, "out " + what, [&](Ops& ops, TestMatrix& m) {
      TestMatrix unused = lse;
      ops.AttentionForward(shape, q, k, v, m, unused);
    });
    Compare(OpKind::kAttention, lse, "lse " + what, [&](Ops& ops, TestMatrix& m) {
      TestMatrix unused = out;
      ops.AttentionForward(shape, q, k, v, unused, m);
    });
    for (int which = 0; which < 3; ++which) {
      Compare(OpKind::kAttentionBackward, which == 2 ? v : q,
              "gradient " + std::to_string(which) + " " + what, [&](Ops& ops, TestMatrix& m) {
                TestMatrix dq = which == 0 ? m : q;
                TestMatrix dk = which == 1 ? m : k;
                TestMatrix dv = which == 2 ? m : v;
                ops.AttentionBackward(shape, q, k, v, out, lse, dout, dq, dk, dv);
                m = which == 0 ? dq : which == 1 ? dk : dv;
              });
    }
  }
}

TEST_P(OpsTest, SwiGlu_Matches) {
  for (const auto& [rows, cols] : kShapes) {
    const std::string what = Text({rows, cols});
    const TestMatrix gate_up = Input(rows, 2 * cols, 4);
    const TestMatrix dy = Input(rows, cols);
    TestMatrix weights(DType::kF32, rows, 1, 2);
    weights.FillNormal(random_);
    const auto op = OpKind::kSwiGlu;
    Compare(op, dy, "y " + what, [&](Ops& ops, TestMatrix& m) { ops.SwiGluForward(gate_up, m); });
    Compare(op, gate_up, "gradient " + what,
            [&](Ops& ops, TestMatrix& m) { ops.SwiGluBackward(m, dy, m); });
    Compare(op, dy, "weighted y " + what,
            [&](Ops& ops, TestMatrix& m) { ops.WeightedSwiGluForward(gate_up, weights, m); });
    Compare(op, gate_up, "weighted gradient " + what, [&](Ops& ops, TestMatrix& m) {
      TestMatrix dweights = weights;
      TestMatrix y = dy;
      ops.WeightedSwiGluBackward(gate_up, weights, dy, m, dweights, y);
    });
    Compare(op, dy, "y made again " + what, [&](Ops& ops, TestMatrix& m) {
      TestMatrix dweights = weights;
      TestMatrix dgate_up = gate_up;
      ops.WeightedSwiGluBackward(gate_up, weights, m, dgate_up, dweights, m);
    });
    Compare(OpKind::kGemm, weights, "dweights " + what, [&](Ops& ops, TestMatrix& m) {
      TestMatrix dgate_up = gate_up;
      TestMatrix y = dy;
      ops.WeightedSwiGluBackward(gate_up, weights, dy, dgate_up, m, y);
    });
  }
}

TEST_P(OpsTest, CrossEntropy_Matches) {
  for (const int64_t vocabulary : {1, 2, 33, 256, 3000}) {
    const int64_t tokens = 9;
    const TestMatrix logits = Input(tokens, vocabulary, 5);
    std::vector<int32_t> labels;
    for (int64_t t = 0; t < tokens; ++t) {
      labels.push_back(static_cast<int32_t>(random_.Below(vocabulary)));
    }
    std::vector<double> want(tokens);
    std::vector<double> got(tokens);
    for (const double scale : {0.0, 1.0 / 64}) {
      TestMatrix want_logits = logits;
      TestMatrix got_logits = logits;
      reference_->CrossEntropy(want_logits, labels.data(), scale, want.data());
      cpu_->CrossEntropy(got_logits, labels.data(), scale, got.data());
      ExpectNear(OpKind::kCrossEntropy, want_logits, got_logits, Text({vocabulary}));
      for (int64_t t = 0; t < tokens; ++t) {
        EXPECT_NEAR(want[t], got[t], 1e-6 * (1 + want[t])) << Text({vocabulary, t});
      }
    }
  }
}

TEST_P(OpsTest, AdamW_Matches) {
  const TestMatrix gradient = Input(1, 3001);
  TestMatrix master(DType::kF32, 1, 3001);
  TestMatrix m = Input(1, 3001, 0.1);
  TestMatrix v = Input(1, 3001, 0.01);
  master.FillNormal(random_);
  for (int64_t c = 0; c < 3001; ++c) {
    v.set(0, c, std::fabs(v.at(0, c)));
  }
  const AdamWSettings settings = {.learning_rate = 1e-3, .gradient_scale = 0.25, .step = 3};
  const auto in_place = [&](Ops& ops, TestMatrix& new_master, TestMatrix& new_m,
                            TestMatrix& new_v) {
    const AdamWState state = {new_master, new_m, new_v};
    ops.AdamW(settings, gradient, state, state);
  };
  Compare(OpKind::kAdamW, master, "master", [&](Ops& ops, TestMatrix& out) {
    TestMatrix new_m = m;
    TestMatrix new_v = v;
    in_place(ops, out, new_m, new_v);
  });
  Compare(OpKind::kAdamW, m, "m", [&](Ops& ops, TestMatrix& out) {
    TestMatrix new_master = master;
    TestMatrix new_v = v;
    in_place(ops, new_master, out, new_v);
  });
  Compare(OpKind::kAdamW, v, "v", [&](Ops& ops, TestMatrix& out) {
    TestMatrix new_master = master;
    TestMatrix new_m = m;
    in_place(ops, new_master, new_m, out);
  });
  // Into other memory: the same bits, and what it was made from stays.
  for (Ops* ops : {reference_.get(), cpu_.get()}) {
    TestMatrix masters[2] = {master, TestMatrix(DType::kF32, 1, 3001)};
    TestMatrix ms[2] = {m, m};
    TestMatrix vs[2] = {v, v};
    ops->AdamW(settings, gradient, {masters[0], ms[0], vs[0]}, {masters[1], ms[1], vs[1]});
    for (int64_t c = 0; c < 3001; ++c) {
      ASSERT_EQ(masters[0].at(0, c), master.at(0, c)) << c;
      ASSERT_EQ(ms[0].at(0, c), m.at(0, c)) << c;
      ASSERT_EQ(vs[0].at(0, c), v.at(0, c)) << c;
    }
    in_place(*ops, masters[0], ms[0], vs[0]);
    for (int64_t c = 0; c < 3001; ++c) {
      ASSERT_EQ(masters[0].at(0, c), masters[1].at(0, c)) << c;
      ASSERT_EQ(ms[0].at(0, c), ms[1].at(0, c)) << c;
      ASSERT_EQ(vs[0].at(0, c), vs[1].at(0, c)) << c;
    }
  }
}

class RouterOpsTest : public testing::TestWithParam<RouterShape> {};

INSTANTIATE_TEST_SUITE_P(Shapes, RouterOpsTest,
                         testing::Values(RouterShape{.tokens = 24, .experts = 8, .top_k = 2},
                                         RouterShape{.tokens = 24,
                                                     .experts = 16,
                                                     .groups = 4,
                                                     .groups_kept = 2,
                                                     .top_k = 4,
                                                     .scaling_factor = 2.5,
                                                     .sequence_length = 12,
                                                     .balance_alpha = 1e-2},
                                         RouterShape{.tokens = 6,
                                                     .experts = 6,
                                                     .groups = 6,
                                                     .groups_kept = 3,
                                                     .top_k = 3,
                                                     .sequence_length = 6,
                                                     .balance_alpha = 0.1},
                                         RouterShape{.tokens = 0, .experts = 4, .top_k = 1}));

TEST_P(RouterOpsTest, ForwardAndBackward_Match) {
  const RouterShape& shape = GetParam();
  Random random(kSeed);
  const std::unique_ptr<Ops> backends[] = {CreateReferenceOps(), CreateCpuOps()};
  TestMatrix logits(DType::kF32, shape.tokens, shape.experts, 1);
  logits.FillNormal(random);
  for (int64_t t = 0; t + 1 < shape.tokens; t += 5) {  // some ties
    for (int64_t e = 1; e < shape.experts; ++e) {
      logits.set(t, e, logits.at(t, e % 2));
    }
  }
  TestMatrix bias(DType::kF32, 1, shape.experts);
  TestMatrix dweights(DType::kF32, shape.tokens, shape.top_k);
  dweights.FillNormal(random);
  std::vector<int32_t> experts[2];
  std::vector<int64_t> loads[2];
  double loss[2] = {};
  std::vector<TestMatrix> weights(2, dweights);
  std::vector<TestMatrix> dlogits(2, logits);
  for (int i = 0; i < 2; ++i) {
    experts[i].resize(shape.tokens * shape.top_k + 1);
    loads[i].assign(shape.experts, 7);
    loss[i] = backends[i]->RouterForward(shape, logits, bias, experts[i].data(), weights[i],
                                         loads[i].data());
    backends[i]->RouterBackward(shape, logits, experts[i].data(), dweights, 0.5, dlogits[i]);
  }
  EXPECT_EQ(experts[0], experts[1]);
  EXPECT_EQ(loads[0], loads[1]);
  EXPECT_NEAR(loss[0], loss[1], 1e-12);
  ExpectNear(OpKind::kRouter, weights[0], weights[1], "weights");
  ExpectNear(OpKind::kRouter, dlogits[0], dlogits[1], "dlogits");
}

// The promise of Gemm: a row of c has the same bits however many rows there are.
TEST_P(OpsTest, GemmRow_DoesNotDependOnTheNumberOfRows) {
  const std::vector<std::pair<int64_t, int64_t>> sizes = {
      {128, 128}, {8, 256}, {100, 72}, {256, 600}, {1, 40}};
  constexpr int64_t kRows = 300;
  for (const auto& [n, k] : sizes) {
    const TestMatrix a = Input(kRows, k);
    for (const bool tb : {false, true}) {
      const TestMatrix b = tb ? Input(n, k) : Input(k, n);
      TestMatrix initial(DType::kF32, kRows, n);
      initial.FillNormal(random_);
      for (const bool accumulate : {false, true}) {
        TestMatrix all = initial;
        cpu_->Gemm(a, false, b, tb, all, accumulate);
        for (int64_t m = 1; m < kRows; m += m < 40 ? 1 : 13) {
          Matrix few_rows = a.view();
          few_rows.rows = m;
          TestMatrix some = initial;
          Matrix c = some.view();
          c.rows = m;
          cpu_->Gemm(few_rows, false, b, tb, c, accumulate);
          for (int64_t r = 0; r < m; ++r) {
            ASSERT_EQ(all.Row(r), some.Row(r)) << Text({m, n, k}) << " row " << r;
          }
        }
      }
    }
  }
}

TEST_P(OpsTest, GemmFp8Row_DoesNotDependOnTheNumberOfRows) {
  constexpr int64_t kRows = 280;
  TestFp8 a(kRows, 200, Fp8Scaling::kTile1x128);
  TestFp8 b(96, 200, Fp8Scaling::kBlock128x128);
  cpu_->Quantize(Input(kRows, 200), ScaleRule::kAmax, a);
  cpu_->Quantize(Input(96, 200), ScaleRule::kAmax, b);
  TestMatrix all(GetParam(), kRows, 96);
  cpu_->GemmFp8(a, b, all, false);
  for (int64_t m = 1; m < kRows; m += m < 20 ? 1 : 13) {
    Fp8Matrix few_rows = a;
    few_rows.rows = m;
    TestMatrix some(GetParam(), m, 96);
    cpu_->GemmFp8(few_rows, b, some, false);
    for (int64_t r = 0; r < m; ++r) {
      ASSERT_EQ(all.Row(r), some.Row(r)) << m << " rows, row " << r;
    }
  }
}

// Elsewhere in memory, at another alignment, after other calls: the same bits.
TEST_P(OpsTest, SameInputsElsewhere_GiveTheSameBits) {
  const AttentionShape shape = {2, 100, 2, 24, 16, 0.2};
  const TestMatrix q = Input(200, 48);
  const TestMatrix k = Input(200, 48);
  const TestMatrix v = Input(200, 32);
  const TestMatrix b = Input(70, 48);
  const TestMatrix weight = Input(1, 48);
  std::vector<TestMatrix> products, outs, norms;
  for (const int64_t offset : {0, 1, 5, 8, 11}) {
    const TestMatrix q_moved = q.As(GetParam(), offset % 3, offset);
    const TestMatrix k_moved = k.As(GetParam(), 0, offset);
    const TestMatrix v_moved = v.As(GetParam(), 2, offset);
    const TestMatrix b_moved = b.As(GetParam(), 0, offset);
    TestMatrix product(DType::kF32, 200, 70, 0, offset);
    TestMatrix out(GetParam(), 200, 32, 0, offset);
    TestMatrix lse(DType::kF32, 200, 2);
    TestMatrix norm(GetParam(), 200, 48, 0, offset);
    cpu_->Gemm(q_moved, false, b_moved, true, product, false);
    cpu_->AttentionForward(shape, q_moved, k_moved, v_moved, out, lse);
    cpu_->RmsNormForward(q_moved, weight, 1e-6, norm);
    products.push_back(product);
    outs.push_back(out);
    norms.push_back(norm);
  }
  for (size_t i = 1; i < products.size(); ++i) {
    EXPECT_TRUE(SameBits(products[0], products[i])) << "product at offset " << i;
    EXPECT_TRUE(SameBits(outs[0], outs[i])) << "attention at offset " << i;
    EXPECT_TRUE(SameBits(norms[0], norms[i])) << "norm at offset " << i;
  }
}

TEST(OpsMemoryTest, AllocatedMemory_IsZeroedAlignedAndCopiesBack) {
  for (const auto& ops : {CreateReferenceOps(), CreateCpuOps()}) {
    EXPECT_EQ(ops->Allocate(0), nullptr);
    const std::vector<char> host(1000, 'x');
    std::vector<char> back(1000, 'y');
    void* data = ops->Allocate(1000);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 64, 0u);
    ops->CopyToHost(back.data(), data, 1000);
    EXPECT_EQ(back, std::vector<char>(1000, 0));
    ops->CopyFromHost(data, host.data(), 1000);
    ops->Synchronize();
    ops->CopyToHost(back.data(), data, 1000);
    EXPECT_EQ(back, host);
    ops->Free(data);
  }
}

TEST(OpsDeathTest, ShapesThatDoNotFit_AbortWithOpAndShapes) {
  const std::unique_ptr<Ops> ops = CreateCpuOps();
  const TestMatrix a(DType::kF32, 3, 4);
  const TestMatrix b(DType::kF32, 5, 6);
  const TestMatrix wide(DType::kF64, 4, 2);
  TestMatrix c(DType::kF32, 3, 6);
  EXPECT_DEATH(ops->Gemm(a, false, b, false, c, false), "Gemm: b is .5, 6.* want .4, 6.");
  EXPECT_DEATH(ops->Gemm(a, false, wide, false, c, false), "Gemm");
  EXPECT_DEATH(ops->Add(a, b, c), "Add: b is .5, 6.* want .3, 4.");
  const int32_t index = 3;
  TestMatrix row(DType::kF32, 1, 4);
  EXPECT_DEATH(ops->GatherRows(a, &index, row), "GatherRows: row 3 is outside .0, 3");
  Matrix narrow = a;
  narrow.stride = 2;
  EXPECT_DEATH(ops->Fill(narrow, 0), "Fill: out is .3, 4. with stride 2");
}

}  // namespace
}  // namespace fathom::kernels
