// Measuring ops, fitting them, and short training runs.
#include <cmath>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/manual_clock.h"
#include "common/base/real_clock.h"
#include "common/calibration/op_time_formula.h"
#include "common/calibration/op_time_names.h"
#include "common/calibration/step_work.h"
#include "common/cluster/device_profiles.h"
#include "common/model/layer_ops.h"
#include "common/model/parameter_layout.h"
#include "common/plan/job_resolve.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/ops.h"
#include "worker/calibration/core_clock.h"
#include "worker/calibration/message_probe.h"
#include "worker/calibration/metered_ops.h"
#include "worker/calibration/op_fit.h"
#include "worker/calibration/profile_run.h"
#include "worker/calibration/training_run.h"

namespace fathom::calibration {
namespace {

using ::testing::DoubleNear;

TEST(OpFitTest, TypicalSeconds_LeavesInterruptedCallsOut) {
  EXPECT_THAT(TypicalSeconds({1, 1.25f, 1.5f, 1.25f, 400}), DoubleNear(1.25, 1e-6));
  EXPECT_EQ(TypicalSeconds({}), 0);
}

TEST(OpFitTest, CallsByTheFormula_AreFoundAgain) {
  OpSamples samples;
  for (const int64_t m : {8, 32, 100, 256}) {
    for (const int64_t n : {16, 64, 192}) {
      for (const int64_t k : {16, 96, 256}) {
        OpShape shape = {"Gemm", model::Format::kFp32, m, n, k};
        shape.flops = 2.0 * static_cast<double>(m * n * k);
        shape.bytes = 4.0 * static_cast<double>(m * k + k * n + m * n);
        const double seconds =
            2e-6 + 1e-11 * shape.flops + 5e-11 * shape.bytes + 3e-10 * static_cast<double>(k * n);
        samples[shape] = {static_cast<float>(seconds), static_cast<float>(seconds)};
      }
    }
  }
  const std::vector<v1::OpTime> fitted = FitOps({TypicalOf(samples, 0, 1)});
  ASSERT_EQ(fitted.size(), 1u);
  EXPECT_EQ(fitted[0].op(), "Gemm");
  EXPECT_EQ(fitted[0].format(), "fp32");
  EXPECT_THAT(fitted[0].seconds_per_flop(), DoubleNear(1e-11, 1e-13));
  EXPECT_THAT(fitted[0].seconds_per_operand_element(), DoubleNear(3e-10, 3e-12));
  EXPECT_LT(fitted[0].relative_error(), 1e-3);
}

TEST(OpFitTest, SizesThatCachesDontHold_GetTheirFactor) {
  OpSamples samples;
  for (int power = 8; power <= 24; ++power) {
    OpShape shape = {"Add", model::Format::kFp32, 1, int64_t{1} << power, 1};
    shape.bytes = std::exp2(power);
    const double factor = power > 18 ? 3 : 1;
    samples[shape] = {static_cast<float>(1e-6 + 1e-10 * factor * shape.bytes)};
  }
  const v1::OpTime fitted = FitOps({TypicalOf(samples, 0, 1)})[0];
  for (const double bytes : {4096.0, 65536.0, 4194304.0}) {
    const double right = 1e-6 + 1e-10 * (bytes > 262144 ? 3 : 1) * bytes;
    EXPECT_NEAR(SecondsOf(fitted, {.count = 1, .bytes = bytes}) / right, 1, 0.35) << bytes;
  }
}

TEST(OpFitTest, RoundsOnASlowerMachine_CountNoMoreThanOthers) {
  const OpShape add = {"Add", model::Format::kFp32, 1, 64, 1, 0, 768};
  const OpShape copy = {"Copy", model::Format::kFp32, 1, 64, 1, 0, 512};
  const TypicalCalls rounds[] = {
      TypicalOf({{add, {2, 2}}, {copy, {1, 1, 1, 1}}}, 0, 2),
      TypicalOf({{add, {200, 200}}, {copy, {100, 100, 100, 100}}}, 0, 2),
      TypicalOf({{add, {4, 4}}, {copy, {3, 3, 3, 3}}}, 1, 2),
  };
  const TypicalCalls typical = MedianOf(rounds);
  EXPECT_EQ(typical.at(add).seconds, 3);
  EXPECT_EQ(typical.at(add).calls, 1);
  EXPECT_EQ(typical.at(copy).seconds, 2);
  EXPECT_EQ(typical.at(copy).calls, 2);
  EXPECT_EQ(TotalSeconds(typical), 1 * 3 + 2 * 2);
}

TEST(MeteredOpsTest, SwitchedOff_MeasuresNothingAndComputesTheSame) {
  ManualClock clock;
  OpMeter meter;
  const auto ops = MeterOps(kernels::CreateCpuOps(), &clock, &meter);
  float values[] = {1, 2, 3, 4};
  const kernels::Matrix x = {values, kernels::DType::kF32, 2, 2, 2};
  EXPECT_EQ(ops->SumOfSquares(x), 30);
  EXPECT_EQ(meter.samples().size(), 1u);
  const OpShape& shape = meter.samples().begin()->first;
  EXPECT_EQ(shape.op, "SumOfSquares");
  EXPECT_EQ(shape.bytes, 16);
  meter.Switch(false);
  EXPECT_EQ(ops->SumOfSquares(x), 30);
  EXPECT_EQ(meter.samples().begin()->second.size(), 1u);
}

// A small job of one layout over a token file of its own.
v1::JobSpec SmallSpec(const std::string& precision, int pipeline, int expert) {
  const std::string tokens = testing::TempDir() + "/calibration-tokens.bin";
  EXPECT_TRUE(WriteCalibrationTokens(tokens, 20000).ok());
  v1::Job job;
  job.set_api_version("fathom/v1");
  job.set_kind("Job");
  job.mutable_metadata()->set_name("small");
  v1::JobSpec& spec = *job.mutable_spec();
  spec.mutable_model()->set_preset("toy");
  spec.set_precision(precision);
  spec.mutable_data()->set_token_file(tokens);
  spec.mutable_parallelism()->set_pipeline(pipeline);
  spec.mutable_parallelism()->set_expert(expert);
  spec.mutable_training()->set_micro_batches(4);
  spec.mutable_training()->set_steps(100);
  const auto resolved = plan::ResolveJob(job);
  EXPECT_TRUE(resolved.ok()) << resolved.status();
  return resolved->spec();
}

// Calls by op and format, with their flops and bytes, of one step.
struct Sums {
  double calls = 0;
  double flops = 0;
  double bytes = 0;
};
using SumsByOp = std::map<std::string, Sums>;

void Add(std::string_view op, model::Format format, const Sums& sums, SumsByOp* out) {
  Sums& sum = (*out)[absl::StrCat(std::string(op), "/", FormatName(format))];
  sum.calls += sums.calls;
  sum.flops += sums.flops;
  sum.bytes += sums.bytes;
}

SumsByOp ListedOps(const v1::JobSpec& spec) {
  const model::ModelConfig config = model::ResolveModel(spec.model()).value();
  const model::PrecisionRecipe recipe = model::FindRecipe(spec.precision()).value();
  const model::MicroBatchShape shape = {.sequences = spec.training().micro_batch_sequences(),
                                        .sequence_length = spec.data().sequence_length()};
  SumsByOp out;
  const auto add = [&](const model::OpCalls& calls, double times) {
    for (const model::OpCall& call : calls) {
      Add(call.op, call.format,
          {times * static_cast<double>(call.count), times * call.flops, times * call.bytes}, &out);
    }
  };
  const auto micro_batches = static_cast<double>(spec.training().micro_batches());
  for (int64_t layer = -1; layer <= config.num_hidden_layers + 1; ++layer) {
    const model::LayerOps ops = model::OpsOfLayer(config, layer, shape, recipe);
    for (const model::PassOps* part : {&ops.attention, &ops.mlp, &ops.head}) {
      add(part->forward, micro_batches);
      add(part->backward_input, micro_batches);
      add(part->backward_weight, micro_batches);
    }
  }
  const JobShape job = {&config, &recipe, spec.parallelism(), {config.num_hidden_layers}};
  add(StepEndOf(job, {0}, 1).ops, 1);
  return out;
}

TEST(TrainingRunTest, MeteredStep_MakesTheCallsThatAreListed) {
  const RealClock clock;
  for (const char* precision : {"fp32", "bf16", "fp8"}) {
    TrainingRun run;
    run.spec = SmallSpec(precision, 1, 1);
    run.warm_steps = 1;
    run.steps = 1;
    run.meter_ops = true;
    const auto measured = RunTraining(run, &clock);
    ASSERT_TRUE(measured.ok()) << measured.status();
    SumsByOp made;
    for (const auto& [shape, calls] : measured->ranks[0].ops) {
      if (shape.op == "CopyFromHost" || shape.op == "CopyToHost") continue;
      const auto count = static_cast<double>(calls.size());
      Add(shape.op, shape.format, {count, count * shape.flops, count * shape.bytes}, &made);
    }
    const SumsByOp listed = ListedOps(run.spec);
    for (const auto& [name, sums] : listed) {
      ASSERT_TRUE(made.contains(name)) << precision << ": " << name << " was never called";
      // Experts without tokens and blocks without a tensor make fewer calls.
      EXPECT_NEAR(made[name].calls / sums.calls, 1, 0.15) << precision << " " << name;
      EXPECT_NEAR(made[name].bytes / sums.bytes, 1, 0.15) << precision << " " << name;
      if (sums.flops > 0) {
        EXPECT_NEAR(made[name].flops / sums.flops, 1, 0.02) << precision << " " << name;
      }
    }
    for (const auto& [name, sums] : made) {
      EXPECT_TRUE(listed.contains(name)) << precision << ": " << name << " is not listed";
    }
  }
}

TEST(TrainingRunTest, RanksOnTwoNodes_ReportTheirSteps) {
  const RealClock wall;
  const CoreClock clock(&wall);
  TrainingRun run;
  run.spec = SmallSpec("fp32", 2, 2);
  run.ranks_per_node = 2;
  run.warm_steps = 1;
  run.steps = 2;
  const auto measured = RunTraining(run, &clock);
  ASSERT_TRUE(measured.ok()) << measured.status();
  ASSERT_EQ(measured->ranks.size(), 4u);
  double work = 0;
  for (const MeasuredRank& rank : measured->ranks) {
    ASSERT_EQ(rank.steps.size(), 2u);
    EXPECT_GT(rank.steps[1].seconds(), 0);
    EXPECT_TRUE(rank.ops.empty());
    work += rank.steps[1].seconds();
  }
  EXPECT_GT(measured->core_seconds, work / 4);
}

TEST(MessageProbeTest, MessagesAndHashes_TakeTime) {
  const RealClock clock;
  for (const Wire wire : {Wire::kShm, Wire::kTcp}) {
    const auto times = ProbeMessages(wire, &clock);
    ASSERT_TRUE(times.ok()) << times.status();
    EXPECT_GT(times->seconds_per_message, 0);
    EXPECT_GT(times->seconds_per_byte, 0);
    EXPECT_LT(times->seconds_per_byte, 1e-6);
    EXPECT_GE(times->latency_seconds, 0);
  }
  EXPECT_GT(ProbeHash(&clock), 0);
  EXPECT_GT(ProbeClock(&clock), 0);
}

TEST(ProfileRunTest, ShortProfile_HasAnEntryForEveryOpOfAJobItHasNotSeen) {
  const RealClock clock;
  ProfileOptions options;
  options.scratch_folder = testing::TempDir();
  options.precisions = {"fp32"};
  options.rounds = 1;
  options.cores = 2;
  options.machine = "a test's machine";
  int told = 0;
  const auto profiled = RunProfile(options, &clock, [&](absl::string_view) { ++told; });
  ASSERT_TRUE(profiled.ok()) << profiled.status();
  EXPECT_EQ(told, 1);
  EXPECT_TRUE(cluster::CheckProfile(profiled->profile).ok())
      << cluster::CheckProfile(profiled->profile);
  const v1::OpTimes& times = profiled->profile.op_times();
  for (const auto& [name, sums] : ListedOps(SmallSpec("fp32", 1, 1))) {
    double seconds = 0;
    for (const v1::OpTime& entry : times.ops()) {
      if (absl::StrCat(entry.op(), "/", entry.format()) != name) continue;
      seconds = SecondsOf(entry, {.count = sums.calls, .flops = sums.flops, .bytes = sums.bytes});
    }
    EXPECT_GT(seconds, 0) << name;
    EXPECT_LT(seconds, 1) << name;
  }
  EXPECT_GT(times.expert_load_spread(), 0);
  EXPECT_EQ(times.group_runs_size(), 5 * 3);  // shapes and layouts
  for (const v1::GroupRun& run : times.group_runs()) {
    EXPECT_GT(run.step_seconds(), 0);
    EXPECT_GT(run.core_seconds(), 0);
    EXPECT_GT(run.alone_core_seconds(), 0);
    EXPECT_GT(run.spec().parallelism().pipeline() * run.spec().parallelism().expert(), 1);
  }
  const std::string summary = SummaryOf(*profiled);
  for (const ProfiledRun& run : profiled->runs) {
    EXPECT_GT(run.measured_s, 0);
    EXPECT_LE(run.ops_s, 2 * run.measured_s);
    EXPECT_NE(summary.find(run.name), std::string::npos);
  }
}

}  // namespace
}  // namespace fathom::calibration
