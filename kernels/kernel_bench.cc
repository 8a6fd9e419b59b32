// What the cpu backend's ops cost at the sizes of a small model, beside a floor for the products:
// oneDNN's sgemm called directly. Run with `bazel run //kernels:kernel_bench`.
#include <benchmark/benchmark.h>
#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "kernels/cpu/element.h"
#include "kernels/ops.h"

namespace fathom::kernels {
namespace {

class Buffer {
 public:
  Buffer(DType dtype, int64_t rows, int64_t cols)
      : bytes_(rows * cols * SizeOf(dtype)),
        matrix_{.data = bytes_.data(), .dtype = dtype, .rows = rows, .cols = cols, .stride = cols} {
    std::mt19937 generator(1);
    std::normal_distribution<double> normal;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        Set(matrix_, r, c, normal(generator));
      }
    }
  }
  Buffer(const Buffer&) = delete;
  const Matrix& matrix() const { return matrix_; }
  float* floats() { return static_cast<float*>(matrix_.data); }

 private:
  std::vector<unsigned char> bytes_;
  Matrix matrix_;
};

struct Fp8Buffer {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  Fp8Matrix matrix;

  Fp8Buffer(int64_t rows, int64_t cols, Fp8Scaling scaling)
      : codes(rows * cols), scales(ScaleCount(rows, cols, scaling)) {
    matrix = {.codes = codes.data(),
              .scales = scales.data(),
              .rows = rows,
              .cols = cols,
              .scaling = scaling};
  }
};

void CountFlops(benchmark::State& state, double flops) {
  state.counters["GF/s"] =
      benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void CountElements(benchmark::State& state, double elements) {
  state.counters["Gelem/s"] =
      benchmark::Counter(elements * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

double GemmFlops(const benchmark::State& state) {
  return 2.0 * state.range(0) * state.range(1) * state.range(2);
}

void GemmSizes(benchmark::internal::Benchmark* bench) {
  for (const std::vector<int64_t>& size : std::vector<std::vector<int64_t>>{{10, 256, 256},
                                                                            {64, 128, 256},
                                                                            {200, 256, 128},
                                                                            {256, 512, 256},
                                                                            {512, 256, 1024},
                                                                            {1024, 1024, 1024}}) {
    bench->Args(size);
  }
  bench->ArgNames({"M", "N", "K"});
}

// c = a b^T without anything between it and oneDNN.
void FloorSgemm(benchmark::State& state) {
  omp_set_num_threads(1);
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  Buffer a(DType::kF32, m, k), b(DType::kF32, n, k), c(DType::kF32, m, n);
  for (auto _ : state) {
    dnnl_sgemm('N', 'T', m, n, k, 1.0f, a.floats(), k, b.floats(), k, 0.0f, c.floats(), n);
  }
  CountFlops(state, GemmFlops(state));
}
BENCHMARK(FloorSgemm)->Apply(GemmSizes);

void Gemm(benchmark::State& state, DType dtype, DType c_dtype) {
  const std::unique_ptr<Ops> ops = CreateCpuOps();
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  Buffer a(dtype, m, k), b(dtype, n, k), c(c_dtype, m, n);
  for (auto _ : state) {
    ops->Gemm(a.matrix(), false, b.matrix(), true, c.matrix(), false);
  }
  CountFlops(state, GemmFlops(state));
}
BENCHMARK_CAPTURE(Gemm, F32, DType::kF32, DType::kF32)->Apply(GemmSizes);
BENCHMARK_CAPTURE(Gemm, BF16, DType::kBF16, DType::kF32)->Apply(GemmSizes);
BENCHMARK_CAPTURE(Gemm, BF16ToBF16, DType::kBF16, DType::kBF16)->Apply(GemmSizes);

void GemmFp8(benchmark::State& state, Fp8Scaling scaling) {
  const std::unique_ptr<Ops> ops = CreateCpuOps();
  const int64_t m = state.range(0), n = state.range(1), k = state.range(2);
  Buffer a(DType::kF32, m, k), b(DType::kF32, n, k), c(DType::kBF16, m, n);
  Fp8Buffer a8(m, k, Fp8Scaling::kTile1x128), b8(n, k, scaling);
  ops->Quantize(a.matrix(), ScaleRule::kAmax, a8.matrix);
  ops->Quantize(b.matrix(), ScaleRule::kAmax, b8.matrix);
  for (auto _ : state) {
    ops->GemmFp8(a8.matrix, b8.matrix, c.matrix(), false);
  }
  CountFlops(state, GemmFlops(state));
}
BENCHMARK_CAPTURE(GemmFp8, Block, Fp8Scaling::kBlock128x128)->Apply(GemmSizes);
BENCHMARK_CAPTURE(GemmFp8, Tile, Fp8Scaling::kTile1x128)->Apply(GemmSizes);

// Causal: half of the S x S products count.
void Attention(benchmark::State& state, DType dtype, bool backward) {
  const std::unique_ptr<Ops> ops = CreateCpuOps();
  const int64_t length = state.range(0), heads = state.range(1);
  const AttentionShape shape = {.sequences = 1,
                                .sequence_length = length,
                                .heads = heads,
                                .qk_head_dim = state.range(2),
                                .v_head_dim = state.range(3),
                                .softmax_scale = 0.2};
  const int64_t qk_cols = heads * shape.qk_head_dim, v_cols = heads * shape.v_head_dim;
  Buffer q(dtype, length, qk_cols), k(dtype, length, qk_cols), v(dtype, length, v_cols);
  Buffer out(dtype, length, v_cols), dout(dtype, length, v_cols);
  Buffer dq(dtype, length, qk_cols), dk(dtype, length, qk_cols), dv(dtype, length, v_cols);
  Buffer lse(DType::kF32, length, heads);
  const auto forward = [&] {
    ops->AttentionForward(shape, q.matrix(), k.matrix(), v.matrix(), out.matrix(), lse.matrix());
  };
  forward();
  for (auto _ : state) {
    if (backward) {
      ops->AttentionBackward(shape, q.matrix(), k.matrix(), v.matrix(), out.matrix(), lse.matrix(),
                             dout.matrix(), dq.matrix(), dk.matrix(), dv.matrix());
    } else {
      forward();
    }
  }
  const double pairs = 0.5 * length * length * heads;
  CountFlops(state, backward ? pairs * 2 * (3 * shape.qk_head_dim + 2 * shape.v_head_dim)
                             : pairs * 2 * (shape.qk_head_dim + shape.v_head_dim));
}
void AttentionSizes(benchmark::internal::Benchmark* bench) {
  bench->Args({128, 4, 48, 32})->Args({256, 4, 48, 32})->Args({512, 8, 48, 32});
  bench->ArgNames({"S", "H", "qk", "v"});
}
BENCHMARK_CAPTURE(Attention, ForwardF32, DType::kF32, false)->Apply(AttentionSizes);
BENCHMARK_CAPTURE(Attention, ForwardBF16, DType::kBF16, false)->Apply(AttentionSizes);
BENCHMARK_CAPTURE(Attention, BackwardF32, DType::kF32, true)->Apply(AttentionSizes);
BENCHMARK_CAPTURE(Attention, BackwardBF16, DType::kBF16, true)->Apply(AttentionSizes);

void Quantize(benchmark::State& state, DType dtype, Fp8Scaling scaling, bool transposed) {
  const std::unique_ptr<Ops> ops = CreateCpuOps();
  Buffer x(dtype, 256, 512);
  Fp8Buffer out(transposed ? 512 : 256, transposed ? 256 : 512, scaling);
  for (auto _ : state) {
    if (transposed) {
      ops->QuantizeTransposed(x.matrix(), ScaleRule::kAmax, out.matrix);
    } else {
      ops->Quantize(x.matrix(), ScaleRule::kAmax, out.matrix);
    }
  }
  CountElements(state, 256 * 512);
}
BENCHMARK_CAPTURE(Quantize, TileF32, DType::kF32, Fp8Scaling::kTile1x128, false);
BENCHMARK_CAPTURE(Quantize, TileBF16, DType::kBF16, Fp8Scaling::kTile1x128, false);
BENCHMARK_CAPTURE(Quantize, BlockF32, DType::kF32, Fp8Scaling::kBlock128x128, false);
BENCHMARK_CAPTURE(Quantize, TransposedTileF32, DType::kF32, Fp8Scaling::kTile1x128, true);
BENCHMARK_CAPTURE(Quantize, TransposedTileBF16, DType::kBF16, Fp8Scaling::kTile1x128, true);

// The rest, at [256, 512] unless named otherwise.
template <typename F>
void Loop(benchmark::State& state, double elements, F f) {
  const std::unique_ptr<Ops> ops = CreateCpuOps();
  for (auto _ : state) {
    f(*ops);
  }
  CountElements(state, elements);
}

void Dequantize(benchmark::State& state) {
  Buffer x(DType::kBF16, 256, 512);
  Fp8Buffer x8(256, 512, Fp8Scaling::kTile1x128);
  CreateCpuOps()->Quantize(x.matrix(), ScaleRule::kAmax, x8.matrix);
  Loop(state, 256 * 512, [&](Ops& ops) { ops.Dequantize(x8.matrix, x.matrix()); });
}
BENCHMARK(Dequantize);

void TransposeBlocks(benchmark::State& state) {
  Fp8Buffer in(512, 256, Fp8Scaling::kBlock128x128), out(256, 512, Fp8Scaling::kBlock128x128);
  Loop(state, 256 * 512, [&](Ops& ops) { ops.TransposeBlocks(in.matrix, out.matrix); });
}
BENCHMARK(TransposeBlocks);

void RmsNorm(benchmark::State& state, DType dtype, bool backward) {
  Buffer x(dtype, 256, 512), y(dtype, 256, 512), weight(DType::kF32, 1, 512);
  Buffer dweight(DType::kF32, 1, 512);
  Loop(state, 256 * 512, [&](Ops& ops) {
    if (backward) {
      ops.RmsNormBackward(x.matrix(), weight.matrix(), 1e-6, y.matrix(), y.matrix(),
                          dweight.matrix());
    } else {
      ops.RmsNormForward(x.matrix(), weight.matrix(), 1e-6, y.matrix());
    }
  });
}
BENCHMARK_CAPTURE(RmsNorm, ForwardF32, DType::kF32, false);
BENCHMARK_CAPTURE(RmsNorm, ForwardBF16, DType::kBF16, false);
BENCHMARK_CAPTURE(RmsNorm, BackwardBF16, DType::kBF16, true);

void SwiGlu(benchmark::State& state, DType dtype, bool backward) {
  Buffer gate_up(dtype, 256, 1024), y(dtype, 256, 512), dgate_up(dtype, 256, 1024);
  Loop(state, 256 * 512, [&](Ops& ops) {
    if (backward) {
      ops.SwiGluBackward(gate_up.matrix(), y.matrix(), dgate_up.matrix());
    } else {
      ops.SwiGluForward(gate_up.matrix(), y.matrix());
    }
  });
}
BENCHMARK_CAPTURE(SwiGlu, ForwardBF16, DType::kBF16, false);
BENCHMARK_CAPTURE(SwiGlu, BackwardBF16, DType::kBF16, true);

void CrossEntropy(benchmark::State& state) {
  Buffer logits(DType::kF32, 256, 256);
  const std::vector<int32_t> labels(256, 3);
  std::vector<double> loss(256);
  Loop(state, 256 * 256,
       [&](Ops& ops) { ops.CrossEntropy(logits.matrix(), labels.data(), 1.0, loss.data()); });
}
BENCHMARK(CrossEntropy);

void Rope(benchmark::State& state) {
  Buffer x(DType::kF32, 256, 4 * 48);
  Loop(state, 256 * 4 * 16, [&](Ops& ops) {
    ops.Rope({.data = x.floats() + 32,
              .dtype = DType::kF32,
              .tokens = 256,
              .heads = 4,
              .dim = 16,
              .token_stride = 4 * 48,
              .head_stride = 48,
              .sequence_length = 256},
             false);
  });
}
BENCHMARK(Rope);

void Router(benchmark::State& state, bool backward) {
  const RouterShape shape = {.tokens = 256,
                             .experts = 16,
                             .groups = 4,
                             .groups_kept = 2,
                             .top_k = 4,
                             .sequence_length = 256,
                             .balance_alpha = 1e-4};
  Buffer logits(DType::kF32, 256, 16), bias(DType::kF32, 1, 16), weights(DType::kF32, 256, 4);
  Buffer dlogits(DType::kF32, 256, 16);
  std::vector<int32_t> experts(256 * 4);
  std::vector<int64_t> loads(16);
  Loop(state, 256, [&](Ops& ops) {
    if (backward) {
      ops.RouterBackward(shape, logits.matrix(), experts.data(), weights.matrix(), 1.0,
                         dlogits.matrix());
    } else {
      ops.RouterForward(shape, logits.matrix(), bias.matrix(), experts.data(), weights.matrix(),
                        loads.data());
    }
  });
}
BENCHMARK_CAPTURE(Router, Forward, false);
BENCHMARK_CAPTURE(Router, Backward, true);

void AdamW(benchmark::State& state) {
  const int64_t n = 1 << 20;
  Buffer gradient(DType::kF32, 1, n), master(DType::kF32, 1, n);
  Buffer m(DType::kBF16, 1, n), v(DType::kBF16, 1, n);
  CreateCpuOps()->Fill(v.matrix(), 1);
  Loop(state, n, [&](Ops& ops) {
    const AdamWState kept = {master.matrix(), m.matrix(), v.matrix()};
    ops.AdamW({.learning_rate = 1e-4}, gradient.matrix(), kept, kept);
  });
}
BENCHMARK(AdamW);

void Elementwise(benchmark::State& state, DType in, DType out) {
  Buffer x(in, 256, 512), y(out, 256, 512);
  Loop(state, 256 * 512, [&](Ops& ops) { ops.Add(x.matrix(), y.matrix(), y.matrix()); });
}
BENCHMARK_CAPTURE(Elementwise, AddF32, DType::kF32, DType::kF32);
BENCHMARK_CAPTURE(Elementwise, AddBF16, DType::kBF16, DType::kBF16);

void Convert(benchmark::State& state, DType in, DType out) {
  Buffer x(in, 256, 512), y(out, 256, 512);
  Loop(state, 256 * 512, [&](Ops& ops) { ops.Copy(x.matrix(), y.matrix()); });
}
BENCHMARK_CAPTURE(Convert, F32ToBF16, DType::kF32, DType::kBF16);
BENCHMARK_CAPTURE(Convert, BF16ToF32, DType::kBF16, DType::kF32);

void SumOfSquares(benchmark::State& state) {
  Buffer x(DType::kF32, 256, 512);
  Loop(state, 256 * 512, [&](Ops& ops) { benchmark::DoNotOptimize(ops.SumOfSquares(x.matrix())); });
}
BENCHMARK(SumOfSquares);

}  // namespace
}  // namespace fathom::kernels

BENCHMARK_MAIN();
