// Tokens per second of a whole job with ranks as threads, by recipe and layout, and what it learns.
//
//   bazel run //worker/engine:train_bench -- TOKEN_FILE fp8 2 2 2 100
//
// (token file, precision, pipeline, expert, replicas, steps, learning rate, micro-batches, model
// preset, steps between snapshots; by default the `tiny` model and M = 2P. The last line but one:
// what of the time went into snapshots.)
#include <cstdio>
#include <cstdlib>
#include <string>

#include "common/plan/job_resolve.h"
#include "worker/engine/rank_threads.h"

int main(int argc, char** argv) {
  if (argc < 7) {
    std::fprintf(stderr,
                 "usage: train_bench TOKEN_FILE PRECISION PIPELINE EXPERT REPLICAS STEPS [LR] [M] "
                 "[PRESET]\n");
    return 2;
  }
  fathom::v1::Job job;
  job.set_api_version("fathom/v1");
  job.set_kind("Job");
  job.mutable_metadata()->set_name("bench");
  fathom::v1::JobSpec& spec = *job.mutable_spec();
  spec.mutable_model()->set_preset(argc > 9 ? argv[9] : "tiny");
  spec.mutable_data()->set_token_file(argv[1]);
  spec.set_precision(argv[2]);
  spec.mutable_parallelism()->set_pipeline(std::atoi(argv[3]));
  spec.mutable_parallelism()->set_expert(std::atoi(argv[4]));
  spec.mutable_parallelism()->set_replicas(std::atoi(argv[5]));
  spec.mutable_training()->set_steps(std::atoi(argv[6]));
  spec.mutable_training()->set_learning_rate(argc > 7 ? std::atof(argv[7]) : 3e-3);
  if (argc > 8 && std::atoi(argv[8]) > 0)
    spec.mutable_training()->set_micro_batches(std::atoi(argv[8]));
  if (argc > 10) spec.mutable_recovery()->set_snapshot_every_steps(std::atoi(argv[10]));
  spec.mutable_training()->set_validation_batches(16);
  const auto resolved = fathom::plan::ResolveJob(job);
  if (!resolved.ok()) {
    std::fprintf(stderr, "%s\n", resolved.status().ToString().c_str());
    return 1;
  }
  fathom::engine::JobSetting setting;
  setting.ranks_per_node = 2;
  const auto result = fathom::engine::RunJob(resolved->spec(), setting);
  if (!result.ok()) {
    std::fprintf(stderr, "%s\n", result.status().ToString().c_str());
    return 1;
  }
  double seconds = 0;
  double tokens = 0;
  double snapshots = 0;
  for (const fathom::v1::StepReport& step : result->steps) {
    seconds += step.seconds();
    snapshots += step.snapshot_seconds();
    tokens += static_cast<double>(step.tokens());
    if (step.step() % 20 != 0 && step.step() > 6) continue;
    std::printf(
        "step %4lld loss %.4f norm %.2f %.3f s: F %.3f B %.3f W %.3f FB %.3f wait %.3f reduce %.3f "
        "optimizer %.3f\n",
        static_cast<long long>(step.step()), step.loss(), step.gradient_norm(), step.seconds(),
        step.forward_seconds(), step.backward_seconds(), step.weight_seconds(),
        step.overlapped_seconds(), step.wait_seconds(), step.reduce_seconds(),
        step.optimizer_seconds());
  }
  for (const auto& validation : result->validations) {
    std::printf("validation loss %.4f\n", validation.loss());
  }
  std::printf("snapshots %.2f ms per step, %.2f %% of the time\n",
              1e3 * snapshots / static_cast<double>(result->steps.size()),
              100 * snapshots / seconds);
  std::printf("%.0f tokens, %.0f tokens/s\n", tokens, tokens / seconds);
  return 0;
}
