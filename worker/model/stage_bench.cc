// Tokens per second of forward and backward of the tiny model, one rank, by recipe. Run with
// `bazel run //worker/model:stage_bench`.
#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <string>

#include "common/base/check.h"
#include "common/model/model_config.h"
#include "kernels/ops.h"
#include "worker/model/expert_exchange.h"
#include "worker/model/model_harness.h"

namespace fathom::model {
namespace {

void ForwardBackward(benchmark::State& state, const std::string& recipe, int64_t sequences) {
  v1::ModelSpec spec;
  spec.set_preset("tiny");
  const auto model = ResolveModel(spec);
  FATHOM_CHECK(model.ok()) << model.status().ToString();
  HarnessOptions options;
  options.model = *model;
  options.recipe = RecipeNamed(recipe);
  options.sequences = sequences;
  options.sequence_length = 256;
  options.initializer_range = model->initializer_range;
  const std::unique_ptr<kernels::Ops> ops = kernels::CreateCpuOps();
  LocalExchange exchange;
  ModelHarness harness(options, ops.get(), &exchange);
  for (auto _ : state) {
    harness.Forward(0);
    harness.Backward(0);
  }
  state.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(options.sequences * options.sequence_length),
                         benchmark::Counter::kIsIterationInvariantRate);
}

BENCHMARK_CAPTURE(ForwardBackward, fp32, "fp32", 1)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(ForwardBackward, bf16, "bf16", 1)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(ForwardBackward, fp8, "fp8", 1)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(ForwardBackward, fp8_two_sequences, "fp8", 2)->Unit(benchmark::kMillisecond);

void RefreshWeights(benchmark::State& state) {
  v1::ModelSpec spec;
  spec.set_preset("tiny");
  const auto model = ResolveModel(spec);
  FATHOM_CHECK(model.ok()) << model.status().ToString();
  HarnessOptions options;
  options.model = *model;
  options.recipe = RecipeNamed("fp8");
  const std::unique_ptr<kernels::Ops> ops = kernels::CreateCpuOps();
  LocalExchange exchange;
  ModelHarness harness(options, ops.get(), &exchange);
  for (auto _ : state) harness.RefreshWeights();
}

BENCHMARK(RefreshWeights)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace fathom::model

BENCHMARK_MAIN();
